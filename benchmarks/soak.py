"""The API under what happens in a hospital, for minutes: no answer may be wrong, lost, or not audited.

    python -m benchmarks.soak [--minutes N] [--json PATH]

Fifty requests a second, at fixed times whatever the answers do, on one core. On the other a training runs
all the time. A champion is promoted and later rolled back, a challenger scores in the shadow, and
PostgreSQL is killed (SIGKILL) and started again. What each version says of each patient is computed
beforehand by the scorer. At the end every answer is compared with the version that it names, with the
stored score and with the audit.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import sqlalchemy as sa
import typer

from benchmarks.harness import Report, console
from benchmarks.loopback import HOST, Server
from benchmarks.site import PREDICT, Site, as_json, on_core, patients, train_demo
from medscore_assets.audit import verify
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.promotion import promote, rollback
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.tables.serving import audit_events, readmission_scores, shadow_scores
from resources.embedded_postgres import ensure_running
from resources.registry import CHALLENGER

SERVER_CORE, OTHER_CORE = 0, 1
DOWN_S = 3.0
"""How long PostgreSQL stays killed before it is started again."""

SETTLING_S = 5.0
"""How long after PostgreSQL answers again a 503 is still taken for part of the restart."""

SWAP_S = 5.0
GROWTH_MB = 16.0
_PATIENTS = 500
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
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
        return 0.25 * self.seconds

    @property
    def rolled_back_at(self) -> float:
        return 0.45 * self.seconds

    @property
    def killed_at(self) -> float:
        return 0.65 * self.seconds


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


def main(
    minutes: Annotated[float, typer.Option(min=0.5)] = 10.0,
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Soaks and reports; exits with 1 when a goal is missed."""
    if len(os.sched_getaffinity(0)) < 2:
        raise typer.BadParameter("server and training need a core each; this machine gives one")
    with tempfile.TemporaryDirectory(prefix="medscore-soak-") as folder, on_core(OTHER_CORE):
        console.print("training three models")
        site = Site.prepare(Path(folder))
        report = Report(f"{minutes:g} minutes of 50 requests a second")
        soaked = soak(site, [train_demo(seed) for seed in (1, 2, 3)], Plan(60 * minutes, 50))
        judge(report, site, soaked)
        site.warehouse.close()
    raise typer.Exit(report.finish(json_path))


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


def judge(report: Report, site: Site, soaked: Soaked) -> None:
    """Adds to the report what was seen, and each goal."""
    good = [a for a in soaked.answers if a.status == 200]
    statuses = Counter(a.status for a in soaked.answers)
    ids = [a.body["score_id"] for a in good]
    report.figures |= {
        "answers_by_status": {str(k): v for k, v in sorted(statuses.items())},
        "answers_by_version": dict(sorted(Counter(a.body["model_version"] for a in good).items())),
        "latency_ms": _latency(good),
        "refused_ms": _latency([a for a in soaked.answers if a.status == 503]),
        "memory_mb": _memory(soaked.happened.memory),
        "postgresql_away_s": round(soaked.happened.restarted - soaked.happened.killed, 2),
    }
    _none(report, "answers with another risk than their version's", _wrong(soaked, good))
    _none(report, "connections broken", statuses[0])
    _none(report, "answers but 200 and 503", sum(n for s, n in statuses.items() if s not in (0, 200, 503)))
    _none(report, "503 outside of the restart, or without Retry-After", _unexcused(soaked))
    _stored(report, site, soaked, good, ids)
    _swaps(report, soaked, good)
    growth = _growth(soaked.happened.memory)
    report.within("memory, last tenth against the third", growth, -1e9, GROWTH_MB, "MB")
    found = verify(site.warehouse)
    report.within("audit chain intact", float(found.intact), 1, 1, "")
    report.within("training ran until the end", float(soaked.happened.trained_to_the_end), 1, 1, "")


def _none(report: Report, what: str, number: int) -> None:
    report.within(what, number, 0, 0, "")


