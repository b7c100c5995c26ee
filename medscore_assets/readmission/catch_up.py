"""Which morning lists are absent, or were made from other records than those that are there now.

Belongs here: what a list owes to its window, told from the warehouse alone, for sensors, checks and the
command line. Does not belong here: making lists, and when that is asked for (`sensors/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from medscore_assets.partitions import window
from medscore_assets.readmission import queries
from medscore_assets.readmission.outreach import Window
from medscore_assets.tables import discharge_events
from resources.warehouse import Warehouse

_LISTED = "listed_"


@dataclass(frozen=True, slots=True)
class DayState:
    """What one window holds, beside what its list was made from."""

    day: str
    """The partition key."""
    begun: bool
    """Whether any record lies before the window's end: from then on an empty day has a list too."""
    counts: dict[str, int]
    """`events`, `superseded`, `admissions` now."""
    listed: dict[str, int] | None
    """The same when the list was made; None while there is none."""
    newest_arrival: datetime | None
    """When the window's newest event came in."""

    @property
    def missing(self) -> bool:
        """Whether there should be a list and is none."""
        return self.begun and self.listed is None

    @property
    def out_of_date(self) -> bool:
        """Whether there is a list, made from other records than those that are there now."""
        return self.listed is not None and self.listed != self.counts

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        state = "missing" if self.missing else "out of date" if self.out_of_date else "up to date"
        return {"day": self.day, "state": state, "now": self.counts, "listed": self.listed}


def day_states(warehouse: Warehouse, days: Sequence[str]) -> list[DayState]:
    """The states of the windows with these keys, in their order, by one query."""
    if not days:
        return []
    rows = warehouse.read(sa.union_all(*(_state(window(day)) for day in days))).to_pylist()
    found = {row["score_date"]: row for row in rows}
    return [_day_state(day, found[date.fromisoformat(day)]) for day in days]


def stretches(days: Sequence[str]) -> list[tuple[str, str]]:
    """The first and last keys of each run of days without a gap: `days` are keys in their order."""
    found: list[tuple[str, str]] = []
    for day in days:
        the_day_before = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
        if found and found[-1][1] == the_day_before:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def _state(of: Window) -> sa.Select[tuple[object, ...]]:
    """`queries.window_state` of one window, with the day and what else a `DayState` says of it."""
    within = sa.and_(queries.LISTED_AT >= of.start, queries.LISTED_AT < of.end)
    counts = queries.window_state(of).subquery()
    newest = sa.select(sa.func.max(discharge_events.c.ingested_at)).where(within).scalar_subquery()
    return sa.select(
        sa.literal(of.score_date, sa.Date()).label("score_date"),
        sa.exists().where(queries.LISTED_AT < of.end).label("begun"),
        newest.label("newest_arrival"),
        *counts.c,
    )


def _day_state(day: str, row: dict[str, Any]) -> DayState:
    names = [name.removeprefix(_LISTED) for name in row if name.startswith(_LISTED)]
    listed = {name: row[_LISTED + name] for name in names}
    return DayState(
        day,
        begun=row["begun"],
        counts={name: row[name] for name in names},
        listed=None if None in listed.values() else listed,
        newest_arrival=row["newest_arrival"],
    )
