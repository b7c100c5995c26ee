"""Signing in with an API key, and out. Behind a proxy that sends a token nobody comes here.

Belongs here: the routes of these pages. Does not belong here: sessions (`sessions.py`).
"""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from serving.access import Caller
from serving.errors import Unauthorized, peer_of, route_of
from serving.journal import AuditEntry
from serving.portal import sessions, web
from serving.portal.web import Page
from serving.service import service_of

router = APIRouter(route_class=Page)


@router.get("/portal/login", response_model=None)
async def ask(request: Request) -> Response:
    """The form for the key."""
    if service_of(request).access.open:
        return RedirectResponse("/portal", status_code=303)
    return _page(request)


@router.post("/portal/login", response_model=None)
async def sign_in(request: Request) -> Response:
    """Begins a session, if the key is valid."""
    sessions.require_same_origin(request)
    form = await web.form_of(request)
    key = form.get("key", "").strip()
    access = service_of(request).access
    try:
        # Bearer tokens expire with their proxy's session; only keys are taken here.
        known = key if access.rules.api_keys and key.isascii() else ""
        caller = await access.caller(sessions.with_key(request, known))
    except Unauthorized:
        return _page(request, "This key is not valid here, or it has expired.", 401)
    await _record(request, caller)
    response = RedirectResponse("/portal", status_code=303)
    sessions.set_cookie(request, response, sessions.sessions_of(request).begin(key))
    return response


@router.post("/portal/logout", response_model=None)
async def sign_out(request: Request) -> Response:
    """Ends the session."""
    await sessions.known(request)
    sessions.require_token(request, await web.form_of(request))
    sessions.sessions_of(request).end(request.cookies.get(sessions.COOKIE, ""))
    response = RedirectResponse("/portal/login", status_code=303)
    response.delete_cookie(sessions.COOKIE, path="/portal")
    return response


def _page(request: Request, problem: str = "", status: int = 200) -> Response:
    keys = service_of(request).access.rules.api_keys
    return web.page(request, "login.html", status, title="Sign in", keys=keys, problem=problem)


async def _record(request: Request, caller: Caller) -> None:
    entry = AuditEntry(
        kind="login",
        outcome="success",
        caller=caller,
        route=route_of(request.scope),
        request_id=request.state.request_id,
        encounter_id=None,
        patient_id=None,
        entity=None,
        status=303,
        occurred_at=datetime.now(UTC),
        address=peer_of(request.scope),
    )
    await service_of(request).journal.record(entry)
