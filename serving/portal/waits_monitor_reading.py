"""What the model monitor of wait times rests on: one facility and band, read and measured.

Belongs here: which rows the page reads, and the measures that it takes of them. Does not belong here: what a
measure is (`wait_times/evaluation.py`, `comparison.py`), words and drawings.

Comparisons look as far back as those of `medscore waits promote`, whatever days the page is asked for, so
that both say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from medscore_assets.tables import wait_times as tables
from medscore_assets.wait_times.assignment import Assignment, Bootstrap, Pair, assignments, versions
from medscore_assets.wait_times.attribution import localised
from medscore_assets.wait_times.boards import BOARD
from medscore_assets.wait_times.comparison import Contender, Evidence, evidence
from medscore_assets.wait_times.evaluation import (
    calibration_by_level,
    coverage_by_block,
    coverage_by_day,
    posted,
    score,
)
from medscore_assets.wait_times.evidence import LOOKED_BACK
from medscore_assets.wait_times.scoring_outcomes import outcomes_between
from medscore_assets.wait_times.showing import Shown, shown
from resources.warehouse import Warehouse
from serving.wait_times_comparing import performance
from serving.wait_times_reading import Facility, one_state

POSTED_LIMITS_MIN = (30, 60, 90, 120, 180, 240, 360)
"""Bounds of the groups of posted waits, in minutes; what a wait of each is worth is told apart."""

RECENT = timedelta(hours=24)
"""So far back unchanging values are looked for."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Still:
    """How a model's values moved over the last day."""

    pair: Pair
    ticks: int
    missing: int
    """Ticks without a value."""
    longest: int
    """Most ticks in a row with one and the same value; a model's own fall-back may stand still."""


@dataclass(frozen=True, slots=True)
class Level:
    """One local day of a facility's ticks."""

    day: date
    waiting: float | None
    """Mean number of people of the band who wait."""
    in_treatment: float | None
    ticks: int
    silent: int
    """Ticks at which the feed had fallen silent."""


@dataclass(frozen=True)
class Monitored:
    """One facility and band over some days."""

    facility: Facility
    answer: Shown
    """What is shown there."""
    champion: Pair
    """Against whom the others are compared: who is assigned."""
    leaderboard: Sequence[Row]
    """Rows of `wait_times_comparing.performance`, best first."""
    baselines: frozenset[Pair]
    by_day: Sequence[Row]
    """Of champion and board: `evaluation.coverage_by_day`, with model."""
    by_block: Sequence[Row]
    by_posted: Sequence[Row]
    """Of the champion: `evaluation.score` by `group`, the place in `POSTED_LIMITS_MIN`."""
    waits_by_day: Sequence[Row]
    """Of the champion's patients: day, n, wait (mean, seconds)."""
    calibration: Mapping[Pair, Mapping[float, float]]
    """Share observed within each level that a model gives."""
    evidence: Sequence[tuple[Pair, Evidence]]
    """Every other model beside the champion, in the order of the leaderboard."""
    levels: Sequence[Level]
    still: Sequence[Still]
    newest_record: datetime | None


def everywhere(warehouse: Warehouse, at: datetime, default: Bootstrap) -> dict[tuple[str, str], Shown]:
    """Who is shown at every facility and band."""
    return shown(warehouse, at, default=default)


def history(warehouse: Warehouse, facility_id: str, band: str) -> list[Assignment]:
    """The assignments of a place, newest first."""
    return assignments(warehouse, facility_id, band)[::-1]


def monitored(
    warehouse: Warehouse, facility: Facility, band: str, days: int, answer: Shown, at: datetime
) -> Monitored:
    """All that the page shows of a facility and band over the last `days` local days."""
    name, zone = facility.facility_id, ZoneInfo(facility.zone)
    with one_state(warehouse) as connection:
        baselines = frozenset(p for p, baseline in versions(warehouse, connection).items() if baseline)
        outcomes = outcomes_between(
            warehouse, at - LOOKED_BACK, at, facilities=[name], band=band, connection=connection
        )
        first = at.astimezone(zone).date() - timedelta(days=days - 1)
        levels = _levels(warehouse, connection, facility, band, first)
        still = _still(warehouse, connection, name, band, at)
        newest = _newest_record(warehouse, connection, name, at)
    attributed = localised(outcomes, {name: facility.zone})
    recent = attributed.filter(pc.greater_equal(attributed["day"], pa.scalar(first)))
    board = performance(warehouse, at, days, [name], [band])
    longer = performance(warehouse, at, LOOKED_BACK.days, [name], [band])
    champion = answer.assigned
    mine = of_pair(recent, champion)
    lines = pa.concat_tables([mine, of_pair(recent, BOARD)])
    return Monitored(
        facility=facility,
        answer=answer,
        champion=champion,
        leaderboard=board,
        baselines=baselines,
        by_day=coverage_by_day(lines).to_pylist(),
        by_block=coverage_by_block(lines).to_pylist(),
        by_posted=_by_posted(mine),
        waits_by_day=_waits_by_day(mine),
        calibration=_calibration(recent),
        evidence=_evidence(attributed, champion, longer),
        levels=levels,
        still=still,
        newest_record=newest,
    )


