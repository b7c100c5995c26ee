"""What is shown at a moment: the assigned model's fresh value, or the next model's, and it says which.

Belongs here: the one answer that board, API and display log share. Does not belong here: assigning
(`assignment.py`), ranges and words (`display.py`).

A value is fresh for two ticks. Where the assigned pair has none, its place is taken by the pair that has one
and did best over the last four weeks; a baseline never takes it. Nobody vouched for who stands in: what it
says of eight in ten is shown only where a calibration corrected it. A closed board shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from medscore_assets import tables
from medscore_assets.tables.wait_times import WITH_VALUE
from medscore_assets.wait_times.assignment import Bootstrap, Pair, by_version, holding, versions
from medscore_assets.wait_times.attribution import OLDEST
from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.closing import closed_places
from resources.warehouse import Warehouse

FRESH = OLDEST
"""A value that is older is not shown as current: patients are held against the same rule."""

RANKED_OVER = timedelta(days=28)
FEWEST_RANKED = 50
"""Patients below which a pair's losses do not rank it."""

CALIBRATED = "_calibrated"
"""So end the names of models whose time for eight in ten is corrected by what patients waited, or absent."""

REMEMBERED = timedelta(hours=24)
"""How far back a stale value is looked for."""

_Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown for a facility and band; without `pair` nothing is known, not even a stale value."""

    facility_id: str
    band: str
    assigned: Pair
    """Who should be shown."""
    pair: Pair | None = None
    """Who is."""
    as_of: datetime | None = None
    wait_seconds: float | None = None
    p80_seconds: float | None = None
    status: str | None = None
    """Of the prediction: ok or fallback."""
    replaced: bool = False
    """Another pair stands in for the assigned one."""
    stale: bool = True
    """The value is older than two ticks: it is what was known last and not current."""
    silent_feed: bool = False
    """At the newest tick the facility's feed had fallen silent: the value rests on what is no more."""

    closed: str | None = None
    """Why somebody closed the board (`CLOSURE_CAUSES`); None: it is open."""

    @property
    def current(self) -> bool:
        """Whether it may be shown as what is now."""
        return self.pair is not None and not (self.stale or self.silent_feed or self.closed)


def shown(
    warehouse: Warehouse,
    at: datetime,
    *,
    default: Bootstrap,
    facilities: Sequence[str] | None = None,
    bands: Sequence[str] = ALL_BANDS,
    connection: sa.Connection | None = None,
) -> dict[_Place, Shown]:
    """What is shown at `at` (with a zone) by facility and band; by default for every facility.

    `default` is who is shown where nobody was assigned; before it ever ran, the pair that ranks first is.
    Raises what `Warehouse.transaction` raises.
    """
    if connection is None:
        with warehouse.transaction() as inside:
            return shown(
                warehouse, at, default=default, facilities=facilities, bands=bands, connection=inside
            )
    names = list(facilities) if facilities is not None else _facilities(warehouse, connection)
    assigned = {place: made.pair for place, made in holding(warehouse, at, connection).items()}
    first = default.pair(versions(warehouse, connection))
    places = [(name, band) for name in names for band in bands]
    fresh = _newest_values(warehouse, connection, at - FRESH, at, names)
    wanting = [place for place in places if assigned.get(place, first) not in fresh.get(place, {})]
    order = _ranking(warehouse, connection, at) if wanting else {}
    silent = _silent(warehouse, connection, at)
    closed = {place: made.cause for place, made in closed_places(warehouse, at, connection).items()}
    found, without = {}, []
    for place in places:
        wanted = assigned.get(place) or first or next(iter(order.get(place, [])), Pair("", ""))
        values = fresh.get(place, {})
        pair = next((p for p in (wanted, *order.get(place, [])) if p in values), None)
        nothing = Shown(*place, wanted, silent_feed=place[0] in silent, closed=closed.get(place))
        if pair is None:
            without.append(nothing)
        else:
            found[place] = _by(pair, values[pair], nothing, chosen=pair == assigned.get(place, first))
    return found | _stale(warehouse, connection, at, without)


def _by(pair: Pair, value: dict[str, Any], nothing: Shown, *, chosen: bool) -> Shown:
    """A pair's fresh value at a place of which nothing is known yet but its state."""
    told = changed(nothing, pair=pair, **value, replaced=pair != nothing.assigned, stale=False)
    return told if chosen or pair.model.endswith(CALIBRATED) else changed(told, p80_seconds=None)


