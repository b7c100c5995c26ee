"""Writing mobility's tables: a day of forecasts whole or not at all, routes, and what days rest on.

Belongs here: the order of locks and writes. Does not belong here: the rows (`stored.py`, `champions.py`) and
what they are made from, what is deleted when (`retention.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from medscore_assets import tables
from medscore_assets.monthly import ensure_month
from resources.warehouse import Warehouse


def publish_forecasts(
    warehouse: Warehouse, day: date, rows: pa.Table, header: dict[str, Any], published_at: datetime
) -> int:
    """Make the forecasts of a day these rows; the number of rows written.

    Readers see the former ones until the end. The same rows again write nothing, whenever they were made.
    """
    ensure_month(warehouse, tables.mobility_forecasts, day)
    table, days = tables.mobility_forecasts, tables.mobility_forecast_days
    headers = pa.table(
        {name: [value] for name, value in header.items()}
        | {
            "forecast_day": pa.array([day], pa.date32()),
            "published_at": pa.array([published_at], pa.timestamp("us", "UTC")),
        }
    )
    with warehouse.transaction() as connection:
        warehouse.lock(connection, f"{table.name}/{day}")
        written = warehouse.replace(
            connection, table, rows, table.c.forecast_day == day, keep_if_unchanged=("made_at",)
        )
        unchanged = () if written else ("published_at",)
        warehouse.replace(connection, days, headers, days.c.forecast_day == day, keep_if_unchanged=unchanged)
    return written


def published_days(warehouse: Warehouse, first: date, last: date) -> set[date]:
    """The days, both ends included, that have forecasts."""
    day = tables.mobility_forecast_days.c.forecast_day
    found = warehouse.read(sa.select(day).where(day.between(first, last)))
    return set(found["forecast_day"].to_pylist())


def record_day(
    warehouse: Warehouse, day: date, *, raw_files: int, fingerprint: str, patients: int, made_at: datetime
) -> None:
    """Keep what the steps of a day were made from."""
    table = tables.mobility_days
    row = pa.table(
        {
            "day": pa.array([day], pa.date32()),
            "raw_files": [raw_files],
            "raw_fingerprint": [fingerprint],
            "patients": [patients],
            "made_at": pa.array([made_at], pa.timestamp("us", "UTC")),
        }
    )
    with warehouse.transaction() as connection:
        warehouse.lock(connection, f"{table.name}/{day}")
        warehouse.replace(connection, table, row, table.c.day == day, keep_if_unchanged=("made_at",))


def append_routes(warehouse: Warehouse, decided: Iterable[dict[str, Any]]) -> int:
    """Enter those decisions about routes that differ from the ones that hold; how many that were.

    A decision is a row of `mobility_routes` without its id; when and by whom is no difference.
    """
    table = tables.mobility_routes
    entered = 0
    with warehouse.transaction() as connection:
        warehouse.lock(connection, table.name)
        holding = {(row["cohort"], row["horizon_days"]): row for row in _holding(warehouse, connection)}
        for row in decided:
            before = holding.get((row["cohort"], row["horizon_days"]))
            same = before is not None and json.loads(before["route"]) == row["route"]
            if before is None or not same or any(before[name] != row[name] for name in _COMPARED):
                connection.execute(sa.insert(table).values(row))
                entered += 1
    return entered


_COMPARED = ("serves", "model_name", "model_version", "reason", "contract_hash")


def holding_routes() -> sa.Select[Any]:
    """Of each cohort and horizon the last decision."""
    table = tables.mobility_routes
    return (
        sa.select(table)
        .ext(distinct_on(table.c.cohort, table.c.horizon_days))
        .order_by(table.c.cohort, table.c.horizon_days, table.c.route_id.desc())
    )


def _holding(warehouse: Warehouse, connection: sa.Connection) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = warehouse.read(holding_routes(), connection).to_pylist()
    return found
