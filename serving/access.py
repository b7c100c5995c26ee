"""Access: who asks, and whether their role allows it.

Belongs here: from a request to its caller (token, API key, or nobody told apart on this machine), the cache
of what was verified, refusals and their audit. Does not belong here: a token's rules (`tokens.py`), keys of
issuers (`jwks.py`), the access file (`access_file.py`).

A refusal is a bare 401 or 403. Why is known to the audit alone, as a code. The text of a token is neither
stored nor logged; what is remembered of it is its hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import Request

from medscore_assets import access_keys
from medscore_assets.access_keys import ROLES
from medscore_assets.settings import Settings
from resources.errors import MedscoreError, PermanentError
from resources.warehouse import Warehouse
from serving.access_file import AccessFile, read_access_file
from serving.audit import AuditEntry
from serving.errors import Forbidden, Unauthorized, peer_of, route_of
from serving.journal import JournalUnavailable
from serving.tokens import TokenRefused, Tokens, Verified

if TYPE_CHECKING:
    from serving.journal import Journal

__all__ = ["LOCAL", "ROLES", "Access", "AccessFile", "Caller", "access_for", "requires"]

VERIFIED_FOR_S = 300.0
"""How long a verified token is taken without looking at it again: an issuer's key may be withdrawn."""

KEY_FOR_S = 15.0
"""How long an API key is taken without asking the database: it may be revoked."""

_MOST_REMEMBERED = 10_000
_LOOKUP_S = 2.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `client` names issuer and subject, or the API key's client."""

    client: str
    subject: str
    roles: frozenset[str]
    issuer: str
    token_id: str | None = None
    purpose: str | None = None


LOCAL = Caller("local", "", frozenset(ROLES), "")
"""Everybody, where nobody is told apart."""


class Access:
    """Tells who asks. Raises `PermanentError` if it would let everybody in from another machine."""

    def __init__(
        self, settings: Settings, warehouse: Warehouse | None = None, *, host: str | None = None
    ) -> None:
        file = settings.access_file
        self.rules: AccessFile = read_access_file(file)
        _refuse_open(self.rules, host if host is not None else settings.api_host)
        self._warehouse = warehouse or Warehouse(lambda: settings.databases().warehouse)
        self._tokens = Tokens(self.rules, file.parent if file else Path())
        self._remembered: dict[bytes, tuple[Caller, float]] = {}

    @property
    def open(self) -> bool:
        """Whether everybody is `LOCAL`: no issuer and no API keys, on this machine only."""
        return self.rules.open

    @property
    def says(self) -> str:
        """In one line, who may ask."""
        if self.open:
            return "open on loopback: nobody is told apart; set MEDSCORE_ACCESS_FILE to change that"
        ways = [*self.rules.issuers, *(["API keys"] if self.rules.api_keys else [])]
        return f"closed: {', '.join(ways)}"

    async def caller(self, request: Request) -> Caller:
        """Who asks. Sets `request.state.caller`.

        Raises `Unauthorized`, which is then audited, and `JournalUnavailable` if the database is needed and
        does not answer.
        """
        try:
            caller = LOCAL if self.rules.open else await self._known(request)
        except TokenRefused as refusal:
            await _audit(request, None, 401, refusal.reason)
            raise Unauthorized() from None
        request.state.caller = caller
        return caller

    async def require(self, request: Request, *roles: str) -> Caller:
        """Who asks, with at least one of these roles. Raises also `Forbidden`, which is then audited."""
        caller = await self.caller(request)
        if caller.roles.isdisjoint(roles):
            await _audit(request, caller, 403, "role")
            raise Forbidden()
        return caller

    async def _known(self, request: Request) -> Caller:
        token = _bearer(request)
        digest = hashlib.sha256(token).digest()
        remembered = self._remembered.get(digest)
        if remembered is not None and time.time() < remembered[1]:
            return remembered[0]
        text = token.decode("ascii", "replace")
        if text.startswith(access_keys.PREFIX):
            caller, until = await self._by_key(text)
        else:
            verified = await self._tokens.verify(text, request.scope["path"])
            caller, until = _caller(verified), min(verified.expires, time.time() + VERIFIED_FOR_S)
            if verified.one_time:
                await self._use_up(request, verified)
                return caller
        self._remember(digest, caller, until)
        return caller

    def _remember(self, digest: bytes, caller: Caller, until: float) -> None:
        # Taken out first, so that it counts as the youngest.
        self._remembered.pop(digest, None)
        self._remembered[digest] = (caller, until)
        if len(self._remembered) > _MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    async def _use_up(self, request: Request, verified: Verified) -> None:
        expires = datetime.fromtimestamp(verified.expires, UTC)
        if not await _journal(request).claim(verified.issuer, verified.token_id or "", expires):
            raise TokenRefused("replayed")

    async def _by_key(self, text: str) -> tuple[Caller, float]:
        parts = access_keys.parse(text) if self.rules.api_keys else None
        if parts is None:
            raise TokenRefused("key-form")
        key_id, secret = parts
        try:
            async with asyncio.timeout(_LOOKUP_S):
                stored = await asyncio.to_thread(access_keys.find, self._warehouse, key_id)
        except (MedscoreError, TimeoutError):
            raise JournalUnavailable() from None
        if stored is None or not stored.opens(secret, datetime.now(UTC)):
            raise TokenRefused("api-key")
        until = min(stored.expires_at.timestamp(), time.time() + KEY_FOR_S)
        return Caller(f"key:{stored.client}", key_id, stored.roles, "medscore"), until


