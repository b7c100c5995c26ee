"""Verifying a JSON Web Token: whose it is, for whom, until when, and what it allows.

Belongs here: the rules by which a token is taken or refused. Does not belong here: where keys come from
(`jwks.py`), caching, and what a refusal looks like (`access.py`).

What the token says of itself decides nothing: the algorithm must be one that its issuer was given in the
access file, and a `jku` is followed only if it is listed there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from serving.access_file import AccessFile, Issuer
from serving.jwks import KeySource, check_file

SKEW_S = 60
"""How far the clocks of issuer and service may differ."""

MOST_BYTES = 8 * 1024
_LONGEST_ID = 256
_TIMES = ("exp", "iat", "nbf")

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "expired"),
    (jwt.InvalidAudienceError, "audience"),
    (jwt.MissingRequiredClaimError, "claim-missing"),
    (jwt.ImmatureSignatureError, "not-yet-valid"),
    (jwt.InvalidSignatureError, "signature"),
    (jwt.InvalidAlgorithmError, "algorithm"),
    (jwt.InvalidKeyError, "key"),
    (jwt.InvalidIssuerError, "issuer"),
)


class TokenRefused(Exception):
    """The token is not taken. `reason` is a code for the audit; whoever sent it is not told."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Verified:
    """What a token proves."""

    issuer_name: str
    issuer: str
    subject: str
    token_id: str | None
    expires: float
    """Until when the token is taken, in seconds since 1970, the difference of clocks included."""
    roles: frozenset[str]
    purpose: str | None
    one_time: bool


@dataclass(frozen=True, slots=True)
class _Known:
    name: str
    rules: Issuer
    keys: KeySource | None
    by_url: Mapping[str, KeySource]


class Tokens:
    """The issuers of an access file, with their keys. Raises `PermanentError` if a key file is unusable."""

    def __init__(self, rules: AccessFile, folder: Path) -> None:
        self._public_url = rules.public_url
        self._issuers = {r.issuer: _known(name, r, folder) for name, r in rules.issuers.items()}

    async def verify(self, token: str, path: str) -> Verified:
        """What the token proves for a request to `path`. Raises `TokenRefused`.

        Whether a one-time token was used before is not looked at.
        """
        if len(token) > MOST_BYTES:
            raise TokenRefused("too-long")
        header, claims = _unverified(token)
        known = self._issuers.get(claims["iss"]) if isinstance(claims.get("iss"), str) else None
        if known is None:
            raise TokenRefused("issuer")
        key = await _key(known, header)
        rules = known.rules
        audience = rules.audience if rules.audience is not None else f"{self._public_url}{path}"
        needed = ["iss", "aud", "exp", "iat", *(["jti"] if rules.one_time else ["sub"])]
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=list(rules.algorithms),
                audience=audience,
                issuer=rules.issuer,
                leeway=SKEW_S,
                options={"require": needed, "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenRefused(_reason(error)) from None
        return _proved(known, claims)


def _known(name: str, rules: Issuer, folder: Path) -> _Known:
    keys = None
    if rules.keys_file is not None:
        file = folder / Path(rules.keys_file).expanduser()
        check_file(file)
        keys = KeySource(file)
    elif rules.keys_url is not None:
        keys = KeySource(rules.keys_url)
    return _Known(name, rules, keys, {url: KeySource(url) for url in rules.key_urls})


def _unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        raise TokenRefused("malformed") from None
    return header, claims


async def _key(known: _Known, header: Mapping[str, Any]) -> Any:
    algorithm, key_id, url = header.get("alg"), header.get("kid"), header.get("jku")
    if algorithm not in known.rules.algorithms:
        raise TokenRefused("algorithm")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= _LONGEST_ID):
        raise TokenRefused("key")
    source = known.keys
    if url is not None:
        source = known.by_url.get(url) if isinstance(url, str) else None
        if source is None:
            raise TokenRefused("key-url")
    found = await source.key(algorithm, key_id) if source is not None else None
    if found is None:
        raise TokenRefused("key")
    return found


def _proved(known: _Known, claims: Mapping[str, Any]) -> Verified:
    rules = known.rules
    times = [claims[name] for name in _TIMES if name in claims]
    if any(isinstance(t, bool) or not isinstance(t, int | float) or not math.isfinite(t) for t in times):
        raise TokenRefused("malformed")
    if not 0 < claims["exp"] - claims["iat"] <= rules.lifetime_s:
        raise TokenRefused("lifetime")
    subject = _identifier(claims.get("sub")) or ""
    token_id = _identifier(claims.get("jti"))
    if not (token_id if rules.one_time else subject):
        raise TokenRefused("claim-missing")
    if rules.tenant_claim is not None:
        tenants = _texts(_claim(claims, rules.tenant_claim))
        if not tenants or not tenants <= set(rules.tenants):
            raise TokenRefused("tenant")
    purpose = _claim(claims, rules.purpose_claim) if rules.purpose_claim else None
    return Verified(
        issuer_name=known.name,
        issuer=rules.issuer,
        subject=subject,
        token_id=token_id,
        expires=float(claims["exp"]) + SKEW_S,
        roles=_roles(rules, claims),
        purpose=_identifier(purpose),
        one_time=rules.one_time,
    )


def _roles(rules: Issuer, claims: Mapping[str, Any]) -> frozenset[str]:
    named = _texts(_claim(claims, rules.roles_claim)) if rules.roles_claim else frozenset[str]()
    given = {role for name in named for role in rules.roles.get(name, ())}
    return frozenset(given or rules.default_roles)


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by a path with points into nested claims."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _texts(value: Any) -> frozenset[str]:
    """The texts of a claim that is a list, or a text with spaces as in `scope`."""
    parts = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
    return frozenset(part for part in parts if isinstance(part, str))


def _identifier(value: Any) -> str | None:
    """A text that may stand in the audit; None for anything else."""
    usable = isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and value.isprintable()
    return value if usable else None


def _reason(error: Exception) -> str:
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "malformed")


def remaining_s(verified: Verified) -> float:
    """For how long the token is still taken, in seconds."""
    return verified.expires - time.time()
