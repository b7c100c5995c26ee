"""Importer of the public records "Diabetes 130-US hospitals" (UCI, Strack et al. 2014, CC BY 4.0).

Belongs here: what the two files must look like and how their columns become the contract's fields.
Does not belong here: loading into the warehouse (`loading.py`), who is an index discharge (`cohort.py`).

What the source does not have, and what stands in its place:

* Dates. Encounters are laid in the order of `encounter_id`, which roughly follows time, evenly on a
  declared calendar, discharged from 08:00 to 20:00. The dates are not the real ones, there is no season
  in them, and the stays of one patient may overlap. The outcome comes from the source's own column and
  not from these dates.
* The hospital. All encounters carry `HOSPITAL`.
* Booked follow-up. `has_follow_up_scheduled` is False throughout, and teaches a model nothing.
* Chronic conditions and medications at discharge. The number of diagnoses entered and the number of
  medications given during the stay come closest; they are not the same.
* The kind of admission, in about one encounter in ten. Only "Emergency" counts as an emergency.

Nothing is dropped: a value that cannot be mapped is left missing, so that the contract quarantines the
row, and is counted in the report.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from medscore_assets.contracts.fields import Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.discharges import EVENTS_SCHEMA, moments
from medscore_assets.demo.patients import DAY, to_utc
from resources.errors import PermanentError

SOURCE = "uci-diabetes"
HOSPITAL = "uci-130-us-hospitals"
FIRST_DAY, LAST_DAY = date(2024, 1, 1), date(2025, 12, 31)

COUNTS = {
    "length_of_stay_days": "time_in_hospital",
    "num_prior_admissions_12m": "number_inpatient",
    "num_chronic_conditions": "number_diagnoses",
    "num_medications_at_discharge": "num_medications",
}
REQUIRED = (
    "encounter_id", "patient_nbr", "age", "admission_type_id", "discharge_disposition_id",
    "admission_source_id", "payer_code", "diag_1", "readmitted", *COUNTS.values(),
)  # fmt: skip

DISPOSITIONS = {
    1: "home",
    **dict.fromkeys((3, 4), "skilled_nursing"),
    **dict.fromkeys((6, 8), "home_with_care"),
    22: "rehab",
}
"""Every other listed code is `other`."""

EXPIRED, HOSPICE = (11, 19, 20, 21), (13, 14)
STATUSES = {
    **dict.fromkeys(EXPIRED, "expired"),
    **dict.fromkeys(HOSPICE, "hospice"),
    7: "left_against_advice",
    # Acute care goes on elsewhere: another short-term hospital (2), an inpatient bed of this one (9), a
    # neonatal unit (10), a federal hospital (27), a critical access hospital (29). For the CMS measure
    # such a stay is not over. It is over when post-acute care follows: nursing (3, 4, 24), swing bed (15),
    # rehabilitation (22), long-term care (23), psychiatry (28), institutions other than short-term
    # hospitals (5, 30), outpatient services (16, 17).
    **dict.fromkeys((2, 9, 10, 27, 29), "transferred"),
    # Not recorded (18, 25, 26), or "still patient or expected to return" (12): nobody knows how it ended.
    **dict.fromkeys((12, 18, 25, 26), "unknown"),
}
"""Every other listed code is `routine`."""

DIAGNOSES = (
    (390, 459, "cardiac"), (785, 785, "cardiac"),
    (460, 519, "respiratory"), (786, 786, "respiratory"),
    (520, 579, "digestive"), (787, 787, "digestive"),
    (710, 739, "musculoskeletal"), (320, 389, "neurological"), (240, 279, "endocrine"),
)  # fmt: skip
"""First and last ICD-9 category of a group, both included; every other diagnosis is `other`."""

NEWBORN_TYPE, NEWBORN_SOURCES = 4, (11, 12, 13, 14, 23, 24)
YOUNGEST_BAND = "[0-10)"
AGE_BANDS = {f"[{lower}-{lower + 10})": lower + 5 for lower in range(0, 100, 10)}
"""The middle of every band."""
PSYCHIATRIC, OBSTETRIC = (290, 319), (630, 679)
REHABILITATION, CANCER_TREATMENT = "V57", "V58"
"""Principal diagnoses of stays for rehabilitation, and for chemotherapy or radiotherapy: the source cuts
V58.0 and V58.1 to V58. CMS counts neither as an index stay, and their returns are planned."""

PAYERS = {"MC": "medicare", "MD": "medicaid"}
OUTCOMES = {"<30": True, ">30": False, "NO": False}
KNOWN_AFTER = np.timedelta64(30, "D")
TOLD_AFTER = np.timedelta64(30, "m")

CODE_TABLES = ("admission_type_id", "discharge_disposition_id", "admission_source_id")
MEND_FILES = "Give diabetic_data.csv(.gz) first and IDs_mapping.csv second, as UCI publishes them."

Codes = Mapping[str, frozenset[int]]
Texts = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class UciData:
    """The imported tables and what is to be known about them.

    `events`: rows of discharge_events, by discharge time. `outcomes`: rows of readmission_outcomes.
    `report`: counts, what could not be mapped and where first, what is constant; fit for JSON, and
    without a value of any patient.
    """

    events: pa.Table
    outcomes: pa.Table
    report: dict[str, Any]


def read(
    records: Path,
    id_mapping: Path,
    first_day: date = FIRST_DAY,
    last_day: date = LAST_DAY,
    timezone: str = "America/New_York",
) -> UciData:
    """Reads both files and lays the encounters on the calendar from `first_day` to `last_day`.

    Raises `PermanentError` naming file, line or column when a file is not what it should be. Single
    values that cannot be mapped are no error; see the module's docstring.
    """
    if last_day < first_day:
        raise PermanentError(
            "the calendar ends before it begins",
            where="first_day and last_day of the import",
            mend="Choose a last day on or after the first.",
        )
    codes = read_code_tables(id_mapping)
    rows = read_records(records)
    rows = rows.iloc[_in_order(rows["encounter_id"])]
    unmapped = _Unmapped(records, rows.index.to_numpy() + 2)
    columns = _fields(rows, codes, unmapped)
    columns |= _calendar(rows, columns["discharge_status"] == "expired", first_day, last_day, timezone)
    events = pa.table(
        [pa.array(columns[f.name], from_pandas=True).cast(f.type) for f in EVENTS_SCHEMA],
        schema=EVENTS_SCHEMA,
    )
    outcomes = _outcomes(rows, columns, unmapped)
    unmapped.require_some_mapped()
    report = _report(events, outcomes, unmapped)
    calendar = {"first_day": first_day.isoformat(), "last_day": last_day.isoformat(), "timezone": timezone}
    return UciData(events, outcomes, report | {"calendar": calendar | {"real_dates": False}})


def read_records(path: Path) -> pd.DataFrame:
    """All columns of the records as text, `?` and nothing as missing, the text `None` as text.

    The index is the position in the file from 0. Raises `PermanentError` for anything but the records.
    """
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=["?", ""], encoding="utf-8-sig")
    except FileNotFoundError:
        raise _no_such_file(path) from None
    except pd.errors.EmptyDataError:
        raise PermanentError("the file is empty", where=str(path), mend=MEND_FILES) from None
    except pd.errors.ParserError as error:
        line = re.search(r"Expected \d+ fields in line (\d+), saw \d+", str(error))
        where = f"{path}, line {line[1]}" if line else str(path)
        raise PermanentError("a row has more fields than the header", where=where, mend=MEND_FILES) from None
    except (UnicodeDecodeError, OSError, EOFError, zlib.error):
        raise PermanentError(
            "the file cannot be read as CSV text", where=str(path), mend="Download it again. " + MEND_FILES
        ) from None
    absent = [name for name in REQUIRED if name not in rows.columns]
    if absent:
        raise PermanentError(
            f"the header lacks the columns {', '.join(absent)}", where=f"{path}, line 1", mend=MEND_FILES
        )
    if rows.empty:
        raise PermanentError("the file has a header and no encounters", where=str(path), mend=MEND_FILES)
    return rows


def _no_such_file(path: Path) -> PermanentError:
    return PermanentError("there is no such file", where=str(path), mend="Check the path. " + MEND_FILES)


def read_code_tables(path: Path) -> dict[str, frozenset[int]]:
    """The listed codes of the three code tables that stand in one file, one below the other.

    Raises `PermanentError` when a table is absent, a code is no number, or a code that keeps the dead
    and the dying off call lists does not mean what this importer takes it for.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except FileNotFoundError:
        raise _no_such_file(path) from None
    except (UnicodeDecodeError, OSError, csv.Error):
        raise PermanentError(
            "the file cannot be read as CSV text", where=str(path), mend=MEND_FILES
        ) from None
    meanings: dict[str, dict[int, str]] = {}
    table = ""
    for number, cells in enumerate(lines, start=1):
        code = cells[0].strip() if cells else ""
        if code in CODE_TABLES:
            table = code
            meanings[table] = {}
        elif code.isdecimal() and table:
            meanings[table][int(code)] = ",".join(cells[1:]).strip()
        elif code:
            raise PermanentError(
                "a code is no number, or stands before the first table",
                where=f"{path}, line {number}",
                mend=MEND_FILES,
            )
    absent = [name for name in CODE_TABLES if not meanings.get(name)]
    if absent:
        raise PermanentError(
            f"the file lacks the tables {', '.join(absent)}", where=str(path), mend=MEND_FILES
        )
    _require_meaning(path, meanings["discharge_disposition_id"], EXPIRED, "expired")
    _require_meaning(path, meanings["discharge_disposition_id"], HOSPICE, "hospice")
    return {name: frozenset(codes) for name, codes in meanings.items()}


