"""A patient's mobility in the browser: 90 days of steps, the forecasts and their reasons.

Belongs here: the routes of these pages. Does not belong here: forecasts (`serving/mobility_forecasts.py`),
words (`mobility_view.py`), the drawing (`mobility_chart.py`).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from urllib.parse import quote

from fastapi import APIRouter, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import RedirectResponse, Response

from serving.access import Caller
from serving.audit import AuditEntry
from serving.errors import NotFound, PreconditionFailed, Unavailable, Unprocessable, peer_of, refuse, route_of
from serving.lists import reading
from serving.mobility import MAY_FORECAST, mobility_of, require_no_future
from serving.mobility_forecasts import DISCLAIMER, Told
from serving.mobility_lake import History
from serving.portal import mobility_view, sessions, web
from serving.portal.list_view import moment
from serving.portal.mobility_chart import HISTORY_DAYS, chart_of
from serving.portal.web import Page
from serving.readmission import Name
from serving.service import service_of

router = APIRouter(route_class=Page)

ADDRESS = "/portal/mobility"
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_DAY: TypeAdapter[date] = TypeAdapter(date)
_BAD_NAME = "At most 200 characters, all of them visible."


@router.get(ADDRESS, response_model=None)
async def search(request: Request) -> Response:
    """The box for a patient's id."""
    await sessions.caller(request, *MAY_FORECAST)
    return _empty(request)


@router.post(ADDRESS, response_model=None)
async def found(request: Request) -> Response:
    """Goes to the page of the patient that was typed; it says whether there is one."""
    await sessions.caller(request, *MAY_FORECAST)
    form = await web.form_of(request)
    sessions.require_token(request, form)
    try:
        patient_id = _NAME.validate_python(form.get("patient_id", "").strip())
    except ValidationError:
        if (await refuse(request, Unprocessable())).status_code == 503:
            raise Unavailable() from None
        return _empty(request, problem=_BAD_NAME, status=422)
    return RedirectResponse(f"{ADDRESS}/{quote(patient_id, safe='')}", status_code=303)


@router.get(ADDRESS + "/{patient_id:path}", response_model=None)
async def patient(request: Request, patient_id: str) -> Response:
    """A patient's steps and forecasts as of today, or as of `?day=`; without enough data, what is missing."""
    caller = await sessions.caller(request, *MAY_FORECAST)
    try:
        patient_id = _NAME.validate_python(patient_id)
        said = request.query_params.get("day")
        asked = _DAY.validate_python(said) if said else None
    except ValidationError:
        raise NotFound("There is no such patient.") from None
    mobility = mobility_of(request)
    require_no_future(mobility, asked)
    forecasts, missing = await _forecasts(request, patient_id, asked)
    day = forecasts[0].forecast_day if forecasts else asked or mobility.today()
    history = await _history(request, patient_id, day)
    drawn = await reading(_drawn, request, patient_id, day, forecasts, missing, history)
    await _record(request, caller, patient_id, day, computed=any(told.computed for told in forecasts))
    return drawn


async def _forecasts(request: Request, patient_id: str, asked: date | None) -> tuple[list[Told], str | None]:
    """The forecasts, or what they lack; a patient of whom nothing is known is `NotFound`."""
    try:
        return await reading(mobility_of(request).forecasts, patient_id, asked), None
    except PreconditionFailed as error:
        return [], error.message


async def _history(request: Request, patient_id: str, day: date) -> History | None:
    """The days of steps; None if the lake cannot be reached."""
    first = day - timedelta(days=HISTORY_DAYS)
    try:
        return await reading(mobility_of(request).history, patient_id, first, day - timedelta(days=1))
    except Unavailable:
        return None


def _drawn(
    request: Request,
    patient_id: str,
    day: date,
    forecasts: list[Told],
    missing: str | None,
    history: History | None,
) -> Response:
    row = forecasts[0].row if forecasts else None
    today = mobility_of(request).today()
    return web.page(
        request,
        "mobility.html",
        title="Mobility of a patient",
        patient_id=patient_id,
        problem=None,
        day=day,
        row=row,
        made=moment(row["made_at"], service_of(request).settings.zone) if row else None,
        cohort=mobility_view.cohort_of(row) if row else None,
        stale=forecasts[0].age_days if forecasts else 0,
        forecasts=[mobility_view.forecast_of(told, today) for told in forecasts],
        missing=missing,
        chart=chart_of(history.rows, forecasts, day) if history else None,
        quality=mobility_view.quality(history, day) if history else [],
        days=mobility_view.day_rows(history.rows, day) if history else [],
        kinds=mobility_view.KINDS,
        disclaimer=DISCLAIMER,
    )


def _empty(request: Request, *, problem: str | None = None, status: int = 200) -> Response:
    return web.page(
        request, "mobility.html", status, title="Mobility of a patient", patient_id="", problem=problem
    )


async def _record(request: Request, caller: Caller, patient_id: str, day: date, *, computed: bool) -> None:
    """Records that somebody saw the page. Raises `Unavailable` if that cannot be recorded."""
    entry = AuditEntry(
        kind="score" if computed else "read",
        outcome="success",
        caller=caller,
        route=route_of(request.scope),
        request_id=request.state.request_id,
        encounter_id=None,
        patient_id=patient_id,
        entity=f"mobility of {day}",
        status=200,
        occurred_at=datetime.now(UTC),
        address=peer_of(request.scope),
    )
    await service_of(request).journal.record(entry)