def pair_of(row: Row) -> Pair:
    """The pair of a row with a model and a version."""
    return Pair(row["model"], row["version"])


def of_pair(table: pa.Table, pair: Pair) -> pa.Table:
    """The rows of one pair."""
    return table.filter(
        pc.and_(pc.equal(table["model"], pair.model), pc.equal(table["version"], pair.version))
    )


def _evidence(
    attributed: pa.Table, champion: Pair, leaderboard: Sequence[Row]
) -> list[tuple[Pair, Evidence]]:
    available = {pair_of(row): row["availability"] or 0.0 for row in leaderboard}

    def contender(pair: Pair) -> Contender:
        return Contender(*pair, of_pair(attributed, pair), available.get(pair, 0.0))

    ours = contender(champion)
    others = [pair for pair in map(pair_of, leaderboard) if pair not in (champion, BOARD)]
    return [(pair, evidence(ours, contender(pair))) for pair in others]


def _calibration(attributed: pa.Table) -> dict[Pair, dict[float, float]]:
    found: dict[Pair, dict[float, float]] = {}
    for row in calibration_by_level(attributed).to_pylist():
        found.setdefault(pair_of(row), {})[row["level"]] = row["observed"]
    return found


def _by_posted(attributed: pa.Table) -> list[Row]:
    minutes = posted(attributed) / 60
    group = sum((minutes > limit).astype("int64") for limit in POSTED_LIMITS_MIN)
    found = score(attributed.append_column("group", pa.array(group, pa.int64())), ("group",))
    rows: list[Row] = found.to_pylist()
    return rows


def _waits_by_day(attributed: pa.Table) -> list[Row]:
    seen = attributed.filter(pc.is_valid(attributed["actual_seconds"]))
    found = seen.group_by("day").aggregate([("actual_seconds", "count"), ("actual_seconds", "mean")])
    renamed = found.rename_columns({"actual_seconds_count": "n", "actual_seconds_mean": "wait"})
    rows: list[Row] = renamed.sort_by("day").to_pylist()
    return rows


def _levels(
    warehouse: Warehouse, connection: sa.Connection, facility: Facility, band: str, first: date
) -> list[Level]:
    c = tables.wait_time_facility_ticks.c
    day = sa.cast(sa.func.timezone(facility.zone, c.as_of), sa.Date).label("day")
    heard = sa.not_(c.stale_input)
    query = (
        sa.select(
            day,
            sa.func.avg(sa.cast(c.waiting[band].astext, sa.Double)).filter(heard).label("waiting"),
            sa.func.avg(sa.cast(c.in_treatment, sa.Double)).filter(heard).label("in_treatment"),
            sa.func.count().label("ticks"),
            sa.func.count().filter(c.stale_input).label("silent"),
        )
        .where(c.facility_id == facility.facility_id, day >= first)
        .group_by(day)
        .order_by(day)
    )
    return [Level(**row) for row in warehouse.read(query, connection).to_pylist()]


def _newest_record(
    warehouse: Warehouse, connection: sa.Connection, facility_id: str, at: datetime
) -> datetime | None:
    c = tables.wait_time_facility_ticks.c
    query = (
        sa.select(c.newest_record)
        .where(c.facility_id == facility_id, c.as_of <= at)
        .order_by(c.as_of.desc())
        .limit(1)
    )
    rows = warehouse.read(query, connection).to_pylist()
    return rows[0]["newest_record"] if rows else None


def _still(
    warehouse: Warehouse, connection: sa.Connection, facility_id: str, band: str, at: datetime
) -> list[Still]:
    c = tables.wait_time_predictions.c
    query = (
        sa.select(c.model, c.version, c.wait_seconds, c.status)
        .where(c.as_of.between(at - RECENT, at), c.facility_id == facility_id, c.band == band)
        .order_by(c.model, c.version, c.as_of)
    )
    rows = warehouse.read(query, connection).to_pylist()
    found = []
    for pair, of_model in groupby(rows, key=pair_of):
        said = [(row["status"], row["wait_seconds"]) for row in of_model]
        runs = [len(list(run)) for (status, _), run in groupby(said) if status == "ok"]
        missing = sum(value is None for _, value in said)
        found.append(Still(pair, len(said), missing, max(runs, default=0)))
    return found