def _stale(
    warehouse: Warehouse, connection: sa.Connection, at: datetime, without: Sequence[Shown]
) -> dict[_Place, Shown]:
    """What the assigned pairs said last, where nobody has a fresh value."""
    if not without:
        return {}
    facilities, pairs = {s.facility_id for s in without}, {s.assigned for s in without}
    known = _newest_values(warehouse, connection, at - REMEMBERED, at, sorted(facilities), sorted(pairs))
    found = {}
    for nothing in without:
        place = nothing.facility_id, nothing.band
        value = known.get(place, {}).get(nothing.assigned)
        found[place] = changed(nothing, pair=nothing.assigned, **value) if value else nothing
    return found


def ranking(warehouse: Warehouse, at: datetime) -> dict[_Place, list[Pair]]:
    """By facility and band the pairs that may stand in, best first: by pinball loss over four weeks.

    Those that too few patients rank come last, in the order of names, the latest version first.
    """
    with warehouse.transaction() as connection:
        return _ranking(warehouse, connection, at)


def _ranking(warehouse: Warehouse, connection: sa.Connection, at: datetime) -> dict[_Place, list[Pair]]:
    candidates = [pair for pair, baseline in versions(warehouse, connection).items() if not baseline]
    c = tables.wait_time_performance.c
    seen = sa.func.sum(c.n)
    query = (
        sa.select(
            c.facility_id,
            c.band,
            c.model,
            c.version,
            (sa.func.sum(c.pinball_80 * c.n) / seen).label("loss"),
        )
        .where(c.day > (at - RANKED_OVER).date(), c.day <= at.date(), c.n > 0)
        .group_by(c.facility_id, c.band, c.model, c.version)
        .having(seen >= FEWEST_RANKED)
    )
    losses: dict[_Place, dict[Pair, float]] = {}
    for row in warehouse.read(query, connection).to_pylist():
        of_place = losses.setdefault((row["facility_id"], row["band"]), {})
        of_place[Pair(row["model"], row["version"])] = row["loss"]
    by_name = _latest_first(candidates)
    places = [(name, band) for name in _facilities(warehouse, connection) for band in ALL_BANDS]
    return {place: _ordered(by_name, losses.get(place, {})) for place in places}


def _ordered(candidates: Sequence[Pair], losses: dict[Pair, float]) -> list[Pair]:
    return sorted(candidates, key=lambda pair: losses.get(pair, float("inf")))


def _latest_first(pairs: Sequence[Pair]) -> list[Pair]:
    """By name, and of one name the latest version first."""
    newest_first = sorted(pairs, key=by_version, reverse=True)
    return sorted(newest_first, key=lambda pair: pair.model)


def _facilities(warehouse: Warehouse, connection: sa.Connection) -> list[str]:
    c = tables.ed_facilities.c
    return list(
        warehouse.read(sa.select(c.facility_id).order_by(c.facility_id), connection)[
            "facility_id"
        ].to_pylist()
    )


def _silent(warehouse: Warehouse, connection: sa.Connection, at: datetime) -> set[str]:
    """Facilities whose feed had fallen silent by the newest tick up to `at`."""
    c = tables.wait_time_facility_ticks.c
    query = (
        sa.select(c.facility_id, c.stale_input)
        .ext(distinct_on(c.facility_id))
        .where(c.as_of.between(at - FRESH, at))
        .order_by(c.facility_id, c.as_of.desc())
    )
    rows = warehouse.read(query, connection).to_pylist()
    return {row["facility_id"] for row in rows if row["stale_input"]}


def _newest_values(
    warehouse: Warehouse,
    connection: sa.Connection,
    since: datetime,
    until: datetime,
    facilities: Sequence[str],
    pairs: Sequence[Pair] | None = None,
) -> dict[_Place, dict[Pair, dict[str, Any]]]:
    """By place and pair the newest prediction with a value of ticks from `since` to `until`."""
    c = tables.wait_time_predictions.c
    key = (c.facility_id, c.band, c.model, c.version)
    query = (
        sa.select(*key, c.as_of, c.wait_seconds, c.p80_seconds, c.status)
        .ext(distinct_on(*key))
        .where(
            c.as_of.between(since, until),
            c.status.in_(WITH_VALUE),
            c.facility_id.in_(list(facilities)),
        )
        .order_by(*key, c.as_of.desc())
    )
    if pairs is not None:
        query = query.where(sa.tuple_(c.model, c.version).in_(list(pairs)))
    found: dict[_Place, dict[Pair, dict[str, Any]]] = {}
    for row in warehouse.read(query, connection).to_pylist():
        place = row.pop("facility_id"), row.pop("band")
        found.setdefault(place, {})[Pair(row.pop("model"), row.pop("version"))] = row
    return found
