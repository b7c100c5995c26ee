"""The morning list in the browser: shown, filtered, printed, and calls entered by one click.

Belongs here: the routes of these pages. Does not belong here: words and order (`list_view.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from resources.warehouse import Warehouse
from serving import lists
from serving.access import Caller
from serving.errors import NotFound, Unprocessable
from serving.lists import ENTERED_HERE, Morning, reading
from serving.outreach import MAY_CALL, no_list, record
from serving.population import MAY_READ
from serving.portal import list_view, sessions, web
from serving.portal.list_view import OUTCOMES, SORTS, STATES, TIER_NAMES, View
from serving.portal.web import Page
from serving.readmission import MAY_SCORE
from serving.service import service_of

router = APIRouter(route_class=Page)

_DAYS = 60
"""So many days can be chosen from."""

UNDO = "undo"
_GONE = "This patient is no longer on the list of that day. Load the page again."

TAKEN_BACK = "call-taken-back"
"""What the audit says of a call that was entered by mistake."""


@router.get("/portal", response_model=None)
async def start(request: Request) -> Response:
    """The newest list; for those who may not see lists, the page that they may see."""
    caller = await sessions.caller(request, *MAY_CALL, *MAY_SCORE, *MAY_READ)
    if caller.roles.isdisjoint(MAY_CALL):
        page = "population" if caller.roles.isdisjoint(MAY_SCORE) else "patient"
        return RedirectResponse(f"/portal/{page}", status_code=303)
    return await _show(request, caller, None, View.of(request.query_params))


@router.get("/portal/lists/{day}", response_model=None)
async def of_a_day(request: Request, day: date) -> Response:
    """The list of one day."""
    caller = await sessions.caller(request, *MAY_CALL)
    return await _show(request, caller, day, View.of(request.query_params))


@router.get("/portal/lists", response_model=None)
async def chosen_day(request: Request) -> Response:
    """Goes to the day that was chosen, without a script."""
    await sessions.caller(request, *MAY_CALL)
    try:
        day = date.fromisoformat(request.query_params.get("day", ""))
    except ValueError:
        raise NotFound("There is no list of that day.") from None
    return RedirectResponse(f"/portal/lists/{day}", status_code=303)


@router.post("/portal/lists/{day}", response_model=None)
async def filtered(request: Request, day: date) -> Response:
    """The list under a filter, without a script: a form keeps the text out of addresses and their logs."""
    caller = await sessions.caller(request, *MAY_CALL)
    form = await web.form_of(request)
    return await _show(request, caller, day, View.of(form, form.get("text", "")))


@router.post("/portal/lists/{day}/calls", response_model=None)
async def mark(request: Request, day: date) -> Response:
    """What came of a call, or that it was entered by mistake; then back to the list."""
    caller = await sessions.caller(request, *MAY_CALL)
    form = await web.form_of(request)
    sessions.require_token(request, form)
    said, warehouse = _read_mark(form.get("mark", "")), service_of(request).warehouse
    patient = await reading(lists.listed_patient, warehouse, day, said.encounter_id)
    if patient is None:
        raise NotFound(_GONE)
    # First, so that nothing is stored of which nobody knows.
    reason = TAKEN_BACK if said.outcome == UNDO else None
    await record(request, caller, "call", day, patient, reason=reason)
    if await reading(_store, warehouse, day, said) is None:
        raise NotFound(_GONE)
    if not web.wants_json(request):
        # By rank: an encounter's id stays out of addresses.
        view = View.of(request.query_params)
        return RedirectResponse(f"/portal/lists/{day}{view.query()}#rank-{patient['rank']}", status_code=303)
    return web.json_answer(await reading(_cell, request, day, patient))


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a button says of a call. The outcome is one of `OUTCOMES`, or `UNDO`."""

    outcome: str
    encounter_id: str
    called_at: datetime


def _read_mark(mark: str) -> _Mark:
    """What a button says: `reached E-1` or `undo 2026-03-03T13:05:00+00:00 E-1`. Raises `Unprocessable`."""
    kind, _, encounter = mark.partition(" ")
    if kind == UNDO:
        at, _, encounter = encounter.partition(" ")
        try:
            called_at = datetime.fromisoformat(at)
        except ValueError:
            raise Unprocessable("This is not a call.") from None
        if called_at.tzinfo is None:
            raise Unprocessable("This is not a call.")
        return _Mark(UNDO, encounter, called_at)
    if kind not in OUTCOMES:
        raise Unprocessable("This is not a call.")
    # Whole minutes: a double click is one call, and a second thought within the minute corrects it.
    called_at = datetime.now(UTC).replace(second=0, microsecond=0)
    return _Mark(kind, encounter, called_at)


def _store(warehouse: Warehouse, day: date, said: _Mark) -> dict[str, Any] | None:
    """Enters or takes back a call. Returns what `listed_patient` does."""
    if said.outcome == UNDO:
        return lists.take_back(warehouse, day, said.encounter_id, said.called_at)
    return lists.enter_call(warehouse, day, said.encounter_id, said.outcome, said.called_at, ENTERED_HERE)


def _cell(request: Request, day: date, patient: dict[str, Any]) -> dict[str, Any]:
    service = service_of(request)
    calls = lists.calls_of(service.warehouse, day, patient["encounter_id"])
    call = list_view.call_state(calls.get(patient["encounter_id"], []), service.settings.zone)
    html = web.render("_call.html", call=call, encounter_id=patient["encounter_id"], outcomes=OUTCOMES)
    said = f"Rank {patient['rank']}: {call.words.lower()}."
    return {"html": html, "state": call.state, "settled": call.settled, "said": said}


async def _show(request: Request, caller: Caller, day: date | None, view: View) -> Response:
    service = service_of(request)
    days = await reading(lists.list_days, service.warehouse, _DAYS)
    morning = await reading(lists.morning_list, service.warehouse, day)
    if morning is None:
        raise NotFound(no_list(days[:7]))
    answer = await run_in_threadpool(_drawn, request, morning, view, days)
    await record(request, caller, "list", morning.day)
    return answer


def _drawn(request: Request, morning: Morning, view: View, days: list[date]) -> Response:
    service = service_of(request)
    settings = service.settings
    due = lists.due_day(datetime.now(UTC), settings.zone, settings.first_day)
    shown = list_view.list_page(morning, view, service.policy(), settings.zone, days=days, due=due)
    place = days.index(shown.day) if shown.day in days else None
    return web.page(
        request,
        "list.html",
        title=f"Discharges of {web.long_day(shown.day)}",
        list=shown,
        view=view,
        wider=replace(view, everybody=True).query(),
        narrower=replace(view, everybody=False).query(),
        address=f"/portal/lists/{quote(str(shown.day))}",
        before=days[place + 1] if place is not None and place + 1 < len(days) else None,
        after=days[place - 1] if place else None,
        tiers=TIER_NAMES,
        states=STATES,
        sorts=SORTS,
        outcomes=OUTCOMES,
        printing=request.query_params.get("print") == "1",
    )
