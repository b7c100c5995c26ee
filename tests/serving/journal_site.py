"""Journals on a real database: how tests run them, and what they leave there.

Belongs here: what more than one of `test_journal*.py` uses. Does not belong here: rows and entries
(`journal_rows.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
import uvloop

from medscore_assets.audit import CHAIN_LOCK, verify
from medscore_assets.settings import Settings
from medscore_assets.tables.serving import readmission_scores
from resources.warehouse import Warehouse
from serving.journal import Journal

LATER = datetime.now(UTC) + timedelta(hours=1)
CUT = sa.text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE application_name = 'medscore journal' AND datname = current_database()"
)
"""Ends the connections of the journals on this database, as a failover does."""


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """On the event loop that the API has."""
    return uvloop.run(work)


@asynccontextmanager
async def journals(settings: Settings, number: int = 1) -> AsyncIterator[list[Journal]]:
    made = [Journal(settings) for _ in range(number)]
    for journal in made:
        await journal.start()
    try:
        yield made
    finally:
        for journal in made:
            await journal.stop()


async def outcome_of(work: Coroutine[Any, Any, Any]) -> str:
    """`stored`, or the name of the error."""
    try:
        await work
    except Exception as error:
        return type(error).__name__
    return "stored"


async def until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)


def count(warehouse: Warehouse, table: sa.Table) -> int:
    with warehouse.transaction() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def stored_ids(warehouse: Warehouse) -> set[str]:
    found = warehouse.read(sa.select(readmission_scores.c.score_id))
    return set(found["score_id"].to_pylist())


def require_gapless(warehouse: Warehouse, events: int) -> None:
    found = verify(warehouse)
    assert found.problems == ()
    assert found.count == events
    assert (found.first, found.last) == ((1, events) if events else (None, None))


@contextmanager
def held_chain(warehouse: Warehouse) -> Iterator[None]:
    """Somebody else holds the chain's lock."""
    with warehouse.transaction() as connection:
        warehouse.lock(connection, CHAIN_LOCK)
        yield
