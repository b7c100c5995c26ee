"""How the journal's entries get into PostgreSQL: one connection, one statement a transaction.

Belongs here: connecting, the statement, and the chain's head. Does not belong here: who waits for what
(`journal.py`).

The head of the chain is remembered, so that a commit is one round trip. If another process has added to the
chain since, the sequence's primary key refuses the statement; the head is then read anew under the chain's
lock, and for a while always, because that process will write again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
import psycopg
import sqlalchemy as sa
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from medscore_assets.audit import CHAIN_LOCK, GENESIS, chain_hash
from medscore_assets.settings import Settings

CONNECT_S = 2
STATEMENT_S = 1.8
"""Shorter than the journal's deadline, so that who waits learns the reason."""

_CHAIN = ("pk_audit_events", "uq_audit_events_hash")
_SHARED_FOR_S = 5.0
_ABANDONED_S = 5

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
_HEAD = "SELECT sequence, hash FROM audit_events ORDER BY sequence DESC LIMIT 1"
_THERE = "SELECT 1 FROM audit_events WHERE hash = %s"
# Each part takes the lock before it touches a row, so that two processes cannot wait for each other.
_ADD = f"""
PREPARE journal_add (json, json, json, json) AS
WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('{CHAIN_LOCK}', 0))),
scored AS (
    INSERT INTO readmission_scores
    SELECT r.* FROM held, json_populate_recordset(NULL::readmission_scores, $1) r
),
shadowed AS (
    INSERT INTO shadow_scores SELECT r.* FROM held, json_populate_recordset(NULL::shadow_scores, $2) r
),
chained AS (
    INSERT INTO audit_events SELECT r.* FROM held, json_populate_recordset(NULL::audit_events, $3) r
),
claimed AS (
    INSERT INTO replayed_tokens
    SELECT r.* FROM held, json_populate_recordset(NULL::replayed_tokens, $4) r
    ON CONFLICT DO NOTHING RETURNING issuer, token_id
)
SELECT issuer, token_id FROM claimed
"""
# An acknowledged entry survives a crash whatever the server's default is; a stricter one stays. A process
# that is stopped while it holds the chain's lock loses it. One plan serves all: the rows do not change it.
_SETUP = f"""
SELECT set_config('synchronous_commit', 'on', false)
    FROM pg_settings WHERE name = 'synchronous_commit' AND setting = 'off'
UNION ALL SELECT set_config('statement_timeout', '{STATEMENT_S * 1000:.0f}', false)
UNION ALL SELECT set_config('idle_in_transaction_session_timeout', '{_ABANDONED_S * 1000}', false)
UNION ALL SELECT set_config('plan_cache_mode', 'force_generic_plan', false)
UNION ALL SELECT set_config('TimeZone', 'UTC', false)
"""


class Stale(Exception):
    """Another process has added to the chain since its head was read. Nothing was stored."""


@dataclass(slots=True, eq=False)
class Entry:
    """What one request wants stored, already encoded, and the future that learns of it."""

    recorded_at: datetime | None = None
    event: str | None = None
    score: bytes | None = None
    shadow: bytes | None = None
    claim: tuple[str, str, str] | None = None
    """Issuer, id and expiry of a one-time token."""
    done: asyncio.Future[bool] = field(init=False)


@dataclass(slots=True)
class _Head:
    sequence: int
    hash: str


