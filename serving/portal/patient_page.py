"""The form for one patient: the risk as the fields change, and a score that is kept on request.

Belongs here: the routes of these pages. Does not belong here: fields (`patient_form.py`), words and bars
(`risk_view.py`), how a score is stored (`serving/scores.py`).

What is shown while somebody fills in the form is audited like every answer, and not stored: half a dozen
scores of one patient, most of them of fields on their way to something else, would be nobody's score. A
score is stored when it is saved, and then has an id.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import APIRouter, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import RedirectResponse, Response

from medscore_assets.readmission.single import score_one
from serving.access import Caller
from serving.errors import Conflict, NotFound, Unavailable, Unprocessable, peer_of, refuse, route_of
from serving.journal import AuditEntry
from serving.lists import reading
from serving.portal import sessions, web
from serving.portal.list_view import moment
from serving.portal.patient_form import INPUTS, Filled, read_form, texts_of
from serving.portal.risk_view import Risk, risk_of, risk_of_row
from serving.portal.web import Page
from serving.readmission import MAY_SCORE, Name, audit_read
from serving.scores import Asked, give_score, stored_score, stored_under
from serving.service import service_of

router = APIRouter(route_class=Page)

_NAMES = {"encounter_id": "Encounter", "patient_id": "Patient"}
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_BAD_NAME = "At most 200 characters, all of them visible."

_NOTHING = Filled({}, {}, {field.name: "" for field in INPUTS})


@router.get("/portal/patient", response_model=None)
async def empty(request: Request) -> Response:
    """The empty form."""
    await sessions.caller(request, *MAY_SCORE)
    return _form(request, _NOTHING, {}, dict.fromkeys(_NAMES, ""))


@router.post("/portal/patient", response_model=None)
async def filled(request: Request) -> Response:
    """The risk of what was filled in: shown, or with `do=save` stored."""
    caller = await sessions.caller(request, *MAY_SCORE)
    form = await web.form_of(request)
    sessions.require_token(request, form)
    read = read_form(form)
    names, bad_names = _read_names(form)
    if read.problems or bad_names:
        return await _invalid(request, form, read, names, bad_names)
    if form.get("do") == "save":
        return await _save(request, caller, form, read, names)
    risk = await _preview(request, caller, read, names)
    if web.wants_json(request):
        return web.json_answer({"html": web.render("_risk.html", risk=risk), "said": risk.said})
    return _form(request, read, {}, names, risk=risk)


@router.get("/portal/scores/{score_id}", response_model=None)
async def saved(request: Request, score_id: uuid.UUID) -> Response:
    """A score that was stored."""
    caller = await sessions.caller(request, *MAY_SCORE)
    service = service_of(request)
    row = await reading(stored_score, service.warehouse, str(score_id))
    if row is None:
        raise NotFound("There is no such score.")
    answer = web.page(
        request,
        "score.html",
        title="A saved score",
        risk=risk_of_row(row, service.policy()),
        row=row,
        scored=moment(row["scored_at"], service.settings.zone),
        fields=texts_of(row),
    )
    await audit_read(request, caller, row)
    return answer


async def _preview(request: Request, caller: Caller, read: Filled, names: dict[str, str]) -> Risk:
    service = service_of(request)
    serving, policy = service.champions.current(), service.policy()
    score = score_one(read.features, serving.model, serving.version, policy)
    entry = AuditEntry(
        kind="score",
        outcome="success",
        caller=caller,
        route=route_of(request.scope),
        request_id=request.state.request_id,
        encounter_id=names["encounter_id"] or None,
        patient_id=names["patient_id"] or None,
        entity=None,
        status=200,
        occurred_at=datetime.now(UTC),
        address=peer_of(request.scope),
    )
    await service.journal.record(entry)
    request.app.state.metrics.scored("portal", score.tier)
    return risk_of(score, policy)


async def _save(
    request: Request, caller: Caller, form: dict[str, str], read: Filled, names: dict[str, str]
) -> Response:
    """Stores the score once, however often the button was pressed, and shows it under its own address."""
    said = orjson.dumps([form.get("form", ""), read.features, names], option=orjson.OPT_SORT_KEYS)
    key = f"portal-{hashlib.sha256(said).hexdigest()}"
    asked = Asked(read.features, names["encounter_id"] or None, names["patient_id"] or None)
    try:
        given = await give_score(request, caller, asked, source="portal", idempotency_key=key)
        score_id = given.score_id
    except Conflict:
        row = await reading(stored_under, service_of(request).warehouse, caller.client, key)
        if row is None:
            raise
        await audit_read(request, caller, row, kind="score")
        score_id = row["score_id"]
    return RedirectResponse(f"/portal/scores/{score_id}", status_code=303)


async def _invalid(
    request: Request, form: dict[str, str], read: Filled, names: dict[str, str], bad_names: dict[str, str]
) -> Response:
    refused = await refuse(request, Unprocessable())
    if refused.status_code == 503:
        raise Unavailable()
    problems = read.problems | bad_names
    if web.wants_json(request):
        return web.json_answer({"problems": problems, "said": "Some fields are not valid."}, 422)
    return _form(request, read, problems, names, status=422)


def _read_names(form: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    names, problems = {}, {}
    for name in _NAMES:
        text = form.get(name, "").strip()
        try:
            names[name] = _NAME.validate_python(text) if text else ""
        except ValidationError:
            names[name], problems[name] = text[:200], _BAD_NAME
    return names, problems


def _form(
    request: Request,
    read: Filled,
    problems: dict[str, str],
    names: dict[str, str],
    *,
    risk: Risk | None = None,
    status: int = 200,
) -> Response:
    values: dict[str, Any] = {
        "inputs": INPUTS,
        "texts": read.texts,
        "problems": problems,
        "names": [(name, label, names[name]) for name, label in _NAMES.items()],
        "risk": risk,
        "form_id": secrets.token_urlsafe(12),
    }
    return web.page(request, "patient.html", status, title="One patient's risk", **values)