def _require_meaning(path: Path, meanings: Mapping[int, str], codes: Iterable[int], word: str) -> None:
    for code in codes:
        if word not in meanings.get(code, "").lower():
            raise PermanentError(
                f"code {code} does not mean {word!r}",
                where=f"{path}, table discharge_disposition_id",
                mend="Use the code table that belongs to the records; another one needs another importer.",
            )


@dataclass
class _Unmapped:
    """Counts values without a counterpart in the contract. Rows are in the order of `lines`."""

    path: Path
    lines: npt.NDArray[np.int64]
    """The line in the file of every row."""
    found: dict[str, dict[str, int]] = field(default_factory=dict)

    def note(self, column: str, why: str, rows: npt.NDArray[np.bool_]) -> None:
        """Counts the rows of a mask under `column: why`, with the first line of the file."""
        if rows.any():
            self.found[f"{column}: {why}"] = {
                "rows": int(rows.sum()),
                "first_line": int(self.lines[rows].min()),
            }

    def require_some_mapped(self) -> None:
        """A column without a single usable value is not that column."""
        lost: dict[str, int] = {}
        for what, found in self.found.items():
            column = what.partition(":")[0]
            lost[column] = lost.get(column, 0) + found["rows"]
        useless = [column for column, rows in lost.items() if rows >= len(self.lines)]
        if useless:
            raise PermanentError(
                f"no row has a usable value in {', '.join(useless)}",
                where=f"{self.path}, from line 2",
                mend=MEND_FILES,
            )


