"""Loading source records: what a load replaces, and what it must not touch."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.audit import GENESIS
from medscore_assets.demo.discharges import DemoPlan, generate
from medscore_assets.loading import Records, load
from resources.errors import PermanentError
from resources.warehouse import Warehouse


def demo(seed: int) -> Records:
    made = generate(
        DemoPlan(first_day=date(2026, 3, 1), last_day=date(2026, 3, 5), discharges_per_day=20, seed=seed)
    )
    return Records("demo", made.events, made.admissions)


def count(warehouse: Warehouse, table: sa.Table) -> int:
    with warehouse.transaction() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_demo_records_are_replaced_where_something_was_audited_and_journals_stay(
    warehouse: Warehouse,
) -> None:
    load(warehouse, demo(1), replace=False)
    with pytest.raises(PermanentError, match="already holds records of demo"):
        load(warehouse, demo(2), replace=False)
    with warehouse.transaction() as connection:
        event = {"event": "{}", "previous_hash": GENESIS, "hash": "a" * 64}
        connection.execute(
            tables.audit_events.insert().values(sequence=1, recorded_at=datetime.now(UTC), **event)
        )

    written = load(warehouse, demo(2), replace=True)

    assert count(warehouse, tables.discharge_events) == written["discharge_events"]
    assert count(warehouse, tables.audit_events) == 1
