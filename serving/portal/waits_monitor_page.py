"""The monitor of wait-time models in the browser.

Belongs here: the routes of this page. Does not belong here: reading (`waits_monitor_reading.py`), words
(`waits_monitor_view.py`, `waits_monitor_state.py`), drawings (`waits_monitor_chart.py`).

Waits and how models did are nobody's data: who reads the page is not recorded, whom it refuses is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from medscore_assets.wait_times.bands import ALL_BANDS
from serving.errors import Forbidden, NotFound
from serving.lists import reading
from serving.portal import sessions, waits_monitor_reading, web
from serving.portal import waits_monitor_state as state
from serving.portal import waits_monitor_view as view
from serving.portal.waits_monitor_view import View
from serving.portal.web import Page
from serving.service import service_of
from serving.wait_times import default_of
from serving.wait_times_reading import facilities as all_facilities

router = APIRouter(route_class=Page)

ADDRESS = "/portal/waits"
MAY_MONITOR = ("analyst", "steward")


@router.get("/monitor/waits", response_model=None)
async def short_address(request: Request) -> Response:
    """Goes to the page: sessions are of the portal's addresses. What it does not know it does not repeat."""
    known = await reading(all_facilities, service_of(request).warehouse)
    asked = View.of(request.query_params, list(known)) if known and request.url.query else None
    return RedirectResponse(ADDRESS + (asked.query() if asked else ""), status_code=303)


@router.get(ADDRESS, response_model=None)
async def monitor(request: Request) -> Response:
    """How models did at a facility and band, by default the first one's headline over four weeks."""
    try:
        await sessions.caller(request, *MAY_MONITOR)
    except Forbidden:
        # Recorded where it was refused.
        text = (
            "How wait-time models did is for analysts and stewards. Your role does not allow this page; "
            "whoever gives out roles can change that."
        )
        return web.message(request, "Not for your role", text, 403)
    return await reading(_drawn, request)


def _drawn(request: Request) -> Response:
    service, at = service_of(request), datetime.now(UTC)
    warehouse = service.warehouse
    facilities = all_facilities(warehouse)
    if not facilities:
        text = (
            "There is no emergency department yet. To bring in visits: medscore import ed-visits, "
            "or for made-up ones: medscore demo visits"
        )
        return web.message(request, "Wait times", text, 200)
    asked = View.of(request.query_params, list(facilities))
    if asked is None:
        raise NotFound("There is no such emergency department, band or number of days.")
    facility = facilities[asked.facility]
    shown = waits_monitor_reading.everywhere(warehouse, at, default_of(service))
    answer = shown[asked.facility, asked.band]
    found = waits_monitor_reading.monitored(warehouse, facility, asked.band, asked.days, answer, at)
    made = waits_monitor_reading.history(warehouse, asked.facility, asked.band)
    today = at.astimezone(ZoneInfo(facility.zone)).date()
    compared, reach = view.comparisons(found)
    by_day, by_block = view.coverage_chart(found, asked, today), view.block_chart(found)
    return web.page(
        request,
        "waits_monitor.html",
        title=f"Wait-time models, {facility.name}",
        address=ADDRESS,
        asked=asked,
        facility=facility,
        facilities=facilities,
        bands={band: view.band_name(band) for band in ALL_BANDS},
        choices=view.DAYS,
        found=found,
        current=answer.current,
        standings=view.standings(found),
        columns=view.COLUMNS,
        nominal=view.nominal_at(),
        calibration=view.calibration(found),
        compared=compared,
        reach=reach,
        rule=view.rule(),
        by_day=by_day,
        by_block=by_block,
        posted_groups=view.posted_groups(found),
        levels=state.level_chart(found, asked, today),
        drift=state.drift_sentences(found, at),
        stuck=state.stuck(found.still),
        places=state.places(shown, facilities),
        changes=state.changes(made, facility.zone),
        at=view.moment(at, facility.zone),
    )
