"""What of wait times is past its period: months of predictions and outcomes, and the rows beside them.

Belongs here: which rows go. Does not belong here: the periods (`settings.py`) and when
(`medscore_assets/maintenance.py`). Assignments stay: they are few, and say who was shown.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.monthly import drop_months
from resources.warehouse import Warehouse


def prune_waits(warehouse: Warehouse, before: datetime, audit_before: datetime) -> dict[str, int]:
    """Delete what is older than `before`, ticks and performance older than `audit_before`; rows by table.

    Months of predictions and outcomes go whole, once all of the month is older. Raises what
    `Warehouse.transaction` raises.
    """
    partitioned = (tables.wait_time_predictions, tables.wait_time_outcomes)
    deleted = {
        table.name: drop_months(warehouse, table, before.astimezone(UTC).date()) for table in partitioned
    }
    displays, looks = tables.wait_time_displays, tables.wait_time_facility_ticks
    fitted, days = tables.wait_time_model_parameters, tables.wait_time_outcome_days
    ticks, performance = tables.wait_time_ticks, tables.wait_time_performance
    old = {
        displays: displays.c.as_of < before,
        looks: looks.c.as_of < before,
        fitted: fitted.c.fitted_at < before,
        days: days.c.day < before.date(),
        ticks: ticks.c.as_of < audit_before,
        performance: performance.c.day < audit_before.date(),
    }
    for table, condition in old.items():
        with warehouse.transaction() as connection:
            deleted[table.name] = connection.execute(sa.delete(table).where(condition)).rowcount
    return deleted
