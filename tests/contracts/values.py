"""Values for the contract's tests: valid ones of every kind of field, and everything that is not valid.

Belongs here: Hypothesis strategies and builders of frames. Does not belong here: expectations.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import strategies as st

from medscore_assets.contracts.fields import Category, Feature, Flag, Whole
from medscore_assets.contracts.readmission import READMISSION

ARROW_TYPES = {Whole: pa.int64(), Category: pa.string(), Flag: pa.bool_()}

SOUND_ROW: dict[str, Any] = {
    "patient_age": 71,
    "length_of_stay_days": 4,
    "num_prior_admissions_12m": 2,
    "num_chronic_conditions": 5,
    "primary_diagnosis_group": "cardiac",
    "discharge_disposition": "home",
    "insurance_type": "medicare",
    "emergency_admission": True,
    "num_medications_at_discharge": 9,
    "has_follow_up_scheduled": False,
}

NEVER_VALID = (
    None, float("nan"), float("inf"), float("-inf"), 10**30, -(10**30), -1, 65.0, 0.7, "65", "no", "f", "",
    "Cardiac", " cardiac", "cardiac ", "CARDIAC", "cardac", "None", "nan", b"cardiac", [1], {"value": 1}, (),
    Decimal(65), 65j, date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), pd.NA, pd.NaT,
    np.float64(65), np.str_("65"),
)  # fmt: skip
"""Not valid in any field of the readmission contract when it comes as a single value."""


def valid(feature: Feature) -> st.SearchStrategy[Any]:
    """Every valid Python value of a feature."""
    match feature:
        case Whole():
            edges = st.sampled_from((feature.minimum, feature.maximum))
            return st.integers(feature.minimum, feature.maximum) | edges
        case Category():
            return st.sampled_from(feature.categories)
        case Flag():
            return st.booleans()


def foreign(feature: Feature) -> list[Any]:
    """Values that another kind of field would take, so that only this one can refuse them."""
    match feature:
        case Whole():
            return [True, False, np.True_, "home", feature.minimum - 1, feature.maximum + 1]
        case Category():
            return [True, 0, 1, *(c.upper() for c in feature.categories)]
        case Flag():
            return [0, 1, 2, "true", "False", np.int64(1)]


def invalid(feature: Feature) -> st.SearchStrategy[Any]:
    """Values that a feature must refuse in a single row."""
    return st.sampled_from([*NEVER_VALID, *foreign(feature)])


def sound_rows() -> st.SearchStrategy[dict[str, Any]]:
    """A valid row."""
    return st.fixed_dictionaries({f.name: valid(f) for f in READMISSION.features})


def any_rows() -> st.SearchStrategy[dict[str, Any]]:
    """A complete row in which every cell may be valid or not."""
    return st.fixed_dictionaries({f.name: valid(f) | invalid(f) for f in READMISSION.features})


LETTERS = "acdirACR 01_.é\u2003\x00😀"
"""Enough for texts that are near a category or a number, and cheap to draw from."""

ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(LETTERS, max_size=8)

JSON_VALUES = (
    ATOMS | st.lists(ATOMS, max_size=2) | st.dictionaries(st.text(LETTERS, max_size=3), ATOMS, max_size=2)
)
"""Whatever a JSON parser can hand over, two levels deep."""


def _plain(feature: Feature) -> list[Any]:
    return [value for value in foreign(feature) if not isinstance(value, np.generic)]


def json_rows() -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects near the contract: cells of any kind, keys that are missing or foreign."""
    near = {
        f.name: valid(f) | valid(f) | JSON_VALUES | st.sampled_from(_plain(f)) for f in READMISSION.features
    }
    complete = st.fixed_dictionaries(near)
    foreign_key = st.dictionaries(st.sampled_from(("mrn", "Patient_age", "diagnosis_group")), JSON_VALUES)
    partial = st.fixed_dictionaries({}, optional=near)
    return sound_rows() | complete | partial | st.builds(lambda a, b: a | b, sound_rows(), foreign_key)


def object_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as pandas holds Python objects: nothing converted."""
    return pd.DataFrame(
        {name: pd.Series([row[name] for row in rows], dtype=object) for name in READMISSION.feature_names}
    )


def arrow_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as the warehouse reads them: typed, nulls stay nulls."""
    return pa.table(
        {f.name: pa.array([row[f.name] for row in rows], ARROW_TYPES[type(f)]) for f in READMISSION.features}
    )


def nullable_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows with pandas' nullable types."""
    return arrow_table(rows).to_pandas(
        types_mapper={
            pa.int64(): pd.Int64Dtype(),
            pa.string(): pd.StringDtype(),
            pa.bool_(): pd.BooleanDtype(),
        }.get
    )


def categorical_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows whose texts are pandas categories."""
    frame = arrow_table(rows).to_pandas()
    texts = [f.name for f in READMISSION.features if isinstance(f, Category)]
    return frame.astype(dict.fromkeys(texts, "category"))


def chunked_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table of one chunk per row, texts dictionary-encoded chunk by chunk."""
    tables = [arrow_table([row]) for row in rows]
    encoded = [
        pa.table([c.dictionary_encode() if c.type == pa.string() else c for c in t], t.column_names)
        for t in tables
    ]
    return pa.concat_tables(encoded)


TABLE_FORMS = {
    "arrow": arrow_table,
    "arrow chunked": chunked_table,
    "pandas typed": lambda rows: arrow_table(rows).to_pandas(),
    "pandas nullable": nullable_frame,
    "pandas arrow": lambda rows: arrow_table(rows).to_pandas(types_mapper=pd.ArrowDtype),
    "pandas categorical": categorical_frame,
    "pandas object": object_frame,
}
"""Every form in which valid rows may reach the vectorised encoder."""
