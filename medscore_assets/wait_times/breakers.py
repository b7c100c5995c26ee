"""What HTTP models carry from one tick to the next, in the warehouse: circuit breakers and versions.

Belongs here: reading and writing that state. Does not belong here: how it changes (`http/breaker.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from medscore_assets import tables
from medscore_assets.wait_times.model import Model
from resources.warehouse import Warehouse


def load_breakers(warehouse: Warehouse, connection: sa.Connection, models: Sequence[Model]) -> None:
    """Tell HTTP models what earlier ticks left behind. Others are left alone."""
    if not any(model.remote for model in models):
        return
    from medscore_assets.wait_times.http import Breaker, HttpModel, prepare

    rows = warehouse.read(sa.select(tables.wait_time_breakers), connection).to_pylist()
    kept = {row["url_hash"]: row for row in rows}
    services = [model for model in models if isinstance(model, HttpModel)]
    versions = {m.name: kept[m.entry.key]["version"] for m in services if m.entry.key in kept}
    prepare(
        services, versions, {key: Breaker(row["failures"], row["opened_at"]) for key, row in kept.items()}
    )


def save_breakers(connection: sa.Connection, models: Sequence[Model]) -> None:
    """Keep the state of HTTP models for the next tick."""
    if not any(model.remote for model in models):
        return
    from medscore_assets.wait_times.http import HttpModel, breakers_of

    table = tables.wait_time_breakers
    services = {model.entry.key: model for model in models if isinstance(model, HttpModel)}
    rows = [
        {
            "url_hash": key,
            "version": services[key].version,
            "failures": breaker.failures,
            "opened_at": breaker.opened_at,
        }
        for key, breaker in breakers_of(models).items()
    ]
    if rows:
        upsert = insert(table)
        changed = {c.name: upsert.excluded[c.name] for c in table.columns if not c.primary_key}
        connection.execute(upsert.on_conflict_do_update(index_elements=["url_hash"], set_=changed), rows)
