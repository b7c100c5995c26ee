"""The journal: what is acknowledged is stored, once and in the chain, whatever happens around it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import uvloop
from hypothesis import HealthCheck, given
from hypothesis import settings as rules
from hypothesis import strategies as st

from medscore_assets.audit import CHAIN_LOCK, Occurrence, append, verify
from medscore_assets.database import create_database, upgrade
from medscore_assets.settings import PROJECT_ROOT, Settings
from medscore_assets.tables.serving import (
    audit_events,
    readmission_scores,
    replayed_tokens,
    shadow_scores,
)
from resources.embedded_postgres import release
from resources.warehouse import Warehouse
from serving.journal import EntryRefused, IdempotencyConflict, Journal, JournalUnavailable
from tests.clocks import awake
from tests.serving.journal_rows import entry, score_row

LATER = datetime.now(UTC) + timedelta(hours=1)


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


def test_a_score_is_stored_as_it_was_given_with_its_event(settings: Settings, warehouse: Warehouse) -> None:
    row = score_row(data_as_of=datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC))
    shadow = {
        "score_id": row["score_id"],
        "model_version": 4,
        "readmission_probability": 1 / 3,
        "scored_at": row["scored_at"],
    }

    async def work() -> None:
        async with journals(settings) as [journal]:
            await journal.record(entry(entity=row["score_id"]), row, shadow)

    run(work())

    with warehouse.transaction() as connection:
        columns = [c for c in readmission_scores.c if c.name not in ("explanation", "recommended_actions")]
        stored = connection.execute(sa.select(*columns)).mappings().one()
        assert dict(stored) == {
            "idempotency_key": None,
            **{k: v for k, v in row.items() if k not in ("explanation", "recommended_actions")},
        }
        texts = sa.select(
            readmission_scores.c.explanation["factors"][0]["contribution"].as_float(),
            readmission_scores.c.recommended_actions[0].as_string(),
        )
        assert tuple(connection.execute(texts).one()) == (1e-17, row["recommended_actions"][0])
        shadowed = connection.execute(sa.select(shadow_scores)).mappings().one()
        assert dict(shadowed) == shadow
    require_gapless(warehouse, 1)


def test_two_hundred_at_once_make_one_chain_without_gaps_in_few_commits(
    settings: Settings, warehouse: Warehouse
) -> None:
    async def work() -> None:
        async with journals(settings) as [journal]:
            await asyncio.gather(*(journal.record(entry(), score_row()) for _ in range(200)))

    run(work())

    require_gapless(warehouse, 200)
    assert count(warehouse, readmission_scores) == 200
    # Rows of one transaction have the same xmin.
    commits = sa.select(sa.func.count(sa.distinct(sa.literal_column("xmin::text")))).select_from(audit_events)
    with warehouse.transaction() as connection:
        assert connection.scalar(commits) <= 20


def test_what_the_database_refuses_fails_alone(settings: Settings, warehouse: Warehouse) -> None:
    bad = {7: {"readmission_probability": 2.0}, 23: {"patient_age": None}, 24: {"patient_id": "a\0b"}}

    async def work() -> list[str]:
        async with journals(settings) as [journal]:
            rows = [score_row(**bad.get(number, {})) for number in range(50)]
            return await asyncio.gather(*(outcome_of(journal.record(entry(), row)) for row in rows))

    outcomes = run(work())

    assert {n: o for n, o in enumerate(outcomes) if o != "stored"} == dict.fromkeys(
        bad, EntryRefused.__name__
    )
    assert count(warehouse, readmission_scores) == 47
    require_gapless(warehouse, 47)


def test_what_cannot_be_encoded_fails_before_it_is_queued(settings: Settings, warehouse: Warehouse) -> None:
    async def work() -> None:
        async with journals(settings) as [journal]:
            with pytest.raises(ValueError, match="misspelt"):
                await journal.record(entry(), score_row(misspelt=1))
            with pytest.raises(TypeError):
                await journal.record(entry(), score_row(explanation=object()))
            with pytest.raises(KeyError):
                await journal.record(entry(kind="unheard-of"))

    run(work())

    require_gapless(warehouse, 0)


def test_a_second_score_under_one_key_is_reported_and_not_stored(
    settings: Settings, warehouse: Warehouse
) -> None:
    async def work() -> list[str]:
        async with journals(settings, 2) as (one, other):
            racing = [
                outcome_of(journal.record(entry(), score_row(idempotency_key="k")))
                for journal in (one, one, other)
            ]
            foreign = outcome_of(one.record(entry(), score_row(idempotency_key="k", client="another")))
            return await asyncio.gather(*racing, foreign)

    *racing, foreign = run(work())

    assert sorted(racing) == [IdempotencyConflict.__name__] * 2 + ["stored"]
    assert foreign == "stored"
    require_gapless(warehouse, 2)


def test_a_one_time_token_is_claimed_once_by_whoever_is_first(
    settings: Settings, warehouse: Warehouse
) -> None:
    async def work() -> list[bool]:
        async with journals(settings, 2) as made:
            first = await asyncio.gather(*(j.claim("issuer", "token", LATER) for j in made * 5))
            return [
                *first,
                await made[0].claim("issuer", "token", LATER),
                await made[0].claim("b", "token", LATER),
            ]

    *racing, again, of_another = run(work())

    assert sum(racing) == 1
    assert (again, of_another) == (False, True)
    assert count(warehouse, replayed_tokens) == 2


def test_two_journals_take_turns(settings: Settings, warehouse: Warehouse) -> None:
    async def work() -> None:
        async with journals(settings, 2) as (one, other):
            for _ in range(5):
                await one.record(entry())
                await other.record(entry())
            await asyncio.gather(*(j.record(entry(), score_row()) for j in (one, other) * 50))

    run(work())

    require_gapless(warehouse, 110)


def test_stopping_commits_what_waits_and_refuses_what_comes_after(
    settings: Settings, warehouse: Warehouse
) -> None:
    async def work() -> list[str]:
        journal = Journal(settings)
        await journal.start()
        waiting = [asyncio.create_task(outcome_of(journal.record(entry()))) for _ in range(20)]
        await asyncio.sleep(0)
        await journal.stop()
        return [*(await asyncio.gather(*waiting)), await outcome_of(journal.record(entry()))]

    *waiting, after = run(work())

    assert (set(waiting), after) == ({"stored"}, JournalUnavailable.__name__)
    require_gapless(warehouse, 20)


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


@contextmanager
def held_chain(warehouse: Warehouse) -> Iterator[None]:
    """Somebody else holds the chain's lock."""
    with warehouse.transaction() as connection:
        warehouse.lock(connection, CHAIN_LOCK)
        yield


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
    cut = sa.text(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE application_name = 'medscore journal' AND datname = current_database()"
    )

    async def work() -> None:
        async with journals(settings) as [journal]:
            for _ in range(3):
                await journal.record(entry())
                with warehouse.transaction() as connection:
                    connection.execute(cut)
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


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["one", "other", "command", "poison", "conflict", "claim", "pause"]),
        st.integers(min_value=1, max_value=4),
    ),
    min_size=1,
    max_size=12,
)


