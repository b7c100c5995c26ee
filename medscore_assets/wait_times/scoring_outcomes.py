"""Outcomes of predictions and the performance of each day, kept, and mended when visits change.

Belongs here: which days are to be scored again, and their rows. Does not belong here: attribution and
measures (`attribution.py`, `evaluation.py`).

A day is a facility's local day of arrivals. It is scored again while patients of it wait, and whenever there
is a version of a visit that it does not know, for six weeks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from medscore_assets import tables
from medscore_assets.wait_times import store
from medscore_assets.wait_times.attribution import OLDEST, attribute, localised
from medscore_assets.wait_times.boards import boards_as_predictions
from medscore_assets.wait_times.columns import decoded
from medscore_assets.wait_times.evaluation import SERIES, availability, score, stability
from medscore_assets.wait_times.visits import Visits
from resources.warehouse import Warehouse

OPEN_FOR = timedelta(days=2)
"""Days that ended longer ago are scored again only when a visit changes..."""
MENDED_FOR = timedelta(days=42)
"""...and after so long not even then: evidence, calibration and ranking look back less far."""

_OUTCOMES_LOCK = tables.wait_time_outcomes.name
_PER_DAY = ("day", *SERIES)


@dataclass(frozen=True, slots=True)
class Day:
    """A facility's local day."""

    facility_id: str
    zone: str
    day: date
    versions: int = 0
    """Of its visits, as far as they are known: changes whenever one of them does."""

    @property
    def start(self) -> datetime:
        """Its first moment, in UTC."""
        return datetime.combine(self.day, time(), ZoneInfo(self.zone)).astimezone(UTC)

    @property
    def end(self) -> datetime:
        """The first moment after it, in UTC."""
        return datetime.combine(self.day + timedelta(days=1), time(), ZoneInfo(self.zone)).astimezone(UTC)


def days_to_score(warehouse: Warehouse, until: datetime) -> list[Day]:
    """The facilities' days that may differ from what is kept, by what was recorded until `until`.

    Days never scored, those with versions of visits that were loaded since, recent ones whose patients still
    waited, and those for which ticks were replayed. Days before the first tick have nothing to be scored.
    """
    facilities, scored = tables.ed_facilities.c, tables.wait_time_outcome_days.c
    changed = _versions_by_day(until)
    replayed = sa.exists().where(
        tables.wait_time_ticks.c.replay,
        tables.wait_time_ticks.c.finished_at > scored.known_at,
        sa.cast(tables.wait_time_ticks.c.as_of, sa.Date).between(changed.c.day - 1, changed.c.day + 1),
    )
    still_open = sa.and_(scored.open_patients > 0, changed.c.day > (until - OPEN_FOR).date())
    # Of the day in which the weeks begin a part alone is counted, less of it at every hour.
    begin = sa.literal(until - MENDED_FOR, sa.DateTime(timezone=True))
    whole = changed.c.day > sa.cast(sa.func.timezone(facilities.zone, begin), sa.Date)
    query = (
        sa.select(changed.c.facility_id, facilities.zone, changed.c.day, changed.c.versions)
        .join(tables.ed_facilities, facilities.facility_id == changed.c.facility_id)
        .outerjoin(
            tables.wait_time_outcome_days,
            sa.and_(scored.facility_id == changed.c.facility_id, scored.day == changed.c.day),
        )
        .where(
            whole,
            sa.or_(
                scored.versions.is_distinct_from(changed.c.versions),
                still_open,
                replayed,
            ),
        )
        .order_by(changed.c.day, changed.c.facility_id)
    )
    return [
        Day(row["facility_id"], row["zone"], row["day"], row["versions"])
        for row in warehouse.read(query).to_pylist()
    ]


def _versions_by_day(until: datetime) -> sa.Subquery:
    """Per facility and local day of the last weeks a number that grows with each version and supersession."""
    visits, facilities = tables.ed_visits.c, tables.ed_facilities.c
    first = sa.select(sa.func.min(tables.wait_time_ticks.c.as_of)).scalar_subquery()
    since = sa.func.greatest(first - OLDEST, sa.literal(until - MENDED_FOR, sa.DateTime(timezone=True)))
    # Two branches: each has its index on the arrival.
    branches = [
        sa.select(visits.facility_id, visits.arrival, weight.label("weight")).where(
            which, visits.arrival.between(since, until), visits.recorded_at <= until
        )
        for which, weight in (
            (visits.superseded_at.is_(None), sa.literal_column("1")),
            (
                visits.superseded_at.is_not(None),
                sa.case((visits.superseded_at <= until, 2), else_=1),
            ),
        )
    ]
    versions = sa.union_all(*branches).subquery()
    day = sa.cast(sa.func.timezone(facilities.zone, versions.c.arrival), sa.Date)
    return (
        sa.select(
            facilities.facility_id,
            day.label("day"),
            sa.cast(sa.func.sum(versions.c.weight), sa.BigInteger).label("versions"),
        )
        .join(tables.ed_facilities, facilities.facility_id == versions.c.facility_id)
        .where(first.is_not(None))
        .group_by(facilities.facility_id, day)
        .subquery()
    )


