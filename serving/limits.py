"""What a request may cost before anybody reads it: bytes, nesting, media type, time, requests a minute.

Belongs here: limits that hold for every route, as one ASGI middleware. Does not belong here: who may ask
(`access.py`) and what is valid (the routes' models).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import (
    UNLIMITED_PATHS,
    ApiError,
    BadRequest,
    TooLarge,
    TooManyRequests,
    UnsupportedMediaType,
    peer_of,
    refuse,
)

MAX_BODY = 64 * 1024
LARGER_BODIES = {"/v2/": 2 * 1024 * 1024, "/cds-services/": 2 * 1024 * 1024}
"""Paths whose requests hold many rows, or a patient's FHIR resources."""

_LARGE = 128 * 1024
"""From so many bytes on, a body's depth is looked at outside of the event loop: a megabyte takes 0.15 s."""

MAX_DEPTH = 32
BODY_SECONDS = 10.0
BURST_SECONDS = 10.0
"""A client that was quiet may send what its rate allows in so many seconds at once."""

MOST_CLIENTS = 10_000
_FORM_PATHS = ("/portal",)
"""Pages whose forms are sent as a browser sends them."""

_METHODS_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


class Rates:
    """Token buckets, one per client, the least recently seen forgotten first."""

    def __init__(self, per_minute: int) -> None:
        self._per_second = per_minute / 60
        self._most = max(1.0, self._per_second * BURST_SECONDS)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float | None = None) -> float:
        """Takes one request of a client: 0, or the seconds until the next one is allowed."""
        now = time.monotonic() if now is None else now
        tokens, at = self._buckets.pop(client, (self._most, now))
        tokens = min(self._most, tokens + (now - at) * self._per_second)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._per_second

    def spend(self, client: str) -> None:
        """Takes one request of a client. Raises `TooManyRequests` that says when to come again."""
        if wait := self.wait(client):
            raise TooManyRequests(headers={"Retry-After": str(int(wait) + 1)})


class Limits:
    """Reads the body within the limits and hands it on whole; refuses what passes them."""

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            path = scope["path"]
            if not path.startswith(UNLIMITED_PATHS):
                # The peer, before anything is verified: guessing tokens is limited too.
                self._rates.spend(f"address {peer_of(scope)}")
            if scope["method"] in _METHODS_WITH_BODY:
                headers = dict(scope["headers"])
                if _has_body(headers):
                    _check_type(path, headers)
                body = await _read(receive, headers, _most_bytes(path))
                if not path.startswith(_FORM_PATHS):
                    if len(body) > _LARGE:
                        await run_in_threadpool(check_depth, body)
                    else:
                        check_depth(body)
                receive = _replay(body, receive)
        except ApiError as error:
            response = await refuse(Request(scope), error)
            if error.status in (408, 413):
                # What is left of the body is not read.
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _most_bytes(path: str) -> int:
    return next((most for prefix, most in LARGER_BODIES.items() if path.startswith(prefix)), MAX_BODY)


def _has_body(headers: dict[bytes, bytes]) -> bool:
    """Whether a body is announced; without one there is no type to be wrong, and a route may say more."""
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _check_type(path: str, headers: dict[bytes, bytes]) -> None:
    kind, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    charset = parameters.strip().removeprefix(b"charset=").strip(b'"')
    form = path.startswith(_FORM_PATHS) and kind.strip() in (
        b"application/x-www-form-urlencoded",
        b"multipart/form-data",
    )
    if not form and (kind.strip() != b"application/json" or charset not in (b"", b"utf-8", b"utf8")):
        raise UnsupportedMediaType()
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType("The body must not be compressed.", code="unsupported_encoding")


async def _read(receive: Receive, headers: dict[bytes, bytes], most: int) -> bytes:
    stated = headers.get(b"content-length", b"")
    if stated.isdigit() and int(stated) > most:
        raise TooLarge()
    deadline = time.monotonic() + BODY_SECONDS
    message = await _next(receive, BODY_SECONDS)
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        chunks = [body]
        size = len(body)
        while message.get("more_body") and size <= most:
            message = await _next(receive, deadline - time.monotonic())
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
        body = b"".join(chunks)
    if len(body) > most:
        raise TooLarge()
    return body


async def _next(receive: Receive, seconds: float) -> Message:
    try:
        async with asyncio.timeout(seconds):
            message = await receive()
    except TimeoutError:
        raise ApiError(status=408, code="request_timeout") from None
    if message["type"] == "http.disconnect":
        raise BadRequest("The client has gone.", code="disconnected")
    return message


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then what comes after it: the client's going away."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def check_depth(body: bytes) -> None:
    """Raises `BadRequest` if a body is nested more than `MAX_DEPTH` deep. Whether it is JSON is not asked."""
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return
    depth = 0
    for token in _TOKENS.finditer(body):
        first = token.group()[:1]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise BadRequest("The body is nested too deeply.", code="too_deep")
        elif first in b"]}":
            depth -= 1
