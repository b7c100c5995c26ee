"""What the service writes to its log: one JSON object a line, with fields from a closed list.

Belongs here: the formatter, and the middleware that numbers, times, counts and logs each request and
answers for what nobody caught. Does not belong here: the audit (`journal.py`), which is not a log.

Nothing that a client sent is written: no path, no query, no header, no body, no text of a library's error.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import UNLIMITED_PATHS, ApiError, refuse, route_of
from serving.metrics import Metrics

log = logging.getLogger("medscore.serving")

FIELDS = (
    "route",
    "method",
    "status",
    "duration_ms",
    "request_id",
    "client",
    "alias",
    "version",
    "reason",
    "at",
)
"""What a log line may hold besides time, level and event."""

_OWN = ("medscore", "serving", "resources")
_SPEAKS_ITSELF = ("uvicorn.error",)
"""Loggers of libraries whose words are the library's own: starting, stopping, a request that is not HTTP."""


class JsonLines(logging.Formatter):
    """One JSON object per record: of our own the event's constant words, of libraries' the logger's name."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        if record.name.startswith(_OWN):
            line["event"] = str(record.msg)
            line |= {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
        elif record.name in _SPEAKS_ITSELF and not record.exc_info:
            line["event"] = record.getMessage()
        else:
            line["event"] = f"{record.name} reports"
        if record.exc_info and record.exc_info[0] is not None:
            line["reason"] = record.exc_info[0].__name__
        return orjson.dumps(line, default=str).decode()


def configure(level: int = logging.INFO) -> None:
    """Sends everything that this process logs to standard output, as JSON lines."""
    # What a line does not say need not be found out: caller, thread, process.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in (*_OWN, "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(level)
    # Names addresses and paths.
    access = logging.getLogger("uvicorn.access")
    access.handlers[:] = []
    access.propagate = False


class Observed:
    """Numbers, times, counts and logs each request; turns what nobody caught into a 500 without its text."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-request-id", request_id.encode()))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            log.error("request failed", extra={"request_id": request_id, **_where(error)})
            if status:
                raise ConnectionAbortedError("the answer broke off") from None
            response = await refuse(Request(scope), ApiError())
            await response(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - started
            route = route_of(scope)
            self._metrics.answered(scope["method"], route, status, seconds)
            # Probes come every few seconds and say nothing.
            if log.isEnabledFor(logging.INFO) and not scope["path"].startswith(UNLIMITED_PATHS):
                log.info("request", extra=_told(scope, route, status, seconds, request_id))


def _told(scope: Scope, route: str, status: int, seconds: float, request_id: str) -> dict[str, Any]:
    caller = scope["state"].get("caller")
    return {
        "route": route,
        "method": scope["method"],
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "request_id": request_id,
        "client": caller.client if caller is not None else None,
    }


def _request_id(scope: Scope) -> str:
    """The client's, if it is a UUID: anything else could hold what must not be logged."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and len(value) in (32, 36):
            try:
                return str(uuid.UUID(value.decode("ascii")))
            except ValueError:
                break
    return str(uuid.uuid4())


def _where(error: Exception) -> dict[str, str]:
    """The kind of an error and the line that raised it; its text may quote a value."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    return {"reason": type(error).__name__, "at": at}
