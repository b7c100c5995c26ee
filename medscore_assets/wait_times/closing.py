"""Boards that somebody blanked, and opened again, for a facility and band: a table that only grows.

Belongs here: closing, opening again, and which closure holds at a moment. Does not belong here: which model
is shown (`assignment.py`), and the sentences that patients read (`serving/wait_times_words.py`).

A closure is apart from the model: ticks, evidence and assignments go on, a promotion opens no board, and
whoever is assigned by then is shown when the board opens again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from medscore_assets import audit, tables
from medscore_assets.model_decisions import require_reason
from medscore_assets.tables.wait_times import CLOSURE_CAUSES
from medscore_assets.wait_times.assignment import MIN_REASON, require_person, require_place
from medscore_assets.wait_times.decisions import last_rows, rows_of
from resources.errors import PermanentError
from resources.warehouse import Warehouse


@dataclass(frozen=True, slots=True)
class Closure:
    """One row of `board_closures`."""

    closure_id: int
    facility_id: str
    band: str
    cause: str | None
    """One of `CLOSURE_CAUSES`, which decides on the sentence that is shown; None: open again."""
    decided_at: datetime
    decided_by: str
    reason: str

    @property
    def told(self) -> str:
        """What it does, in words."""
        if self.cause is None:
            return "The board is open again."
        return f"The board shows no wait from now on ({self.cause.replace('_', ' ')})."

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"decided_at": self.decided_at.isoformat()}


def closures(warehouse: Warehouse, facility_id: str | None = None, band: str | None = None) -> list[Closure]:
    """All closures and openings, or those of a facility or band, oldest first."""
    return [Closure(**row) for row in rows_of(warehouse, tables.board_closures, facility_id, band)]


def closed_places(
    warehouse: Warehouse, at: datetime, connection: sa.Connection | None = None
) -> dict[tuple[str, str], Closure]:
    """By facility and band the closure that holds at `at` (with a zone); open ones are left out."""
    rows = last_rows(warehouse, tables.board_closures.c.decided_at, at, connection)
    last = [Closure(**row) for row in rows]
    return {(made.facility_id, made.band): made for made in last if made.cause is not None}


def close(
    warehouse: Warehouse,
    facility_id: str,
    band: str,
    cause: str,
    *,
    by: str,
    reason: str,
    now: datetime | None = None,
) -> Closure:
    """Show no wait there from now on but why, and enter that into the table and the audit trail.

    Raises `PermanentError` for an unknown facility, band or cause, where it is closed for that cause already,
    and without a reason or a name.
    """
    if cause not in CLOSURE_CAUSES:
        raise PermanentError(
            f"{cause} is no cause of which boards can tell",
            where="--because",
            mend=f"Choose one of: {', '.join(CLOSURE_CAUSES)}.",
        )
    return _decide(warehouse, facility_id, band, cause, by, reason, now)


def reopen(
    warehouse: Warehouse, facility_id: str, band: str, *, by: str, reason: str, now: datetime | None = None
) -> Closure:
    """Show waits there again from now on, and enter that likewise. Raises as `close` does."""
    return _decide(warehouse, facility_id, band, None, by, reason, now)


def _decide(
    warehouse: Warehouse,
    facility_id: str,
    band: str,
    cause: str | None,
    by: str,
    reason: str,
    now: datetime | None,
) -> Closure:
    reason, by = require_reason(reason, MIN_REASON), require_person(by)
    require_place(warehouse, facility_id, band)
    with warehouse.transaction() as connection:
        warehouse.lock(connection, f"board_closures/{facility_id}/{band}")
        at = now or datetime.now(UTC)
        held = closed_places(warehouse, at, connection).get((facility_id, band))
        if cause == (held.cause if held else None):
            raise PermanentError(
                f"the board is {'closed for this cause' if cause else 'open'} already",
                where=f"{facility_id}, {band}",
                mend="Nothing is to be done.",
            )
        row = {
            "facility_id": facility_id,
            "band": band,
            "cause": cause,
            "decided_at": at,
            "decided_by": by,
            "reason": reason,
        }
        return _enter(warehouse, connection, row)


def _enter(warehouse: Warehouse, connection: sa.Connection, row: dict[str, Any]) -> Closure:
    """Table and audit trail in one transaction: neither is without the other."""
    table = tables.board_closures
    entered = connection.execute(sa.insert(table).values(row).returning(table.c.closure_id)).scalar_one()
    audit.append(
        warehouse,
        connection,
        audit.Occurrence(
            kind="model-change",
            outcome="success",
            recorded=row["decided_at"],
            client="medscore command",
            subject=row["decided_by"],
            route=f"medscore waits {'close' if row['cause'] else 'reopen'}",
            reason=row["cause"] or "reopened",
            entity=f"{row['facility_id']}/{row['band']}: board",
        ),
    )
    return Closure(closure_id=int(entered), **row)
