"""The rows that mobility models learn from, computed from the lake's steps and kept in the lake.

Belongs here: which patients and days are taken, their features and targets as one file. Does not belong
here: what rows are used for (`training_set.py`) and fitting (`training.py`).

Features are computed for the sampled patients alone, over the whole history in one pass, so that training
needs no features of past days to be kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.cohorts import COHORTS, cohort_of
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.engines import Engine
from medscore_assets.mobility.features import feature_frame
from medscore_assets.mobility.forecasts import HORIZONS, require_contract
from medscore_assets.mobility.raw import DIAGNOSES
from medscore_assets.mobility.training_set import MOST_ROWS, TARGET, Split, TrainingSet
from resources.errors import PermanentError
from resources.lake import Dataset, Lake

DAY = timedelta(days=1)

HISTORY_DAYS = 365
"""Days with features that are learned from: every season once."""


def target_name(horizon_days: int) -> str:
    """The column with the steps of the day that a horizon forecasts."""
    return f"{TARGET}_{horizon_days}"


TRAINING_ROWS = Dataset(
    "training/mobility",
    pa.schema(
        [
            *(MOBILITY.schema.field(name).with_nullable(True) for name in MOBILITY.columns),
            *((target_name(horizon), pa.float64()) for horizon in HORIZONS),
        ],
        metadata=MOBILITY.schema.metadata,
    ),
    partition=None,
)
"""Features of sampled patients' days, and what they were followed by; null where that is not known."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What was taken."""

    rows: int
    patients: Mapping[str, int]
    """By cohort."""
    first_day: date
    last_day: date


def make_training_rows(
    lake: Lake, engine: Engine, *, history_days: int = HISTORY_DAYS, most_rows: int = MOST_ROWS
) -> Rows:
    """Compute the training rows of the newest days and write them, whole; what they are.

    Of each cohort as many whole patients are taken, by the order of a hash, as give about `most_rows`.
    Raises `PermanentError` without two days of steps, and naming a damaged file.
    """
    days = lake.days(DAILY_STEPS)
    if len(days) < 2:
        raise PermanentError(
            f"the lake has {len(days)} days of steps, and training needs more",
            where=f"{lake.url}/{DAILY_STEPS.path}",
            mend="Make them: medscore mobility run --from DAY --day DAY",
        )
    last = days[-1]
    first = max(days[0] + DAY, last - (history_days - 1) * DAY)
    inputs = engine.feature_inputs(lake, first, last)
    files = lake.dataset_paths(DAILY_STEPS, first, last)
    with lake.reading(DAILY_STEPS, files):
        everybody = inputs.daily.select("patient_id").distinct().to_pyarrow()["patient_id"].to_pylist()
        taken = _sampled(everybody, _cohorts(lake, last), math.ceil(most_rows / ((last - first).days + 1)))
        ids = [patient for patients in taken.values() for patient in patients]
        chosen = _only(ids)
        daily = inputs.daily.semi_join(chosen, "patient_id")
        rollups = inputs.rollups.semi_join(chosen, "patient_id")
        frame = feature_frame(replace(inputs, daily=daily, rollups=rollups), first, last)
        features = MOBILITY.conform(frame.to_pyarrow(), where=TRAINING_ROWS.path)
        steps = daily.filter(daily.day >= first).select("patient_id", "day", "steps").to_pyarrow()
    table = features
    for horizon in HORIZONS:
        table = _with_target(table, steps, horizon)
    known = pc.or_(*(pc.is_valid(table[target_name(horizon)]) for horizon in HORIZONS))
    table = table.filter(known).sort_by([("patient_id", "ascending"), ("day", "ascending")])
    lake.write(TRAINING_ROWS, table)
    return Rows(table.num_rows, {cohort: len(found) for cohort, found in taken.items()}, first, last)


def read_training_set(lake: Lake, horizon_days: int, *, seed: int = 0) -> tuple[TrainingSet, pa.Table]:
    """The training set of a horizon, and its rows in the same order.

    Raises `PermanentError` if there are none, or they were made under another contract.
    """
    if not lake.files(TRAINING_ROWS):
        raise PermanentError(
            "there are no training rows",
            where=f"{lake.url}/{TRAINING_ROWS.path}",
            mend="Train by: medscore mobility train",
        )
    require_contract(lake, lake.files(TRAINING_ROWS)[0])
    table = lake.read(TRAINING_ROWS)
    targets = [target_name(horizon) for horizon in HORIZONS]
    table = table.filter(pc.is_valid(table[target_name(horizon_days)]))
    target = table[target_name(horizon_days)]
    table = table.drop_columns(targets).append_column(TARGET, target)
    table = table.sort_by([("patient_id", "ascending"), ("day", "ascending")])
    ahead = (horizon_days - 1) * DAY
    ends = pc.min_max(table["day"])
    if not table.num_rows:
        raise PermanentError(
            f"no day has steps {horizon_days} days on",
            where=f"{lake.url}/{TRAINING_ROWS.path}",
            mend="Import more days of steps.",
        )
    split = Split.of(ends["min"].as_py() + ahead, ends["max"].as_py() + ahead, seed=seed)
    return TrainingSet.of(table, MOBILITY, horizon_days, split), table


def _cohorts(lake: Lake, day: date) -> dict[str, str]:
    """The cohort of each patient with a diagnosis that is active on a day."""
    diagnoses = lake.read(DIAGNOSES)
    at = pa.scalar(day, pa.date32())
    begun = pc.less_equal(diagnoses["valid_from"], at)
    going_on = pc.fill_null(pc.greater(diagnoses["valid_to"], at), True)
    active = diagnoses.filter(pc.and_(pc.fill_null(begun, False), going_on))
    found: dict[str, set[str | None]] = {}
    for patient, disease in zip(active["patient_id"].to_pylist(), active["disease"].to_pylist(), strict=True):
        found.setdefault(patient, set()).add(disease)
    return {patient: cohort_of(diseases) for patient, diseases in found.items()}


def _sampled(patients: Sequence[str], cohorts: Mapping[str, str], most: int) -> dict[str, list[str]]:
    """At most so many patients of each cohort, by the order of a hash of their ids."""
    of: dict[str, list[str]] = {cohort: [] for cohort in COHORTS}
    for patient in sorted(patients, key=lambda p: hashlib.blake2b(p.encode(), digest_size=8).digest()):
        mine = of[cohorts.get(patient, COHORTS[-1])]
        if len(mine) < most:
            mine.append(patient)
    return of


def _only(patients: Sequence[str]) -> Any:
    import ibis

    return ibis.memtable(pa.table({"patient_id": pa.array(patients, pa.string())}))


def _with_target(table: pa.Table, steps: pa.Table, horizon_days: int) -> pa.Table:
    """The table with the steps of each row's target day, null where there are none."""
    days = np.asarray(table["day"]).astype("datetime64[D]") + np.timedelta64(horizon_days - 1, "D")
    keyed = table.append_column("_target_day", pa.array(days, pa.date32()))
    right = pa.table(
        {
            "patient_id": steps["patient_id"].cast(pa.string()),
            "_target_day": steps["day"].cast(pa.date32()),
            target_name(horizon_days): steps["steps"].cast(pa.float64()),
        }
    )
    return keyed.join(right, ["patient_id", "_target_day"], join_type="left outer").drop_columns(
        "_target_day"
    )