def _in_order(encounters: pd.Series[str]) -> npt.NDArray[np.intp]:
    """Positions by encounter number; what is no number comes last, as it stands in the file."""
    return np.argsort(pd.to_numeric(encounters, errors="coerce").to_numpy(np.float64), kind="stable")


def _fields(rows: pd.DataFrame, codes: Codes, unmapped: _Unmapped) -> dict[str, Any]:
    """Every column of `EVENTS_SCHEMA` that does not come from the calendar."""
    for name in ("encounter_id", "patient_nbr"):
        unmapped.note(name, "missing", rows[name].isna().to_numpy())
    repeated = rows["encounter_id"].duplicated(keep="last") & rows["encounter_id"].notna()
    unmapped.note("encounter_id", "repeated", repeated.to_numpy())
    disposition = _listed(rows, "discharge_disposition_id", codes, unmapped)
    kind = _listed(rows, "admission_type_id", codes, unmapped)
    return {
        "source": np.full(len(rows), SOURCE, dtype=object),
        "encounter_id": _texts(rows["encounter_id"]),
        "patient_id": _texts(rows["patient_nbr"]),
        "hospital_id": np.full(len(rows), HOSPITAL, dtype=object),
        "discharge_status": _mapped(disposition, STATUSES, "routine"),
        "service_line": _service_line(rows, kind, codes, unmapped),
        "covered_until": np.full(len(rows), None, dtype=object),
        "patient_age": _age(rows["age"], unmapped),
        **{name: _count(rows[column], name, unmapped) for name, column in COUNTS.items()},
        "primary_diagnosis_group": _diagnosis_group(rows["diag_1"], unmapped),
        "discharge_disposition": _mapped(disposition, DISPOSITIONS, "other"),
        "insurance_type": _payer(rows["payer_code"]),
        "emergency_admission": _texts(kind.eq(1).astype(object).where(kind.notna())),
        "has_follow_up_scheduled": np.full(len(rows), False, dtype=object),
    }


