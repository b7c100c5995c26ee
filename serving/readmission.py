"""One patient's readmission risk: asked for with the ten features, or read again by its id.

Belongs here: request and answer of the two routes, and the key under which a client repeats a request.
Does not belong here: how a score is made, stored and audited (`scores.py`).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from weakref import WeakValueDictionary

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.contracts.schemas import request_model
from medscore_assets.readmission.policy import DISCLAIMER, Tier
from serving import examples
from serving.access import Caller, requires
from serving.audit import AuditEntry
from serving.errors import (
    ApiError,
    BadRequest,
    Conflict,
    NotFound,
    Unavailable,
    Unprocessable,
    answers,
    peer_of,
    problems_of,
    refuse,
    responses,
    route_of,
)
from serving.journal import IdempotencyConflict
from serving.openapi import json_body
from serving.scores import Asked, give_score, score_row, stored_score, stored_under
from serving.service import service_of

MAY_SCORE = ("coordinator", "care-manager")
"""Roles that may see one patient's risk."""

_MAY_SCORE = requires(*MAY_SCORE)
_PREDICT = "/v1/readmission/predict"
_PLAIN_QUERIES = {b"": True, b"explain=true": True, b"explain=false": False}


router = APIRouter(tags=["readmission"])

_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_CLOCKS_APART = timedelta(minutes=5)


