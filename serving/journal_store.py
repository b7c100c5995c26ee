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
import numbers
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
import psycopg
import sqlalchemy as sa
from psycopg.pq.abc import PGresult
from sqlalchemy.dialects import postgresql

from medscore_assets.audit import CHAIN_LOCK, GENESIS, chain_hash
from medscore_assets.settings import Settings
from medscore_assets.tables.serving import audit_events, readmission_scores, shadow_scores
from serving.journal_wire import Sent

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
_COLUMNS = {t.name: frozenset(t.columns.keys()) for t in (readmission_scores, shadow_scores)}
_SCORE = tuple(readmission_scores.columns)
_EVENT = tuple(audit_events.columns)
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_TYPES = [c.type.compile(_DIALECT) for c in (*_SCORE, *_EVENT)]
_JSON = frozenset(c.name for c in _SCORE if isinstance(c.type, postgresql.JSONB))
_PLACES = [f"${n}" for n in range(1, len(_TYPES) + 1)]
# One score and its event, as most transactions are: without JSON around it, two thirds of the cost.
_ADD_ONE = f"""
PREPARE journal_add_one ({", ".join(_TYPES)}) AS
WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('{CHAIN_LOCK}', 0))),
scored AS (
    INSERT INTO readmission_scores ({", ".join(c.name for c in _SCORE)})
    SELECT {", ".join(_PLACES[: len(_SCORE)])} FROM held
)
INSERT INTO audit_events ({", ".join(c.name for c in _EVENT)})
SELECT {", ".join(_PLACES[len(_SCORE) :])} FROM held
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
    columns: Sequence[bytes | None] | None = None
    """Instead of `score`, its values in the table's order, for an entry that is sent alone."""
    shadow: bytes | None = None
    claim: tuple[str, str, str] | None = None
    """Issuer, id and expiry of a one-time token."""
    meanwhile: Callable[[], None] | None = None
    """What the request wants done while PostgreSQL commits."""
    done: asyncio.Future[bool] = field(init=False)


@dataclass(slots=True)
class _Head:
    sequence: int
    hash: str


@dataclass(slots=True)
class _UnderWay:
    """Entries that were sent, the head with them, and the statement whose answer is awaited."""

    entries: Sequence[Entry]
    end: _Head
    sent: Sent


