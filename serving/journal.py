"""The journal: scores and audit events, committed together before an answer leaves.

Belongs here: the queue, the task that commits what has gathered in it, and what becomes of a request when
that fails. Does not belong here: the statements (`journal_store.py`), the events' form (`audit.py`), and
what is a score (`readmission.py`).

While one transaction is being committed, requests gather; they all go into the next one. So the latency of
a request is at most two commits, and the number of commits does not grow with the number of requests. The
task costs three turns of the event loop; a request that is alone does without it, and without giving way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg

from medscore_assets.settings import Settings
from medscore_assets.tables.serving import readmission_scores, shadow_scores
from resources.errors import MedscoreError
from serving.audit import AuditEntry, event_of
from serving.errors import ApiError, Conflict, Unavailable
from serving.journal_store import Entry, Stale, Store, columns_of, encoded, require_columns

__all__ = [
    "AuditEntry",
    "EntryRefused",
    "IdempotencyConflict",
    "Journal",
    "JournalUnavailable",
    "ScoreRow",
    "ShadowRow",
]

ScoreRow = Mapping[str, Any]
"""The columns of `readmission_scores`; JSON columns as lists and dicts, times as aware datetimes."""

ShadowRow = Mapping[str, Any]
"""The columns of `shadow_scores`."""

DEADLINE_S = 2.0
"""How long a request waits for its commit."""

_MOST_WAITING = 2_000
_MOST_PER_COMMIT = 256
_HEARTBEAT_S = 1.0
_BACKOFF_S = (0.1, 0.2, 0.4, 0.8, 1.5)
_TOGETHER_S = 0.05
"""So long after two requests were on their way at once, others are waited for."""

_PATIENCE_S = 0.002
"""So long a request that is alone waits for its commit without giving way to others."""

_IMPATIENT_S = 0.1
"""So long no request does so after one waited in vain: on a slow disk that would be most of the time."""

_DOUBTED_S = 5.0
"""So long after a commit failed on a good connection the journal is not sound, unless one succeeds."""

_MANY = 2
_IDEMPOTENCY = "uq_readmission_scores_client_idempotency_key"
_POISON = ("22", "23")
"""SQLSTATE classes that say that the rows are wrong, not the database."""

_log = logging.getLogger(__name__)


class JournalUnavailable(Unavailable):
    """Nothing can be recorded now, so nothing may be answered."""


class IdempotencyConflict(Conflict):
    """The client has a score under this idempotency key. Nothing was recorded of this request."""


class EntryRefused(ApiError):
    """The database refuses what this one request would store. `constraint` names the rule, if known."""

    status, code = 500, "not_recorded"

    def __init__(self, constraint: str | None = None) -> None:
        super().__init__()
        self.constraint = constraint


class Journal:
    """One connection and one task that commits. Used from one event loop, between `start` and `stop`.

    Several journals, in this process or others, can write to one database: they take turns.
    """

    def __init__(self, settings: Settings) -> None:
        self._store = Store(settings)
        self._queue: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._available = False
        self._failed_at = float("-inf")
        self._committing = False
        self._together_at = -_TOGETHER_S
        self._idle = False
        self._begun: list[Entry] = []
        self._patient_from = 0.0
        self.under_way: Callable[[], int] = lambda: _MANY
        """How many requests are being answered, as the server knows it."""

    @property
    def available(self) -> bool:
        """Whether the database took the last entry, or answered the last heartbeat."""
        return self._available

    @property
    def sound(self) -> bool:
        """Whether entries are likely to be recorded: a database that answers may still take none."""
        return self._available and time.monotonic() - self._failed_at > _DOUBTED_S

    @property
    def waiting(self) -> int:
        """How many requests wait for the next commit."""
        return len(self._queue)

    @property
    def together(self) -> bool:
        """Whether requests have just come at once, and not one after the other."""
        return time.monotonic() - self._together_at < _TOGETHER_S

    async def start(self) -> None:
        """Connect, if that is possible, and begin to commit. Tries again in the background if it is not."""
        self._stopping = False
        with contextlib.suppress(psycopg.Error, MedscoreError, TimeoutError, OSError):
            await self._open()
        self._task = asyncio.create_task(self._run(), name="journal")

    async def stop(self) -> None:
        """Commit what waits, and close."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=2 * DEADLINE_S)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task})
            self._task = None
        self._available = False
        self._fail_all()
        await self._store.close()

    async def record(
        self,
        audit: AuditEntry,
        score: ScoreRow | None = None,
        shadow: ShadowRow | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """Return when the event, and the score with it, are committed; `meanwhile` is called before that.

        Raises `JournalUnavailable` if that is not so within the deadline, `IdempotencyConflict` if the
        client has another score under its key, `EntryRefused` if the database refuses these rows.
        """
        entry = Entry(recorded_at=audit.occurred_at, event=event_of(audit), meanwhile=meanwhile)
        alone = self._alone
        if score is not None:
            require_columns(score, readmission_scores)
            if alone and shadow is None:
                entry.columns = columns_of(score)
            if entry.columns is None:
                entry.score = encoded(score)
        if shadow is not None:
            require_columns(shadow, shadow_scores)
            entry.shadow = encoded(shadow)
        await self._committed(entry, alone)

    async def claim(self, issuer: str, token_id: str, expires_at: datetime) -> bool:
        """Whether this one-time token is used for the first time, by whichever process.

        Returns when that is committed. Raises `JournalUnavailable`.
        """
        entry = Entry(claim=(issuer, token_id, expires_at.isoformat()))
        return await self._committed(entry, self._alone)

    @property
    def _alone(self) -> bool:
        """Whether an entry can be sent at once: no other request is being answered, or will be just now."""
        free = self._idle and not self._queue and not self.together
        return free and self.under_way() < _MANY and self._store.ready

    async def _committed(self, entry: Entry, alone: bool) -> bool:
        if not self._available or self._stopping or len(self._queue) >= _MOST_WAITING:
            raise JournalUnavailable()
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        entry.done = done
        if alone:
            self._commit_alone(entry)
        else:
            self._enqueue(entry)
        if done.done():
            return done.result()
        try:
            async with asyncio.timeout(DEADLINE_S):
                first: bool = await done
                return first
        except TimeoutError:
            # Until the database is heard of again, others need not wait as long.
            self._fallen()
            raise JournalUnavailable() from None

    def _enqueue(self, entry: Entry) -> None:
        if self._queue or self._committing:
            self._together_at = time.monotonic()
        self._queue.append(entry)
        self._wake.set()

    def _commit_alone(self, entry: Entry) -> None:
        """Send the entry and wait; leave it to the task if it takes long or fails."""
        self._begun = [entry]
        self._store.begin(self._begun)
        _use_time(self._begun)
        now = time.monotonic()
        patience = _PATIENCE_S if now >= self._patient_from else 0.0
        claimed = self._store.finish(patience)
        if claimed is None:
            if patience:
                self._patient_from = now + _IMPATIENT_S
            self._idle = False
            self._wake.set()
        else:
            self._failed_at = float("-inf")
            _resolve(self._begun, claimed)
            self._begun = []

    async def _run(self) -> None:
        failures = 0
        while not (self._stopping and not self._queue and not self._begun):
            try:
                if not self._store.connected:
                    await self._open()
                    failures = 0
                if await self._something_waits():
                    self._committing = True
                    try:
                        await self._commit(self._begun or await self._gathered())
                    finally:
                        self._committing, self._begun = False, []
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # Whatever it was, requests must not wait for a task that is gone.
                _log.warning("the journal lost its database: %s", type(error).__name__)
                await self._give_up()
                if self._stopping:
                    return
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1

    async def _open(self) -> None:
        await self._store.connect()
        self._available = True

    def _fallen(self) -> None:
        # A connection that is lost tells by itself when it is there again.
        self._failed_at = time.monotonic() if self._store.connected else self._failed_at
        self._available = False

    async def _give_up(self) -> None:
        self._fallen()
        self._fail_all()
        await self._store.close()

    def _fail_all(self) -> None:
        _fail([*self._begun, *self._queue], JournalUnavailable)
        self._begun = []
        self._queue.clear()

    async def _something_waits(self) -> bool:
        """Waits for an entry. With none for a while, asks whether the database is there, and says False."""
        if not self._queue and not self._begun:
            self._wake.clear()
            self._idle = True
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    await self._wake.wait()
            except TimeoutError:
                self._idle = False
                if not self._begun:
                    await self._store.beat()
                    self._available = True
            finally:
                self._idle = False
        return bool(self._queue or self._begun)

    async def _let_others_join(self) -> None:
        """Go on once no request that has come in is still on its way here: a commit costs as much as one."""
        waiting = 0
        while waiting < len(self._queue) < _MOST_PER_COMMIT:
            waiting = len(self._queue)
            # One turn of the loop reads what has come in, the next one runs its handlers.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def _gathered(self) -> list[Entry]:
        if self.together:
            await self._let_others_join()
        taken = [self._queue.popleft() for _ in range(min(len(self._queue), _MOST_PER_COMMIT))]
        # Whoever gave up waiting was answered with 503.
        return [entry for entry in taken if not entry.done.done()]

    async def _commit(self, entries: list[Entry]) -> None:
        """Commit these entries and say so to who waits; raise if the database is not to be had."""
        if not entries:
            return
        try:
            claimed = await self._stored(entries)
        except psycopg.Error as error:
            if not (error.sqlstate or "").startswith(_POISON):
                _fail(entries, JournalUnavailable)
                raise
            if len(entries) == 1:
                refusal = _refusal(error)
                _fail(entries, lambda: refusal)
                return
            # One of them is not acceptable: the others must not suffer for it.
            half = len(entries) // 2
            try:
                await self._commit(entries[:half])
            except BaseException:
                _fail(entries[half:], JournalUnavailable)
                raise
            await self._commit(entries[half:])
        except BaseException:
            _fail(entries, JournalUnavailable)
            raise
        else:
            self._available, self._failed_at = True, float("-inf")
            _resolve(entries, claimed)

    async def _stored(self, entries: Sequence[Entry]) -> set[tuple[str, str]]:
        """Store the entries; once more where another process was first or the connection was lost."""
        if self._store.ready:
            self._store.begin(entries)
        _use_time(entries)
        while True:
            try:
                return await self._store.add(entries)
            except Stale:
                continue
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if isinstance(error, psycopg.errors.QueryCanceled) or any(e.claim for e in entries):
                    # No time is left; or whether this attempt has claimed the token cannot be known.
                    raise
                await self._store.close()
                await self._store.connect()
                # Who gave up meanwhile was answered with 503. All were stored, or none.
                awaited = [entry for entry in entries if not entry.done.done()]
                return await self._store.add_unless_there(awaited)


def _fail(entries: Iterable[Entry], error: Callable[[], ApiError]) -> None:
    for entry in entries:
        if not entry.done.done():
            entry.done.set_exception(error())


def _use_time(entries: Iterable[Entry]) -> None:
    """Do what requests want done while PostgreSQL commits; what goes wrong there is each one's own."""
    for entry in entries:
        work, entry.meanwhile = entry.meanwhile, None
        if work is not None and not entry.done.done():
            try:
                work()
            except Exception as error:
                entry.done.set_exception(error)


def _refusal(error: psycopg.Error) -> ApiError:
    constraint = error.diag.constraint_name
    if constraint == _IDEMPOTENCY:
        return IdempotencyConflict()
    _log.error("the database refuses an entry: %s, %s", type(error).__name__, constraint)
    return EntryRefused(constraint)


def _resolve(entries: Sequence[Entry], claimed: set[tuple[str, str]]) -> None:
    for entry in entries:
        first = True
        if entry.claim is not None:
            # Of two claims of one token in one transaction the first one has it.
            key = entry.claim[:2]
            first = key in claimed
            claimed.discard(key)
        if not entry.done.done():
            entry.done.set_result(first)
