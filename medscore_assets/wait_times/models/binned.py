"""Hourly series of waits by the time at which they ended, shared by the smoothing and autoregressive models.

Belongs here: cutting completed waits into hours, and what the models of such series answer where a series is
old or empty. Does not belong here: what is fitted to a series (`ets.py`, `arima.py`).

A bin is the mean wait of the patients of a band whose wait ended (PIA) in it. Bins are counted back from the
moment, so that the newest is always a full hour. An hour in which nobody was seen has no value and updates
nothing: it is neither zero nor a repetition of the hour before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.bands import ALL_POSTED
from medscore_assets.wait_times.model import Fitted, History, learned
from medscore_assets.wait_times.models.once import shared
from medscore_assets.wait_times.prediction import LONGEST_SECONDS, Predictions, Status
from medscore_assets.wait_times.snapshot import Snapshot

Numbers = npt.NDArray[np.float64]

BIN_MINUTES = 60.0
BINS = 96
"""Hours that a tick filters."""
FITTED_BINS = 14 * 24
"""Hours that a fit reads; more changes little."""
STALE_BINS = 6
"""A band in which nobody was seen in as many of the newest hours is answered as a fall-back."""


@shared
def binned_means(snapshot: Snapshot, bands: Sequence[str], bins: int = BINS) -> Numbers:
    """Mean waits in seconds, shape (scenes, bands, bins), oldest bin first; NaN where nobody was seen."""
    scenes = len(snapshot)
    completed = np.flatnonzero(snapshot.completed())
    number = np.floor(-snapshot.seen[completed] / BIN_MINUTES).astype(np.int64)
    rows, number = completed[number < bins], number[number < bins]
    place = snapshot.scene()[rows].astype(np.int64) * bins + (bins - 1 - number)
    waits = snapshot.waits()[rows] * 60
    means = np.full((scenes, len(bands), bins), np.nan)
    for index, band in enumerate(bands):
        inside = snapshot.in_band(band)[rows]
        counts = np.bincount(place[inside], minlength=scenes * bins)
        sums = np.bincount(place[inside], weights=waits[inside], minlength=scenes * bins)
        filled = counts > 0
        found = np.divide(sums, counts, out=np.full(scenes * bins, np.nan), where=filled)
        means[:, index] = found.reshape(scenes, bins)
    return means


def fitting_series(history: History) -> dict[str, Numbers]:
    """Of each facility, the bins of all posted patients of the last weeks, shape (bins,), oldest first.

    One series per facility is fitted and its parameters hold for all bands: it has the fewest empty hours.
    """
    bins = min(FITTED_BINS, history.days * 24)
    means = binned_means(history.snapshot, (ALL_POSTED,), bins)[:, 0]
    return dict(zip(history.facilities, means, strict=True))


def parameter(
    snapshot: Snapshot, fitted: Fitted, name: str, default: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """A fitted parameter of each scene's facility, shape (scenes, ...), and which scenes have the default."""
    own: Sequence[Mapping[str, Any]] = [learned(fitted, facility) or {} for facility in snapshot.facilities]
    missing = np.array([name not in found for found in own], dtype=bool)
    values = [found.get(name, default) for found in own]
    return np.array(values, dtype=np.float64).reshape(len(own), *np.shape(default)), missing


def answered(
    series: Numbers, forecast: Numbers, unfitted: npt.NDArray[np.bool_], bands: tuple[str, ...]
) -> Predictions:
    """Forecasts in seconds, shape (scenes, bands), with their statuses.

    No data without any bin; a fall-back where the newest bins are empty or a facility's parameters are the
    defaults. A forecast below zero is a wait of zero, one above the longest wait is the longest.
    """
    found = Predictions.empty(len(forecast), bands)
    some = ~np.isnan(series).all(axis=2)
    stale = np.isnan(series[:, :, -STALE_BINS:]).all(axis=2)
    found.p50[:] = np.where(some, np.clip(forecast, 0, LONGEST_SECONDS), np.nan)
    found.status[some] = Status.OK
    found.status[some & (stale | unfitted[:, None])] = Status.FALLBACK
    for scene, band in zip(*np.nonzero(some & stale), strict=True):
        found.messages[int(scene), int(band)] = f"nobody was seen in {STALE_BINS} hours"
    for scene, band in zip(*np.nonzero(some & unfitted[:, None]), strict=True):
        found.messages[int(scene), int(band)] = "not fitted yet: default parameters"
    return found