def _wrong(soaked: Soaked, good: list[Answer]) -> int:
    return sum(
        int(a.body["model_version"]) not in soaked.champions
        or a.body["readmission_probability"] != soaked.expected[int(a.body["model_version"])][a.patient]
        for a in good
    )


def _unexcused(soaked: Soaked) -> int:
    """503 that no restart explains: begun before the kill and answered before it, or begun after settling."""
    happened = soaked.happened
    settled = happened.restarted + SETTLING_S
    return sum(
        a.status == 503 and not (a.retry_after and a.done >= happened.killed and a.sent <= settled)
        for a in soaked.answers
    )


def _stored(report: Report, site: Site, soaked: Soaked, good: list[Answer], ids: list[str]) -> None:
    """Each 200 has one stored score, one shadow score of the challenger, and one audit event."""
    scores = readmission_scores.c
    rows = {
        r["score_id"]: r
        for r in site.warehouse.read(
            sa.select(scores.score_id, scores.readmission_probability, scores.model_version)
        ).to_pylist()
    }
    shadows = {
        (r["score_id"], r["model_version"]): r["readmission_probability"]
        for r in site.warehouse.read(sa.select(shadow_scores)).to_pylist()
    }
    events = Counter(
        uuid
        for event in site.warehouse.read(sa.select(audit_events.c.event))["event"].to_pylist()
        for uuid in set(_UUID.findall(event))
    )
    _none(report, "score ids given twice", len(ids) - len(set(ids)))
    _none(
        report,
        "200 without its stored score",
        sum(
            a.body["score_id"] not in rows
            or rows[a.body["score_id"]]["readmission_probability"] != a.body["readmission_probability"]
            or str(rows[a.body["score_id"]]["model_version"]) != a.body["model_version"]
            for a in good
        ),
    )
    _none(report, "200 without exactly one audit event", sum(events[i] != 1 for i in ids))
    third = soaked.challenger
    _none(
        report,
        "200 without its score in the shadow",
        sum(shadows.get((a.body["score_id"], third)) != soaked.expected[third][a.patient] for a in good),
    )
    # Committed, but the connection broke before the journal heard of it: the client was told 503.
    report.figures["stored_but_answered_503"] = len(rows.keys() - set(ids))


def _swaps(report: Report, soaked: Soaked, good: list[Answer]) -> None:
    first, second = soaked.champions
    for what, at, old, until in (
        ("promotion", soaked.happened.promoted, first, soaked.happened.rolling_back),
        ("rollback", soaked.happened.rolled_back, second, float("inf")),
    ):
        of_old = (a for a in good if int(a.body["model_version"]) == old)
        # What is still under way when the next move begins may be answered by either.
        late = [a.sent - at for a in of_old if at < a.sent and a.done < until]
        report.within(f"{what} in force after", max(late, default=0.0), 0, SWAP_S, "s")
    versions = {int(a.body["model_version"]) for a in good}
    report.within("versions that answered", len(versions), 2, 2, "")


def _latency(answers: list[Answer]) -> dict[str, float]:
    if not answers:
        return {}
    took = [1e3 * (a.done - a.sent) for a in answers]
    return {n: round(float(np.percentile(took, q)), 2) for n, q in (("p50", 50), ("p99", 99), ("max", 100))}


def _memory(samples: list[tuple[float, float]]) -> dict[str, float]:
    after = samples[len(samples) // 4 :]
    slope = np.polyfit([t / 60 for t, _ in after], [mb for _, mb in after], 1)[0]
    return {
        "first": round(samples[0][1], 1),
        "last": round(samples[-1][1], 1),
        "most": round(max(mb for _, mb in samples), 1),
        "slope_mb_per_minute_after_warm_up": round(float(slope), 3),
    }


def _growth(samples: list[tuple[float, float]]) -> float:
    tenth = max(1, len(samples) // 10)
    return statistics.median(mb for _, mb in samples[-tenth:]) - statistics.median(
        mb for _, mb in samples[2 * tenth : 3 * tenth]
    )


if __name__ == "__main__":
    typer.run(main)
