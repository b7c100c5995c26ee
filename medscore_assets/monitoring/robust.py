"""Measures with intervals in closed form: for many groups of cases, every day.

Belongs here: AUROC, Brier score and calibration with the variance of each. Does not belong here: the
evaluation of a model before its use, which draws patients anew (`resampling.py`) and measures more.

Each measure is, to first order, a sum of what every case contributes to it (its influence). The
contributions of one patient are added before they are squared, so that cases of one patient may resemble
each other: the clustered version of DeLong for AUROC (Obuchowski, Biometrics 1997) and of the sandwich for
the others. It agrees with the bootstrap over patients and takes a thousandth of its time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from medscore_assets.monitoring.assessment import Interval
from medscore_assets.monitoring.metrics import logit, sigmoid
from medscore_assets.monitoring.resampling import calibration_lines

Numbers = npt.NDArray[np.float64]

Z = 1.959963984540054
"""Standard errors to either side that hold 95 %."""


def measures(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, patients: npt.ArrayLike
) -> dict[str, Interval]:
    """AUROC, Brier score, observed by expected, calibration intercept and slope, each with its interval.

    All arguments have the shape (n,). An estimate is None where it is undefined, as with one outcome only;
    bounds are None with fewer than two patients.
    """
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if not len(y):
        return dict.fromkeys(_NAMES, Interval(None))
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    brier, observed_expected = _brier(y, p), _observed_expected(y, p)
    found = {
        "auroc": _auroc(y, p),
        "brier": brier,
        "observed_expected": observed_expected,
        **_calibration(y, p),
    }
    return {name: _interval(name, *found[name], patient) for name in _NAMES}


_NAMES = ("auroc", "brier", "observed_expected", "calibration_intercept", "calibration_slope")
Found = tuple[float | None, Numbers]
"""An estimate and what each case contributes to it."""
_UNDEFINED: Found = (None, np.empty(0))


def _auroc(y: Numbers, p: Numbers) -> Found:
    event = y > 0
    if event.all() or not event.any():
        return _UNDEFINED
    above = _share_below(p[event], p[~event])
    below = 1 - _share_below(p[~event], p[event])
    auroc = float(above.mean())
    influence = np.empty(len(y))
    influence[event] = (above - auroc) / len(above)
    influence[~event] = (below - auroc) / len(below)
    return auroc, influence


def _share_below(values: Numbers, others: Numbers) -> Numbers:
    """Per value the share of the others below it; equal ones count half."""
    ordered = np.sort(others)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(ranks / (2 * len(ordered)))


def _brier(y: Numbers, p: Numbers) -> Found:
    errors = (p - y) ** 2
    brier = float(errors.mean())
    return brier, (errors - brier) / len(y)


def _observed_expected(y: Numbers, p: Numbers) -> Found:
    expected = float(p.sum())
    if not expected:
        return _UNDEFINED
    ratio = float(y.sum()) / expected
    return ratio, (y - ratio * p) / expected


def _calibration(y: Numbers, p: Numbers) -> Mapping[str, Found]:
    x = logit(p)
    shifts, slopes = calibration_lines(x, np.ones((1, len(y))), y[np.newaxis])
    intercept, slope = float(shifts[0]), float(slopes[0])
    return {
        "calibration_intercept": _shift(y, x, intercept) if np.isfinite(intercept) else _UNDEFINED,
        "calibration_slope": _slope(y, x, slope) if np.isfinite(slope) else _UNDEFINED,
    }


def _shift(y: Numbers, x: Numbers, shift: float) -> Found:
    risk = sigmoid(shift + x)
    return shift, (y - risk) / float(np.sum(risk * (1 - risk)))


def _slope(y: Numbers, x: Numbers, slope: float) -> Found:
    offset, _ = calibration_lines(slope * x, np.ones((1, len(y))), y[np.newaxis])
    risk = sigmoid(float(offset[0]) + slope * x)
    spread = risk * (1 - risk)
    centred = x - float(spread @ x) / float(spread.sum())
    return slope, centred * (y - risk) / float(spread @ centred**2)


def _interval(
    name: str, estimate: float | None, influence: Numbers, patient: npt.NDArray[np.intp]
) -> Interval:
    """Symmetric, but for the ratio, whose logarithm is; never outside of what the measure can be."""
    patients = int(patient.max()) + 1
    if estimate is None or patients < 2:
        return Interval(estimate)
    of_patient = np.bincount(patient, weights=influence, minlength=patients)
    error = float(np.sqrt(patients / (patients - 1) * np.sum(of_patient**2)))
    if name == "observed_expected" and estimate > 0:
        factor = float(np.exp(Z * error / estimate))
        return Interval(estimate, estimate / factor, estimate * factor)
    low, high = estimate - Z * error, estimate + Z * error
    if name in ("auroc", "brier"):
        low, high = max(0.0, low), min(1.0, high)
    return Interval(estimate, low, high)
