"""Small tables for tests of the warehouse: one of every type, and lists that have scores."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from resources.warehouse import Warehouse

SECRET = "patient-4711"

metadata = sa.MetaData()
typed = sa.Table(
    "typed",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True),
    sa.Column("whole", sa.Integer),
    sa.Column("real", sa.Double),
    sa.Column("word", sa.Text),
    sa.Column("flag", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("moment", sa.DateTime(timezone=True)),
    sa.Column("document", JSONB),
    sa.Column("noted_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
)
lists = sa.Table(
    "lists", metadata, sa.Column("day", sa.Date, primary_key=True), sa.Column("rows", sa.Integer)
)
scores = sa.Table(
    "scores",
    metadata,
    sa.Column("day", sa.Date, sa.ForeignKey(lists.c.day), primary_key=True),
    sa.Column("encounter", sa.Text, primary_key=True),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("risk", sa.Double, sa.CheckConstraint("risk <= 1", name="risk_bound"), nullable=False),
    sa.Column("scored_at", sa.Text, nullable=False),
    sa.UniqueConstraint("day", "rank", name="one_per_rank"),
)
DAY, NEXT = date(2026, 3, 8), date(2026, 3, 9)


def add(store: Warehouse, table: sa.Table, rows: pa.Table) -> int:
    with store.transaction() as connection:
        return store.append(connection, table, rows)


def scored(*rows: tuple[str, int, float], day: date = DAY, at: str = "first") -> pa.Table:
    columns = {
        "day": pa.array([day] * len(rows), pa.date32()),
        "encounter": pa.array([row[0] for row in rows], pa.string()),
        "rank": pa.array([row[1] for row in rows], pa.int64()),
        "risk": pa.array([row[2] for row in rows], pa.float64()),
        "scored_at": pa.array([at] * len(rows), pa.string()),
    }
    return pa.table(columns)


def put(store: Warehouse, rows: pa.Table, day: date = DAY) -> int:
    with store.transaction() as connection:
        store.lock(connection, f"scores/{day}")
        header = pa.table({"day": pa.array([day], pa.date32()), "rows": [rows.num_rows]})
        store.replace(connection, lists, header, lists.c.day == day)
        return store.replace(connection, scores, rows, scores.c.day == day, keep_if_unchanged=("scored_at",))


def stored(store: Warehouse) -> list[tuple[Any, ...]]:
    table = store.read(sa.select(scores).order_by(scores.c.day, scores.c.rank))
    return [tuple(row.values()) for row in table.to_pylist()]
