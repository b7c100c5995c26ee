"""The population report in the browser: cubes, filtered and sorted, and the report's files.

Belongs here: the routes of these pages. Does not belong here: words and order (`population_view.py`), and
what may be shown (`serving/population_reports.py`).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from medscore_assets.readmission.policy import DISCLAIMER
from serving import population_reports as reports
from serving.access import Caller
from serving.errors import Forbidden, NotFound
from serving.lists import reading
from serving.population import MAY_READ, MOST_QUARTERS, file_answer, no_report, record, report_of
from serving.population_reports import Row
from serving.portal import population_view, sessions, web
from serving.portal.population_view import COLUMN_NAMES, TABS, View
from serving.portal.web import Page
from serving.service import service_of

router = APIRouter(route_class=Page)

ADDRESS = "/portal/population"


@router.get("/population", response_model=None)
async def short_address(request: Request) -> Response:
    """Goes to the page: sessions are of the portal's addresses."""
    return RedirectResponse(ADDRESS, status_code=303)


@router.get("/portal/population", response_model=None)
async def newest(request: Request) -> Response:
    """The newest quarter, or the one that was chosen without a script."""
    caller = await _reader(request)
    if isinstance(caller, Response):
        return caller
    quarter = request.query_params.get("quarter", "")
    if quarter:
        found = await report_of(request, quarter)
        query = View.of(request.query_params).query()
        return RedirectResponse(f"{ADDRESS}/{found['quarter']}{query}", status_code=303)
    there = await reading(reports.headers, service_of(request).warehouse, 1)
    if not there:
        return web.message(request, "Population", no_report(there), 200)
    return await _show(request, caller, there[0]["quarter"])


@router.get("/portal/population/{quarter}", response_model=None)
async def of_a_quarter(request: Request, quarter: str) -> Response:
    """The report of one quarter; for the page's script only the table."""
    caller = await _reader(request)
    return caller if isinstance(caller, Response) else await _show(request, caller, quarter)


@router.get("/portal/population/{quarter}/files/{name}", response_model=None)
async def file(request: Request, quarter: str, name: str) -> Response:
    """A file of the report."""
    caller = await _reader(request)
    return caller if isinstance(caller, Response) else await file_answer(request, caller, quarter, name)


async def _reader(request: Request) -> Caller | Response:
    """Who reads, or the page for a role that may not."""
    try:
        return await sessions.caller(request, *MAY_READ)
    except Forbidden:
        # Recorded where it was refused.
        text = (
            "The population report is for analysts and stewards. Your role does not allow this page; whoever "
            "gives out roles can change that."
        )
        if web.wants_json(request):
            return web.json_answer({"said": text}, 403)
        return web.message(request, "Not for your role", text, 403)


async def _show(request: Request, caller: Caller, quarter: str) -> Response:
    await report_of(request, quarter)
    view = View.of(request.query_params)
    draw = _fragment if web.wants_json(request) else _drawn
    answer = await reading(draw, request, quarter, view)
    await record(request, caller, "list", quarter)
    return answer


def _cells(request: Request, quarter: str, cubes: tuple[str, ...]) -> tuple[Row, list[Row]]:
    parsed = reports.quarter_of(quarter)
    found = reports.cells(service_of(request).warehouse, parsed, cubes) if parsed else None
    if found is None:
        raise NotFound(no_report([]))
    return found


def _fragment(request: Request, quarter: str, view: View) -> Response:
    _, rows = _cells(request, quarter, (view.cube,))
    shown = population_view.table(rows, view)
    html = web.render("_cells.html", **_about(quarter, view), table=shown)
    return web.json_answer({"html": html})


def _drawn(request: Request, quarter: str, view: View) -> Response:
    service = service_of(request)
    header, rows = _cells(request, quarter, ("total", view.cube))
    files = reports.files(service.settings.home, header)
    policy = service.policy()
    there = [row["quarter"] for row in reports.headers(service.warehouse, MOST_QUARTERS)]
    return web.page(
        request,
        "population.html",
        title=f"Population {quarter}",
        header=header,
        facts=population_view.facts(header, service.settings.zone),
        headlines=population_view.headlines(rows[0]),
        table=population_view.table(rows[1:], view),
        quarters=there if quarter in there else [*there, quarter],
        newer=bool(there) and there[0] > quarter,
        downloads=population_view.downloads(files),
        flow=population_view.flow_lines(reports.flow(service.settings.home, header)),
        tiers=policy.tiers if policy.hash == header["policy_hash"] else None,
        disclaimer=policy.disclaimer if policy.hash == header["policy_hash"] else DISCLAIMER,
        **_about(quarter, view),
    )


def _about(quarter: str, view: View) -> dict[str, Any]:
    return {"address": f"{ADDRESS}/{quarter}", "view": view, "tabs": TABS, "columns": COLUMN_NAMES}