def _credible(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= datetime.now(UTC) + _CLOCKS_APART:
        raise ValueError("is before the year 2000 or in the future")
    return moment.astimezone(UTC)


Name = Annotated[
    str,
    Field(
        max_length=200,
        # No control characters, which databases and logs stumble over, and no space at the ends.
        pattern=r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$",
    ),
]

ReadmissionRequest: Any = create_model(
    "ReadmissionRequest",
    __base__=request_model(READMISSION),
    __doc__="The ten features of one patient at discharge, all required, and what they belong to.",
    encounter_id=(Name | None, Field(default=None, description="The hospital stay, for the record.")),
    patient_id=(Name | None, Field(default=None, description="The patient, for the record.")),
    data_as_of=(
        Annotated[AwareDatetime, AfterValidator(_credible)] | None,
        Field(
            default=None,
            description="From when the features are, with its offset: from the year 2000 until now.",
        ),
    ),
)


class ReadmissionFactor(BaseModel):
    """What one feature does to the score, in log-odds against the average patient."""

    feature: str
    value: int | str | bool
    contribution: float
    direction: Literal["raises", "lowers", "neutral"]
    text: str = Field(description="In plain words.")


class ReadmissionResponse(BaseModel):
    """The score of one patient, as it was stored."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": examples.RESPONSE})

    readmission_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        description="Calibrated probability of readmission within 30 days of discharge."
    )
    risk_tier: Tier = Field(description="Follows from the probability by the policy.")
    recommended_actions: Annotated[list[str], Field(min_length=1)]
    disclaimer: Literal[DISCLAIMER]  # type: ignore[valid-type]
    notice: str | None = Field(default=None, description="What the policy adds to the disclaimer.")
    score_id: uuid.UUID
    scored_at: AwareDatetime
    data_as_of: AwareDatetime | None = None
    encounter_id: str | None = None
    patient_id: str | None = None
    model_name: str
    model_version: str
    contract_hash: str
    policy_version: str
    policy_hash: str
    baseline: float = Field(
        description="Log-odds of the average patient, from which the contributions start."
    )
    explanation: list[ReadmissionFactor] | None = Field(
        default=None,
        description="All ten features, the strongest first; with the baseline they add up to the logit of "
        "the probability. Absent with explain=false.",
    )


_REFUSALS = responses(400, 401, 403, 405, 408, 413, 415, 422, 429, 500, 503)


@router.post(
    _PREDICT,
    summary="Score one patient",
    response_model=None,
    responses=answers(ReadmissionResponse, "The score.") | responses(409) | _REFUSALS,
    openapi_extra=json_body(ReadmissionRequest, discharge=examples.REQUEST),
)
async def predict(
    request: Request,
    caller: Annotated[Caller, Depends(_MAY_SCORE)],
    explain: Annotated[bool, Query(description="Whether to explain the score.")] = True,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=200,
            pattern=r"^[\x21-\x7e]+$",
            description="The client's name for this request. Repeated, it gives the score of the first time.",
        ),
    ] = None,
) -> Response:
    """The calibrated 30-day readmission risk, its tier, its reasons and the next steps.

    The answer leaves only after the score and the audit entry are stored. With `Idempotency-Key` a request
    may be repeated: the same key and features give the same score, explained or not, the same key with
    others a 409.
    """
    asked = _asked(await request.body())
    give = functools.partial(give_score, request, caller, asked, source="api")
    if idempotency_key is None:
        # Written while PostgreSQL commits.
        prepared: list[Response] = []
        await give(explain=explain, meanwhile=lambda row: prepared.append(_answer(_told(row))))
        return prepared[0]
    async with _alone(f"{caller.client} {idempotency_key}"):
        earlier = await _earlier(request, caller, asked, idempotency_key, explain)
        if earlier is None:
            try:
                # Always explained: whoever repeats the request may want to know why.
                given = await give(idempotency_key=idempotency_key)
                return _answer(_told(score_row(given, "api", "", None), explain))
            except IdempotencyConflict:
                # Another process was first.
                earlier = await _earlier(request, caller, asked, idempotency_key, explain)
        if earlier is None:
            raise Unavailable()
        await audit_read(request, caller, earlier, kind="score")
        return _answer(_told(earlier, explain))


class Straight:
    """Takes a prediction whose parameters are the usual ones straight to its function, as an ASGI middleware.

    Looking for the route and reading its parameters costs more than the score. Any other request takes
    FastAPI's way. The innermost middleware: what holds for every request has been seen to.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        explain = _usual(scope)
        if explain is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = _PREDICT_ROUTE
        request = Request(scope, receive)
        try:
            response = await predict(request, await _MAY_SCORE(request), explain)
        except ApiError as error:
            response = await refuse(request, error)
        await response(scope, receive, send)


_PREDICT_ROUTE = router.routes[0]


def _usual(scope: Scope) -> bool | None:
    """Whether a usual prediction is to be explained; `None` for any other request."""
    if scope["type"] != "http" or scope["path"] != _PREDICT or scope["method"] != "POST":
        return None
    if any(name == b"idempotency-key" for name, _ in scope["headers"]):
        return None
    return _PLAIN_QUERIES.get(scope["query_string"])


@router.get(
    "/v1/readmission/scores/{score_id}",
    summary="A score as it was given",
    response_model=None,
    responses=answers(ReadmissionResponse, "The score.") | responses(401, 403, 404, 405, 422, 429, 500, 503),
)
async def score(
    request: Request, score_id: uuid.UUID, caller: Annotated[Caller, Depends(requires(*MAY_SCORE))]
) -> Response:
    """A score that was given earlier, as it was given, under whatever model and policy that was."""
    found = await run_in_threadpool(stored_score, service_of(request).warehouse, str(score_id))
    if found is None:
        raise NotFound()
    await audit_read(request, caller, found)
    return _answer(_told(found))


async def _earlier(
    request: Request, caller: Caller, asked: Asked, key: str, explain: bool
) -> dict[str, Any] | None:
    """The score that was given under a key. Raises `Conflict` if it was another request's."""
    found = await run_in_threadpool(stored_under, service_of(request).warehouse, caller.client, key)
    if found is not None and _fingerprint(asked) != _fingerprint_of_row(found):
        raise Conflict("The key was used for another request.")
    if found is not None and explain and not found["explanation"]["factors"]:
        raise Conflict("The key was used for a request without an explanation.")
    return found


async def audit_read(request: Request, caller: Caller, row: dict[str, Any], *, kind: str = "read") -> None:
    """Records that somebody saw a stored score again. Raises `Unavailable` if that cannot be recorded."""
    entry = AuditEntry(
        kind=kind,
        outcome="success",
        caller=caller,
        route=route_of(request.scope),
        request_id=request.state.request_id,
        encounter_id=row["encounter_id"],
        patient_id=row["patient_id"],
        entity=row["score_id"],
        status=200,
        occurred_at=datetime.now(UTC),
        address=peer_of(request.scope),
    )
    await service_of(request).journal.record(entry)


def _asked(body: bytes) -> Asked:
    """The request in a body. Raises `BadRequest` if it is not JSON and `Unprocessable` if it is not valid."""
    try:
        found = ReadmissionRequest.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        if errors[0]["type"] == "json_invalid":
            raise BadRequest(problems=problems_of(errors)) from None
        raise Unprocessable(problems=problems_of(errors)) from None
    said = found.__dict__
    features = {name: said[name] for name in READMISSION.feature_names}
    return Asked(features, said["encounter_id"], said["patient_id"], said["data_as_of"])


def _told(row: Mapping[str, Any], explain: bool = True) -> dict[str, Any]:
    """The answer for a row of `readmission_scores`; what was not said or asked for is left out."""
    told = {
        "readmission_probability": row["readmission_probability"],
        "risk_tier": row["risk_tier"],
        "recommended_actions": row["recommended_actions"],
        "disclaimer": DISCLAIMER,
        "notice": row["disclaimer"].removeprefix(DISCLAIMER).strip() or None,
        "score_id": row["score_id"],
        "scored_at": row["scored_at"],
        "data_as_of": row["data_as_of"],
        "encounter_id": row["encounter_id"],
        "patient_id": row["patient_id"],
        "model_name": row["model_name"],
        "model_version": str(row["model_version"]),
        "contract_hash": row["contract_hash"],
        "policy_version": row["policy_version"],
        "policy_hash": row["policy_hash"],
        "baseline": row["explanation"]["baseline"],
        "explanation": (row["explanation"]["factors"] or None) if explain else None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _answer(told: dict[str, Any]) -> Response:
    # Nobody between here and the client keeps a patient's score.
    return Response(orjson.dumps(told), headers={"Cache-Control": "no-store"}, media_type="application/json")


def _fingerprint(asked: Asked) -> str:
    said = {
        **{name: asked.features[name] for name in READMISSION.feature_names},
        "encounter_id": asked.encounter_id,
        "patient_id": asked.patient_id,
        "data_as_of": asked.data_as_of.astimezone(UTC) if asked.data_as_of else None,
    }
    return hashlib.sha256(orjson.dumps(said)).hexdigest()


def _fingerprint_of_row(row: dict[str, Any]) -> str:
    return _fingerprint(Asked(row, row["encounter_id"], row["patient_id"], row["data_as_of"]))


_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


@asynccontextmanager
async def _alone(name: str) -> AsyncIterator[None]:
    """One request of a name at a time; a lock is forgotten with the last who waits for it."""
    lock = _locks.get(name)
    if lock is None:
        lock = _locks[name] = asyncio.Lock()
    async with lock:
        yield
