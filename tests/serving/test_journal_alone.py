"""A request that is alone sends its entry itself: the same rows and chain, whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import numpy as np
import pytest
import sqlalchemy as sa

from medscore_assets.settings import Settings
from medscore_assets.tables.serving import audit_events, readmission_scores
from resources.warehouse import Warehouse
from serving import journal as journal_module
from serving.journal import EntryRefused, IdempotencyConflict, Journal, JournalUnavailable
from tests.serving.journal_rows import entry, score_row
from tests.serving.journal_site import (
    CUT,
    LATER,
    count,
    held_chain,
    journals,
    outcome_of,
    require_gapless,
    run,
    until,
)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine's PostgreSQL takes longer than the patience of production.
    monkeypatch.setattr(journal_module, "_PATIENCE_S", 1.0)


@asynccontextmanager
async def alone(settings: Settings) -> AsyncIterator[Journal]:
    """A journal that knows the chain's head and is told of one request at a time."""
    async with journals(settings) as [journal]:
        journal.under_way = lambda: 1
        await journal.record(entry())
        yield journal


def rows_of(warehouse: Warehouse, score_id: str) -> dict[str, object]:
    with warehouse.transaction() as connection:
        query = sa.select(readmission_scores).where(readmission_scores.c.score_id == score_id)
        return dict(connection.execute(query).mappings().one())


def test_a_score_alone_is_committed_without_giving_way_and_stored_as_one_among_others(
    settings: Settings, warehouse: Warehouse
) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    row = score_row(
        data_as_of=at, scored_at=at, client='a "b" \\ \u2603\ttab', readmission_probability=np.float64(0.1)
    )

    async def work() -> None:
        async with alone(settings) as journal:
            recording = journal.record(entry(), row)
            with pytest.raises(StopIteration):
                recording.send(None)
            journal.under_way = lambda: 2
            await journal.record(entry(), {**row, "score_id": "among others"})

    run(work())

    by_itself, among_others = rows_of(warehouse, row["score_id"]), rows_of(warehouse, "among others")
    assert {**by_itself, "score_id": "among others"} == among_others
    assert (by_itself["readmission_probability"], by_itself["data_as_of"]) == (0.1, at)
    require_gapless(warehouse, 3)


def test_what_the_database_refuses_leaves_the_next_one_unharmed(
    settings: Settings, warehouse: Warehouse
) -> None:
    rows = [
        score_row(idempotency_key="k"),
        score_row(readmission_probability=2.0),
        score_row(patient_id="a\0b"),
        score_row(idempotency_key="k"),
        score_row(patient_age=10**10),
        score_row(),
    ]

    async def work() -> list[str]:
        async with alone(settings) as journal:
            found = [await outcome_of(journal.record(entry(), row)) for row in rows]
            assert [await journal.claim("i", "t", LATER) for _ in range(2)] == [True, False]
            return found

    refused, conflict = EntryRefused.__name__, IdempotencyConflict.__name__
    assert run(work()) == ["stored", refused, refused, conflict, refused, "stored"]
    require_gapless(warehouse, 3)


def test_a_lost_connection_and_another_process_cost_no_refusal(
    settings: Settings, warehouse: Warehouse
) -> None:
    async def work() -> None:
        async with alone(settings) as journal, alone(settings) as other:
            for _ in range(2):
                await journal.record(entry(), score_row())
                with warehouse.transaction() as connection:
                    connection.execute(CUT)
                await journal.record(entry(), score_row())
                await other.record(entry(), score_row())

    run(work())

    require_gapless(warehouse, 8)
    assert count(warehouse, readmission_scores) == 6


def test_a_slow_commit_is_left_to_the_task_and_lets_others_come(
    settings: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_PATIENCE_S", 0.001)

    async def work() -> None:
        async with alone(settings) as journal:
            with held_chain(warehouse):
                waiting = [asyncio.create_task(journal.record(entry(), score_row())) for _ in range(5)]
                await until(lambda: journal.waiting == 4)
                assert not any(task.done() for task in waiting)
            await asyncio.gather(*waiting)

    run(work())

    require_gapless(warehouse, 6)


@pytest.mark.parametrize("under_way", [1, 2])
def test_what_a_request_does_meanwhile_comes_before_the_commit_and_fails_alone(
    settings: Settings, warehouse: Warehouse, under_way: int
) -> None:
    seen: list[int] = []

    def fails() -> None:
        raise ZeroDivisionError

    async def work() -> str:
        async with alone(settings) as journal:
            journal.under_way = lambda: under_way
            with held_chain(warehouse):
                recording = asyncio.create_task(
                    journal.record(entry(), meanwhile=lambda: seen.append(count(warehouse, audit_events)))
                )
                await until(lambda: seen)
                assert not recording.done()
            await recording
            return await outcome_of(journal.record(entry(), meanwhile=fails))

    assert run(work()) == ZeroDivisionError.__name__
    assert seen == [1]
    require_gapless(warehouse, 3)


def test_stopping_waits_for_what_was_begun(
    settings: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_PATIENCE_S", 0.0)

    async def work() -> tuple[str, str]:
        async with alone(settings) as journal:
            begun = asyncio.create_task(outcome_of(journal.record(entry())))
            await asyncio.sleep(0)
            await journal.stop()
            return await begun, await outcome_of(journal.record(entry()))

    assert run(work()) == ("stored", JournalUnavailable.__name__)
    require_gapless(warehouse, 2)