def _texts(column: pd.Series[Any]) -> Texts:
    """A column as Python objects, None where nothing is."""
    return np.asarray(column.astype(object).where(column.notna(), None), dtype=object)


def _listed(rows: pd.DataFrame, name: str, codes: Codes, unmapped: _Unmapped) -> pd.Series[Any]:
    """A column of codes as numbers; NaN where the code is missing or not in its table."""
    number = pd.to_numeric(rows[name], errors="coerce")
    listed = number.isin(codes[name])
    missing = rows[name].isna()
    unmapped.note(name, "missing", missing.to_numpy())
    unmapped.note(name, "unlisted code", (~listed & ~missing).to_numpy())
    return number.where(listed)


def _mapped(codes: pd.Series[Any], meanings: Mapping[int, str], otherwise: str) -> Texts:
    mapped = codes.map(meanings)
    return _texts(mapped.where(mapped.notna() | codes.isna(), otherwise))


def _age(bands: pd.Series[str], unmapped: _Unmapped) -> Texts:
    """The middle of the ten-year band."""
    age = bands.map(AGE_BANDS)
    unmapped.note("age", "missing", bands.isna().to_numpy())
    unmapped.note("age", "not a ten-year band", (age.isna() & bands.notna()).to_numpy())
    return _texts(age.astype("Int64"))


def _payer(codes: pd.Series[str]) -> Texts:
    """Not recorded is `unknown`; whoever is neither Medicare nor Medicaid counts as commercial."""
    return _texts(codes.map(lambda code: PAYERS.get(code, "commercial")).mask(codes.isna(), "unknown"))


def _count(column: pd.Series[str], name: str, unmapped: _Unmapped) -> Texts:
    """Whole numbers. One beyond the contract's bounds stays as it is, for the contract to refuse."""
    missing = column.isna().to_numpy()
    # Nine digits fit the warehouse's integers.
    whole = column.str.fullmatch(r"-?\d{1,9}").fillna(False).to_numpy(bool)
    rule = READMISSION.fields[name]
    assert isinstance(rule, Whole)
    number = pd.to_numeric(column.where(whole)).astype("Int64")
    beyond = ~number.between(rule.minimum, rule.maximum).fillna(True).to_numpy(bool)
    unmapped.note(COUNTS[name], "missing", missing)
    unmapped.note(COUNTS[name], "not a whole number", ~whole & ~missing)
    unmapped.note(COUNTS[name], "out of bounds", beyond)
    return _texts(number)


def _categories(diagnoses: pd.Series[str]) -> pd.Series[Any]:
    """The ICD-9 category of numeric codes, `250.83` -> 250; NaN for V and E codes."""
    return pd.to_numeric(diagnoses.str.extract(r"^(\d{1,3})(?:\.\d*)?$", expand=False))


def _diagnosis_group(diagnoses: pd.Series[str], unmapped: _Unmapped) -> Texts:
    category = _categories(diagnoses)
    missing = diagnoses.isna()
    sound = category.notna() | diagnoses.str.fullmatch(r"[VE]\d{2,3}(\.\d*)?").fillna(False).astype(bool)
    unmapped.note("diag_1", "missing", missing.to_numpy())
    unmapped.note("diag_1", "not an ICD-9 code", (~sound & ~missing).to_numpy())
    inside = [category.between(first, last) for first, last, _ in DIAGNOSES]
    group = np.select(inside, [name for _, _, name in DIAGNOSES], "other").astype(object)
    return _texts(pd.Series(group).where(sound.to_numpy()))


