"""The soak itself: requests at fixed times, and what happens to the service meanwhile.

Belongs here: the plan, carrying it out, and what was seen. Does not belong here: judging it (`soak.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from benchmarks.loopback import HOST, Server
from benchmarks.site import PREDICT, Site, as_json, patients
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.promotion import promote, rollback
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from resources.embedded_postgres import ensure_running
from resources.registry import CHALLENGER

SERVER_CORE, OTHER_CORE = 0, 1
DOWN_S = 3.0
"""How long PostgreSQL stays killed before it is started again."""

_PATIENTS = 500
_TRAINING = (
    "from benchmarks.site import train_demo\nimport itertools\nfor s in itertools.count(100): train_demo(s)"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how fast, and when what happens, in seconds from the start."""

    seconds: float
    per_second: int
    training: bool = True

    @property
    def promoted_at(self) -> float:
        return 0.15 * self.seconds

    @property
    def rolled_back_at(self) -> float:
        return 0.32 * self.seconds

    @property
    def killed_at(self) -> float:
        return 0.58 * self.seconds


@dataclass(slots=True)
class Answer:
    """One request and what became of it. Times are of the monotonic clock."""

    patient: int
    sent: float
    done: float = 0.0
    status: int = 0
    """0 if the connection broke."""
    retry_after: bool = False
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Happened:
    """When what happened, and what was seen besides answers."""

    promoted: float = 0.0
    rolling_back: float = 0.0
    """When the rollback began: from then on either version may answer until it is done."""
    rolled_back: float = 0.0
    killed: float = 0.0
    restarted: float = 0.0
    memory: list[tuple[float, float]] = field(default_factory=list)
    trained_to_the_end: bool = False


@dataclass
class Soaked:
    """All that is needed to judge a run."""

    answers: list[Answer]
    happened: Happened
    expected: dict[int, list[float]]
    """Per version the probability of each patient."""
    champions: tuple[int, int]
    challenger: int
    started: float


def soak(site: Site, models: list[ReadmissionModel], plan: Plan) -> Soaked:
    """Runs the plan with three different models: champion, its successor, and the challenger."""
    first, second, third = (site.register(model) for model in models)
    site.set_champion(first)
    site.registry.set_alias(MODEL, third, CHALLENGER)
    people = patients(_PATIENTS)
    matrix = np.concatenate([READMISSION.encode_row(p) for p in people])
    expected = {v: site.model(v).score(matrix).tolist() for v in (first, second, third)}
    # Addressed like a hospital's own server, so that nobody but this process starts it again.
    address = site.settings.databases()
    api = site.start_api(
        core=SERVER_CORE,
        MEDSCORE_SHADOW="true",
        MEDSCORE_DATABASE_URL=address.warehouse.replace("+psycopg", ""),
        MEDSCORE_MLFLOW_DATABASE_URL=address.mlflow.replace("+psycopg", ""),
    )
    training = _start_training(site) if plan.training else None
    happened = Happened()
    try:
        api.wait_ready("/health/ready")
        _wait_for_challenger(api, third)
        started = time.monotonic()
        events = threading.Thread(target=_happen, args=(site, second, plan, happened, api, started))
        events.start()
        answers = asyncio.run(_ask(api.port, site.token(), people, plan, started))
        events.join()
        happened.trained_to_the_end = training is None or training.alive
    finally:
        if training:
            training.stop(seconds=5)
        api.stop()
    return Soaked(answers, happened, expected, (first, second), third, started)


def _start_training(site: Site) -> Server:
    """One training after the other, until it is stopped."""
    command = [sys.executable, "-c", _TRAINING]
    return Server.start(command, 0, site.settings.home / "training.log", core=OTHER_CORE)


def _wait_for_challenger(api: Server, version: int) -> None:
    wanted = f'medscore_model_version{{alias="challenger"}} {version:.1f}'
    deadline = time.monotonic() + 60
    while wanted not in httpx.get(f"http://{HOST}:{api.port}/metrics").text:
        if time.monotonic() > deadline:
            raise RuntimeError("the challenger was not taken up")
        time.sleep(0.1)


def _happen(site: Site, successor: int, plan: Plan, happened: Happened, api: Server, started: float) -> None:
    """Everything but the requests, at its time; and a look at the memory each second."""
    due: list[tuple[float, Callable[[], None]]] = [
        (plan.promoted_at, lambda: _promote(site, successor, happened)),
        (plan.rolled_back_at, lambda: _roll_back(site, happened)),
        (plan.killed_at, lambda: _kill_postgres(site, happened)),
        (plan.killed_at + DOWN_S, lambda: _restart_postgres(site, happened)),
    ]
    for second in itertools.count():
        now = time.monotonic() - started
        while due and due[0][0] <= now:
            due.pop(0)[1]()
        if now >= plan.seconds:
            return
        happened.memory.append((now, api.memory_mb()))
        time.sleep(max(0.0, started + min(second + 1, plan.seconds) - time.monotonic()))


def _promote(site: Site, version: int, happened: Happened) -> None:
    promote(
        site.warehouse,
        site.registry,
        None,
        MODEL,
        version,
        reason="the soak test promotes a successor",
        by="soak",
        override_gate=True,
    )
    happened.promoted = time.monotonic()


def _roll_back(site: Site, happened: Happened) -> None:
    happened.rolling_back = time.monotonic()
    rollback(
        site.warehouse, site.registry, None, MODEL, reason="the soak test goes back to the first", by="soak"
    )
    happened.rolled_back = time.monotonic()


def _kill_postgres(site: Site, happened: Happened) -> None:
    happened.killed = time.monotonic()
    os.kill(site.postmaster(), signal.SIGKILL)


def _restart_postgres(site: Site, happened: Happened) -> None:
    ensure_running(site.settings.postgres_directory)
    happened.restarted = time.monotonic()


async def _ask(
    port: int, token: str, people: list[dict[str, Any]], plan: Plan, started: float
) -> list[Answer]:
    """All requests of the plan, each at its time."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answers: list[Answer] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=60)
    async with (
        httpx.AsyncClient(
            base_url=f"http://{HOST}:{port}", headers=headers, limits=limits, timeout=30
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for number in range(int(plan.seconds * plan.per_second)):
            await asyncio.sleep(max(0.0, started + number / plan.per_second - time.monotonic()))
            patient = number % len(people)
            body = as_json({**people[patient], "encounter_id": f"E-{number}", "patient_id": f"P-{patient}"})
            answer = Answer(patient, time.monotonic())
            answers.append(answer)
            group.create_task(_send(client, body, answer))
    return answers


async def _send(client: httpx.AsyncClient, body: bytes, answer: Answer) -> None:
    try:
        response = await client.post(PREDICT, content=body)
    except httpx.TransportError:
        answer.done = time.monotonic()
        return
    answer.done, answer.status = time.monotonic(), response.status_code
    answer.retry_after = response.headers.get("retry-after", "").isdigit()
    if response.headers.get("content-type") == "application/json":
        answer.body = json.loads(response.content)
