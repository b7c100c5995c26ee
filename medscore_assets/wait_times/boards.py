"""What boards are given at a tick, kept: the next tick holds on to it, and it is judged like a model.

Belongs here: from what is shown (`showing.py`) to the ranges of a tick, and these as predictions. Does not
belong here: rounding and holding on (`display.py`), words and pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert

from medscore_assets import tables
from medscore_assets.wait_times.assignment import Bootstrap, Pair
from medscore_assets.wait_times.display import NOTHING, Displayed, displayed
from medscore_assets.wait_times.showing import FRESH, Shown, shown
from resources.warehouse import Warehouse

BOARD = Pair("board", "1.0.0")
"""Under this name what was displayed stands among the outcomes."""

_Place = tuple[str, str]


def put_displays(
    warehouse: Warehouse,
    connection: sa.Connection,
    as_of: datetime,
    facilities: Sequence[str],
    default: Bootstrap,
) -> None:
    """Keep what boards show at the tick of `as_of`, whose predictions are written already."""
    before = displayed_before(warehouse, as_of, connection=connection)
    found = shown(warehouse, as_of, default=default, facilities=facilities, connection=connection)
    rows = [_row(as_of, answer, display_of(answer, before.get(place))) for place, answer in found.items()]
    table = tables.wait_time_displays
    upsert = insert(table)
    changed = {c.name: upsert.excluded[c.name] for c in table.columns if not c.primary_key}
    keys = [c.name for c in table.primary_key]
    connection.execute(upsert.on_conflict_do_update(index_elements=keys, set_=changed), rows)


def display_of(answer: Shown, before: Displayed | None) -> Displayed:
    """The range for an answer after what was displayed before it; nothing for what is not current."""
    if not answer.current or answer.wait_seconds is None:
        return displayed(math.nan, None, before)
    return displayed(answer.wait_seconds, answer.p80_seconds, before)


def displayed_before(
    warehouse: Warehouse,
    at: datetime,
    facilities: Sequence[str] | None = None,
    connection: sa.Connection | None = None,
) -> dict[_Place, Displayed]:
    """By facility and band what the last tick before `at` displayed, if it was within two ticks."""
    table = tables.wait_time_displays
    c = table.c
    query = (
        sa.select(table)
        .ext(distinct_on(c.facility_id, c.band))
        .where(c.as_of < at, c.as_of >= at - FRESH)
        .order_by(c.facility_id, c.band, c.as_of.desc())
    )
    if facilities is not None:
        query = query.where(c.facility_id.in_(list(facilities)))
    rows = warehouse.read(query, connection).to_pylist()
    return {(row["facility_id"], row["band"]): _displayed(row) for row in rows}


def boards_as_predictions(
    warehouse: Warehouse, first: datetime, last: datetime, connection: sa.Connection | None = None
) -> pa.Table:
    """What was displayed at ticks from `first` to `last`, in the columns of predictions, as `BOARD`'s.

    Ranges that end above the cap promise no time, and are left out.
    """
    c = tables.wait_time_displays.c
    query = sa.select(
        c.facility_id,
        c.band,
        sa.literal(BOARD.model).label("model"),
        sa.literal(BOARD.version).label("version"),
        c.as_of,
        (c.low_minutes * sa.literal_column("60.0::double precision")).label("wait_seconds"),
        (c.high_minutes * sa.literal_column("60.0::double precision")).label("p80_seconds"),
        sa.literal("ok").label("status"),
    ).where(c.as_of.between(first, last), c.code.in_(("about", "range")))
    return warehouse.read(query, connection)


def _displayed(row: dict[str, Any]) -> Displayed:
    def number(name: str) -> float:
        return math.nan if row[name] is None else row[name]

    return Displayed(
        low_minutes=NOTHING if row["low_minutes"] is None else row["low_minutes"],
        high_minutes=NOTHING if row["high_minutes"] is None else row["high_minutes"],
        code=row["code"],
        basis_p50=number("basis_p50_seconds"),
        basis_p80=number("basis_p80_seconds"),
        pending=row["pending"],
    )


def _row(as_of: datetime, answer: Shown, display: Displayed) -> dict[str, Any]:
    visible = display.code != "nothing"
    return {
        "as_of": as_of,
        "facility_id": answer.facility_id,
        "band": answer.band,
        "model": answer.pair.model if answer.pair and visible else None,
        "version": answer.pair.version if answer.pair and visible else None,
        "wait_seconds": answer.wait_seconds if visible else None,
        "p80_seconds": answer.p80_seconds if visible else None,
        "low_minutes": display.low_minutes if visible else None,
        "high_minutes": display.high_minutes if visible else None,
        "code": display.code,
        "basis_p50_seconds": _known(display.basis_p50),
        "basis_p80_seconds": _known(display.basis_p80),
        "pending": display.pending,
        "replaced": answer.replaced,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