@rules(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(steps=STEPS)
def test_whatever_order_things_come_in_the_chain_is_whole(
    settings: Settings, warehouse: Warehouse, steps: list[tuple[str, int]]
) -> None:
    before = count(warehouse, audit_events)
    key = f"key-{time.monotonic_ns()}"

    def add_by_command() -> None:
        with warehouse.transaction() as connection:
            append(warehouse, connection, Occurrence("audit-read", "success", datetime.now(UTC)))

    async def work() -> list[str]:
        async with journals(settings, 2) as (one, other):
            waiting: list[asyncio.Task[str]] = []
            for step, times in steps:
                for _ in range(times):
                    todo: Coroutine[Any, Any, Any] | None = {
                        "one": lambda: one.record(entry(), score_row()),
                        "other": lambda: other.record(entry()),
                        "command": lambda: asyncio.to_thread(add_by_command),
                        "poison": lambda: one.record(entry(), score_row(risk_tier="none")),
                        "conflict": lambda: other.record(entry(), score_row(idempotency_key=key)),
                        "claim": lambda: claimed(one, key),
                        "pause": lambda: None,
                    }[step]()
                    if todo is None:
                        await asyncio.sleep(0.001)
                    else:
                        waiting.append(asyncio.create_task(outcome_of(todo)))
            return await asyncio.gather(*waiting)

    async def claimed(journal: Journal, token: str) -> None:
        await journal.claim("issuer", token, LATER)
        raise LookupError("a claim is no event")

    outcomes = run(work())

    assert set(outcomes) <= {"stored", "EntryRefused", "IdempotencyConflict", "LookupError"}
    assert outcomes.count("IdempotencyConflict") == max(0, sum(t for s, t in steps if s == "conflict") - 1)
    require_gapless(warehouse, before + outcomes.count("stored"))
