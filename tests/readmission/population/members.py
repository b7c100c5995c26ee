"""Members of a quarter for tests: dirty rows as Hypothesis draws them, and many from one seed.

Belongs here: rows and how they get into the warehouse. Does not belong here: any expectation.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from medscore_assets.contracts.fields import Flag, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.member_loading import load_members
from medscore_assets.readmission.population.accumulate import COLUMNS
from medscore_assets.readmission.population.quarters import Quarter
from resources.warehouse import Warehouse

QUARTER = Quarter(2026, 3)
AS_OF = datetime(2026, 10, 1, 4, tzinfo=UTC)

Row = dict[str, Any]

CHOICES: dict[str, list[Any]] = {
    "region": ["Pacific", "Mountain", None, "", " ", "Pacific ", "All", "Unknown"],
    "hospital_id": ["H1", "H2", None, "", "h1"],
    "sex": ["female", "male", None, "x"],
    "patient_age": [0.0, 17.0, 18.0, 64.0, 65.0, 84.0, 85.0, 120.0, 121.0, -1.0, 70.5, float("nan"), None],
    "length_of_stay_days": [1.0, 4.0, 30.0, 366.0, float("inf")],
    "num_prior_admissions_12m": [0.0, -0.0, 2.0, 9.0],
    "num_chronic_conditions": [0.0, 5.0],
    "primary_diagnosis_group": ["cardiac", "respiratory", "other", "Cardiac", None, "flu"],
    "discharge_disposition": ["home", "rehab", "moon"],
    "insurance_type": ["commercial", "medicare", "unknown", "Unknown", None],
    "emergency_admission": [True, False, None],
    "num_medications_at_discharge": [3.0, 20.0],
    "has_follow_up_scheduled": [True, False],
    "index_discharge": [True, True, False, None],
    "readmitted_within_30_days": [True, False, None],
}


def _type(name: str) -> pa.DataType:
    field = READMISSION.fields.get(name)
    if isinstance(field, Flag) or name in ("index_discharge", "readmitted_within_30_days"):
        return pa.bool_()
    return pa.float64() if isinstance(field, Whole) else pa.string()


SCHEMA = pa.schema([(name, _type(name)) for name in COLUMNS])


def member_rows() -> st.SearchStrategy[Row]:
    """One member, with every kind of dirt in every column."""
    return st.fixed_dictionaries({name: st.sampled_from(CHOICES[name]) for name in COLUMNS})


def as_table(rows: list[Row]) -> pa.Table:
    """The rows as they come out of the warehouse."""
    return pa.Table.from_pylist(rows, SCHEMA)


def many_members(count: int, seed: int = 1, dirty: float = 0.02, hospitals: int = 40) -> pa.Table:
    """Members of which one in `dirty` has something wrong in a column, and a third an index discharge."""
    chance = np.random.default_rng(seed)
    columns = {}
    for name in COLUMNS:
        choices = CHOICES[name]
        clean = [c for c in choices if c not in (None, "", " ") and c == c and _sound(name, c)]
        picked = chance.integers(0, len(clean), count)
        wrong = chance.random(count) < dirty
        others = chance.integers(0, len(choices), count)
        values = [choices[o] if w else clean[p] for p, w, o in zip(picked, wrong, others, strict=True)]
        columns[name] = pa.array(values, SCHEMA.field(name).type)
    hospitals = [f"H{n:03d}" for n in chance.integers(0, hospitals, count)]
    discharged = pa.array((chance.random(count) < 0.3).tolist())
    return pa.table(columns | {"hospital_id": hospitals, "index_discharge": discharged}, schema=SCHEMA)


def _sound(name: str, value: Any) -> bool:
    feature = next((f for f in READMISSION.features if f.name == name), None)
    if feature is None:
        return value in ("Pacific", "Mountain", "H1", "H2", "female", "male", True, False)
    try:
        feature.code(int(value) if isinstance(value, float) and value.is_integer() else value)
    except ValueError:
        return False
    return True


def load(
    warehouse: Warehouse, members: pa.Table, quarter: Quarter = QUARTER, as_of: datetime = AS_OF
) -> None:
    """Make `members` the snapshot of a quarter, whatever was there."""
    ids = [f"M{n:07d}" for n in range(len(members))]
    rows = members.append_column("member_id", pa.array(ids, pa.string()))
    rows = rows.append_column("quarter", pa.array([quarter.key] * len(members), pa.string()))
    load_members(warehouse, quarter, rows.to_batches(), source="demo", as_of=as_of, replace=True)
