"""Wait times as the API and the boards read them: what is shown now, what was shown, what models said.

Belongs here: queries, and counts of people in the form in which they may be told. Does not belong here: HTTP
(`wait_times.py`), pages (`portal/`), and which model is shown (`wait_times/showing.py`).

The functions are synchronous; routes run them with `lists.reading`. Counts of people leave this module only
as `Census`, where small ones are withheld.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from medscore_assets.tables import wait_times as tables
from medscore_assets.tables.wait_times import WITH_VALUE
from medscore_assets.wait_times.assignment import Bootstrap, Pair
from medscore_assets.wait_times.bands import ALL_BANDS, ALL_POSTED
from medscore_assets.wait_times.boards import display_of
from medscore_assets.wait_times.display import NOTHING, Displayed, displayed
from medscore_assets.wait_times.showing import FRESH, Shown, shown
from resources.warehouse import Warehouse

SMALL = 5
"""Fewer people than that are not counted in public."""

_OF_HEADLINE = ("ctas_3", "ctas_4_5")
"""Bands whose people the headline counts too, beside those of unknown triage level."""

_Place = tuple[str, str]
_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Facility:
    """An emergency department, as people call it."""

    facility_id: str
    name: str
    name_fr: str
    zone: str


@dataclass(frozen=True, slots=True)
class Census:
    """People at the newest tick, as they may be told: None where a count is withheld."""

    as_of: datetime
    waiting: Mapping[str, int | None]
    """By band. None is fewer than `SMALL`, or what such a number could be computed from."""
    in_treatment: int | None
    """None is fewer than `SMALL`."""


@dataclass(frozen=True, slots=True)
class Current:
    """What is shown at a place, and the range that boards give for it; `nothing` for what is not current."""

    answer: Shown
    display: Displayed


@dataclass(frozen=True, slots=True)
class Posted:
    """What boards show at a moment: all of one state of the database."""

    facilities: Mapping[str, Facility]
    places: Mapping[_Place, Current]
    """By facility and band."""
    census: Mapping[str, Census]
    """By facility; without those of which no fresh tick is there."""


@dataclass(frozen=True, slots=True)
class Value:
    """One number at one tick; without `wait_seconds` there was none, and `status` says why."""

    facility_id: str
    band: str
    as_of: datetime
    tick: datetime
    """When it was made or shown; `as_of` is the tick before where that one's value was still shown."""
    status: str
    wait_seconds: float | None
    p80_seconds: float | None
    model: str | None
    version: str | None
    display: Displayed
    replaced: bool = False
    """It stood in for the assigned model's."""
    message: str = ""

    def stale(self, at: datetime) -> bool:
        """Whether it is too old to be shown at `at`."""
        return at > self.as_of + FRESH


@dataclass(frozen=True, slots=True)
class Question:
    """Which values: of whom, from when until when, both included, and at most how many, newest first."""

    facilities: Sequence[str]
    bands: Sequence[str]
    first: datetime
    last: datetime
    limit: int


def facilities(warehouse: Warehouse, connection: sa.Connection | None = None) -> dict[str, Facility]:
    """Every facility by its id, sorted."""
    c = tables.ed_facilities.c
    query = sa.select(c.facility_id, c.name, c.name_fr, c.zone).order_by(c.facility_id)
    rows = warehouse.read(query, connection).to_pylist()
    return {row["facility_id"]: Facility(**row | {"name_fr": row["name_fr"] or row["name"]}) for row in rows}


def posted(
    warehouse: Warehouse,
    at: datetime,
    *,
    default: Bootstrap,
    facility_ids: Sequence[str] | None = None,
    bands: Sequence[str] = ALL_BANDS,
) -> Posted:
    """What boards show at `at` (with a zone), by default at every facility; unknown facilities are left out.

    A promotion holds from the next call on. Raises what `Warehouse.transaction` raises.
    """
    with one_state(warehouse) as connection:
        known = facilities(warehouse, connection)
        chosen = [name for name in known if facility_ids is None or name in facility_ids]
        answers = shown(warehouse, at, default=default, facilities=chosen, bands=bands, connection=connection)
        given = _displays(warehouse, connection, at, chosen)
        places = {
            place: Current(answers[place], _range(answers[place], given.get(place, [])))
            for place in ((name, band) for name in chosen for band in bands)
        }
        census = _census(warehouse, connection, at, chosen)
    return Posted({name: known[name] for name in chosen}, places, census)


