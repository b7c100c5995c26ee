"""How fast a department's queues move by local hour, and how long a queue takes to drain at that pace.

Belongs here: the fit of the pace and the drain. Does not belong here: who is in a queue (`queue_state.py`).

The pace counts everybody who left the queue, those who were seen and those who gave up (LWBS): who gives up
makes the wait of the others shorter too. Only quarters of an hour that began with somebody waiting count: an
idle department says nothing about how fast it could be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.bands import ALL_BANDS, ALL_POSTED
from medscore_assets.wait_times.model import History
from medscore_assets.wait_times.models.queue_state import QueueEvents, Running
from medscore_assets.wait_times.snapshot import Snapshot

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

FITTED_DAYS = 28
SLOT_MINUTES = 15.0
HORIZON_MINUTES = 24 * 60.0
"""No queue is followed for longer."""
PRIOR_HOURS = 2.0
"""Hours at the department's mean pace that are added to what was seen of each local hour."""
PRIOR_PATIENTS = 10.0
"""Patients at the department's pace that are added to what was seen of each band's queue."""
SLOWEST = 0.05
"""Patients an hour: nothing drains never."""


def fitted_pace(history: History, days: int = FITTED_DAYS) -> dict[str, dict[str, Any]]:
    """Per facility `by_hour`, patients who leave the whole queue in each local hour (24,), and `share`.

    `share` is per band the pace of the band's queue (the band and the sicker) relative to the whole queue's.
    Facilities without anybody who left a queue are left out.
    """
    snapshot = history.snapshot
    events = QueueEvents.of_scenes(snapshot, history.days * 24 * 60.0)
    minutes = min(days, history.days) * 24 * 60.0
    slots = np.arange(-minutes, 0.0, SLOT_MINUTES)
    line = np.repeat(np.arange(len(snapshot)), len(slots))
    minute = np.tile(slots, len(snapshot))
    hour = snapshot.local_hours(minute, line).astype(np.int64).reshape(len(snapshot), -1)
    moved = {}
    for band in ALL_BANDS:
        inside = events.queues(band) & np.isfinite(events.ended)
        ended = Running(events.line[inside], events.ended[inside])
        removed = ended.count(line, minute + SLOT_MINUTES) - ended.count(line, minute)
        busy = events.waiting(band, line, minute)[0] > 0
        moved[band] = (busy.reshape(hour.shape), removed.reshape(hour.shape))
    paces = {}
    for number, facility in enumerate(history.facilities):
        pace = _pace(
            hour[number], {band: (busy[number], gone[number]) for band, (busy, gone) in moved.items()}
        )
        if pace is not None:
            paces[facility] = pace
    return paces


def _pace(hour: Places, moved: Mapping[str, tuple[npt.NDArray[np.bool_], Places]]) -> dict[str, Any] | None:
    busy, removed = moved[ALL_POSTED]
    if not removed[busy].sum():
        return None
    hours = SLOT_MINUTES / 60
    mean = removed[busy].sum() / (busy.sum() * hours)
    gone = np.bincount(hour[busy], weights=removed[busy], minlength=24)
    lasted = np.bincount(hour[busy], minlength=24) * hours
    by_hour = np.maximum((gone + PRIOR_HOURS * mean) / (lasted + PRIOR_HOURS), SLOWEST)
    share = {}
    for band, (waiting, left) in moved.items():
        expected = by_hour[hour[waiting]].sum() * hours
        share[band] = float((left[waiting].sum() + PRIOR_PATIENTS) / (expected + PRIOR_PATIENTS))
    return {"by_hour": by_hour.round(4).tolist(), "share": share}


class Drain:
    """How long queues take to drain on lines whose paces are known, whatever the clocks do meanwhile."""

    def __init__(self, snapshot: Snapshot, paces: Sequence[Mapping[str, Any]], minutes: float = 0.0):
        """Lines are the scenes of a snapshot, asked from `minutes` before their moment up to it."""
        self._grid = np.arange(-minutes, HORIZON_MINUTES + SLOT_MINUTES, SLOT_MINUTES)
        lines = len(snapshot)
        line = np.repeat(np.arange(lines), len(self._grid) - 1)
        hour = snapshot.local_hours(np.tile(self._grid[:-1], lines), line).reshape(lines, -1)
        by_hour = np.array([pace["by_hour"] for pace in paces], dtype=np.float64).reshape(lines, 24)
        gone = np.take_along_axis(by_hour, hour.astype(np.int64), axis=1) * SLOT_MINUTES / 60
        self._gone = np.concatenate([np.zeros((lines, 1)), np.cumsum(gone, axis=1)], axis=1)
        self._share = {band: np.array([pace["share"].get(band, 1.0) for pace in paces]) for band in ALL_BANDS}

    def minutes(self, band: str, line: Places, minute: Numbers, patients: Numbers) -> Numbers:
        """Minutes until so many patients of a band's queue are gone, at most the horizon; all shape (n,)."""
        needed = patients / np.maximum(self._share[band][line], 1e-3)
        found = self._when(line, self._gone_by(line, minute) + needed) - minute
        return np.minimum(found, HORIZON_MINUTES)

    def gone(self, line: Places, since: Numbers, until: Numbers) -> Numbers:
        """How many patients leave the whole queue between two minutes at the usual pace; all shape (n,)."""
        return self._gone_by(line, until) - self._gone_by(line, since)

    def _gone_by(self, line: Places, minute: Numbers) -> Numbers:
        place = np.clip((minute - self._grid[0]) / SLOT_MINUTES, 0, len(self._grid) - 1)
        slot = np.minimum(place.astype(np.int64), len(self._grid) - 2)
        before, after = self._gone[line, slot], self._gone[line, slot + 1]
        by: Numbers = before + (place - slot) * (after - before)
        return by

    def _when(self, line: Places, gone: Numbers) -> Numbers:
        """The minute by which so many are gone; the end of the grid if it comes first."""
        lines, points = self._gone.shape
        # One search over all lines: each has its own stretch of numbers, in which it ascends.
        stretch = float(self._gone[:, -1].max(initial=0.0)) + 1.0
        keys = (self._gone + stretch * np.arange(lines)[:, None]).ravel()
        gone = np.minimum(gone, self._gone[line, -1])
        after = np.searchsorted(keys, gone + stretch * line) - line * points
        after = np.clip(after, 1, points - 1)
        low, high = self._gone[line, after - 1], self._gone[line, after]
        share = np.clip((gone - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
        minute: Numbers = self._grid[after - 1] + share * SLOT_MINUTES
        return minute
