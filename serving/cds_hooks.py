"""CDS Hooks: the readmission risk as a card, where the clinician is, and what became of the card.

Belongs here: discovery, the hook call, feedback, and refusals as OperationOutcome.
Does not belong here: FHIR to features (`fhir_mapping.py`), the card's content (`cds_cards.py`), what is kept
of feedback (`cds_feedback.py`).

The service fetches nothing: `fhirServer` tells whose ids references by address hold, and is forgotten, like
its access token. So there is no outbound call that an address in a request could direct.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from serving import cds_feedback
from serving.access import Caller, requires
from serving.cds_cards import SERVICE_ID, not_scored_card, score_card, services
from serving.cds_schema import (
    HOOKS,
    DischargeContext,
    Feedback,
    HookRequest,
    PatientViewContext,
    Presentation,
)
from serving.errors import (
    FORMS,
    ApiError,
    BadRequest,
    NotFound,
    PreconditionFailed,
    Problem,
    Unprocessable,
    peer_of,
    problems_of,
    responses,
    route_of,
)
from serving.fhir_codes import Codes
from serving.fhir_mapping import NOT_INPATIENT, Mapped, NotScored, Underivable, map_stay
from serving.fhir_resources import Foreign
from serving.journal import AuditEntry
from serving.lists import reading
from serving.openapi import json_body
from serving.scores import Asked, give_score
from serving.service import Service, service_of

router = APIRouter(tags=["CDS Hooks"])

PREFIX = "/cds-services"
MAY_CALL = ("coordinator", "care-manager")
"""Roles that may see one patient's risk."""

_LARGE = 128 * 1024
"""From so many bytes on, a prefetch is read outside of the event loop."""

Context = DischargeContext | PatientViewContext
Model = TypeVar("Model", bound=BaseModel)

_ISSUES = {
    400: "invalid",
    403: "forbidden",
    404: "not-found",
    412: "required",
    413: "too-long",
    422: "invalid",
    429: "throttled",
    503: "transient",
}
"""FHIR's issue-type by status."""


def operation_outcome(error: ApiError) -> tuple[Any, str]:
    """A refusal as FHIR's OperationOutcome, one issue for each problem; no value of the request."""
    code = _ISSUES.get(error.status, "processing")
    issues: list[dict[str, Any]] = [{"severity": "error", "code": code, "diagnostics": error.message}]
    issues += [
        {
            "severity": "error",
            "code": "not-found" if p.type == "not_found" else code,
            "diagnostics": f"{p.location}: {p.message}",
        }
        for p in error.problems
    ]
    return {"resourceType": "OperationOutcome", "issue": issues}, "application/fhir+json"


FORMS[PREFIX] = operation_outcome