def shown_values(warehouse: Warehouse, question: Question) -> list[Value]:
    """What boards were given at past ticks, newest first; a tick at which they had nothing is told as well.

    `as_of` is that of the prediction, or that of the tick where nothing was shown.
    """
    c = tables.wait_time_displays.c
    given = _asked(sa.select(tables.wait_time_displays), c, question).subquery("given")
    p = tables.wait_time_predictions.c
    by = (
        sa.select(p.as_of.label("predicted_at"), p.status)
        .where(
            p.facility_id == given.c.facility_id,
            p.band == given.c.band,
            p.model == given.c.model,
            p.version == given.c.version,
            p.as_of.between(given.c.as_of - FRESH, given.c.as_of),
            p.status.in_(WITH_VALUE),
        )
        .order_by(p.as_of.desc())
        .limit(1)
        .lateral("by")
    )
    query = sa.select(given, by.c.predicted_at, by.c.status).select_from(given.outerjoin(by, sa.true()))
    order = given.c.as_of.desc(), given.c.facility_id, given.c.band
    return [_was_shown(row) for row in warehouse.read(query.order_by(*order)).to_pylist()]


def model_values(warehouse: Warehouse, pair: Pair, question: Question) -> list[Value]:
    """What a model said at ticks, newest first, those without a value too."""
    c = tables.wait_time_predictions.c
    of_pair = sa.and_(c.model == pair.model, c.version == pair.version)
    rows = warehouse.read(_asked(_said(), c, question).where(of_pair)).to_pylist()
    return [_was_said(row) for row in rows]


def model_current(
    warehouse: Warehouse, pair: Pair, at: datetime, facility_ids: Sequence[str], bands: Sequence[str]
) -> dict[_Place, Value]:
    """By facility and band a model's newest value, where it is fresh and the feed of visits is not silent."""
    c = tables.wait_time_predictions.c
    silent = _newest_ticks(at).subquery("silent")
    query = (
        _said()
        .ext(distinct_on(c.facility_id, c.band))
        .where(
            c.as_of.between(at - FRESH, at),
            c.model == pair.model,
            c.version == pair.version,
            c.facility_id.in_(list(facility_ids)),
            c.band.in_(list(bands)),
            c.status.in_(WITH_VALUE),
            c.facility_id.not_in(sa.select(silent.c.facility_id).where(silent.c.stale_input)),
        )
        .order_by(c.facility_id, c.band, c.as_of.desc())
    )
    found = [_was_said(row) for row in warehouse.read(query).to_pylist()]
    return {(value.facility_id, value.band): value for value in found}


def told_counts(waiting: Mapping[str, int], in_treatment: int) -> tuple[dict[str, int | None], int | None]:
    """People waiting by band, and being treated, as they may be told: None where a count is withheld.

    Fewer than `SMALL` are withheld. The headline counts the people of two other bands and those of unknown
    triage level: as soon as one of these three parts is small, and not empty for the third, both bands are
    withheld, since the small one were their difference.
    """
    told: dict[str, int | None] = {band: _not_small(waiting.get(band, 0)) for band in ALL_BANDS}
    unknown = waiting.get(ALL_POSTED, 0) - sum(waiting.get(band, 0) for band in _OF_HEADLINE)
    if any(told[band] is None for band in _OF_HEADLINE) or 0 < unknown < SMALL:
        told |= dict.fromkeys(_OF_HEADLINE, None)
    return told, _not_small(in_treatment)


def _not_small(people: int) -> int | None:
    return people if people >= SMALL else None


@contextmanager
def one_state(warehouse: Warehouse) -> Iterator[sa.Connection]:
    """A transaction whose queries all see the database as it was at the first."""
    with warehouse.transaction() as connection:
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        yield connection


