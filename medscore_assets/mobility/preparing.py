"""From the lake's raw files to its features, day by day: steps, monthly sums, features, each written whole.

Belongs here: which days are made in one pass, and what a day rests on. Does not belong here: what a day of
steps is (`daily.py`), what features are (`features.py`), engines (`engines.py`), Dagster.
"""

from __future__ import annotations

import calendar
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.daily import DAILY_STEPS, write_daily
from medscore_assets.mobility.engines import Engine
from medscore_assets.mobility.features import feature_frame, reads
from medscore_assets.mobility.forecasts import PATIENT_FEATURES
from medscore_assets.mobility.raw import RAW_STEPS, touching
from medscore_assets.mobility.rollups import MONTHLY_ROLLUPS, month_of, monthly_rollup, months_of
from resources.lake import Dataset, Lake

DAY = timedelta(days=1)

ROWS_AT_ONCE = 1_500_000
"""Rows of features in one pass: about 2 GB at the peak."""

MOST_DAYS_AT_ONCE = 31


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
    made = {}
    for month in months_of(days):
        last = month.replace(day=calendar.monthrange(month.year, month.month)[1])
        with lake.reading(DAILY_STEPS, lake.dataset_paths(DAILY_STEPS, month, last)):
            sums = monthly_rollup(engine.dataset(lake, DAILY_STEPS, month, last)).to_pyarrow()
        lake.write_day(MONTHLY_ROLLUPS, month, sums.sort_by("patient_id"))
        made[month] = sums.num_rows
    return made


def make_features(lake: Lake, engine: Engine, days: Sequence[date]) -> dict[date, int]:
    """Make the features of these days, in as few passes as memory allows; rows by day.

    A day before which nobody has data gets no rows. Raises `ContractViolation` for a day whose features
    break the contract, and `PermanentError` naming a damaged file; days that were made before that stand.
    """
    made = {}
    for first, last in _passes(sorted(set(days)), _days_at_once(lake, days)):
        table = features_between(lake, engine, first, last)
        MOBILITY.require(table, where=f"{lake.url}/{PATIENT_FEATURES.path}, {first} to {last}")
        for day in _days(first, last):
            of_day = table.filter(pc.equal(table["day"], pa.scalar(day, pa.date32())))
            lake.write_day(PATIENT_FEATURES, day, of_day)
            made[day] = of_day.num_rows
    return made


def features_between(lake: Lake, engine: Engine, first: date, last: date) -> pa.Table:
    """The features of a range of days, by day and patient."""
    inputs = engine.feature_inputs(lake, first, last)
    needs = reads(first, last)
    with (
        lake.reading(DAILY_STEPS, lake.dataset_paths(DAILY_STEPS, needs.first_day, needs.last_day)),
        lake.reading(MONTHLY_ROLLUPS, lake.dataset_paths(MONTHLY_ROLLUPS, date.min, needs.months_before)),
    ):
        found = feature_frame(inputs, first, last).to_pyarrow()
    table = MOBILITY.conform(found, where=f"{lake.url}/{PATIENT_FEATURES.path}")
    return table.sort_by([("day", "ascending"), ("patient_id", "ascending")])


def rows_in(lake: Lake, names: Sequence[str]) -> int:
    """Rows in files, by their footers."""
    return sum(pq.read_metadata(path).num_rows for path in lake.local(names))


def newest_day(lake: Lake, dataset: Dataset) -> date | None:
    """The last day that has a file."""
    return max(lake.days(dataset), default=None)


def _days_at_once(lake: Lake, days: Sequence[date]) -> int:
    """How many days of features fit into one pass, by the patients of the newest month before them."""
    if len(days) < 2:
        return 1
    months = [month for month in lake.days(MONTHLY_ROLLUPS) if month <= month_of(max(days))]
    patients = rows_in(lake, lake.files(MONTHLY_ROLLUPS, months[-1])) if months else 0
    return max(1, min(MOST_DAYS_AT_ONCE, ROWS_AT_ONCE // max(patients, 1)))


def _passes(days: Sequence[date], at_once: int) -> Iterator[tuple[date, date]]:
    """Runs of consecutive days, of at most so many each."""
    run: list[date] = []
    for day in days:
        if run and (day != run[-1] + DAY or len(run) == at_once):
            yield run[0], run[-1]
            run = []
        run.append(day)
    if run:
        yield run[0], run[-1]


def _days(first: date, last: date) -> list[date]:
    return [first + n * DAY for n in range((last - first).days + 1)]
