"""Requests of the same moment are scored in one call, and each gets what it would have got alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.scoring import ReadmissionModel
from medscore_assets.readmission.single import SingleScore, score_one
from resources.errors import ContractViolation
from serving.champion import Serving
from serving.gathering import Gathering
from tests.serving.conftest import features

POLICY = load_policy()


class Champion:
    """What `Gathering` asks of `Champions`."""

    def __init__(self, model: ReadmissionModel) -> None:
        self.model = model
        self.asked = 0

    def current(self) -> Serving:
        self.asked += 1
        return Serving(self.model, 1)


def patient(number: int) -> dict[str, Any]:
    return features(patient_age=20 + number % 80, num_prior_admissions_12m=number % 7)


@pytest.fixture
def champion_of(model: ReadmissionModel) -> Callable[[], Champion]:
    return lambda: Champion(model)


def test_what_comes_at_once_is_one_call_and_the_same_scores(champion_of: Callable[[], Champion]) -> None:
    champion = champion_of()

    async def all_at_once() -> list[list[SingleScore]]:
        gathering = Gathering(champion, lambda: POLICY)  # type: ignore[arg-type]
        return await asyncio.gather(
            *(gathering.scores([patient(n), patient(n + 1)], explain=n % 2 == 0) for n in range(20))
        )

    given = asyncio.run(all_at_once())

    assert champion.asked == 2, "once with explanation and once without"
    for n, scores in enumerate(given):
        alone = [score_one(patient(k), champion.model, 1, POLICY, explain=n % 2 == 0) for k in (n, n + 1)]
        assert scores == alone


def test_no_call_holds_more_rows_than_leave_the_event_loop_free(
    champion_of: Callable[[], Champion], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def scored(self: Gathering, rows: Any, explain: bool, _: Any = None) -> list[SingleScore]:
        sizes.append(len(rows))
        return [score_one(row, champion_of().model, 1, POLICY, explain=explain) for row in rows]

    monkeypatch.setattr(Gathering, "_scored", scored)

    async def many() -> list[list[SingleScore]]:
        gathering = Gathering(champion_of(), lambda: POLICY)  # type: ignore[arg-type]
        counts = (30, 30, 30, 64, 100, 1)
        return await asyncio.gather(
            *(gathering.scores([patient(n) for n in range(k)], explain=False) for k in counts)
        )

    assert [len(scores) for scores in asyncio.run(many())] == [30, 30, 30, 64, 100, 1]
    assert sorted(sizes) == [1, 30, 60, 64, 100], "the first two together; the hundred in a thread"


def test_a_row_that_cannot_be_scored_fails_its_own_request_only(
    champion_of: Callable[[], Champion],
) -> None:
    async def one_of_them_bad() -> list[Any]:
        gathering = Gathering(champion_of(), lambda: POLICY)  # type: ignore[arg-type]
        bad = dict.fromkeys(READMISSION.feature_names)
        return await asyncio.gather(
            *(gathering.scores([row], explain=True) for row in (patient(1), bad, patient(2))),
            return_exceptions=True,
        )

    first, second, third = asyncio.run(one_of_them_bad())

    assert isinstance(second, ContractViolation)
    model = champion_of().model
    assert first == [score_one(patient(1), model, 1, POLICY)]
    assert third == [score_one(patient(2), model, 1, POLICY)]


def test_who_stops_waiting_harms_nobody(champion_of: Callable[[], Champion]) -> None:
    async def one_gives_up() -> list[SingleScore]:
        gathering = Gathering(champion_of(), lambda: POLICY)  # type: ignore[arg-type]
        impatient = asyncio.create_task(gathering.scores([patient(1)], explain=True))
        other = asyncio.create_task(gathering.scores([patient(2)], explain=True))
        await asyncio.sleep(0)
        impatient.cancel()
        return await other

    assert asyncio.run(one_gives_up()) == [score_one(patient(2), champion_of().model, 1, POLICY)]


@pytest.mark.parametrize("rows", [1, 65])
def test_who_has_chosen_a_model_gets_the_scores_of_that_one(
    champion_of: Callable[[], Champion], rows: int
) -> None:
    champion = champion_of()
    gathering = Gathering(champion, lambda: POLICY)  # type: ignore[arg-type]
    chosen = Serving(champion.model, 7)

    given = asyncio.run(gathering.scores([patient(n) for n in range(rows)], explain=False, serving=chosen))

    assert {score.model_version for score in given} == {7}
    assert champion.asked == 0
