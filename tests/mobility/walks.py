"""A lake of daily steps that needs no raw files but for its last days, and models that are quick to fit.

Steps follow a level per patient, the weekday and yesterday, so that a model can beat the naive forecasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.raw import DIAGNOSES, PATIENTS, RAW_STEPS, SIDE_EFFECTS, THERAPIES
from resources.lake import Lake
from tests.mobility.simulated import simulated_steps

FIRST = date(2026, 1, 5)
DISEASES = ("MS", "PD", "RA", "other")
NOON = 17
"""In New York, by UTC."""


def days_from(first: date, count: int) -> list[date]:
    return [first + timedelta(days=n) for n in range(count)]


def patient_ids(count: int) -> list[str]:
    return [f"p{number:04d}" for number in range(count)]


def write_walks(lake: Lake, patients: int, days: int, *, raw_days: int = 0, seed: int = 1) -> np.ndarray:
    """Daily steps from `FIRST` on, the last `raw_days` as raw records; the steps, (patients, days)."""
    steps = simulated_steps(patients, days, seed)
    ids = np.array(patient_ids(patients), dtype=object)
    for place, day in enumerate(days_from(FIRST, days)):
        known = np.isfinite(steps[:, place])
        if place >= days - raw_days:
            write_raw(lake, day, ids[known], steps[known, place])
            continue
        total = int(known.sum())
        rows = {
            "patient_id": pa.array(ids[known], pa.string()),
            "day": pa.array([day] * total, pa.date32()),
            "steps": pa.array(steps[known, place].astype(np.int64)),
            "wear_minutes": pa.array([780] * total, pa.int32()),
            "devices": pa.array([1] * total, pa.int8()),
            "records": pa.array([60] * total, pa.int32()),
            "flags": pa.array([0] * total, pa.int32()),
        }
        lake.write_day(DAILY_STEPS, day, pa.table(rows))
    write_clinical(lake, patients)
    return steps


def write_raw(
    lake: Lake,
    day: date,
    ids: Sequence[str],
    steps: np.ndarray,
    *,
    hour: int = NOON,
    arrival: datetime | None = None,
) -> str:
    """A raw file in which each patient makes the steps of a day from an hour (UTC) on, 250 a minute."""
    noon = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    patient, minute, count = [], [], []
    for one, total in zip(ids, steps, strict=True):
        whole = np.full(-(-int(total) // 250), 250)
        if len(whole):
            whole[-1] = int(total) - 250 * (len(whole) - 1)
        patient += [one] * len(whole)
        minute += [noon + timedelta(minutes=m) for m in range(len(whole))]
        count += whole.tolist()
    records = {
        "patient_id": pa.array(patient, pa.string()),
        "timestamp": pa.array(minute, pa.timestamp("us", "UTC")),
        "zone": pa.array(["America/New_York"] * len(patient), pa.string()),
        "count": pa.array(count, pa.int32()),
        "device": pa.array(["watch"] * len(patient), pa.string()),
    }
    return lake.add_file(RAW_STEPS, day, pa.table(records), arrival=arrival or noon + timedelta(days=1))


def write_clinical(lake: Lake, patients: int) -> None:
    ids = patient_ids(patients)
    born = pa.array([date(1960, 1, 1)] * patients, pa.date32())
    lake.write(
        PATIENTS,
        pa.table(
            {
                "patient_id": ids,
                "birth_date": born,
                "sex": ["female"] * patients,
                "zone": ["America/New_York"] * patients,
            }
        ),
    )
    lake.write(
        DIAGNOSES,
        pa.table(
            {
                "patient_id": ids,
                "disease": [DISEASES[number % 4] for number in range(patients)],
                "valid_from": pa.array([date(2020, 1, 1)] * patients, pa.date32()),
                "valid_to": pa.nulls(patients, pa.date32()),
            }
        ),
    )
    lake.write(THERAPIES, THERAPIES.schema.empty_table())
    lake.write(SIDE_EFFECTS, SIDE_EFFECTS.schema.empty_table())
