"""A facility's board for the waiting room's screen and for a phone: the page, and its times alone.

Belongs here: the routes of the board. Does not belong here: words (`board_view.py`), reading
(`serving/wait_times_reading.py`).

Where boards are not public, whoever signed in finds them below /portal, where alone the session's cookie is
sent; who comes without a token is led there.

The times are those that `GET /wait_time` gives, read by the same function; a promotion is on the board with
its next refresh. They count nobody who could be recognised, so that nothing is recorded of who looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from serving.errors import NotFound
from serving.lists import reading
from serving.population import unchanged
from serving.portal import board_view, sessions, web
from serving.portal.qr import qr_code
from serving.portal.web import Page
from serving.service import service_of
from serving.wait_times import default_of
from serving.wait_times_reading import Posted, facilities, posted
from serving.wait_times_words import LANGUAGES, NOT_AVAILABLE, Language

KEPT_S = 15
"""So long a cache between may keep the times: half of a refresh."""
AGAIN_S = 30
"""So soon a screen that got no board asks again."""


class Screen(Page):
    """A route whose failures a screen on a wall gets over alone: it says so to patients, and loads again."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            response = await handle(request)
            if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                return response
            text = web.render("board_away.html", blank=NOT_AVAILABLE, seconds=AGAIN_S)
            headers = {name: value for name, value in response.headers.items() if name not in _OF_CONTENT}
            return Response(text, response.status_code, headers, "text/html; charset=utf-8")

        return handler


_UNKNOWN = "There is no board of such an emergency department."
_OF_CONTENT = ("content-length", "content-type")

router = APIRouter(route_class=Screen)


@router.get("/portal/board/{facility}", response_model=None)
@router.get("/board/{facility}", response_model=None)
async def board(request: Request, facility: str) -> Response:
    """The board, in both languages in turn or in that of `?lang=`."""
    languages, name = _languages(request), f"/board/{quote(facility, safe='')}"
    asked = f"?lang={languages[0]}" if len(languages) == 1 else ""
    signed_in = request.url.path.startswith("/portal/")
    if not signed_in and _needs_session(request):
        # What is no board's name is not repeated.
        if facility not in await reading(facilities, service_of(request).warehouse):
            raise NotFound(_UNKNOWN)
        return RedirectResponse(f"/portal{name}{asked}", status_code=HTTPStatus.SEE_OTHER)
    there = await _posted(request, facility)
    address = f"/portal{name}" if signed_in else name
    link = _public_address(request) + address
    return web.page(
        request,
        "board.html",
        board=board_view.board_of(there, facility, languages),
        blank=board_view.blank_board(there, facility, languages),
        all_languages=[(language, board_view.words_of(language)) for language in LANGUAGES],
        languages=languages,
        address=address,
        query=asked,
        link=link,
        code=qr_code(link) if _for_phones(request) and not signed_in else "",
    )


@router.get("/portal/board/{facility}/times", response_model=None)
@router.get("/board/{facility}/times", response_model=None)
async def times(request: Request, facility: str) -> Response:
    """What changes on the board, for its script; 304 if the script has it already."""
    there, languages = await _posted(request, facility), _languages(request)
    text = web.render("_board.html", board=board_view.board_of(there, facility, languages))
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    shared = "public" if service_of(request).settings.wait_times_public else "private"
    kept = {"ETag": tag, "Cache-Control": f"{shared}, max-age={KEPT_S}"}
    if unchanged(request, tag):
        return Response(status_code=304, headers=kept)
    return Response(text, headers=kept, media_type="text/html; charset=utf-8")


async def _posted(request: Request, facility: str) -> Posted:
    """What is posted at the facility. Raises `NotFound` for an unknown one, and what access raises."""
    service = service_of(request)
    if not service.settings.wait_times_public:
        await sessions.known(request)
    default, now = default_of(service), datetime.now(UTC)
    there = await reading(posted, service.warehouse, now, default=default, facility_ids=[facility])
    if facility not in there.facilities:
        raise NotFound(_UNKNOWN)
    return there


def _needs_session(request: Request) -> bool:
    """Whether the request needs a role and brings no token of its own."""
    service = service_of(request)
    return not (
        service.settings.wait_times_public or service.access.open or "authorization" in request.headers
    )


def _languages(request: Request) -> tuple[Language, ...]:
    asked = request.query_params.get("lang")
    return tuple(language for language in LANGUAGES if language == asked) or LANGUAGES


def _for_phones(request: Request) -> bool:
    """Whether phones in the waiting room reach the page: its address is known, and everybody may read it."""
    service = service_of(request)
    for_all = service.settings.wait_times_public or service.access.open
    return service.access.rules.public_url is not None and for_all


def _public_address(request: Request) -> str:
    public = service_of(request).access.rules.public_url
    return str(public or request.base_url).rstrip("/")
