"""Fluid model of the queue: those ahead and oneself, drained at the usual pace of the hours to come.

Belongs here: the model. Does not belong here: the queue (`queue_state.py`) and its pace (`pace.py`).

It looks at who waits, not at who was seen, and so it moves before the waits do. Whoever is as sick as the
band or sicker is ahead. The model states no 80th percentile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from medscore_assets.wait_times.model import BatchModel, Fitted, History, learned
from medscore_assets.wait_times.models.once import once
from medscore_assets.wait_times.models.pace import FITTED_DAYS, Drain, fitted_pace
from medscore_assets.wait_times.models.queue_state import QueueEvents
from medscore_assets.wait_times.prediction import Predictions, Status
from medscore_assets.wait_times.snapshot import Snapshot


class QueueFluid(BatchModel):
    """N waiting plus one, drained at the fitted pace by local hour."""

    name = "queue_fluid"
    version = "1.0.0"
    days: ClassVar[int] = FITTED_DAYS

    def fit(self, history: History) -> dict[str, dict[str, Any]]:
        """Per facility the pace of its queues (`pace.fitted_pace`)."""
        return once(history, ("pace", self.days), lambda: fitted_pace(history, self.days))

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        """A fall-back where a facility's pace is that of its last day only; no data without either."""
        found = Predictions.empty(len(snapshot), self.bands)
        events = QueueEvents.of_scenes(snapshot)
        paces, unfitted, known = paces_of(snapshot, events, fitted)
        drain = Drain(snapshot, paces)
        line, now = np.arange(len(snapshot)), np.zeros(len(snapshot))
        for place, band in enumerate(self.bands):
            waiting, _ = events.waiting(band, line, now)
            minutes = drain.minutes(band, line, now, (waiting + 1).astype(np.float64))
            found.p50[known, place] = minutes[known] * 60
        found.status[known] = Status.OK
        found.status[known & unfitted] = Status.FALLBACK
        for scene in np.flatnonzero(known & unfitted):
            for place in range(len(self.bands)):
                found.messages[int(scene), place] = "not fitted yet: the pace of the last day"
        return found


def paces_of(
    snapshot: Snapshot, events: QueueEvents, fitted: Fitted
) -> tuple[list[Mapping[str, Any]], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The pace of each scene, which scenes have that of their last day only, and which have any (scenes,)."""
    line, now = np.arange(len(snapshot)), np.zeros(len(snapshot))
    daily = events.removals(line, now, 24 * 60.0)
    paces, unfitted = [], np.zeros(len(snapshot), dtype=bool)
    for scene, facility in enumerate(snapshot.facilities):
        own = learned(fitted, facility)
        if own is None or "by_hour" not in own:
            unfitted[scene] = True
            own = {"by_hour": [max(float(daily[scene]), 1.0) / 24] * 24, "share": {}}
        paces.append(own)
    return paces, unfitted, ~unfitted | (daily > 0)
