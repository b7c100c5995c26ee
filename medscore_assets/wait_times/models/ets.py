"""Simple exponential smoothing, ETS(A,N,N), of hourly waits.

Belongs here: the daily fit with statsmodels and the filter of a tick. Does not belong here: the bins
(`binned.py`).

The smoothing parameter of a facility is estimated daily by maximum likelihood and stored. A tick filters the
bins of all facilities and bands with the stored parameters; an empty hour is skipped, which equals smoothing
the series without it. The level starts from the mean of the bins and is the forecast. The model states no
80th percentile: the interval of an hourly mean is not that of a patient's wait.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.model import BatchModel, Fitted, History
from medscore_assets.wait_times.models.binned import answered, binned_means, fitting_series, parameter
from medscore_assets.wait_times.prediction import Predictions
from medscore_assets.wait_times.snapshot import Snapshot

Numbers = npt.NDArray[np.float64]

FEWEST_BINS = 24
"""Fewer hours with a value are not fitted; the default stands."""


class ETS(BatchModel):
    """The level of simple exponential smoothing over hourly means of waits that ended in the hour."""

    name = "ets"
    version = "1.0.0"
    default_alpha: ClassVar[float] = 0.3

    def fit(self, history: History) -> dict[str, dict[str, Any]]:
        """Per facility `alpha`, and `warning` where the fit gave one; nothing for too short series."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        found = {}
        # Threads make problems this small slower by a multiple.
        with threadpool_limits(1, user_api="blas"):
            for facility, series in fitting_series(history).items():
                known = series[~np.isnan(series)]
                if len(known) >= FEWEST_BINS and np.ptp(known) > 0:
                    found[facility] = _fitted(known)
        return found

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        """The smoothed level of each scene and band; `binned.answered` says what is a fall-back."""
        series = binned_means(snapshot, self.bands)
        alpha, unfitted = parameter(snapshot, fitted, "alpha", self.default_alpha)
        return answered(series, smoothed(series, alpha[:, None]), unfitted, self.bands)


def smoothed(series: Numbers, alpha: Numbers) -> Numbers:
    """The level after the last bin: series (..., bins) with NaN for empty bins, alpha (...). NaN if all are.

    The recursion level += alpha * (bin - level) from the mean of the bins, written out as a weighted sum.
    """
    known = ~np.isnan(series)
    count = known.sum(axis=-1)
    later = count[..., None] - np.cumsum(known, axis=-1)
    total = np.where(known, series, 0.0)
    mean = np.divide(total.sum(axis=-1), count, out=np.full(count.shape, np.nan), where=count > 0)
    decay = 1.0 - alpha
    weights = np.where(known, alpha[..., None] * decay[..., None] ** later, 0.0)
    level: Numbers = (weights * total).sum(axis=-1) + decay**count * mean
    return level


def _fitted(known: Numbers) -> dict[str, Any]:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        model = ETSModel(known, error="add", initialization_method="known", initial_level=float(known.mean()))
        result = model.fit(disp=False)
    names = dict(zip(result.param_names, result.params, strict=True))
    found: dict[str, Any] = {"alpha": float(np.clip(names["smoothing_level"], 0.0, 1.0))}
    if raised:
        found["warning"] = raised[0].category.__name__
    return found
