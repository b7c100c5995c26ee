"""The lakes that the mobility benchmark measures on.

Belongs here: daily rows made up without their records, sizes on disk. Does not belong here:
made-up records and patients (`medscore_assets/demo/steps.py`), measuring (`mobility_parts.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medscore_assets.demo.step_patients import block, blocks, clinical_tables, steps_called_for
from medscore_assets.demo.steps import HOURS, TYPICAL_RECORDS, TYPICAL_STEPS, StepPlan
from medscore_assets.mobility.daily import DAILY_STEPS, HOUR_MINUTES, PARTIAL_BELOW_MINUTES, DayFlag
from medscore_assets.mobility.raw import CLINICAL, RAW_STEPS
from resources.lake import Dataset, Lake

THREADS = 2
FEW_WORN = 0.03
"""Of the days: the device comes off early."""


def write_daily_rows(plan: StepPlan, lake: Lake) -> int:
    """Fill `daily_steps` and the clinical tables with what the plan's patients walk. Returns the rows.

    The steps are those of the generator of records, without its minutes: 40 times faster, and features
    cannot tell.
    """
    clinical = clinical_tables(plan.seed, plan.patients, plan.last_day)
    for dataset in CLINICAL:
        lake.write(dataset, clinical[dataset.path])
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(lambda day: _write_day(plan, lake, day), plan.days))


def records_in(lake: Lake) -> int:
    """How many raw records a lake holds, by the footers of its files."""
    names = lake.dataset_paths(RAW_STEPS, date.min, date.max)
    return sum(pq.read_metadata(path).num_rows for path in lake.local(names))


def megabytes(folder: Path) -> float:
    """What a folder's files take on disk."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return round(sum(sizes) / 1e6, 1)


def bytes_per_row(lake: Lake, dataset: Dataset, day: date) -> float:
    """Of the files of a day."""
    paths = [Path(path) for path in lake.local(lake.files(dataset, day))]
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    return round(sum(path.stat().st_size for path in paths) / max(rows, 1), 2)


def _write_day(plan: StepPlan, lake: Lake, day: date) -> int:
    table = pa.concat_tables(_daily_rows(plan, day))
    lake.write_day(DAILY_STEPS, day, table)
    return table.num_rows


def _daily_rows(plan: StepPlan, day: date) -> Iterator[pa.Table]:
    for index, n in blocks(plan.patients):
        patients = block(plan.seed, index, n)
        called_for = steps_called_for(patients, plan.seed, index, day)
        worn = np.flatnonzero(called_for)
        steps = called_for[worn].astype(np.int64)
        # Any spread that repeats will do: wear enters by a threshold alone.
        early = (worn * 31 + day.toordinal()) % 1000 < 1000 * FEW_WORN
        minutes = np.where(early, PARTIAL_BELOW_MINUTES - HOUR_MINUTES, HOURS * HOUR_MINUTES)
        columns = {
            "patient_id": patients.ids.take(pa.array(worn)),
            "day": pa.array([day] * len(worn), pa.date32()),
            "steps": steps,
            "wear_minutes": minutes,
            "devices": np.ones(len(worn), np.int8),
            "records": np.rint(TYPICAL_RECORDS * np.sqrt(steps / TYPICAL_STEPS)).astype(np.int32),
            "flags": np.where(early, int(DayFlag.PARTIAL_DAY), 0),
        }
        yield pa.table(columns).cast(DAILY_STEPS.schema)