def access_for(settings: Settings, host: str, warehouse: Warehouse | None = None) -> Access:
    """The access in force for a service bound to `host`.

    Raises `PermanentError` if the access file is not valid, or if nobody would be told apart and `host` is
    not this machine's own.
    """
    return Access(settings, warehouse, host=host)


@dataclass(frozen=True, slots=True)
class Requires:
    """A FastAPI dependency that gives the `Caller`, who has at least one of these roles."""

    roles: tuple[str, ...]

    async def __call__(self, request: Request) -> Caller:
        """Who asks. Raises what `Access.require` raises."""
        access: Access = request.app.state.service.access
        return await access.require(request, *self.roles)


def requires(*roles: str) -> Requires:
    """The dependency for these roles. Raises `ValueError` for one that does not exist."""
    if not roles or not set(roles) <= set(ROLES):
        raise ValueError(f"roles are: {', '.join(ROLES)}")
    return Requires(roles)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_open(rules: AccessFile, host: str) -> None:
    if rules.open and not is_loopback(host):
        raise PermanentError(
            "the API would be open to everybody who reaches it: no issuer is configured",
            where=f"MEDSCORE_API_HOST={host}",
            mend="Name an access file in MEDSCORE_ACCESS_FILE, or set MEDSCORE_API_HOST=127.0.0.1.",
        )


def _bearer(request: Request) -> bytes:
    """The token of the one Authorization header."""
    found = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if not found:
        raise TokenRefused("no-token")
    scheme, _, token = found[0].partition(b" ")
    if len(found) > 1 or scheme.lower() != b"bearer" or not token:
        raise TokenRefused("malformed")
    return bytes(token.strip())


def _caller(verified: Verified) -> Caller:
    name = verified.issuer_name
    return Caller(
        client=f"{name}:{verified.subject}" if verified.subject else name,
        subject=verified.subject,
        roles=verified.roles,
        issuer=verified.issuer,
        token_id=verified.token_id,
        purpose=verified.purpose,
    )


def _journal(request: Request) -> Journal:
    journal: Journal = request.app.state.service.journal
    return journal


async def _audit(request: Request, caller: Caller | None, status: int, reason: str) -> None:
    await _journal(request).record(
        AuditEntry(
            kind="refusal",
            outcome="refused",
            caller=caller,
            route=route_of(request.scope),
            request_id=getattr(request.state, "request_id", ""),
            encounter_id=None,
            patient_id=None,
            entity=None,
            status=status,
            occurred_at=datetime.now(UTC),
            reason=reason,
            address=peer_of(request.scope),
        )
    )
