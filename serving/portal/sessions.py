"""Who is at the browser: by a proxy's token, by a key that was signed in with, or nobody told apart.

Belongs here: sessions, the caller of a page, and that a form comes from a page of this session.
Does not belong here: what tokens and keys are worth (`serving/access.py`), the pages.

The cookie holds a random token. The process remembers its hash, when it ends, and the API key sealed with
the token: so each request is judged by the key itself, which may expire or be revoked meanwhile, and what
lies in memory opens nothing without the cookie. Sessions end with the process.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from fastapi import Request
from starlette.responses import Response

from serving.access import Caller, is_loopback
from serving.errors import ApiError
from serving.service import service_of

COOKIE = "medscore_session"
LONGEST_S = 12 * 3600
IDLE_S = 3600
"""A session ends after so long without a page."""

_MOST_SESSIONS = 1000
_SECRET = secrets.token_bytes(32)

NOBODY: dict[str, Any] = {
    "who": None,
    "open": False,
    "csrf": "",
    "may_list": False,
    "may_score": False,
    "may_read_population": False,
    "may_monitor_waits": False,
    "signed_in": False,
}
"""What a page is told of a browser of which nothing is known."""


@dataclass(slots=True)
class _Session:
    sealed: bytes
    until: float
    seen: float


class Sessions:
    """The sessions of one process, the least recently seen forgotten first."""

    def __init__(self) -> None:
        self._by_digest: OrderedDict[bytes, _Session] = OrderedDict()

    def begin(self, key: str, now: float | None = None) -> str:
        """A session for whoever has this API key. Returns the cookie's token."""
        now = time.monotonic() if now is None else now
        token = secrets.token_urlsafe(32)
        sealed = _box(token).encrypt(key.encode())
        self._by_digest[_digest(token)] = _Session(sealed, now + LONGEST_S, now)
        if len(self._by_digest) > _MOST_SESSIONS:
            self._by_digest.popitem(last=False)
        return token

    def key(self, token: str, now: float | None = None) -> str | None:
        """The API key of a session that has not ended."""
        now = time.monotonic() if now is None else now
        digest = _digest(token)
        session = self._by_digest.pop(digest, None)
        if session is None or now >= session.until or now - session.seen >= IDLE_S:
            return None
        session.seen = now
        self._by_digest[digest] = session
        return _box(token).decrypt(session.sealed).decode()

    def end(self, token: str) -> None:
        """Ends a session."""
        self._by_digest.pop(_digest(token), None)


class ForeignForm(ApiError):
    """A form that no page of this session holds."""

    status, code = 403, "foreign_form"

    def __init__(self) -> None:
        super().__init__("This page is too old, or not from here. Load it again and repeat what you did.")


def sessions_of(request: Request) -> Sessions:
    """The application's sessions."""
    state = request.app.state
    if not hasattr(state, "portal_sessions"):
        state.portal_sessions = Sessions()
    found: Sessions = state.portal_sessions
    return found


async def caller(request: Request, *roles: str) -> Caller:
    """Who is at the browser, with one of these roles. To be asked once per request.

    Raises `Unauthorized` and `Forbidden`, both audited.
    """
    return await service_of(request).access.require(_asked(request), *roles)


async def known(request: Request) -> Caller:
    """Who is at the browser, whatever the role. Raises `Unauthorized`, audited."""
    return await service_of(request).access.caller(_asked(request))


def _asked(request: Request) -> Request:
    token = request.cookies.get(COOKIE, "")
    key = sessions_of(request).key(token) if token and "authorization" not in request.headers else None
    return request if key is None else with_key(request, key)


def with_key(request: Request, key: str) -> Request:
    """The request as a program with this API key would send it."""
    headers = [(b"authorization", b"Bearer " + key.encode("utf-8"))]
    return Request({**request.scope, "headers": [*request.scope["headers"], *headers]})


def about(request: Request) -> dict[str, Any]:
    """What every page is told of its reader; call it after `caller`."""
    found: Caller | None = getattr(request.state, "caller", None)
    if found is None:
        return NOBODY
    is_open = service_of(request).access.open
    return {
        "who": None if is_open else found.client,
        "open": is_open,
        "csrf": token_for(request),
        "may_list": "care-manager" in found.roles,
        "may_score": not found.roles.isdisjoint(("care-manager", "coordinator")),
        "may_read_population": not found.roles.isdisjoint(("analyst", "steward")),
        "may_monitor_waits": not found.roles.isdisjoint(("analyst", "steward")),
        "signed_in": COOKIE in request.cookies and not is_open,
    }


def token_for(request: Request) -> str:
    """What the forms of this session carry; no other site can know it."""
    found: Caller = request.state.caller
    bound = f"{found.issuer}\n{found.client}\n{request.cookies.get(COOKIE, '')}"
    return hmac.new(_SECRET, bound.encode(), hashlib.sha256).hexdigest()


def require_token(request: Request, form: dict[str, str]) -> None:
    """Raises `ForeignForm` unless the form comes from a page of this session. Call it after `caller`."""
    require_same_origin(request)
    if not hmac.compare_digest(form.get("csrf", "").encode(), token_for(request).encode()):
        raise ForeignForm()


def require_same_origin(request: Request) -> None:
    """Raises `ForeignForm` if the browser says that another site sent this form."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site != "same-origin":
            raise ForeignForm()
        return
    origin = request.headers.get("origin")
    if origin is not None:
        # A proxy that gives the service another Host tells the browser's one beside it.
        hosts = {request.headers.get("host"), request.headers.get("x-forwarded-host")}
        if urlsplit(origin).netloc not in hosts - {None, ""}:
            raise ForeignForm()


def set_cookie(request: Request, response: Response, token: str) -> None:
    """Gives the session to the browser. Without TLS only on this machine."""
    # A proxy that ends TLS may ask under this machine's name.
    over_tls = request.url.scheme == "https"
    response.set_cookie(
        COOKIE,
        token,
        path="/portal",
        secure=over_tls or not is_loopback(request.url.hostname or ""),
        httponly=True,
        samesite="strict",
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _box(token: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"seal\n" + token.encode()).digest()))
