"""Decisions about boards, a facility and a band each, in tables that only grow: reading them.

Belongs here: which rows there are, and which hold at a moment. Does not belong here: deciding
(`assignment.py`, `closing.py`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from resources.warehouse import Warehouse


def rows_of(
    warehouse: Warehouse, table: sa.Table, facility_id: str | None = None, band: str | None = None
) -> list[dict[str, Any]]:
    """All rows, or those of a facility or band, oldest first."""
    query = sa.select(table).order_by(*table.primary_key)
    for column, wanted in ((table.c.facility_id, facility_id), (table.c.band, band)):
        if wanted is not None:
            query = query.where(column == wanted)
    rows: list[dict[str, Any]] = warehouse.read(query).to_pylist()
    return rows


def last_rows(
    warehouse: Warehouse, made_at: sa.Column[datetime], at: datetime, connection: sa.Connection | None = None
) -> list[dict[str, Any]]:
    """The last row of each facility and band up to `at` (with a zone), by the table's column of times."""
    table = made_at.table
    newest = (column.desc() for column in table.primary_key)
    query = (
        sa.select(table)
        .ext(distinct_on(table.c.facility_id, table.c.band))
        .where(made_at <= at)
        .order_by(table.c.facility_id, table.c.band, *newest)
    )
    rows: list[dict[str, Any]] = warehouse.read(query, connection).to_pylist()
    return rows
