"""A circuit breaker as plain data: a server that keeps failing is asked less often.

Belongs here: the state, and how an exchange changes it. Does not belong here: where the state is kept from
one tick to the next (the warehouse), and what a failed exchange is (`base.py`).

Time is the tick's, never the clock's: the same ticks give the same states.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

FAILURES = 3
"""So many failed exchanges in a row open the circuit."""
FIRST_REST = timedelta(minutes=15)
LONGEST_REST = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Breaker:
    """Failed exchanges in a row, and when the circuit was opened or a trial last failed (UTC)."""

    failures: int = 0
    opened_at: datetime | None = None

    @property
    def rest(self) -> timedelta:
        """How long nobody asks: 15 minutes, doubled by each failed trial, 2 hours at most."""
        doublings = min(max(self.failures - FAILURES, 0), 10)
        return min(FIRST_REST * (1 << doublings), LONGEST_REST)

    @property
    def asks_again_at(self) -> datetime | None:
        """The earliest moment of the next trial, or None while the circuit is closed."""
        return None if self.opened_at is None else self.opened_at + self.rest

    def allows(self, at: datetime) -> bool:
        """Whether to ask at this moment: the circuit is closed, or half-open, which is one trial."""
        again = self.asks_again_at
        return again is None or at >= again

    def after(self, *, answered: bool, at: datetime) -> Breaker:
        """The state after an exchange at this moment."""
        if answered:
            return Breaker()
        failures = self.failures + 1
        return Breaker(failures, at if failures >= FAILURES else None)
