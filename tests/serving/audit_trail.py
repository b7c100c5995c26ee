"""What a test adds to the audit of a database that others write to as well."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from medscore_assets.tables.serving import audit_events
from resources.warehouse import Warehouse


class Trail:
    """The audit's events since the test began."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        with warehouse.transaction() as connection:
            self._before = connection.scalar(sa.select(sa.func.max(audit_events.c.sequence))) or 0

    def events(self) -> list[dict[str, Any]]:
        c = audit_events.c
        query = sa.select(c.event).where(c.sequence > self._before).order_by(c.sequence)
        return [json.loads(text) for text in self._warehouse.read(query)["event"].to_pylist()]

    def reasons(self) -> list[str]:
        return [event["outcomeDesc"] for event in self.events()]
