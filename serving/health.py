"""Whether the service lives, whether it can score, and what it counts.

Belongs here: the probes' routes and the checks behind readiness, each by name.
Does not belong here: mending anything; the parts do that themselves.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import DISCLAIMER
from medscore_assets.tables.serving import audit_events, readmission_scores
from resources.errors import MedscoreError
from resources.warehouse import Warehouse
from serving.errors import ApiError, answers, responses
from serving.service import Service

router = APIRouter(tags=["health"])

DATABASE_SECONDS = 2.0
_REMEMBERED_S = 0.5
"""Probes of several observers share one look at the database."""


_MEASURES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The measures."}
}


class Live(BaseModel):
    """That the process answers."""

    status: Literal["live"] = "live"


class Check(BaseModel):
    """One thing that must be good. `degraded` is worth mending and does not stop the service."""

    name: str
    status: Literal["ok", "degraded", "failed"]
    found: str


class Readiness(BaseModel):
    """Whether the service can score now, and what that rests on."""

    status: Literal["ready", "degraded", "not ready"]
    checks: Annotated[list[Check], Field(min_length=1)]
    disclaimer: Literal[DISCLAIMER] = DISCLAIMER  # type: ignore[valid-type]

    @property
    def ready(self) -> bool:
        """Whether it may be sent requests."""
        return self.status != "not ready"


@dataclass(slots=True)
class _Look:
    """The last look at the database."""

    at: float
    found: Check


@router.get("/health/live", summary="Whether the process answers", responses=responses(405, 500))
async def live() -> Live:
    """Always, if anything answers at all."""
    return Live()


@router.get(
    "/health/ready",
    summary="Whether it can score",
    responses=answers(Readiness, "Not ready.", 503) | responses(405, 500),
)
async def ready(request: Request, response: Response) -> Readiness:
    """Database, champion, its contract and files, warm-up, registry, policy and access; 503 if one fails."""
    found = await readiness(request.app)
    response.status_code = 200 if found.ready else 503
    response.headers["Cache-Control"] = "no-store"
    return found


@router.get(
    "/metrics",
    summary="Measures for Prometheus",
    response_class=Response,
    responses=_MEASURES | responses(405, 500),
)
async def metrics(request: Request) -> Response:
    """Counts and durations by route and status, and the model's version. Nothing of a patient."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def readiness(app: FastAPI) -> Readiness:
    """All checks, now; the database is asked at most twice a second."""
    service: Service = app.state.service
    database = await _database(app, service.warehouse)
    checks = [database, _audit(service), *_model(service), _policy(service), _access(service)]
    found = {check.status for check in checks}
    status = "not ready" if "failed" in found else "degraded" if "degraded" in found else "ready"
    return Readiness(status=status, checks=checks)


async def _database(app: FastAPI, warehouse: Warehouse) -> Check:
    last: _Look | None = getattr(app.state, "database_look", None)
    if last is None or time.monotonic() - last.at > _REMEMBERED_S:
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                await run_in_threadpool(_ask, warehouse)
            found = Check(name="database", status="ok", found="answers, with the API's tables")
        except TimeoutError:
            found = Check(name="database", status="failed", found="does not answer in time")
        except MedscoreError as error:
            found = Check(name="database", status="failed", found=error.what)
        app.state.database_look = last = _Look(time.monotonic(), found)
    return last.found


def _ask(warehouse: Warehouse) -> None:
    with warehouse.transaction() as connection:
        for table in (readmission_scores, audit_events):
            connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1))


def _audit(service: Service) -> Check:
    if service.journal.sound:
        return Check(name="audit", status="ok", found="entries are recorded")
    return Check(name="audit", status="failed", found="entries are not recorded, so nothing is answered")


def _model(service: Service) -> list[Check]:
    state = service.champions.state()
    try:
        serving = service.champions.current()
    except ApiError:
        because = state.refused or f"the registry {state.registry}"
        waiting = [Check(name="champion", status="failed", found=f"none is loaded: {because}")]
        return waiting + [
            Check(name=name, status="failed", found="no champion")
            for name in ("contract hash", "file hash", "warm-up")
        ]
    same = serving.model.manifest.contract_hash == READMISSION.hash
    return [
        _champion(serving.version, state.refused),
        Check(
            name="contract hash",
            status="ok" if same else "failed",
            found=f"{READMISSION.hash[:12]}, the model's and this code's" if same else "differs",
        ),
        Check(name="file hash", status="ok", found="every file is what its manifest says"),
        Check(name="warm-up", status="ok", found="scored and explained"),
        Check(
            name="registry",
            status="ok" if state.confirmed and state.registry == "ok" else "degraded",
            found=f"version {serving.version} is the champion"
            if state.confirmed and state.registry == "ok"
            else f"version {serving.version} goes on: the registry {state.registry}",
        ),
    ]


def _champion(version: int, refused: str | None) -> Check:
    if refused is None:
        return Check(name="champion", status="ok", found=f"version {version}")
    return Check(
        name="champion",
        status="degraded",
        found=f"version {version} goes on: the new champion was refused: {refused}",
    )


def _policy(service: Service) -> Check:
    policy = service.policy()
    if getattr(service.policy, "refused", None):
        return Check(
            name="policy",
            status="degraded",
            found=f"version {policy.version} goes on: the changed file is not valid",
        )
    return Check(name="policy", status="ok", found=f"version {policy.version}, {policy.hash[:12]}")


def _access(service: Service) -> Check:
    return Check(name="access", status="ok", found=service.access.says)
