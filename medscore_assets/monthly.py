"""Monthly partitions of the warehouse's large tables: made when a month begins, dropped whole when it is old.

Belongs here: `<table>_YYYY_MM`, its bounds, making and dropping it. Does not belong here: which tables are
partitioned (`tables/`), and how long anything is kept (`settings.py`).
"""

from __future__ import annotations

import re
from datetime import date, timedelta

import sqlalchemy as sa

from resources.warehouse import Warehouse

_MONTH = re.compile(r"_(\d{4})_(\d{2})$")


def ensure_month(warehouse: Warehouse, table: sa.Table, day: date) -> str:
    """The partition of a table for the month of a day, made if it is absent; its name.

    In a transaction of its own: making one locks the whole table, for readers too.
    """
    first = day.replace(day=1)
    name = f"{table.name}_{first:%Y_%m}"
    with warehouse.transaction() as connection:
        if connection.scalar(sa.select(sa.func.to_regclass(name))) is None:
            warehouse.lock(connection, name)
            connection.exec_driver_sql(
                f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table.name} "
                f"FOR VALUES FROM ('{first}') TO ('{_after(first)}')"
            )
    return name


def drop_months(warehouse: Warehouse, table: sa.Table, before: date) -> int:
    """Drop the partitions whose whole month is before a day; the rows that they had.

    A transaction each: the table is locked for as long as it takes to count a month.
    """
    partitions = sa.text(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits "
        "WHERE inhparent = to_regclass(:parent) ORDER BY 1"
    ).bindparams(parent=table.name)
    deleted = 0
    for name in warehouse.read(partitions)["name"].to_pylist():
        month = _MONTH.search(name)
        if month is None or _after(date(int(month[1]), int(month[2]), 1)) > before:
            continue
        with warehouse.transaction() as connection:
            deleted += connection.scalar(sa.text(f"SELECT count(*) FROM {name}")) or 0
            connection.exec_driver_sql(f"DROP TABLE {name}")
    return deleted


def _after(first: date) -> date:
    """The first day of the month after."""
    return (first + timedelta(days=31)).replace(day=1)
