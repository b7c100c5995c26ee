"""The journal: what is acknowledged is stored, once and in the chain, in whatever order it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as rules
from hypothesis import strategies as st

from medscore_assets.audit import Occurrence, append
from medscore_assets.settings import Settings
from medscore_assets.tables.serving import audit_events, readmission_scores, replayed_tokens, shadow_scores
from resources.warehouse import Warehouse
from serving.journal import EntryRefused, IdempotencyConflict, Journal, JournalUnavailable
from tests.serving.journal_rows import entry, score_row
from tests.serving.journal_site import LATER, count, journals, outcome_of, require_gapless, run


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
