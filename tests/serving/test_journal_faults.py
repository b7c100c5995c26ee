"""The journal without its database: clean refusals, nothing lost and nothing stored twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from medscore_assets.database import create_database, upgrade
from medscore_assets.settings import PROJECT_ROOT, Settings
from medscore_assets.tables.serving import readmission_scores
from resources.embedded_postgres import release
from resources.warehouse import Warehouse
from serving.journal import Journal, JournalUnavailable
from tests.clocks import awake
from tests.serving.journal_rows import entry, score_row
from tests.serving.journal_site import (
    CUT,
    count,
    held_chain,
    journals,
    outcome_of,
    require_gapless,
    run,
    stored_ids,
    until,
)


def test_without_a_database_it_says_so_at_once(tmp_path: Path) -> None:
    nowhere = Settings(home=tmp_path, database_url="postgresql://nobody@127.0.0.1:9/none")

    async def work() -> float:
        async with journals(nowhere) as [journal]:
            assert not journal.available
            with awake() as seconds, pytest.raises(JournalUnavailable) as refused:
                await journal.record(entry())
            assert refused.value.status == 503
            return seconds()

    assert run(work()) < 0.1


@pytest.mark.slow
def test_a_database_that_hangs_costs_a_request_its_deadline_and_the_next_ones_nothing(
    settings: Settings, warehouse: Warehouse
) -> None:
    async def work() -> None:
        async with journals(settings) as [journal]:
            with held_chain(warehouse):
                with awake() as seconds:
                    assert await outcome_of(journal.record(entry())) == JournalUnavailable.__name__
                    assert seconds() < 2.3
                with awake() as seconds:
                    assert await outcome_of(journal.record(entry())) == JournalUnavailable.__name__
                    assert seconds() < 0.1
            await until(lambda: journal.available)
            await journal.record(entry())

    run(work())

    require_gapless(warehouse, 1)


def test_a_connection_that_was_cut_is_opened_again_without_a_refusal(
    settings: Settings, warehouse: Warehouse
) -> None:
    async def work() -> None:
        async with journals(settings) as [journal]:
            for _ in range(3):
                await journal.record(entry())
                with warehouse.transaction() as connection:
                    connection.execute(CUT)
            await journal.record(entry())

    run(work())

    require_gapless(warehouse, 4)


@pytest.mark.faults
def test_an_attempt_that_was_committed_but_not_acknowledged_is_not_stored_twice(
    settings: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.journal_store import Store

    add, lost = Store.add, []

    async def add_and_lose_the_answer(store: Store, entries: Any) -> Any:
        claimed = await add(store, entries)
        if not lost:
            lost.append(entries)
            raise psycopg.OperationalError("the connection was lost after the commit")
        return claimed

    monkeypatch.setattr(Store, "add", add_and_lose_the_answer)

    async def work() -> None:
        async with journals(settings) as [journal]:
            await asyncio.gather(*(journal.record(entry(), score_row()) for _ in range(5)))
            await journal.record(entry())

    run(work())

    assert lost
    require_gapless(warehouse, 6)
    assert count(warehouse, readmission_scores) == 5


def writer(url: str, name: str, records: int, at_once: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.serving.journal_writer", url, name, str(records), str(at_once)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT, env=environment)


@pytest.mark.faults
@pytest.mark.slow
def test_processes_that_are_killed_in_mid_commit_lose_nothing_that_was_acknowledged(
    database: str, settings: Settings, warehouse: Warehouse
) -> None:
    writers = [writer(database, f"writer-{n}", 100_000, 12) for n in range(2)]
    acknowledged: list[str] = []
    for process in writers:
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(150)]
    for process in writers:
        process.send_signal(signal.SIGKILL)
        # Whole lines only: a kill may come in the middle of a write.
        assert process.stdout is not None
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        process.wait(60)

    async def one_more() -> None:
        async with journals(settings) as [journal]:
            await journal.record(entry(), score_row())

    run(one_more())

    stored = stored_ids(warehouse)
    assert len(set(acknowledged)) == len(acknowledged) >= 300
    assert set(acknowledged) <= stored
    require_gapless(warehouse, len(stored))


@pytest.mark.faults
@pytest.mark.slow
def test_a_server_that_is_killed_under_load_means_clean_refusals_and_then_goes_on(tmp_path: Path) -> None:
    # Acknowledged means on disk: this server keeps PostgreSQL's own durability.
    own = Settings(home=tmp_path)
    url = own.databases().warehouse
    create_database(url)
    upgrade(url)
    acknowledged: list[str] = []
    outcomes: set[str] = set()
    slowest = 0.0

    async def worker(journal: Journal, seconds: Callable[[], float], ends: float) -> None:
        nonlocal slowest
        while seconds() < ends:
            row = score_row()
            begun = seconds()
            outcome = await outcome_of(journal.record(entry(entity=row["score_id"]), row))
            slowest = max(slowest, seconds() - begun)
            outcomes.add(outcome)
            if outcome == "stored":
                acknowledged.append(row["score_id"])
            else:
                await asyncio.sleep(0.02)

    async def work() -> None:
        async with journals(own) as [journal]:
            load = [asyncio.create_task(worker(journal, seconds, 4)) for _ in range(8)]
            await until(lambda: len(acknowledged) > 100)
            postmaster = (own.postgres_directory / "data" / "postmaster.pid").read_text().splitlines()[0]
            os.kill(int(postmaster), signal.SIGKILL)
            await asyncio.gather(*load)
            await until(lambda: journal.available, 60)
            await journal.record(entry(), score_row())

    try:
        with awake() as seconds:
            run(work())
        warehouse = Warehouse(lambda: own.databases().warehouse)
        stored = stored_ids(warehouse)
        assert set(acknowledged) <= stored
        assert outcomes <= {"stored", JournalUnavailable.__name__}
        assert slowest < 2.5
        require_gapless(warehouse, len(stored))
        warehouse.close()
    finally:
        release(own.postgres_directory)
