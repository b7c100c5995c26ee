"""The morning list for programs: read page by page, and the calls made from it entered.

Belongs here: request and answer of these routes. Does not belong here: reading and writing (`lists.py`).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from medscore_assets.readmission.outcomes import CALL_OUTCOMES
from medscore_assets.readmission.policy import DISCLAIMER, Tier
from serving import lists
from serving.access import Caller, requires
from serving.errors import BadRequest, NotFound, Unprocessable, peer_of, problems_of, responses, route_of
from serving.lists import Morning, reading
from serving.openapi import json_body
from serving.service import service_of

router = APIRouter(tags=["outreach"])

MAY_CALL = ("care-manager",)
"""Roles that may see a whole list and enter calls."""

MOST_AT_ONCE = 1000
_DAYS_TOLD = 7
_SOURCE = "api"
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_CLOCKS_APART = timedelta(minutes=5)


def _credible(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= datetime.now(UTC) + _CLOCKS_APART:
        raise ValueError("is before the year 2000 or in the future")
    return moment


Outcome = Literal[CALL_OUTCOMES]  # type: ignore[valid-type]


class OutreachFactor(BaseModel):
    """One of the strongest reasons, in log-odds against the average patient."""

    feature: str
    value: int | str | bool
    contribution: float
    direction: Literal["raises", "lowers", "neutral"]
    text: str = Field(description="In plain words.")


class OutreachCall(BaseModel):
    """What came of one call: called without an answer, reached, or declined."""

    outcome: Outcome
    called_at: AwareDatetime


class OutreachPatient(BaseModel):
    """One patient to call."""

    rank: Annotated[int, Field(ge=1)] = Field(description="1 is called first.")
    within_capacity: bool = Field(description="Whether the day's calls reach this rank.")
    encounter_id: str
    patient_id: str
    hospital_id: str
    discharged_at: AwareDatetime
    readmission_probability: Annotated[float, Field(ge=0, le=1)]
    risk_tier: Tier
    top_factors: list[OutreachFactor]
    recommended_actions: Annotated[list[str], Field(min_length=1)]
    disclaimer: Literal[DISCLAIMER]  # type: ignore[valid-type]
    scored_at: AwareDatetime
    calls: list[OutreachCall] = Field(description="Calls so far, the earliest first.")


class OutreachHeader(BaseModel):
    """How the list came about. Every discharge is superseded, quarantined, excluded or scored."""

    score_date: date
    window_start: AwareDatetime
    window_end: AwareDatetime
    published_at: AwareDatetime
    events: int
    superseded: int
    quarantined: int
    excluded: int
    scored: int
    model_name: str
    model_version: str
    contract_hash: str
    policy_version: str
    policy_hash: str


class OutreachAnswer(BaseModel):
    """A page of a morning list, by rank."""

    model_config = ConfigDict(extra="forbid")

    disclaimer: Literal[DISCLAIMER]  # type: ignore[valid-type]
    notice: str | None = Field(default=None, description="What the policy adds to the disclaimer.")
    header: OutreachHeader
    patients: list[OutreachPatient]
    next_after_rank: int | None = Field(description="Ask with it for the next page; null on the last one.")


class CallRequest(BaseModel):
    """A call about an encounter on the list."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    encounter_id: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    outcome: Outcome
    called_at: Annotated[AwareDatetime, AfterValidator(_credible)] | None = Field(
        default=None, description="When, with its offset; by default now. The same again corrects that call."
    )


class CallAnswer(BaseModel):
    """The call as it is stored."""

    encounter_id: str
    outcome: Outcome
    called_at: AwareDatetime


AfterRank = Annotated[int, Query(ge=0, le=2**31 - 1, description="Ranks behind this one.")]
Limit = Annotated[int, Query(ge=1, le=MOST_AT_ONCE, description="How many patients at most.")]
CareManager = Annotated[Caller, Depends(requires(*MAY_CALL))]

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": OutreachAnswer, "description": "A page of the list."}
}
_LIST_RESPONSES = _ANSWERS | responses(401, 403, 404, 405, 422, 429, 500, 503)
_STORED: dict[int | str, dict[str, Any]] = {200: {"model": CallAnswer, "description": "The call is stored."}}
_CALL_RESPONSES = _STORED | responses(400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503)


@router.get(
    "/v1/outreach/latest", summary="The newest morning list", response_model=None, responses=_LIST_RESPONSES
)
async def newest(
    request: Request, caller: CareManager, after_rank: AfterRank = 0, limit: Limit = 200
) -> Response:
    """The newest list that was published, whatever its day.

    Pages are of one list only if their `published_at` is the same: between two requests another list may be
    published, or this one anew. Then begin again with the first page.
    """
    return await _page(request, caller, None, after_rank, limit)


