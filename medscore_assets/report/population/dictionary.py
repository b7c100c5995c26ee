"""The columns of the published cells: order, unit, meaning, denominator. It is printed as `columns.csv`.

Belongs here: what each column is. Does not belong here: values, and how they are written (`tables.py`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

ALL = "All"
"""The value of a dimension by which a cube is not split."""
UNKNOWN = "Unknown"
"""The value of a dimension where the key is missing, blank, or not in the contract."""

Kind = Literal["text", "count", "number", "flag", "list"]


class Column(NamedTuple):
    """One column of the published cells."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    denominator: str = ""


_GUARDED = " A text that begins with =, +, -, @ or a control character follows an apostrophe in CSV files, "
_SAFE = _GUARDED + "so that a spreadsheet shows it and does not run it."

DIMENSIONS = (
    Column("region", "text", "name", "Where the member lives." + _SAFE),
    Column("hospital_id", "text", "identifier", "The hospital of the last stay." + _SAFE),
    Column("primary_diagnosis_group", "text", "name", "Main diagnosis group of the last stay." + _SAFE),
    Column("age_group", "text", "years", "Age at discharge." + _SAFE),
    Column("sex", "text", "name", "The member's sex as the insurer has it." + _SAFE),
    Column("insurance_type", "text", "name", "The member's insurance." + _SAFE),
)
_RATE = "share, 0 to 1"
_SCORED = "index_discharges_scored"
MEASURES = (
    Column("members", "count", "members", "All members of the cell in the quarter's snapshot."),
    Column("members_scored", "count", "members", "Members whose row keeps the model's contract.", "members"),
    Column("members_invalid", "count", "members", "Members whose row breaks it; never scored.", "members"),
    Column(
        "index_discharges", "count", "members",
        "Members with a qualifying index discharge in the quarter.", "members",
    ),
    Column(_SCORED, "count", "members", "Of these, scored: the headline population.", "index_discharges"),
    Column("mean_risk", "number", _RATE, "Mean predicted risk of readmission within 30 days.", _SCORED),
    Column("mean_risk_low", "number", _RATE, "Lower 95 % limit of mean_risk (normal).", _SCORED),
    Column("mean_risk_high", "number", _RATE, "Upper 95 % limit of mean_risk (normal).", _SCORED),
    Column("high_risk", "count", "members", "Scored index discharges of high or very high risk.", _SCORED),
    Column("very_high_risk", "count", "members", "Scored index discharges of very high risk.", _SCORED),
    Column("high_risk_share", "number", _RATE, "high_risk divided by the denominator.", _SCORED),
    Column("very_high_risk_share", "number", _RATE, "very_high_risk divided by the denominator.", _SCORED),
    Column("expected_readmissions", "number", "readmissions", "Sum of the predicted risks.", _SCORED),
    Column("matured", "count", "members", "Scored index discharges whose outcome is known.", _SCORED),
    Column("observed_readmissions", "count", "readmissions", "Readmissions within 30 days.", "matured"),
    Column("expected_matured", "number", "readmissions", "Sum of their predicted risks.", "matured"),
    Column(
        "observed_to_expected", "number", "ratio",
        "observed_readmissions divided by the denominator; 1 is as predicted.", "expected_matured",
    ),
    Column("oe_low", "number", "ratio", "Lower 95 % limit (exact Poisson).", "expected_matured"),
    Column("oe_high", "number", "ratio", "Upper 95 % limit (exact Poisson).", "expected_matured"),
    Column(
        "member_mean_risk", "number", _RATE,
        "Mean risk if discharged, over members with and without a discharge: not a risk of admission, "
        "and not a member's risk in the quarter.", "members_scored",
    ),
)  # fmt: skip

COLUMNS = (
    Column("quarter", "text", "calendar quarter", "The quarter of the snapshot, as 2026-Q3."),
    Column("cube", "text", "name", "The table that the cell belongs to, named for what it is split by."),
    *DIMENSIONS,
    *MEASURES,
    Column("suppressed", "flag", "true or false", "Whether any figure of the cell is withheld."),
    Column(
        "suppressed_measures", "list", "column names, in CSV files with ; between them",
        "The withheld figures: counts of 1 to 10 people and what would give them away. They are empty. "
        "Other empty figures have a denominator of 0 (an interval of a mean: fewer than 2).",
    ),
)  # fmt: skip

DIMENSION_NAMES = tuple(column.name for column in DIMENSIONS)
MEASURE_NAMES = tuple(column.name for column in MEASURES)
