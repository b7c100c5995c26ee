"""What the API answers when it does not answer: one form, and never a value that somebody sent.

Belongs here: the errors that routes raise, their JSON form by path, the handlers for what FastAPI and
pydantic raise, and that each refusal is audited. Does not belong here: which request is refused, and why.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

RETRY_SECONDS = 2
"""How long a client is asked to wait before it tries again after a 503."""

AUDITED_PATHS = ("/v1/", "/v2/", "/cds-services/", "/portal")
"""Below these, patients' data are asked for; a refusal is audited."""

UNLIMITED_PATHS = ("/health/", "/metrics", "/v2/health/")
"""Probes: neither limited nor logged."""

_MESSAGES = {
    400: "The body is not valid JSON.",
    403: "The role does not allow this.",
    404: "There is nothing here.",
    405: "This method is not allowed here.",
    406: "None of the accepted media types can be given.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body must be application/json.",
    422: "The request is not valid.",
    429: "Too many requests.",
    500: "The request failed. It was recorded under its request id.",
    503: "The service cannot answer now. Try again soon.",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request: where, which rule, in words; never the value."""

    location: str
    type: str
    message: str


class ApiError(Exception):
    """An answer that refuses. `audited` says that whoever raised it has recorded it already."""

    status = 500
    code = "internal_error"
    audited = False

    def __init__(
        self,
        message: str = "",
        *,
        problems: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
        code: str | None = None,
    ) -> None:
        self.status = status or self.status
        self.code = code or self.code
        self.message = message or _MESSAGES.get(self.status, HTTPStatus(self.status).phrase)
        self.problems = tuple(problems)
        self.headers = dict(headers or {})
        super().__init__(self.message)


class BadRequest(ApiError):
    """The body cannot be read at all."""

    status, code = 400, "malformed"


class Unauthorized(ApiError):
    """Nobody who may ask. The answer is bare; the reason is in the audit, as a code."""

    status, code, audited = 401, "unauthorized", True


class Forbidden(ApiError):
    """Somebody, but not with this role."""

    status, code, audited = 403, "forbidden", True


class NotFound(ApiError):
    """No such thing."""

    status, code = 404, "not_found"


class Conflict(ApiError):
    """Another request under the same name was answered before."""

    status, code = 409, "conflict"


class PreconditionFailed(ApiError):
    """What is needed for an answer was not sent and cannot be fetched."""

    status, code = 412, "precondition_failed"


class TooLarge(ApiError):
    """More bytes than the limit."""

    status, code = 413, "too_large"


class UnsupportedMediaType(ApiError):
    """Not JSON by its header."""

    status, code = 415, "unsupported_media_type"


class Unprocessable(ApiError):
    """Readable, but not valid."""

    status, code = 422, "invalid"


class TooManyRequests(ApiError):
    """Faster than the limit."""

    status, code = 429, "too_many_requests"


class Unavailable(ApiError):
    """No answer now, perhaps soon."""

    status, code = 503, "unavailable"

    def __init__(self, message: str = "", *, retry_after: int = RETRY_SECONDS, **more: Any) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)}, **more)


class ProblemBody(BaseModel):
    """One thing wrong with the request. No value of the request is repeated."""

    location: str
    type: str
    message: str


class ErrorDetail(BaseModel):
    """What is wrong."""

    code: str
    message: str
    problems: list[ProblemBody]


class ErrorBody(BaseModel):
    """The form of every refusal."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": {
                    "code": "invalid",
                    "message": "The request is not valid.",
                    "problems": [
                        {
                            "location": "patient_age",
                            "type": "int_type",
                            "message": "Input should be a valid integer",
                        }
                    ],
                }
            }
        }
    )

    error: ErrorDetail


Form = Callable[[ApiError], tuple[Any, str]]
"""Gives a refusal's body and media type."""


def _plain(error: ApiError) -> tuple[Any, str]:
    problems = [{"location": p.location, "type": p.type, "message": p.message} for p in error.problems]
    return {"error": {"code": error.code, "message": error.message, "problems": problems}}, "application/json"


