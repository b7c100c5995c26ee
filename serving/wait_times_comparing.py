"""Wait-time models beside each other, for those who compare them: versions, and how they did.

Belongs here: reading what was registered and measured. Does not belong here: what is shown
(`wait_times_reading.py`), computing measures (`wait_times/evaluation.py`), the evidence of a promotion
(`wait_times/comparison.py`).

The functions are synchronous; routes run them with `lists.reading`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from medscore_assets.tables import wait_times as tables
from medscore_assets.tables.wait_times import WITH_VALUE
from medscore_assets.wait_times.assignment import Bootstrap, Pair, versions
from medscore_assets.wait_times.showing import shown
from resources.warehouse import Warehouse
from serving.wait_times_reading import one_state

LAST_OK_WITHIN = timedelta(hours=24)
"""How far back the last value of a model is looked for."""

COUNTS = ("n", "left_unseen", "known_misses", "unresolved", "ticks")
"""Columns of `wait_time_performance` that are summed over days."""

_Row = dict[str, Any]


def models(warehouse: Warehouse, at: datetime, default: Bootstrap) -> list[_Row]:
    """Every version that ever ran: its row, `last_ok_as_of` of the last day, `shown_at` and `assigned_at`.

    The last two are lists of facility and band. Sorted by model, and versions as numbers.
    """
    with one_state(warehouse) as connection:
        table, p = tables.wait_time_model_versions, tables.wait_time_predictions.c
        registered = warehouse.read(sa.select(table), connection).to_pylist()
        of_pair = {Pair(row["model"], row["version"]): row for row in registered}
        newest = (
            sa.select(p.model, p.version, sa.func.max(p.as_of).label("as_of"))
            .where(p.as_of.between(at - LAST_OK_WITHIN, at), p.status == WITH_VALUE[0])
            .group_by(p.model, p.version)
        )
        last_ok = {
            Pair(row["model"], row["version"]): row["as_of"]
            for row in warehouse.read(newest, connection).to_pylist()
        }
        answers = shown(warehouse, at, default=default, connection=connection)
        order = list(versions(warehouse, connection))
    found = []
    for pair in order:
        row = of_pair[pair]
        shown_at = [place for place, answer in answers.items() if answer.current and answer.pair == pair]
        assigned_at = [place for place, answer in answers.items() if answer.assigned == pair]
        found.append(
            row
            | {
                "parameters": json.loads(row["parameters"]),
                "last_ok_as_of": last_ok.get(pair),
                "shown_at": shown_at,
                "assigned_at": assigned_at,
            }
        )
    return found


def performance(
    warehouse: Warehouse, at: datetime, days: int, facility_ids: Sequence[str], bands: Sequence[str]
) -> list[_Row]:
    """How models did over the last local days: a row per facility, band, model and version.

    The measures of `wait_time_performance`, days weighted by what each is a mean of; `days` with patients.
    Best pinball loss at 0.8 first within a facility and band.
    """
    c = tables.wait_time_performance.c
    key = (c.facility_id, c.band, c.model, c.version)
    query = (
        sa.select(
            *key,
            sa.func.count().filter(c.n > 0).label("days"),
            *(sa.cast(sa.func.sum(c[name]), sa.BigInteger).label(name) for name in COUNTS),
            *(_weighted(c[name], weight).label(name) for name, weight in _weights(c).items()),
        )
        .where(
            c.day > at.date() - timedelta(days=days),
            c.facility_id.in_(list(facility_ids)),
            c.band.in_(list(bands)),
        )
        .group_by(*key)
    )
    order = "pinball_80 ASC NULLS LAST, model, version"
    rows: list[_Row] = warehouse.read(query.order_by(c.facility_id, c.band, sa.text(order))).to_pylist()
    return rows


def _weights(c: Any) -> dict[str, Any]:
    """By measure what its mean of a day was taken over."""
    judged = c.n + c.known_misses
    with_left = judged + c.left_unseen
    seen = dict.fromkeys(("pinball_50", "pinball_80", "mae", "bias", "coverage_seen"), c.n)
    bounds = dict.fromkeys(("coverage_lower", "coverage_upper"), with_left)
    ticks = dict.fromkeys(("availability", "mean_change", "jumps"), c.ticks)
    return {**seen, "coverage": judged, **bounds, "mean_posted": with_left + c.unresolved, **ticks}


def _weighted(measure: Any, weight: Any) -> Any:
    known = sa.func.sum(weight).filter(measure.is_not(None))
    return sa.cast(sa.func.sum(measure * weight) / sa.func.nullif(known, 0), sa.Double)