@router.get("/v1/outreach/{date}", summary="A morning list", response_model=None, responses=_LIST_RESPONSES)
async def of_a_day(
    request: Request,
    caller: CareManager,
    day: Annotated[date, Path(alias="date", description="The day on which the list's window opens.")],
    after_rank: AfterRank = 0,
    limit: Limit = 200,
) -> Response:
    """Who to call about their discharge in the window of that day, in which order, why, and what to do."""
    return await _page(request, caller, day, after_rank, limit)


@router.post(
    "/v1/outreach/{date}/calls",
    summary="Enter a call",
    response_model=None,
    responses=_CALL_RESPONSES,
    openapi_extra=json_body(CallRequest, reached={"encounter_id": "E-1001", "outcome": "reached"}),
)
async def call(
    request: Request,
    caller: CareManager,
    day: Annotated[date, Path(alias="date", description="The day of the list.")],
) -> Response:
    """Store what came of a call. A call is known by encounter and time: the same again corrects it."""
    asked = _asked(await request.body())
    at = (asked.called_at or datetime.now(UTC)).astimezone(UTC)
    warehouse = service_of(request).warehouse
    patient = await reading(lists.listed_patient, warehouse, day, asked.encounter_id)
    if patient is None:
        raise NotFound("The encounter is not on that list.")
    # First, so that nothing is stored of which nobody knows.
    await record(request, caller, "call", day, patient)
    stored = await reading(lists.enter_call, warehouse, day, asked.encounter_id, asked.outcome, at, _SOURCE)
    if stored is None:
        raise NotFound("The encounter is not on that list.")
    return answer(CallAnswer(encounter_id=asked.encounter_id, outcome=asked.outcome, called_at=at))


def _asked(body: bytes) -> CallRequest:
    try:
        return CallRequest.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        if errors[0]["type"] == "json_invalid":
            raise BadRequest(problems=problems_of(errors)) from None
        raise Unprocessable(problems=problems_of(errors)) from None


async def _page(request: Request, caller: Caller, day: date | None, after_rank: int, limit: int) -> Response:
    warehouse = service_of(request).warehouse
    # One more than asked for tells whether there is a next page.
    found = await reading(lists.morning_list, warehouse, day, after_rank=after_rank, limit=limit + 1)
    if found is None:
        raise NotFound(no_list(await reading(lists.list_days, warehouse, _DAYS_TOLD)))
    told = await reading(_told, found, limit)
    await record(request, caller, "list", found.day)
    return answer(told)


def _told(found: Morning, limit: int) -> OutreachAnswer:
    patients = found.patients[:limit]
    more = len(found.patients) > limit
    text = patients[0]["disclaimer"] if patients else DISCLAIMER
    return OutreachAnswer(
        disclaimer=DISCLAIMER,
        notice=text.removeprefix(DISCLAIMER).strip() or None,
        header=OutreachHeader(**found.header | {"model_version": str(found.header["model_version"])}),
        patients=[_patient(found, row) for row in patients],
        next_after_rank=patients[-1]["rank"] if more else None,
    )


def _patient(found: Morning, row: dict[str, Any]) -> OutreachPatient:
    calls = [
        OutreachCall(outcome=c.outcome, called_at=c.called_at)
        for c in found.calls.get(row["encounter_id"], [])
    ]
    return OutreachPatient(**row | {"disclaimer": DISCLAIMER, "calls": calls})


def no_list(days: list[date]) -> str:
    """The sentence for a day without a list; it names the days that have one."""
    if not days:
        return "No list was published yet."
    return f"There is no list of that day. The newest lists are of {', '.join(map(str, days))}."


async def record(
    request: Request,
    caller: Caller,
    kind: str,
    day: date,
    patient: dict[str, Any] | None = None,
    *,
    reason: str | None = None,
) -> None:
    """Records that a list was read, or a call entered. Raises `Unavailable` if that cannot be recorded.

    `reason` is a code that goes into the audit.
    """
    from serving.journal import AuditEntry

    entry = AuditEntry(
        kind=kind,
        outcome="success",
        caller=caller,
        route=route_of(request.scope),
        request_id=request.state.request_id,
        encounter_id=patient["encounter_id"] if patient else None,
        patient_id=patient["patient_id"] if patient else None,
        entity=str(day),
        status=200,
        occurred_at=datetime.now(UTC),
        reason=reason,
        address=peer_of(request.scope),
    )
    await service_of(request).journal.record(entry)


def answer(told: BaseModel) -> Response:
    """The JSON that nobody between here and the client keeps."""
    body = orjson.dumps(told.model_dump(mode="json"))
    return Response(body, headers={"Cache-Control": "no-store"}, media_type="application/json")