def _inference(error: ApiError) -> tuple[Any, str]:
    told = "; ".join(f"{p.location}: {p.message}" for p in error.problems)
    return {"error": f"{error.message} {told}".strip()}, "application/json"


FORMS: dict[str, Form] = {"/v2": _inference}
"""Another form of refusals, by the beginning of the path."""


def responses(*statuses: int, model: type[BaseModel] = ErrorBody) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for OpenAPI."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        if status == 401:
            found[status] = {"description": "Not authorized. No reason is given."}
        else:
            found[status] = {"model": model, "description": _MESSAGES.get(status, HTTPStatus(status).phrase)}
        if status in (429, 503):
            seconds = {"description": "Seconds to wait.", "schema": {"type": "string"}}
            found[status]["headers"] = {"Retry-After": seconds}
    return found


def answers(model: type[BaseModel], description: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """An answer of a route that makes it itself, for OpenAPI."""
    return {status: {"model": model, "description": description}}


def problems_of(errors: Iterable[Mapping[str, Any]], *, within: str = "") -> list[Problem]:
    """The errors of pydantic without input, context and link, and without names that the client made up."""
    return [_problem(e, within) for e in errors]


def _problem(error: Mapping[str, Any], within: str) -> Problem:
    kind, location = str(error["type"]), list(error["loc"])
    if kind == "extra_forbidden" and location:
        # The key's name is the client's: it may hold anything.
        location[-1] = "(unknown key)"
    if kind == "json_invalid":
        return Problem(within or "body", kind, "is not valid JSON")
    name = ".".join(str(part) for part in ([within] if within else []) + location)
    if kind.endswith("_parsing"):
        # These quote the character at which reading stopped.
        return Problem(name or "body", kind, "Input is not of the right form")
    # A validator's own words (value_error) are ours; pydantic's name the rule, not the input.
    return Problem(name or "body", kind, str(error["msg"]).removeprefix("Value error, "))


def response_for(path: str, error: ApiError) -> Response:
    """The refusal as that path gives it."""
    headers = {"Cache-Control": "no-store", **error.headers}
    if error.status == 401:
        return Response(status_code=401, headers={"WWW-Authenticate": "Bearer", **headers})
    form = next((f for prefix, f in FORMS.items() if path.startswith(prefix)), _plain)
    body, media_type = form(error)
    return Response(orjson.dumps(body), error.status, headers, media_type)


async def refuse(request: Request, error: ApiError) -> Response:
    """Audits a refusal, once, and gives the answer. It is a 503 if the audit cannot be written."""
    path = request.url.path
    if not error.audited and path.startswith(AUDITED_PATHS):
        try:
            await _record(request, error)
        except ApiError as unavailable:
            error = unavailable
    return response_for(path, error)


async def _record(request: Request, error: ApiError) -> None:
    from serving.audit import AuditEntry

    state = request.state
    entry = AuditEntry(
        kind="refusal",
        outcome="failed" if error.status >= 500 else "refused",
        caller=getattr(state, "caller", None),
        route=route_of(request.scope),
        request_id=getattr(state, "request_id", ""),
        encounter_id=None,
        patient_id=None,
        entity=None,
        status=error.status,
        occurred_at=datetime.now(UTC),
        reason=error.code,
        address=peer_of(request.scope),
    )
    await request.app.state.service.journal.record(entry)


def route_of(scope: Mapping[str, Any]) -> str:
    """The route's template, which holds no id; `unmatched` if there is none."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


def peer_of(scope: Mapping[str, Any]) -> str | None:
    """The address that the request came from, as the server sees it.

    Behind a proxy on this machine it is what the proxy's header says, and so may be any text: only an
    address is told.
    """
    client = scope.get("client")
    return _address(str(client[0])) if client else None


@functools.lru_cache(maxsize=1024)
def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def install(app: FastAPI) -> None:
    """Sets the handlers of everything that a route, FastAPI or Starlette may raise."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return await refuse(request, error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await refuse(request, Unprocessable(problems=problems_of(error.errors())))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        # Starlette's and FastAPI's own texts may repeat what was sent.
        translated = ApiError(status=error.status_code, code=code, headers=error.headers)
        return await refuse(request, translated)

    app.add_exception_handler(ApiError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