def _asked(query: sa.Select[Any], c: Any, question: Question) -> sa.Select[Any]:
    return (
        query.where(
            c.as_of.between(question.first, question.last),
            c.facility_id.in_(list(question.facilities)),
            c.band.in_(list(question.bands)),
        )
        .order_by(c.as_of.desc(), c.facility_id, c.band)
        .limit(question.limit)
    )


def _said() -> sa.Select[Any]:
    c = tables.wait_time_predictions.c
    return sa.select(
        *(c.facility_id, c.band, c.model, c.version, c.as_of),
        *(c.wait_seconds, c.p80_seconds, c.status, c.message),
    )


def _was_said(row: _Row) -> Value:
    typical = math.nan if row["wait_seconds"] is None else row["wait_seconds"]
    return Value(**row, tick=row["as_of"], display=displayed(typical, row["p80_seconds"]))


def _was_shown(row: _Row) -> Value:
    display = _display(row)
    nothing = display.code == "nothing"
    return Value(
        facility_id=row["facility_id"],
        band=row["band"],
        as_of=row["predicted_at"] or row["as_of"],
        tick=row["as_of"],
        status="not_available" if nothing else row["status"] or WITH_VALUE[0],
        wait_seconds=row["wait_seconds"],
        p80_seconds=row["p80_seconds"],
        model=row["model"],
        version=row["version"],
        display=display,
        replaced=row["replaced"] and not nothing,
    )


def _display(row: _Row) -> Displayed:
    """A row of `wait_time_displays` as it was displayed."""

    def number(name: str) -> float:
        return math.nan if row[name] is None else row[name]

    return Displayed(
        NOTHING if row["low_minutes"] is None else row["low_minutes"],
        NOTHING if row["high_minutes"] is None else row["high_minutes"],
        row["code"],
        number("basis_p50_seconds"),
        number("basis_p80_seconds"),
        row["pending"],
    )


def _displays(
    warehouse: Warehouse, connection: sa.Connection, at: datetime, facility_ids: Sequence[str]
) -> dict[_Place, list[_Row]]:
    """By facility and band what boards were given at the last ticks, newest first."""
    c = tables.wait_time_displays.c
    query = (
        sa.select(tables.wait_time_displays)
        .where(c.as_of.between(at - 2 * FRESH, at), c.facility_id.in_(list(facility_ids)))
        .order_by(c.as_of.desc())
    )
    found: dict[_Place, list[_Row]] = {}
    for row in warehouse.read(query, connection).to_pylist():
        found.setdefault((row["facility_id"], row["band"]), []).append(row)
    return found


def _range(answer: Shown, given: Sequence[_Row]) -> Displayed:
    """As the newest tick gave it; for another model, promoted since, as that tick would have given it."""
    if not answer.current or answer.as_of is None or answer.pair is None:
        return displayed(math.nan)
    told = (*answer.pair, answer.wait_seconds, answer.p80_seconds)
    if given and told == tuple(given[0][n] for n in ("model", "version", "wait_seconds", "p80_seconds")):
        return _display(given[0])
    earlier = (row for row in given if answer.as_of - FRESH <= row["as_of"] < answer.as_of)
    before = next(earlier, None)
    return display_of(answer, _display(before) if before else None)


def _newest_ticks(at: datetime) -> sa.Select[Any]:
    c = tables.wait_time_facility_ticks.c
    return (
        sa.select(tables.wait_time_facility_ticks)
        .ext(distinct_on(c.facility_id))
        .where(c.as_of.between(at - FRESH, at))
        .order_by(c.facility_id, c.as_of.desc())
    )


def _census(
    warehouse: Warehouse, connection: sa.Connection, at: datetime, facility_ids: Sequence[str]
) -> dict[str, Census]:
    query = _newest_ticks(at).where(tables.wait_time_facility_ticks.c.facility_id.in_(list(facility_ids)))
    found = {}
    for row in warehouse.read(query, connection).to_pylist():
        # Of a silent feed nobody knows who is there.
        if not row["stale_input"]:
            waiting, treated = told_counts(json.loads(row["waiting"]), row["in_treatment"])
            found[row["facility_id"]] = Census(row["as_of"], waiting, treated)
    return found
