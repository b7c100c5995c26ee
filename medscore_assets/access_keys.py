"""API keys for development: made, found, taken back. In production tokens of an issuer are used.

Belongs here: the form of a key, its hash, its row. Does not belong here: reading requests (`serving/`).

A key is `msk_<key id>_<secret>` with a secret of 256 random bits. Only the secret's SHA-256 is stored: a
slow hash protects what people make up, and would cost each request.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from medscore_assets.audit import Occurrence, append
from medscore_assets.tables.serving import api_keys
from resources.errors import PermanentError
from resources.warehouse import Warehouse

ROLES = ("coordinator", "care-manager", "analyst", "steward")
"""Who may do what: own patients, the work list, aggregates only, the audit."""

MOST_DAYS = 90
PREFIX = "msk_"
_FORM = re.compile(r"msk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `key` is shown once and stored nowhere."""

    key: str
    key_id: str
    client: str
    roles: tuple[str, ...]
    expires_at: datetime

    def __repr__(self) -> str:
        return f"NewKey({self.key_id})"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as the database knows it."""

    key_id: str
    secret_sha256: str
    client: str
    roles: frozenset[str]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None

    def opens(self, secret: str, now: datetime) -> bool:
        """Whether this secret is the key's, and the key neither expired nor revoked."""
        same = hmac.compare_digest(_digest(secret), self.secret_sha256)
        return same and self.revoked_at is None and now < self.expires_at


def create(
    warehouse: Warehouse, client: str, roles: Iterable[str], days: int, by: Occurrence, now: datetime
) -> NewKey:
    """Make a key for a client, and record in the audit that it was made.

    Raises `PermanentError` for an unknown role, a name that is not plain, or more than 90 days.
    """
    wanted = tuple(sorted(set(roles)))
    if not wanted or not set(wanted) <= set(ROLES):
        raise PermanentError(
            "a key needs roles that exist", where="--role", mend=f"Choose from: {', '.join(ROLES)}."
        )
    if not _CLIENT.fullmatch(client):
        raise PermanentError(
            "the client's name is not plain",
            where="--client",
            mend="Use at most 64 letters, digits and ._@-.",
        )
    if not 1 <= days <= MOST_DAYS:
        raise PermanentError(
            f"a key lasts from 1 to {MOST_DAYS} days", where="--days", mend="Make a fresh key in time."
        )
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    expires = now + timedelta(days=days)
    with warehouse.transaction() as connection:
        connection.execute(
            sa.insert(api_keys).values(
                key_id=key_id,
                secret_sha256=_digest(secret),
                client=client,
                roles=list(wanted),
                created_at=now,
                expires_at=expires,
            )
        )
        append(warehouse, connection, by)
    return NewKey(f"{PREFIX}{key_id}_{secret}", key_id, client, wanted, expires)


def revoke(warehouse: Warehouse, key_id: str, by: Occurrence, now: datetime) -> bool:
    """Take a key back, and record that in the audit. False if there is no such key in force."""
    with warehouse.transaction() as connection:
        taken = connection.execute(
            sa.update(api_keys)
            .where(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=now)
        ).rowcount
        if taken:
            append(warehouse, connection, by)
    return bool(taken)


def listed(warehouse: Warehouse) -> list[StoredKey]:
    """All keys, the newest first."""
    with warehouse.transaction() as connection:
        rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at.desc())).all()
    return [_stored(row) for row in rows]


def find(warehouse: Warehouse, key_id: str) -> StoredKey | None:
    """One key by its open part."""
    with warehouse.transaction() as connection:
        row = connection.execute(sa.select(api_keys).where(api_keys.c.key_id == key_id)).first()
    return _stored(row) if row else None


def parse(text: str) -> tuple[str, str] | None:
    """Key id and secret of a key as it is sent; None if it does not look like one."""
    match = _FORM.fullmatch(text)
    return (match[1], match[2]) if match else None


def _stored(row: sa.Row[Any]) -> StoredKey:
    # The warehouse's connections hand JSON out as text.
    roles = json.loads(row.roles) if isinstance(row.roles, str) else row.roles
    return StoredKey(
        row.key_id,
        row.secret_sha256,
        row.client,
        frozenset(roles),
        row.created_at.astimezone(UTC),
        row.expires_at.astimezone(UTC),
        row.revoked_at,
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
