"""One prepared statement sent to PostgreSQL, and its answer.

Belongs here: sending, and three ways of waiting. Does not belong here: which statement (`journal_store.py`).

psycopg's cursor would do the same at several times the cost, and every request waits for it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

_SUCCESS = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Sent:
    """A statement under way. Who gives up waiting for its answer must close the connection."""

    def __init__(self, libpq: PGconn, statement: bytes, parameters: Sequence[bytes | None]) -> None:
        """Sends it. Raises `psycopg.OperationalError` if the connection is known to be lost."""
        self._libpq = libpq
        self._results: list[PGresult] = []
        libpq.send_query_prepared(statement, parameters)
        # More than the socket takes at once is sent while waiting.
        self._unsent = bool(libpq.flush())

    def answered_within(self, seconds: float) -> bool:
        """Whether it succeeds so soon. Keeps the thread busy until then: for less than the wake-ups cost."""
        deadline = time.monotonic() + seconds
        try:
            while not self._unsent and not self._complete():
                if time.monotonic() > deadline:
                    return False
                # Where there is one core, PostgreSQL needs it.
                os.sched_yield()
        except psycopg.Error:
            return False
        return not self._unsent and self._results[0].status in _SUCCESS

    def rows(self) -> PGresult:
        """What it gave, once it is answered. Raises PostgreSQL's refusal."""
        if self._results[0].status not in _SUCCESS:
            raise error_from_result(self._results[0])
        return self._results[0]

    async def answer(self) -> PGresult:
        """What it gives. Raises PostgreSQL's refusal, or `psycopg.OperationalError`."""
        while self._unsent:
            self._unsent = bool(self._libpq.flush())
            await asyncio.sleep(0)
        if not self._complete():
            await self._readable()
        return self.rows()

    async def _readable(self) -> None:
        """Return once the answer is complete."""
        loop, socket = asyncio.get_running_loop(), self._libpq.socket
        done: asyncio.Future[None] = loop.create_future()

        def readable() -> None:
            try:
                if self._complete():
                    loop.remove_reader(socket)
                    done.set_result(None)
            except psycopg.Error as error:
                loop.remove_reader(socket)
                done.set_exception(error)

        loop.add_reader(socket, readable)
        try:
            await done
        finally:
            loop.remove_reader(socket)

    def _complete(self) -> bool:
        """Whether all of the answer is there, reading what has come."""
        libpq = self._libpq
        libpq.consume_input()
        while not libpq.is_busy():
            result = libpq.get_result()
            if result is None:
                return True
            self._results.append(result)
        return False
