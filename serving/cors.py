"""Which browser pages of another origin may call CDS Hooks: those that the access file names, and no other.

Belongs here: CORS for the paths of CDS Hooks. Does not belong here: every other path, which no page of
another origin may read.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

PATH = "/cds-services"


class CdsCors:
    """Answers preflight requests and marks answers for the listed origins. Without any it does nothing."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._shared = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            allow_credentials=False,
        )
        self._active = bool(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shared = self._active and scope["type"] == "http" and _is_shared(scope["path"])
        await (self._shared if shared else self._app)(scope, receive, send)


def _is_shared(path: str) -> bool:
    return path == PATH or path.startswith(f"{PATH}/")
