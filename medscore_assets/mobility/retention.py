"""What of mobility's tables is past its period: months of forecasts and of their outcomes.

Belongs here: which rows go. Does not belong here: the period (`settings.py`), when
(`medscore_assets/maintenance.py`), and the lake, whose files are yours to delete. Routes stay: they are few,
and say who forecast.
"""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.monthly import drop_months
from resources.warehouse import Warehouse


def prune_forecasts(warehouse: Warehouse, before: date) -> dict[str, int]:
    """Drop the months of forecasts and outcomes that are whole before a day; rows by table.

    The month of the newest forecasts stays, however old it is. Raises what `Warehouse.transaction` raises.
    """
    days = tables.mobility_forecast_days
    (found,) = warehouse.read(sa.select(sa.func.max(days.c.forecast_day).label("day"))).to_pylist()
    first = min(before, found["day"] or before).replace(day=1)
    partitioned = (tables.mobility_forecast_outcomes, tables.mobility_forecasts)
    deleted = {table.name: drop_months(warehouse, table, first) for table in partitioned}
    with warehouse.transaction() as connection:
        gone = connection.execute(sa.delete(days).where(days.c.forecast_day < first))
    return deleted | {days.name: gone.rowcount}
