"""Scoring together what was asked for at the same time.

Belongs here: which requests share one call of the scorer, and who gets what when the call fails. Does not
belong here: the score (`single.py`), and storing it (`scores.py`).

A call of the scorer costs nearly the same for one patient as for twenty, and a row has the same score alone
as among others, bit for bit (`champion.warm_up` refuses a model for which that is not so). So requests that
have come in while others were worked on are scored in one call. While requests come one by one, nobody waits
for others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from medscore_assets.readmission.policy import Policy
from medscore_assets.readmission.single import SingleScore, score_each
from serving.champion import Champions, Serving

Rows = Sequence[Mapping[str, Any]]

_MANY = 64
"""From so many rows on, scoring leaves the event loop."""


@dataclass(slots=True, eq=False)
class _Waiting:
    rows: Rows
    explain: bool
    done: asyncio.Future[list[SingleScore]] = field(init=False)


class Gathering:
    """Scores with the champion and the policy in force when the call is made. For one event loop."""

    def __init__(
        self, champions: Champions, policy: Callable[[], Policy], together: Callable[[], bool] = lambda: True
    ) -> None:
        """`together` says whether several requests are on their way."""
        self._champions = champions
        self._policy = policy
        self._together = together
        self._waiting: list[_Waiting] = []

    async def scores(self, rows: Rows, *, explain: bool, serving: Serving | None = None) -> list[SingleScore]:
        """The scores of these rows, at least one, in their order. Raises `Unavailable` without a model.

        `serving` is the model that gives them, for who has chosen one; by default it is the champion.
        """
        if len(rows) > _MANY:
            return await run_in_threadpool(self._scored, rows, explain, serving)
        if serving is not None or (not self._waiting and not self._together()):
            return self._scored(rows, explain, serving)
        waiting = _Waiting(rows, explain)
        loop = asyncio.get_running_loop()
        waiting.done = loop.create_future()
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            # One turn of the loop reads what has come in, the next one runs its handlers up to here.
            loop.call_soon(loop.call_soon, self._answer)
        return await waiting.done

    def _answer(self) -> None:
        together, self._waiting = self._waiting, []
        for explain in (True, False):
            alike = [each for each in together if each.explain is explain and not each.done.done()]
            while alike:
                count = _count_within(alike, _MANY)
                self._settle(alike[:count], explain)
                alike = alike[count:]

    def _settle(self, alike: list[_Waiting], explain: bool) -> None:
        try:
            scores = self._scored([row for each in alike for row in each.rows], explain)
        except Exception as error:
            if len(alike) == 1:
                alike[0].done.set_exception(error)
                return
            # What is wrong with one of them must not harm the others.
            for each in alike:
                self._settle([each], explain)
            return
        for each in alike:
            each.done.set_result(scores[: len(each.rows)])
            scores = scores[len(each.rows) :]

    def _scored(self, rows: Rows, explain: bool, serving: Serving | None = None) -> list[SingleScore]:
        serving = serving or self._champions.current()
        return score_each(rows, serving.model, serving.version, self._policy(), explain=explain)


def _count_within(waiting: Sequence[_Waiting], most: int) -> int:
    """How many of them, from the first on and at least one, have together at most so many rows."""
    rows = 0
    for count, each in enumerate(waiting):
        rows += len(each.rows)
        if rows > most:
            return max(count, 1)
    return len(waiting)