def _service_line(rows: pd.DataFrame, kind: pd.Series[Any], codes: Codes, unmapped: _Unmapped) -> Texts:
    """Acute, unless the principal diagnosis or the way of admission says otherwise.

    A code for newborns on somebody older is a contradiction: the line is left missing.
    """
    source = _listed(rows, "admission_source_id", codes, unmapped)
    diagnosis = _categories(rows["diag_1"])
    newborn_code = kind.eq(NEWBORN_TYPE) | source.isin(NEWBORN_SOURCES)
    newborn = newborn_code & rows["age"].eq(YOUNGEST_BAND)
    unmapped.note("admission_type_id", "newborn code at another age", (newborn_code & ~newborn).to_numpy())
    lines = {
        "newborn": newborn,
        "obstetric": diagnosis.between(*OBSTETRIC),
        "psychiatric": diagnosis.between(*PSYCHIATRIC),
        "rehabilitation": rows["diag_1"].str.startswith(REHABILITATION).fillna(False).astype(bool),
        "cancer_treatment": rows["diag_1"].str.startswith(CANCER_TREATMENT).fillna(False).astype(bool),
    }
    line = np.select(list(lines.values()), list(lines), "acute").astype(object)
    known = kind.notna() & source.notna() & ~(newborn_code & ~newborn)
    return _texts(pd.Series(line).where(known.to_numpy()))


def _calendar(
    rows: pd.DataFrame, expired: npt.NDArray[np.bool_], first_day: date, last_day: date, timezone: str
) -> dict[str, pa.Array]:
    """Discharges in the order of the rows, evenly over the days, by day from 08:00 to 20:00."""
    place = np.arange(len(rows)) * ((last_day - first_day).days + 1) / len(rows)
    seconds = (place % 1 * 12 + 8) * 3600
    wall = np.datetime64(first_day, "s") + place.astype(np.int64) * DAY + seconds.astype("timedelta64[s]")
    nights = pd.to_numeric(rows[COUNTS["length_of_stay_days"]], errors="coerce")
    stayed = nights.between(0, 365).to_numpy()
    admitted = to_utc(wall - nights.where(stayed, 0).to_numpy(np.int64) * DAY, timezone)
    discharged = to_utc(wall, timezone)
    never = np.datetime64("NaT", "s")
    return {
        "admitted_at": moments(np.where(stayed, admitted, never)),
        "discharged_at": moments(discharged),
        "deceased_at": moments(np.where(expired, discharged, never)),
        "ingested_at": moments(discharged + TOLD_AFTER),
    }


def _outcomes(rows: pd.DataFrame, columns: Mapping[str, Any], unmapped: _Unmapped) -> pa.Table:
    """One outcome per encounter that has an id; of a repeated one, the last."""
    label = rows["readmitted"].map(OUTCOMES)
    unmapped.note("readmitted", "missing", rows["readmitted"].isna().to_numpy())
    unmapped.note("readmitted", "unlisted code", (label.isna() & rows["readmitted"].notna()).to_numpy())
    encounter = rows["encounter_id"]
    kept = (label.notna() & encounter.notna() & ~encounter.duplicated(keep="last")).to_numpy()
    discharged = columns["discharged_at"].filter(pa.array(kept)).to_numpy(zero_copy_only=False)
    return pa.table(
        {
            "encounter_id": pa.array(columns["encounter_id"][kept], pa.string()),
            "readmitted_within_30_days": pa.array(label[kept].tolist(), pa.bool_()),
            "source": pa.repeat(SOURCE, int(kept.sum())),
            "recorded_at": moments(discharged + KNOWN_AFTER),
        }
    )


def _report(events: pa.Table, outcomes: pa.Table, unmapped: _Unmapped) -> dict[str, Any]:
    frame = events.select(["patient_id", "discharge_status", "service_line"]).to_pandas()
    return {
        "encounters": len(events),
        "patients": int(frame["patient_id"].nunique()),
        "outcomes": len(outcomes),
        "readmitted_within_30_days": int(outcomes["readmitted_within_30_days"].to_numpy().sum()),
        "discharge_status": _counts(frame["discharge_status"]),
        "service_line": _counts(frame["service_line"]),
        "not_mapped": unmapped.found,
        "constant": {"hospital_id": HOSPITAL, "has_follow_up_scheduled": False},
    }


def _counts(column: pd.Series[str]) -> dict[str, int]:
    return {str(value): int(n) for value, n in column.fillna("missing").value_counts().items()}