class Store:
    """The journal's connection. Every method may raise `psycopg.Error` or `TimeoutError`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._head: _Head | None = None
        self._shared_until = 0.0
        self._attempted: tuple[Sequence[Entry], str] | None = None
        self._under_way: _UnderWay | None = None

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
                await connection.execute(_ADD_ONE)
            except BaseException:
                await connection.close()
                raise
        self._connection, self._head = connection, None

    async def close(self) -> None:
        """Close the connection; harmless without one."""
        connection, self._connection, self._head = self._connection, None, None
        self._under_way = None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    async def beat(self) -> None:
        """Ask the database whether it is there."""
        async with asyncio.timeout(STATEMENT_S):
            await self._open().execute("SELECT 1")

    @property
    def ready(self) -> bool:
        """Whether entries can be sent without waiting: the head is known and nobody else writes."""
        return self.connected and self._head is not None and time.monotonic() > self._shared_until

    def begin(self, entries: Sequence[Entry]) -> None:
        """Send the entries, when it is `ready`; then `finish`, or `add` the same ones."""
        if self._head is not None:
            with contextlib.suppress(psycopg.Error):
                # Whoever adds them finds the connection lost.
                self._under_way = self._send(entries, self._head)

    def finish(self, patience_s: float) -> set[tuple[str, str]] | None:
        """What `add` returns for the entries that were begun, if they are committed within so many seconds.

        Else, whatever is the matter, None: `add` them, which waits for the same answer.
        """
        under_way = self._under_way
        if under_way is None or not under_way.sent.answered_within(patience_s):
            return None
        self._under_way = None
        return self._committed(under_way.sent.rows(), under_way.end)

    async def add(self, entries: Sequence[Entry]) -> set[tuple[str, str]]:
        """Commit the entries, all or none. Returns the claims that were the first of their token.

        Raises `Stale` if the chain has grown elsewhere: the same call again then reads its head.
        """
        under_way, self._under_way = self._under_way, None
        if self._attempted is not None and self._attempted[0] is not entries:
            # That others were stored says nothing about these.
            self._attempted = None
        try:
            async with asyncio.timeout(STATEMENT_S + 0.2):
                if under_way is not None and under_way.entries is entries:
                    return self._committed(await under_way.sent.answer(), under_way.end)
                if self._head is not None and self.ready:
                    return await self._insert(entries, self._head)
                return await self._add_locked(entries, there=None)
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name not in _CHAIN:
                raise
            self._head, self._shared_until = None, time.monotonic() + _SHARED_FOR_S
            raise Stale from None

    async def add_unless_there(self, entries: Sequence[Entry]) -> set[tuple[str, str]]:
        """Commit entries of the last `add`, whose outcome is unknown, unless they are there."""
        async with asyncio.timeout(STATEMENT_S + 0.2):
            there = self._attempted[1] if self._attempted is not None else None
            return await self._add_locked(entries, there)

    async def _add_locked(self, entries: Sequence[Entry], there: str | None) -> set[tuple[str, str]]:
        connection = self._open()
        async with connection.transaction():
            await connection.execute(_LOCK, [CHAIN_LOCK])
            if there is not None and await (await connection.execute(_THERE, [there])).fetchone():
                return set()
            row = await (await connection.execute(_HEAD)).fetchone()
            return await self._insert(entries, _Head(*row) if row else _Head(0, GENESIS))

    async def _insert(self, entries: Sequence[Entry], head: _Head) -> set[tuple[str, str]]:
        """One statement for all entries."""
        under_way = self._send(entries, head)
        return self._committed(await under_way.sent.answer(), under_way.end)

    def _send(self, entries: Sequence[Entry], head: _Head) -> _UnderWay:
        """The head is forgotten until it is known to be committed."""
        self._head = None
        events, end = _chained(entries, head)
        self._attempted = entries, end.hash
        statement, parameters = _statement(entries, events)
        return _UnderWay(entries, end, Sent(self._open().pgconn, statement, parameters))

    def _committed(self, found: PGresult, end: _Head) -> set[tuple[str, str]]:
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


def _statement(
    entries: Sequence[Entry], events: Sequence[Mapping[str, Any]]
) -> tuple[bytes, Sequence[bytes | None]]:
    """The prepared statement for these entries, and its parameters."""
    columns = entries[0].columns if len(entries) == 1 else None
    if columns is not None:
        (event,) = events
        return b"journal_add_one", [*columns, *(_text(c, event[c.name]) for c in _EVENT)]
    claims = [{"issuer": c[0], "token_id": c[1], "expires_at": c[2]} for c in (e.claim for e in entries) if c]
    return b"journal_add", [
        _array([e.score for e in entries if e.score]),
        _array([e.shadow for e in entries if e.shadow]),
        orjson.dumps(events),
        orjson.dumps(claims),
    ]


def columns_of(score: Mapping[str, Any]) -> Sequence[bytes | None] | None:
    """The values of a row of `readmission_scores` as PostgreSQL reads them; None if one holds a zero byte.

    Raises `TypeError` for a value that no column takes.
    """
    columns = [_text(c, score.get(c.name)) for c in _SCORE]
    # libpq takes it for the end of the value.
    return None if any(value is not None and b"\0" in value for value in columns) else columns


def _text(column: sa.Column[Any], value: Any) -> bytes | None:
    if value is None:
        return None
    if column.name in _JSON or isinstance(value, bool):
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, datetime):
        return value.isoformat().encode()
    if isinstance(value, numbers.Real):
        return str(value).encode()
    raise TypeError(f"not a value of a column: {type(value).__name__}")


def require_columns(row: Mapping[str, Any], table: sa.Table) -> None:
    """Raises `ValueError` if a row has what is no column of the table."""
    if not row.keys() <= (columns := _COLUMNS[table.name]):
        raise ValueError(f"not columns of the table: {', '.join(sorted(row.keys() - columns))}")


def encoded(row: Mapping[str, Any]) -> bytes:
    """One row as JSON. For each request by itself, so that what cannot be encoded fails it alone."""
    return orjson.dumps(row if isinstance(row, dict) else dict(row), option=orjson.OPT_SERIALIZE_NUMPY)


def _array(rows: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(rows) + b"]"


def _texts(result: PGresult, row: int) -> tuple[str, str]:
    issuer, token_id = (result.get_value(row, column) or b"" for column in (0, 1))
    return bytes(issuer).decode(), bytes(token_id).decode()