def score_days(warehouse: Warehouse, days: Iterable[Day], until: datetime) -> dict[date, int]:
    """Write the outcomes of these days as known at `until` (with a zone); the rows changed by day."""
    written = {}
    for day, group in _by_day(days).items():
        months = [moment for of in group for moment in (of.start, of.end)]
        store.ensure_months(warehouse, tables.wait_time_outcomes, months)
        with warehouse.transaction() as connection:
            warehouse.lock(connection, _OUTCOMES_LOCK)
            written[day] = _score_day(warehouse, connection, day, group, until)
    return written


def _by_day(days: Iterable[Day]) -> dict[date, list[Day]]:
    found: dict[date, list[Day]] = defaultdict(list)
    for day in days:
        found[day.day].append(day)
    return dict(sorted(found.items()))


def _score_day(
    warehouse: Warehouse, connection: sa.Connection, day: date, group: Sequence[Day], until: datetime
) -> int:
    start, end = min(of.start for of in group), max(of.end for of in group)
    read = store.visits_with_versions(warehouse, until, start - timedelta(seconds=1), end, connection)
    visits = Visits.of(read)
    found = localised(
        attribute(visits, _said(warehouse, connection, start - OLDEST, end), until, start),
        {of.facility_id: of.zone for of in group} | _zones_of_others(warehouse, connection, group),
    )
    mine = pa.array([of.facility_id for of in group])
    found = found.filter(
        pc.and_(pc.equal(found["day"], pa.scalar(day)), pc.is_in(decoded(found["facility_id"]), mine))
    )
    rows = _outcome_rows(found)
    changed = 0
    for zone, names in _by_zone(group).items():
        of_zone = Day("", zone, day)
        part = rows.filter(pc.is_in(rows["facility_id"], pa.array(names)))
        c = tables.wait_time_outcomes.c
        where = sa.and_(c.facility_id.in_(names), c.arrival >= of_zone.start, c.arrival < of_zone.end)
        changed += warehouse.replace(connection, tables.wait_time_outcomes, part, where)
    _mark_scored(connection, found, group, until)
    return changed


def _said(warehouse: Warehouse, connection: sa.Connection, first: datetime, last: datetime) -> pa.Table:
    """Predictions and displays of ticks in a span."""
    said = store.predictions_between(warehouse, first, last, connection=connection)
    shown = boards_as_predictions(warehouse, first, last, connection)
    return pa.concat_tables([said, shown.select(said.column_names).cast(said.schema)])


def _zones_of_others(warehouse: Warehouse, connection: sa.Connection, group: Sequence[Day]) -> dict[str, str]:
    known = {of.facility_id for of in group}
    zones = store.facility_zones(warehouse, connection)
    return {name: zone for name, zone in zones.items() if name not in known}


