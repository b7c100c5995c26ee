"""ARIMA(5,0,0) of hourly waits: an autoregression around the mean.

Belongs here: the daily fit and the forecast of a tick. Does not belong here: the bins (`binned.py`).

The coefficients solve the Yule-Walker equations (Levinson-Durbin recursion of statsmodels) on
autocovariances that leave empty hours out. A tick forecasts the next hour as its conditional mean given the
hours with a value, which is what a Kalman filter gives; as an autoregression forgets, the newest `WINDOW`
hours suffice. The model states no 80th percentile: the interval of an hourly mean is not that of a patient's
wait.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medscore_assets.wait_times.model import BatchModel, Fitted, History
from medscore_assets.wait_times.models.binned import answered, binned_means, fitting_series, parameter
from medscore_assets.wait_times.prediction import Predictions
from medscore_assets.wait_times.snapshot import Snapshot

Numbers = npt.NDArray[np.float64]

WINDOW = 24
"""Hours before the moment that a forecast looks at."""
FEWEST_BINS = 48
"""Fewer hours with a value are not fitted; the default stands."""
_TOO_CERTAIN = 1e-6
"""Added to the diagonal of correlations, so that a series of equal numbers has a forecast too."""


class ARIMA(BatchModel):
    """The next hour's mean wait by the five hours before it."""

    name = "arima"
    version = "1.0.0"
    default_phi: ClassVar[tuple[float, ...]] = (0.5, 0.0, 0.0, 0.0, 0.0)

    def fit(self, history: History) -> dict[str, dict[str, Any]]:
        """Per facility the coefficients `phi`; nothing for series that are too short, or constant."""
        found = {}
        for facility, series in fitting_series(history).items():
            known = series[~np.isnan(series)]
            if len(known) >= FEWEST_BINS and np.ptp(known) > 0:
                found[facility] = {"phi": yule_walker(series, len(self.default_phi)).tolist()}
        return found

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        """The forecast of each scene and band around the mean of its 96 hours."""
        series = binned_means(snapshot, self.bands)
        phi, unfitted = parameter(snapshot, fitted, "phi", self.default_phi)
        return answered(series, forecast(series, phi), unfitted, self.bands)


def yule_walker(series: Numbers, order: int) -> Numbers:
    """Coefficients (order,) of a stationary autoregression of a series (bins,) with NaN for empty bins."""
    from statsmodels.tsa.stattools import acovf, levinson_durbin

    for missing in ("conservative", "drop"):
        # Adjusted: each covariance is a mean over the pairs that there are, not over all.
        covariance = acovf(series, adjusted=True, missing=missing, nlag=order, fft=False)
        _, phi, partial, *_ = levinson_durbin(covariance, nlags=order, isacov=True)
        # Covariances of a series with gaps need not belong to any process; then the gaps are closed.
        if np.all(np.abs(partial[1:]) < 1):
            break
    return np.asarray(phi, dtype=np.float64)


def forecast(series: Numbers, phi: Numbers) -> Numbers:
    """The conditional mean of the next bin: series (scenes, bands, bins), phi (scenes, order).

    The mean is that of the bins; a band without a value in the window is forecast at its mean, one without
    any at NaN.
    """
    known = ~np.isnan(series)
    count = known.sum(axis=-1)
    total = np.where(known, series, 0.0).sum(axis=-1)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    known = known[..., : -WINDOW - 1 : -1]
    away = np.where(known, series[..., : -WINDOW - 1 : -1] - mean[..., None], 0.0)
    correlation = autocorrelation(phi, WINDOW)
    lag = np.abs(np.subtract.outer(np.arange(WINDOW), np.arange(WINDOW)))
    between = correlation[:, None, lag] * (known[..., None] & known[..., None, :])
    diagonal = np.arange(WINDOW)
    between[..., diagonal, diagonal] = 1.0 + _TOO_CERTAIN
    weighted = np.linalg.solve(between, away[..., None])[..., 0]
    ahead = correlation[:, None, 1:] * known
    result: Numbers = mean + (ahead * weighted).sum(axis=-1)
    return result


def autocorrelation(phi: Numbers, lags: int) -> Numbers:
    """Autocorrelations at lags 0 to `lags`, shape (n, lags + 1), of autoregressions phi (n, order)."""
    order = phi.shape[1]
    lag = np.arange(1, order + 1)
    # rho(k) = sum of phi(i) * rho(|k - i|): `order` equations for the first lags, a recursion for the others.
    system = np.broadcast_to(np.eye(order), (len(phi), order, order)).copy()
    for row in range(order):
        for i in range(order):
            distance = abs(row + 1 - (i + 1))
            if distance > 0:
                system[:, row, distance - 1] -= phi[:, i]
    first = np.linalg.solve(system, phi[..., None])[..., 0]
    found = np.ones((len(phi), lags + 1))
    found[:, 1 : order + 1] = first
    for k in range(order + 1, lags + 1):
        found[:, k] = (phi * found[:, k - lag]).sum(axis=1)
    return found
