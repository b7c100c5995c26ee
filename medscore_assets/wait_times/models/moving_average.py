"""Moving averages of the waits that ended lately, by the clock of the physician's assessment.

Belongs here: the averages and their declared substitutes. Does not belong here: the average by the clock of
the disposition (`document.py`), and usual waits (`climatology.py`).

A wait ends with the PIA; the disposition comes hours later and would show the queue of this morning.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.model import BatchModel, Fitted, History
from medscore_assets.wait_times.models.climatology import usual_of, usual_waits
from medscore_assets.wait_times.models.quantiles import grouped_quantile
from medscore_assets.wait_times.prediction import Predictions, Status
from medscore_assets.wait_times.snapshot import Snapshot

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

UPPER_LEVEL = 0.8


class MovingAverage(BatchModel):
    """The mean wait, and the 80th percentile, of the patients of a band who were seen in the last minutes.

    With too few of them the next longer window serves, and after the last one the usual wait of the hour.
    """

    windows: tuple[timedelta, ...]
    """The window, and those that stand in for it."""
    min_patients: int = 3

    def fit(self, history: History) -> dict[str, dict[str, Any]]:
        return usual_waits(history)

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        found = Predictions.empty(len(snapshot), self.bands)
        for place, band in enumerate(self.bands):
            in_band = snapshot.completed() & snapshot.in_band(band)
            for window in self.windows:
                minutes = window / timedelta(minutes=1)
                missing = np.isnan(found.p50[:, place])
                if missing.any():
                    lately = in_band & (snapshot.seen > -minutes) & missing[snapshot.scene()]
                    reason = "" if window == self.windows[0] else f"the last {minutes:.0f} min"
                    self._average(snapshot, lately, place, found, reason)
        self._usual(snapshot, fitted, found)
        return found

    def _average(
        self, snapshot: Snapshot, lately: Mask, place: int, found: Predictions, instead: str
    ) -> None:
        """Fills in the scenes that have enough patients."""
        scene = snapshot.scene()[lately]
        waits = snapshot.waits()[lately] * 60
        counts = np.bincount(scene, minlength=len(snapshot))
        sums = np.bincount(scene, weights=waits, minlength=len(snapshot))
        enough = np.flatnonzero(counts >= self.min_patients)
        if not len(enough):
            return
        found.p50[enough, place] = sums[enough] / counts[enough]
        upper = grouped_quantile(waits, scene, len(snapshot), UPPER_LEVEL)[enough]
        found.p80[enough, place] = np.maximum(upper, found.p50[enough, place])
        found.status[enough, place] = Status.FALLBACK if instead else Status.OK
        if instead:
            self._say(found, enough, place, instead)

    def _usual(self, snapshot: Snapshot, fitted: Fitted, found: Predictions) -> None:
        usual = usual_of(snapshot, fitted, self.bands)
        missing = np.isnan(found.p50) & ~np.isnan(usual.p50)
        found.p50[missing], found.p80[missing] = usual.p50[missing], usual.p80[missing]
        found.status[missing] = Status.FALLBACK
        for place in range(len(self.bands)):
            self._say(found, np.flatnonzero(missing[:, place]), place, "the usual wait of the hour")

    def _say(self, found: Predictions, scenes: npt.NDArray[np.int64], place: int, instead: str) -> None:
        window = self.windows[0] / timedelta(minutes=1)
        text = f"fewer than {self.min_patients} patients in {window:.0f} min: {instead}"
        for scene in scenes.tolist():
            found.messages[scene, place] = text


class MovingAverage60(MovingAverage):
    """Over an hour."""

    name = "moving_average_60"
    version = "1.0.0"
    windows = (timedelta(minutes=60), timedelta(minutes=120), timedelta(minutes=240))


class MovingAverage120(MovingAverage):
    """Over two hours."""

    name = "moving_average_120"
    version = "1.0.0"
    windows = (timedelta(minutes=120), timedelta(minutes=240))


class MovingAverage240(MovingAverage):
    """Over four hours."""

    name = "moving_average_240"
    version = "1.0.0"
    windows = (timedelta(minutes=240),)
