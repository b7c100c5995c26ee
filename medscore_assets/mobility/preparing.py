"""From the lake's raw files to its features, day by day: steps, monthly sums, features, each written whole.

Belongs here: which days are made in one pass, and what a day rests on. Does not belong here: what a day of
steps is (`daily.py`), what features are (`features.py`), engines (`engines.py`), Dagster.
"""

from __future__ import annotations

import calendar
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.daily import DAILY_STEPS, write_daily
from medscore_assets.mobility.day_arrays import days_between, features_by_day
from medscore_assets.mobility.engines import Engine
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.raw import RAW_STEPS, touching
from medscore_assets.mobility.rollups import MONTHLY_ROLLUPS, monthly_rollup, months_of
from resources.lake import Dataset, Lake

DAY = timedelta(days=1)

ROWS_AT_ONCE = 2_000_000
"""Rows of features in memory at once, of whole days: about 2 GB at the peak, however many days there are."""

MOST_DAYS_AT_ONCE = 366
"""Days in one pass: they take their places together. Each pass reads again what windows need before it."""


@dataclass(frozen=True, slots=True)
class RawState:
    """The raw files that a local day is made of: how many, and a hash of their names.

    A file's name holds the hash of its content, so that another fingerprint means other records.
    """

    files: int
    fingerprint: str


def raw_state(lake: Lake, day: date) -> RawState:
    """What there is now for a local day: the files in which its moments may lie."""
    return raw_states(lake, [day])[day]


def raw_states(lake: Lake, days: Sequence[date]) -> dict[date, RawState]:
    """The same for several days; every folder is listed once."""
    listed = {raw_day: lake.files(RAW_STEPS, raw_day) for raw_day in {r for d in days for r in touching(d)}}
    found = {}
    for day in days:
        names = [name for raw_day in touching(day) for name in listed[raw_day]]
        found[day] = RawState(len(names), hashlib.sha256("\n".join(names).encode()).hexdigest())
    return found


def make_steps(lake: Lake, day: date, *, as_of: datetime) -> int:
    """Make `daily_steps` of a local day; the number of its rows.

    Nothing is written without raw files, nor of a day without records that has not come yet (`has_come`).
    Raises `PermanentError` naming a file that is damaged or lacks a column; the earlier rows then stay.
    """
    if not raw_state(lake, day).files:
        return 0
    name = write_daily(lake, day, as_of=as_of)
    return rows_in(lake, [name]) if name else 0


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

    In a long pass some days come after the others, so that memory stays flat. A day before which nobody has
    data gets no rows. The engine is DuckDB; Spark makes its days itself. Raises `ContractViolation` for
    features that break the contract, and `PermanentError` naming a damaged file: the days of that pass then
    stay as they were.
    """
    made: dict[date, int] = {}
    for first, last in _passes(sorted(set(days))):
        rows = dict.fromkeys(days_between(first, last), 0)
        tables = features_by_day(lake, engine, first, last, rows_at_once=ROWS_AT_ONCE)
        with closing(tables), lake.writing(PATIENT_FEATURES) as write:
            for table in tables:
                rows |= _written(table, write, where=f"{lake.url}/{PATIENT_FEATURES.path}, {first} to {last}")
                del table  # before the next one is computed
            for day in (day for day, found in rows.items() if not found):
                write(day, PATIENT_FEATURES.schema.empty_table())
        made |= rows
    return made


def _written(table: pa.Table, write: Callable[[date, pa.Table], None], *, where: str) -> dict[date, int]:
    """Write the features of some days if they hold what the contract says; rows by day."""
    MOBILITY.require(table, where=where)
    rows = {}
    for day, of_day in _by_day(table):
        write(day, of_day)
        rows[day] = of_day.num_rows
    return rows


def rows_in(lake: Lake, names: Sequence[str]) -> int:
    """Rows in files, by their footers."""
    return sum(pq.read_metadata(path).num_rows for path in lake.local(names))


def newest_day(lake: Lake, dataset: Dataset) -> date | None:
    """The last day that has a file."""
    return max(lake.days(dataset), default=None)


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


def _by_day(table: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """A table that is sorted by day, cut into its days."""
    found = pc.run_end_encode(table["day"].combine_chunks())
    begin = 0
    for day, end in zip(found.values.to_pylist(), found.run_ends.to_pylist(), strict=True):
        yield day, table.slice(begin, end - begin)
        begin = end