class Store:
    """The journal's connection. Every method may raise `psycopg.Error` or `TimeoutError`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._head: _Head | None = None
        self._shared_until = 0.0
        self._attempted: str | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None and not self._connection.closed

    async def connect(self) -> None:
        """Open the connection. Starts the embedded server if it is used and does not run."""
        await self.close()
        url = sa.make_url((await asyncio.to_thread(self._settings.databases)).warehouse)
        conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        async with asyncio.timeout(CONNECT_S + 1):
            connection = await psycopg.AsyncConnection.connect(
                conninfo,
                autocommit=True,
                connect_timeout=CONNECT_S,
                application_name="medscore journal",
                # psycopg would discard all prepared statements, ours too, after a rollback.
                prepare_threshold=None,
            )
            try:
                await connection.execute(_SETUP)
                await connection.execute(_ADD)
            except BaseException:
                await connection.close()
                raise
        self._connection, self._head = connection, None

    async def close(self) -> None:
        """Close the connection; harmless without one."""
        connection, self._connection, self._head = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    async def beat(self) -> None:
        """Ask the database whether it is there."""
        async with asyncio.timeout(STATEMENT_S):
            await self._open().execute("SELECT 1")

    async def add(self, entries: Sequence[Entry]) -> set[tuple[str, str]]:
        """Commit the entries, all or none. Returns the claims that were the first of their token.

        Raises `Stale` if the chain has grown elsewhere: the same call again then reads its head.
        """
        try:
            async with asyncio.timeout(STATEMENT_S + 0.2):
                if self._head is not None and time.monotonic() > self._shared_until:
                    return await self._insert(entries, self._head)
                return await self._add_locked(entries, there=None)
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name not in _CHAIN:
                raise
            self._head, self._shared_until = None, time.monotonic() + _SHARED_FOR_S
            raise Stale from None

    async def add_unless_there(self, entries: Sequence[Entry]) -> set[tuple[str, str]]:
        """Commit the entries of the last attempt, whose outcome is unknown, unless they are there."""
        async with asyncio.timeout(STATEMENT_S + 0.2):
            return await self._add_locked(entries, there=self._attempted)

    async def _add_locked(self, entries: Sequence[Entry], there: str | None) -> set[tuple[str, str]]:
        connection = self._open()
        async with connection.transaction():
            await connection.execute(_LOCK, [CHAIN_LOCK])
            if there is not None and await (await connection.execute(_THERE, [there])).fetchone():
                return set()
            row = await (await connection.execute(_HEAD)).fetchone()
            return await self._insert(entries, _Head(*row) if row else _Head(0, GENESIS))

    async def _insert(self, entries: Sequence[Entry], head: _Head) -> set[tuple[str, str]]:
        """One statement for all entries. The head is forgotten until it is known to be committed."""
        self._head = None
        events, end = _chained(entries, head)
        self._attempted = end.hash
        claims = [
            {"issuer": c[0], "token_id": c[1], "expires_at": c[2]} for c in (e.claim for e in entries) if c
        ]
        found = await _answered(
            self._open(),
            [
                _array([e.score for e in entries if e.score]),
                _array([e.shadow for e in entries if e.shadow]),
                orjson.dumps(events),
                orjson.dumps(claims),
            ],
        )
        self._head = end
        return {_texts(found, row) for row in range(found.ntuples)}

    def _open(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None:
            raise psycopg.OperationalError("there is no connection")
        return self._connection


def _chained(entries: Sequence[Entry], head: _Head) -> tuple[list[dict[str, Any]], _Head]:
    """The entries' events as rows that follow the head, and the head after them."""
    sequence, previous = head.sequence, head.hash
    rows = []
    for entry in entries:
        if entry.event is None:
            continue
        sequence += 1
        digest = chain_hash(previous, entry.event)
        rows.append(
            {
                "sequence": sequence,
                "recorded_at": entry.recorded_at,
                "event": entry.event,
                "previous_hash": previous,
                "hash": digest,
            }
        )
        previous = digest
    return rows, _Head(sequence, previous)


def _array(rows: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(rows) + b"]"


async def _answered(connection: psycopg.AsyncConnection[Any], parameters: Sequence[bytes]) -> PGresult:
    """The result of the prepared statement. Who gives up waiting for it must close the connection.

    psycopg's cursor would do the same at several times the cost, and every request waits for it.
    """
    libpq, loop = connection.pgconn, asyncio.get_running_loop()
    libpq.send_query_prepared(b"journal_add", parameters)
    while libpq.flush():
        # More than the socket takes at once.
        await asyncio.sleep(0)
    done: asyncio.Future[list[PGresult]] = loop.create_future()
    results: list[PGresult] = []

    def readable() -> None:
        try:
            libpq.consume_input()
            while not libpq.is_busy():
                result = libpq.get_result()
                if result is None:
                    loop.remove_reader(socket)
                    done.set_result(results)
                    return
                results.append(result)
        except psycopg.Error as error:
            loop.remove_reader(socket)
            done.set_exception(error)

    socket = libpq.socket
    loop.add_reader(socket, readable)
    try:
        await done
    finally:
        loop.remove_reader(socket)
    if results[0].status != ExecStatus.TUPLES_OK:
        raise error_from_result(results[0])
    return results[0]


def _texts(result: PGresult, row: int) -> tuple[str, str]:
    issuer, token_id = (result.get_value(row, column) or b"" for column in (0, 1))
    return bytes(issuer).decode(), bytes(token_id).decode()
