"""The public keys of issuers: from a file or an address, kept for a while, looked up by key id.

Belongs here: reading, checking and keeping key sets. Does not belong here: tokens (`tokens.py`).

Only addresses of the access file are fetched, never on the event loop, without redirects, with limits on
time and size. An unknown key id makes a set be read again, but not more often than every ten seconds: the
id comes from whoever sends a token.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from resources.errors import PermanentError

FRESH_S = 300.0
"""How old a set may be before it is read again beside the requests."""

STALE_S = 600.0
"""How old a set may be before requests wait for it to be read again, unless that has just failed."""

USABLE_S = 3600.0
"""How old a set may be if it cannot be read again."""

AGAIN_S = 10.0
FETCH_S = 5.0
_MOST_BYTES = 512 * 1024
_LEAST_RSA_BITS = 2048

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeySet:
    """Public keys by algorithm and key id. The id None stands for a key that bears none."""

    keys: Mapping[tuple[str, str | None], Any]

    def find(self, algorithm: str, key_id: str | None) -> Any | None:
        """The key for this header. Without an id only if there is no choice."""
        if key_id is not None:
            return self.keys.get((algorithm, key_id)) or self.keys.get((algorithm, None))
        candidates = [key for (name, _), key in self.keys.items() if name == algorithm]
        return candidates[0] if len(candidates) == 1 else None


def parse_keys(content: bytes) -> KeySet:
    """The keys of a JWKS or a PEM file that fit ES384 or RS384; others are passed over.

    Raises `ValueError` if it is neither, or holds a private or a shared key.
    """
    if content.lstrip().startswith(b"-----BEGIN"):
        if b"PRIVATE" in content:
            raise ValueError("holds a private key")
        key = load_pem_public_key(content)
        algorithm = _algorithm(key)
        return KeySet({(algorithm, None): key} if algorithm else {})
    document = orjson.loads(content)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise ValueError("is neither a PEM file nor a JSON Web Key Set")
    keys: dict[tuple[str, str | None], Any] = {}
    for entry in entries:
        if "d" in entry or entry.get("kty") == "oct":
            raise ValueError("holds a private or a shared key")
        found = _key(entry)
        if found is not None:
            key_id = entry.get("kid")
            keys.setdefault((found[0], key_id if isinstance(key_id, str) else None), found[1])
    return KeySet(keys)


def _key(entry: Mapping[str, Any]) -> tuple[str, Any] | None:
    if entry.get("kty") not in ("EC", "RSA") or entry.get("use", "sig") != "sig":
        return None
    try:
        key = PyJWK(dict(entry)).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    algorithm = _algorithm(key)
    return (algorithm, key) if algorithm and entry.get("alg", algorithm) == algorithm else None


def _algorithm(key: Any) -> str | None:
    """The one algorithm that is taken with this key."""
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp384r1":
        return "ES384"
    if isinstance(key, RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
        return "RS384"
    return None


class KeySource:
    """One file or address of keys, read when it is needed."""

    def __init__(self, location: Path | str) -> None:
        self._location = location
        self._keys: KeySet | None = None
        self._read_at = self._tried_at = float("-inf")
        self._failing = False
        self._reading = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None

    async def key(self, algorithm: str, key_id: str | None) -> Any | None:
        """The key for a token's header, or None."""
        age = time.monotonic() - self._read_at
        # While the issuer does not answer, waiting for it would only slow down what its old keys allow.
        if self._keys is None or age > (USABLE_S if self._failing else STALE_S):
            await self._read()
        elif age > FRESH_S and (self._refresh is None or self._refresh.done()):
            self._refresh = asyncio.create_task(self._read())
        found = self._keys.find(algorithm, key_id) if self._keys else None
        if found is None:
            await self._read()
            found = self._keys.find(algorithm, key_id) if self._keys else None
        return found

    async def _read(self) -> None:
        """Read the set anew, unless that was tried a moment ago. A failure leaves the set as it is."""
        async with self._reading:
            now = time.monotonic()
            if now - self._tried_at < AGAIN_S:
                return
            self._tried_at = now
            try:
                async with asyncio.timeout(FETCH_S):
                    content = await asyncio.to_thread(_content, self._location)
                self._keys, self._read_at = parse_keys(content), time.monotonic()
                self._failing = False
            except (OSError, ValueError, TimeoutError) as error:
                self._failing = True
                _log.warning("the keys of an issuer cannot be read: %s", type(error).__name__)
            if self._keys and time.monotonic() - self._read_at > USABLE_S:
                self._keys = None


def check_file(file: Path) -> None:
    """Raises `PermanentError` unless the file holds a key that can be used."""
    try:
        keys = parse_keys(file.read_bytes()).keys
        problem = "" if keys else "holds no key for ES384 (P-384) or RS384 (2048 bits or more)"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError as error:
        # orjson's text may quote the file.
        problem = str(error) if not isinstance(error, orjson.JSONDecodeError) else "is not valid JSON"
    if problem:
        raise PermanentError(
            f"the file of an issuer's keys {problem}",
            where=str(file),
            mend="Put the issuer's public keys there, as JWKS or PEM.",
        )


def _content(location: Path | str) -> bytes:
    if isinstance(location, Path):
        return location.read_bytes()
    import requests

    deadline = time.monotonic() + FETCH_S
    with requests.get(
        location,
        timeout=FETCH_S / 2,
        allow_redirects=False,
        stream=True,
        headers={"Accept": "application/json"},
    ) as answer:
        if answer.status_code != 200:
            raise ValueError("did not answer with 200")
        content = b""
        for chunk in answer.iter_content(65_536):
            content += chunk
            if len(content) > _MOST_BYTES or time.monotonic() > deadline:
                raise ValueError("is too large or too slow")
    return content