def _answers(described: str, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer, for OpenAPI."""
    found: dict[int | str, dict[str, Any]] = {200: {"description": described}}
    for status, told in responses(*statuses).items():
        kept = {name: value for name, value in told.items() if name != "model"}
        found[status] = kept if status == 401 else {**kept, "content": _OUTCOME}
    return found


_OUTCOME = {
    "application/fhir+json": {
        "schema": {
            "type": "object",
            "required": ["resourceType", "issue"],
            "properties": {
                "resourceType": {"const": "OperationOutcome"},
                "issue": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            },
        }
    }
}
_REFUSALS = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the service reads from its two files."""

    presentation: Presentation
    codes: Codes


def rules_of(request: Request) -> Rules:
    """The application's rules."""
    rules: Rules = request.app.state.cds_rules
    return rules


@router.get(
    PREFIX,
    summary="The CDS services",
    response_model=None,
    responses=_answers("The services, with the prefetch that they need.", 405, 429, 500),
)
async def discovery(request: Request) -> Response:
    """The one service, under each hook, with the prefetch that it needs."""
    return _json(services(rules_of(request).presentation))


@router.post(
    f"{PREFIX}/{{service_id}}",
    summary="Cards for a hook",
    response_model=None,
    responses=_answers("The cards; none where there is deliberately no guidance.", *_REFUSALS, 412),
    openapi_extra=json_body(HookRequest),
)
async def call(
    request: Request, service_id: str, caller: Annotated[Caller, Depends(requires(*MAY_CALL))]
) -> Response:
    """The card of one stay.

    412 if a feature cannot be derived from the prefetch, naming what is missing. No cards at all where the
    patient whose record is opened is not in hospital.
    """
    _require_service(service_id)
    body = await request.body()
    asked = _parsed(HookRequest, body)
    context = _context(asked)
    # The token is the record system's; the audit is to say who sat before it.
    caller = replace(caller, subject=context.userId)
    if context.encounterId is None:
        return await _answer(request, caller, context, [])
    rules, service = rules_of(request), service_of(request)
    now = datetime.now(UTC)
    read = functools.partial(
        map_stay,
        asked.prefetch,
        patient_id=context.patientId,
        encounter_id=context.encounterId,
        now=now,
        zone=service.settings.zone,
        codes=rules.codes,
        server=asked.fhirServer,
    )
    try:
        stay = await run_in_threadpool(read) if len(body) > _LARGE else read()
    except (Underivable, Foreign) as error:
        raise await _refused(request, caller, context, _refusal(error)) from None
    if isinstance(stay, NotScored):
        unasked = stay.reason == NOT_INPATIENT and asked.hook == "patient-view"
        cards = [] if unasked else [_info(stay.reason, service, rules.presentation, now)]
        return await _answer(request, caller, context, cards)
    return _cards([await _scored(request, caller, stay, rules.presentation)])


@router.post(
    f"{PREFIX}/{{service_id}}/feedback",
    summary="What became of cards",
    response_model=None,
    responses=_answers("All of it is stored. There is no body.", *_REFUSALS),
    openapi_extra=json_body(Feedback),
)
async def feedback(
    request: Request, service_id: str, caller: Annotated[Caller, Depends(requires(*MAY_CALL))]
) -> Response:
    """Whether cards were followed. The same feedback again changes nothing; comments are not kept.

    422 names each entry whose card or suggestion was never given; the other entries are stored.
    """
    _require_service(service_id)
    items = _parsed(Feedback, await request.body()).feedback
    warehouse = service_of(request).warehouse
    good, problems = await reading(cds_feedback.checked, warehouse, items, caller.client)
    if good:
        # First, so that nothing is stored of which nobody knows.
        cards = sorted({str(item.card) for item in good})
        await _record(request, caller, kind="feedback", entity=cards[0] if len(cards) == 1 else None)
        await reading(cds_feedback.store, warehouse, good, rules_of(request).presentation)
    if problems:
        raise Unprocessable("Entries without a card were not stored; the others were.", problems=problems)
    return Response(status_code=200, headers={"Cache-Control": "no-store"})


async def _scored(
    request: Request, caller: Caller, stay: Mapped, presentation: Presentation
) -> dict[str, Any]:
    asked = Asked(stay.row, stay.encounter_id, stay.patient_id, stay.data_as_of)
    given = await give_score(request, caller, asked, source="cds_hooks")
    service = service_of(request)
    public = service.access.rules.public_url
    link = f"{public}/model-card" if public else None
    return score_card(given, stay, service.policy(), presentation, service.settings.zone, link)


def _info(reason: str, service: Service, presentation: Presentation, now: datetime) -> dict[str, Any]:
    return not_scored_card(reason, service.policy().disclaimer, presentation, now, service.settings.zone)


def _require_service(service_id: str) -> None:
    if service_id != SERVICE_ID:
        raise NotFound("There is no such service.")


def _parsed(model: type[Model], body: bytes) -> Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        if errors[0]["type"] == "json_invalid":
            raise BadRequest(problems=problems_of(errors)) from None
        raise Unprocessable(problems=problems_of(errors)) from None


def _context(asked: HookRequest) -> Context:
    if asked.hook not in HOOKS:
        raise BadRequest("The service is not registered for this hook.", code="unknown_hook")
    try:
        if asked.hook == "patient-view":
            return PatientViewContext.model_validate(asked.context)
        return DischargeContext.model_validate(asked.context)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise Unprocessable(problems=problems_of(errors, within="context")) from None


def _refusal(error: Underivable | Foreign) -> ApiError:
    if isinstance(error, Foreign):
        problem = Problem(
            f"prefetch.{error.key}", "foreign", "Not known to be of the patient of the context."
        )
        return Unprocessable("The prefetch holds resources of somebody else.", problems=[problem])
    problems = [Problem(m.feature, "underivable", f"needs {m.needs}, which {m.why}") for m in error.missing]
    return PreconditionFailed("The score needs data that were not sent or are not clear.", problems=problems)


async def _refused(request: Request, caller: Caller, context: Context, error: ApiError) -> ApiError:
    """The refusal, after it was audited with the patient whom it is about."""
    told = {"kind": "refusal", "outcome": "refused", "reason": error.code}
    await _record(request, caller, status=error.status, context=context, **told)
    error.audited = True
    return error


async def _answer(
    request: Request, caller: Caller, context: Context, cards: Sequence[dict[str, Any]]
) -> Response:
    """Cards without a score, after they were audited."""
    await _record(request, caller, kind="read", context=context)
    return _cards(cards)


async def _record(
    request: Request,
    caller: Caller,
    *,
    kind: str,
    outcome: str = "success",
    status: int = 200,
    context: Context | None = None,
    entity: str | None = None,
    reason: str | None = None,
) -> None:
    entry = AuditEntry(
        kind=kind,
        outcome=outcome,
        caller=caller,
        route=route_of(request.scope),
        request_id=request.state.request_id,
        encounter_id=context.encounterId if context else None,
        patient_id=context.patientId if context else None,
        entity=entity,
        status=status,
        occurred_at=datetime.now(UTC),
        reason=reason,
        address=peer_of(request.scope),
    )
    await service_of(request).journal.record(entry)


def _cards(cards: Sequence[dict[str, Any]]) -> Response:
    return _json({"cards": list(cards)})


def _json(content: Any) -> Response:
    return Response(
        orjson.dumps(content), headers={"Cache-Control": "no-store"}, media_type="application/json"
    )
