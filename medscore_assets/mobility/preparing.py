"""From the lake's raw files to its features, day by day: steps, monthly sums, features, each written whole.

Belongs here: which days are made in one pass, and what a day rests on. Does not belong here: what a day of
steps is (`daily.py`), what features are (`features.py`), engines (`engines.py`), Dagster.
"""

from __future__ import annotations

import calendar
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.daily import DAILY_STEPS, write_daily
from medscore_assets.mobility.engines import Engine
from medscore_assets.mobility.features import EVERYBODY, Block, Inputs, blocks_of, feature_frame, reads
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.raw import RAW_STEPS, touching
from medscore_assets.mobility.rollups import MONTHLY_ROLLUPS, month_of, monthly_rollup, months_of
from resources.lake import Dataset, Lake

DAY = timedelta(days=1)

ROWS_AT_ONCE = 3_000_000
"""Rows of features in one block of patients: about 3 GB at the peak."""

MOST_DAYS_AT_ONCE = 366
"""Days in one pass. Each reads again what windows need of the days before it, and has all its files open."""


@dataclass(frozen=True, slots=True)
class RawState:
    """The raw files that a local day is made of: how many, and a hash of their names.

    A file's name holds the hash of its content, so that another fingerprint means other records.
    """

    files: int
    fingerprint: str


def raw_state(lake: Lake, day: date) -> RawState:
    """What there is now for a local day; without a file in which its moments lie, nothing."""
    return raw_states(lake, [day])[day]


def raw_states(lake: Lake, days: Sequence[date]) -> dict[date, RawState]:
    """The same for several days; every folder is listed once."""
    listed = {raw_day: lake.files(RAW_STEPS, raw_day) for raw_day in {r for d in days for r in touching(d)}}
    found = {}
    for day in days:
        before, same, after = touching(day)
        names = [*listed[before], *listed[same], *listed[after]] if listed[same] or listed[after] else []
        found[day] = RawState(len(names), hashlib.sha256("\n".join(names).encode()).hexdigest())
    return found


def make_steps(lake: Lake, day: date, *, as_of: datetime) -> int:
    """Make `daily_steps` of a local day; the number of its rows. Without raw files nothing is written.

    Raises `PermanentError` naming a file that is damaged or lacks a column; the earlier rows then stay.
    """
    if not raw_state(lake, day).files:
        return 0
    return rows_in(lake, [write_daily(lake, day, as_of=as_of)])


def make_rollups(lake: Lake, engine: Engine, days: Iterable[date]) -> dict[date, int]:
    """Make the monthly sums of the months of these days anew; rows by month."""
    made: dict[date, int] = {}
    for month in months_of(days):
        last = month.replace(day=calendar.monthrange(month.year, month.month)[1])
        with lake.reading(DAILY_STEPS, lake.dataset_paths(DAILY_STEPS, month, last)):
            sums = monthly_rollup(engine.dataset(lake, DAILY_STEPS, month, last)).to_pyarrow()
        lake.write_day(MONTHLY_ROLLUPS, month, sums.sort_by("patient_id"))
        made[month] = sums.num_rows
    return made


def make_features(lake: Lake, engine: Engine, days: Sequence[date]) -> dict[date, int]:
    """Make the features of these days, in few passes of as many days as may be; rows by day.

    In a long pass one block of patients comes after the other, so that memory stays flat. A day before which
    nobody has data gets no rows. Raises `ContractViolation` for features that break the contract, and
    `PermanentError` naming a damaged file: the days of that pass then stay as they were.
    """
    made: dict[date, int] = {}
    for first, last in _passes(sorted(set(days))):
        inputs = engine.feature_inputs(lake, first, last)
        rows = dict.fromkeys(_days(first, last), 0)
        with lake.writing(PATIENT_FEATURES, list(rows)) as write:
            for block in _blocks(lake, first, last):
                for day, found in _added(lake, inputs.block(block), first, last, write).items():
                    rows[day] += found
        made |= rows
    return made


def _added(
    lake: Lake, inputs: Inputs, first: date, last: date, write: Callable[[date, pa.Table], None]
) -> dict[date, int]:
    """Write the features of one block of patients; rows by day. They are forgotten before the next block."""
    table = features_between(lake, inputs, first, last)
    MOBILITY.require(table, where=f"{lake.url}/{PATIENT_FEATURES.path}, {first} to {last}")
    rows = {}
    for day, of_day in _by_day(table):
        write(day, of_day)
        rows[day] = of_day.num_rows
    return rows


def features_between(lake: Lake, inputs: Inputs, first: date, last: date) -> pa.Table:
    """The features of a range of days from inputs of the lake, by day and patient."""
    needs = reads(first, last)
    with (
        lake.reading(DAILY_STEPS, lake.dataset_paths(DAILY_STEPS, needs.first_day, needs.last_day)),
        lake.reading(MONTHLY_ROLLUPS, lake.dataset_paths(MONTHLY_ROLLUPS, date.min, needs.months_before)),
    ):
        found = feature_frame(inputs, first, last).to_pyarrow()
    return _in_order(MOBILITY.conform(found, where=f"{lake.url}/{PATIENT_FEATURES.path}"))


def rows_in(lake: Lake, names: Sequence[str]) -> int:
    """Rows in files, by their footers."""
    return sum(pq.read_metadata(path).num_rows for path in lake.local(names))


def newest_day(lake: Lake, dataset: Dataset) -> date | None:
    """The last day that has a file."""
    return max(lake.days(dataset), default=None)


def _blocks(lake: Lake, first: date, last: date) -> list[Block]:
    """Blocks of patients whose features of a pass fit into memory, by the patients of its newest month."""
    if first == last:
        return [EVERYBODY]
    months = [month for month in lake.days(MONTHLY_ROLLUPS) if month <= month_of(last)]
    if not months:
        return [EVERYBODY]
    patients = lake.read_day(MONTHLY_ROLLUPS, months[-1], ["patient_id"])["patient_id"].to_pylist()
    rows = len(patients) * ((last - first).days + 1)
    return blocks_of(patients, -(-rows // ROWS_AT_ONCE))


def _passes(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Runs of consecutive days, of at most `MOST_DAYS_AT_ONCE` each."""
    run: list[date] = []
    for day in days:
        if run and (day != run[-1] + DAY or len(run) == MOST_DAYS_AT_ONCE):
            yield run[0], run[-1]
            run = []
        run.append(day)
    if run:
        yield run[0], run[-1]


def _in_order(table: pa.Table) -> pa.Table:
    """By day and patient: both as one number, and each column in one piece, halve the time of a sort."""
    patients = table["patient_id"].combine_chunks().dictionary_encode()
    ranks = pc.rank(patients.dictionary).to_numpy().astype(np.int64)
    days = table["day"].combine_chunks().cast(pa.int32()).to_numpy().astype(np.int64)
    order = pa.array(np.argsort((days << 32) + ranks[patients.indices.to_numpy()], kind="stable"))
    # Column by column, so that there is never a third copy of the table.
    return pa.table([column.combine_chunks().take(order) for column in table.columns], schema=table.schema)


def _by_day(table: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """A table that is sorted by day, cut into its days."""
    found = pc.run_end_encode(table["day"].combine_chunks())
    begin = 0
    for day, end in zip(found.values.to_pylist(), found.run_ends.to_pylist(), strict=True):
        yield day, table.slice(begin, end - begin)
        begin = end


def _days(first: date, last: date) -> list[date]:
    return [first + n * DAY for n in range((last - first).days + 1)]
