"""Turns changes of visits, which messages tell one at a time, into versions.

Belongs here: how a change meets what is known. Does not belong here: reading messages (`hl7_adt.py`) and the
warehouse (`visit_loading.py`).

Changes may come in any order and again: each is laid upon the version in force at its own time. Versions that
are stored never change. The same changes again make no version.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from medscore_assets.wait_times.importers.versions import TIMES, VISITS_SCHEMA

Key = tuple[str, str]
State = dict[str, Any]

FIELDS = (*TIMES, "ctas", "scheduled")
NOTHING: State = dict.fromkeys(FIELDS) | {"scheduled": False}
"""What is known of a visit that nobody told of, and of one that was cancelled."""
TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Change:
    """What one message tells of a visit, known from `recorded_at` (UTC) on.

    `told` has the fields of `ed_visits` that it tells, None to take one away, and besides them
    `registered_at`, which begins the wait unless triage came before, and `left_unless_seen`: the end of a
    visit that was coded as left without being seen. A cancelled visit is as if it had never been. `others`
    has what a told time could mean as well: if that is what is known, it stays.
    """

    facility_id: str
    visit_id: str
    recorded_at: datetime
    told: Mapping[str, Any]
    cancelled: bool = False
    others: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(slots=True)
class _History:
    """The versions of one visit in the order of time, and which of them are additions."""

    times: list[datetime]
    states: list[State]
    added: set[datetime]

    def add(self, change: Change) -> None:
        """Lay a change upon the version in force at its time."""
        at = change.recorded_at
        position = bisect_right(self.times, at)
        before = self.states[position - 1] if position else NOTHING
        after = laid_upon(before, change)
        # Messages of one second follow each other in the order in which they came.
        while position and after != before and self.times[position - 1] == at:
            at += TICK
            position = bisect_right(self.times, at)
            before = self.states[position - 1]
            after = laid_upon(before, change)
        if after == before and position:
            return
        latest = position == len(self.times)
        self._insert(position, at, after)
        if not latest and self.states[-1] != NOTHING:
            self._complete(after)

    def _insert(self, position: int, at: datetime, state: State) -> None:
        self.times.insert(position, at)
        self.states.insert(position, state)
        self.added.add(at)

    def _complete(self, late: State) -> None:
        """What only a late message knew is known of the visit's newest version too."""
        newest = self.states[-1]
        whole = newest | {name: late[name] for name in FIELDS if newest[name] is None}
        if newest["arrival"] == newest["triage_at"] and late["arrival"]:
            # Nobody had told of the registration.
            whole["arrival"] = min(late["arrival"], whole["arrival"] or late["arrival"])
        if whole != newest:
            self._insert(len(self.times), self.times[-1] + TICK, whole)


def laid_upon(state: State, change: Change) -> State:
    """The state of a visit after a change."""
    if change.cancelled:
        return NOTHING
    told, others = dict(change.told), change.others
    ended = "disposition_at" if told.get("pia_at", state["pia_at"]) is not None else "left_at"
    known = {"registered_at": "arrival", "left_unless_seen": ended}
    told |= {name: other for name, other in others.items() if state.get(known.get(name, name)) == other}
    after = state | {name: told[name] for name in FIELDS if name in told}
    begins = [told.get("registered_at") or state["arrival"], after["triage_at"]]
    if "arrival" not in told:
        after["arrival"] = min((moment for moment in begins if moment), default=None)
    if "left_unless_seen" in told:
        after[ended] = told["left_unless_seen"]
    return after


def new_versions(
    changes: Iterable[Change], stored: Mapping[Key, list[tuple[datetime, State]]], source: str
) -> pa.Table:
    """The versions (`VISITS_SCHEMA`, all open) that changes add to the stored ones.

    `stored` has, for the visits of which there are any, the versions' times and states (`FIELDS`) in order.
    """
    histories: dict[Key, _History] = {}
    for change in changes:
        key = (change.facility_id, change.visit_id)
        if key not in histories:
            known = stored.get(key, [])
            histories[key] = _History([at for at, _ in known], [state for _, state in known], set())
        histories[key].add(change)
    rows = [
        {"facility_id": facility, "visit_id": visit, "recorded_at": at, "source": source, **state}
        for (facility, visit), history in histories.items()
        for at, state in zip(history.times, history.states, strict=True)
        if at in history.added
    ]
    return pa.Table.from_pylist(rows, VISITS_SCHEMA)