def _by_zone(group: Sequence[Day]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for of in group:
        found[of.zone].append(of.facility_id)
    return found


def _outcome_rows(found: pa.Table) -> pa.Table:
    return pa.table({c.name: decoded(found[c.name]) for c in tables.wait_time_outcomes.columns})


def _mark_scored(connection: sa.Connection, found: pa.Table, group: Sequence[Day], until: datetime) -> None:
    unresolved = found.filter(pc.is_null(found["resolved_at"]))
    patients = unresolved.group_by(["facility_id", "visit_id"]).aggregate([])
    waiting = pc.value_counts(decoded(patients["facility_id"]))
    still = {entry["values"].as_py(): entry["counts"].as_py() for entry in waiting}
    rows = [
        {
            "day": of.day,
            "facility_id": of.facility_id,
            "known_at": until,
            "versions": of.versions,
            "open_patients": still.get(of.facility_id, 0),
            "measured": False,
        }
        for of in group
    ]
    upsert = insert(tables.wait_time_outcome_days)
    changed = {name: upsert.excluded[name] for name in ("known_at", "versions", "open_patients", "measured")}
    connection.execute(
        upsert.on_conflict_do_update(index_elements=["day", "facility_id"], set_=changed), rows
    )


def measure_days(warehouse: Warehouse, measured_at: datetime) -> dict[date, int]:
    """Measure the days whose outcomes are newer than their performance; the rows changed by day."""
    scored, facilities = tables.wait_time_outcome_days.c, tables.ed_facilities.c
    query = (
        sa.select(scored.facility_id, facilities.zone, scored.day)
        .join(tables.ed_facilities, facilities.facility_id == scored.facility_id)
        .where(sa.not_(scored.measured))
    )
    days = [Day(row["facility_id"], row["zone"], row["day"]) for row in warehouse.read(query).to_pylist()]
    changed = {}
    for day, group in _by_day(days).items():
        with warehouse.transaction() as connection:
            warehouse.lock(connection, _OUTCOMES_LOCK)
            changed[day] = sum(
                _measure(warehouse, connection, day, zone, names, measured_at)
                for zone, names in _by_zone(group).items()
            )
    return changed


def _measure(
    warehouse: Warehouse,
    connection: sa.Connection,
    day: date,
    zone: str,
    names: list[str],
    measured_at: datetime,
) -> int:
    table, of_zone = tables.wait_time_performance, Day("", zone, day)
    outcomes = outcomes_between(
        warehouse, of_zone.start, of_zone.end, facilities=names, connection=connection
    )
    said = _said(warehouse, connection, of_zone.start, of_zone.end - timedelta(microseconds=1))
    said = said.filter(pc.is_in(said["facility_id"], pa.array(names)))
    rows = performance_rows(outcomes, said, day, measured_at)
    where = sa.and_(table.c.day == day, table.c.facility_id.in_(names))
    written = warehouse.replace(connection, table, rows, where, keep_if_unchanged=("measured_at",))
    scored = tables.wait_time_outcome_days
    connection.execute(
        sa.update(scored).where(scored.c.day == day, scored.c.facility_id.in_(names)).values(measured=True)
    )
    return written


def performance_rows(outcomes: pa.Table, said: pa.Table, day: date, measured_at: datetime) -> pa.Table:
    """One row per facility, band, model and version that has outcomes or predictions on the day."""
    by = list(SERIES)
    if said.num_rows:
        ticks = availability(said, by).select([*by, "ticks", "availability"])
        ticks = ticks.join(
            stability(said, by).select([*by, "mean_change", "jumps"]), by, join_type="left outer"
        )
    else:
        ticks = _no_ticks()
    measures = score(outcomes, by) if outcomes.num_rows else None
    found = ticks if measures is None else ticks.join(measures, by, join_type="full outer")
    columns: dict[str, Any] = {name: found[name] for name in by}
    for column in tables.wait_time_performance.columns:
        if column.name in (*_PER_DAY, "measured_at"):
            continue
        counted = not column.nullable
        kind = pa.int64() if counted else pa.float64()
        if column.name in found.column_names:
            values = found[column.name].cast(kind)
            values = pc.if_else(pc.is_finite(values), values, None) if not counted else values
        else:
            values = pa.nulls(found.num_rows, kind)
        columns[column.name] = pc.fill_null(values, 0) if counted else values
    columns["day"] = pa.array([day] * found.num_rows, pa.date32())
    columns["measured_at"] = pa.array([measured_at] * found.num_rows, store.UTC_TIME)
    return pa.table(columns)


def _no_ticks() -> pa.Table:
    texts = {name: pa.array([], pa.string()) for name in SERIES}
    reals = {name: pa.array([], pa.float64()) for name in ("availability", "mean_change", "jumps")}
    return pa.table({**texts, "ticks": pa.array([], pa.int64()), **reals})


def outcomes_between(
    warehouse: Warehouse,
    start: datetime,
    end: datetime,
    *,
    facilities: Sequence[str] | None = None,
    band: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    connection: sa.Connection | None = None,
) -> pa.Table:
    """Kept outcomes of who arrived from `start` until before `end`, in the columns of `attribute`."""
    c = tables.wait_time_outcomes.c
    query = sa.select(tables.wait_time_outcomes).where(c.arrival >= start, c.arrival < end)
    if facilities is not None:
        query = query.where(c.facility_id.in_(list(facilities)))
    if band is not None:
        query = query.where(c.band == band)
    if pairs is not None:
        query = query.where(sa.tuple_(c.model, c.version).in_(list(pairs)))
    return warehouse.read(query, connection)
