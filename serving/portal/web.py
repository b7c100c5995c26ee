"""What all pages share: templates, security headers, refusals as pages, static files, forms.

Belongs here: rendering and the class of routes. Does not belong here: who is signed in (`sessions.py`),
and any page's content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jinja2
import orjson
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import RedirectResponse, Response

from serving import errors
from serving.errors import ApiError, BadRequest, Forbidden, NotFound, refuse
from serving.portal import sessions

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer, with which browsers send forms from an origin called null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

_FOLDER = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_STATIC = {file.name: file.read_bytes() for file in sorted((_FOLDER / "static").iterdir())}
_STAMPS = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in _STATIC.items()}
_MOST_FIELDS = 100

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals["static"] = lambda name: f"/portal/static/{name}?v={_STAMPS[name]}"
_environment.filters |= {
    "day": lambda value: long_day(value),
    "short_day": lambda value: f"{value:%a} {value.day} {value:%b}",
}


def long_day(value: date | datetime) -> str:
    """`Monday, 2 March 2026`."""
    return f"{value:%A}, {value.day} {value:%B %Y}"


def render(template: str, **values: Any) -> str:
    """A template's text. Every value is escaped."""
    return _environment.get_template(template).render(**values)


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page as an answer that nobody keeps."""
    text = render(template, **sessions.about(request), **values)
    return Response(text, status, media_type="text/html; charset=utf-8")


def message(request: Request, title: str, text: str, status: int) -> Response:
    """A page that says one thing."""
    return page(request, "message.html", status, title=title, text=text)


def wants_json(request: Request) -> bool:
    """Whether a page's script asks, and not the browser itself."""
    return request.headers.get("accept", "").startswith("application/json")


def json_answer(told: dict[str, Any], status: int = 200) -> Response:
    """An answer for a page's script."""
    return Response(orjson.dumps(told), status, media_type="application/json")


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form, each once. Raises `BadRequest` if it is not one of a page."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadRequest("This is not a form of this page.")
    try:
        pairs = parse_qsl(
            (await request.body()).decode("ascii"),
            keep_blank_values=True,
            strict_parsing=False,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        # Not chained: the text may quote what was sent.
        raise BadRequest("This is not a form of this page.") from None
    found = dict(pairs)
    if len(found) != len(pairs) or any("\0" in value for value in found.values()):
        raise BadRequest("This is not a form of this page.")
    return found


class Page(APIRoute):
    """A route whose refusals are pages, or sentences for a script, and whose answers carry `HEADERS`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                response = await handle(request)
            except ApiError as error:
                response = await _refused(request, error)
            except RequestValidationError:
                response = await _refused(request, NotFound())
            response.headers.update(HEADERS)
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return handler


async def _refused(request: Request, error: ApiError) -> Response:
    answered = await refuse(request, error)
    status = answered.status_code
    if status == 401:
        return _signed_out(request)
    title, text = _words(error, status)
    if wants_json(request):
        response = json_answer({"said": text}, status)
    else:
        response = message(request, title, text, status)
    if "retry-after" in answered.headers:
        response.headers["Retry-After"] = answered.headers["retry-after"]
    return response


def _signed_out(request: Request) -> Response:
    if wants_json(request):
        return json_answer({"said": "You are signed out. Sign in again.", "login": "/portal/login"}, 401)
    return RedirectResponse("/portal/login", status_code=303)


def _words(error: ApiError, status: int) -> tuple[str, str]:
    if status == 503 and error.status != 503:
        # The refusal itself could not be recorded.
        return "Not now", "The service cannot answer now. Try again in a few seconds."
    match error:
        case Forbidden():
            return "Not for your role", (
                "Lists are for care managers, and the risk of one patient is for care managers and "
                "coordinators. Your role does not allow this page; whoever gives out roles can change that."
            )
        case sessions.ForeignForm():
            return "This form was not taken", error.message
        case NotFound():
            return "Not found", error.message
    if status == 503:
        return "Not now", "The service cannot answer now. Try again in a few seconds. Nothing was stored."
    return "This did not work", error.message


def _as_page(error: ApiError) -> tuple[Any, str]:
    """A refusal that comes before any route, such as one of too many requests."""
    text = render("message.html", title="This did not work", text=error.message, **sessions.NOBODY)
    # A fragment passes through orjson as it is.
    return orjson.Fragment(text.encode()), "text/html; charset=utf-8"


errors.FORMS["/portal"] = _as_page


router = APIRouter(route_class=Page)


@router.get("/portal/static/{name}", response_model=None)
async def static_file(name: str) -> Response:
    """A style sheet, script or image of the pages; nothing about anybody."""
    content = _STATIC.get(name)
    if content is None:
        raise NotFound()
    kept = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(content, headers=kept, media_type=_TYPES[Path(name).suffix])


@router.get("/portal/{anything:path}", response_model=None)
async def nowhere(anything: str) -> Response:
    """Any other address below the portal."""
    raise NotFound("There is no such page.")
