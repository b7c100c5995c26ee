"""What waits usually are at an hour of the day: a model of its own, and the last resort of others.

Belongs here: fitting usual waits by facility, band and local hour, and looking them up for scenes. Does not
belong here: models that know the present.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.model import BatchModel, Fitted, History, learned
from medscore_assets.wait_times.models.once import shared
from medscore_assets.wait_times.models.quantiles import grouped_quantile
from medscore_assets.wait_times.prediction import Predictions, Status
from medscore_assets.wait_times.snapshot import Snapshot
from medscore_assets.wait_times.visits import LONGEST_WAIT

Numbers = npt.NDArray[np.float64]

DAYS = 28
HOURS = 24
MIN_PATIENTS = 5
"""With fewer, an hour takes the value of the whole day, and a band has none."""
LEVELS = (0.5, 0.8)


class Usual(NamedTuple):
    """Usual waits of scenes and bands in seconds, of shape (scenes, bands); NaN where none was learned."""

    p50: Numbers
    p80: Numbers


@shared
def usual_waits(history: History) -> dict[str, dict[str, Any]]:
    """By facility and band: median and 80th percentile of the waits in seconds by local hour of arrival.

    Patients of the last 28 days who were seen, without those of the last 24 hours: of these only the short
    waits are over.
    """
    snapshot = history.snapshot
    newest, oldest = -LONGEST_WAIT / timedelta(minutes=1), -timedelta(days=DAYS) / timedelta(minutes=1)
    rows = np.flatnonzero(snapshot.completed() & (snapshot.arrived <= newest) & (snapshot.arrived > oldest))
    scene = snapshot.scene()[rows]
    hours = snapshot.local_hours(snapshot.arrived[rows], scene)
    waits = snapshot.waits()[rows] * 60
    found: dict[str, dict[str, Any]] = {facility: {} for facility in snapshot.facilities}
    for band in ALL_BANDS:
        here = snapshot.in_band(band)[rows]
        by_hour, enough = _by_hour(waits[here], scene[here], hours[here], len(snapshot))
        for number in np.flatnonzero(enough):
            found[snapshot.facilities[number]][band] = by_hour[:, number].tolist()
    return found


def usual_of(snapshot: Snapshot, fitted: Fitted, bands: tuple[str, ...]) -> Usual:
    """The usual waits of somebody who arrives in each scene."""
    hours = snapshot.local_hour()
    found = np.full((2, len(snapshot), len(bands)), np.nan)
    for scene, facility in enumerate(snapshot.facilities):
        known = learned(fitted, facility) or {}
        for place, band in enumerate(bands):
            if band in known:
                found[:, scene, place] = [level[hours[scene]] for level in known[band]]
    return Usual(found[0], found[1])


def _by_hour(
    waits: Numbers, scene: npt.NDArray[np.int32], hours: npt.NDArray[np.int8], scenes: int
) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Quantiles in whole seconds, of shape (levels, scenes, 24), and the scenes with enough patients."""
    slot = scene.astype(np.int64) * HOURS + hours
    few = np.bincount(slot, minlength=scenes * HOURS).reshape(scenes, HOURS) < MIN_PATIENTS
    found = np.empty((len(LEVELS), scenes, HOURS))
    for number, level in enumerate(LEVELS):
        whole_day = grouped_quantile(waits, scene, scenes, level)[:, np.newaxis]
        of_hour = grouped_quantile(waits, slot, scenes * HOURS, level).reshape(scenes, HOURS)
        found[number] = np.where(few, whole_day, of_hour).round()
    return found, np.bincount(scene, minlength=scenes) >= MIN_PATIENTS


class Climatology(BatchModel):
    """The median and the 80th percentile of the waits at this hour of the day, whatever happens today."""

    name = "climatology"
    version = "1.0.0"

    def fit(self, history: History) -> dict[str, dict[str, Any]]:
        return usual_waits(history)

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        found = Predictions.empty(len(snapshot), self.bands)
        usual = usual_of(snapshot, fitted, self.bands)
        found.p50, found.p80 = usual
        found.status[~np.isnan(usual.p50)] = Status.OK
        return found
