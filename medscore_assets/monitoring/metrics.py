"""How good probabilities of a yes-or-no outcome are: discrimination, calibration, overall error.

Belongs here: measures on labels and probabilities, and the logistic fit behind calibration.
Does not belong here: models, tiers, intervals (`resampling.py`), the smoother (`smoothing.py`).

Definitions follow Van Calster et al. (STRATOS TG6, Lancet Digital Health 2025). F1 and accuracy are left
out: they are improper for risks.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from medscore_assets.monitoring.smoothing import Smoother

Numbers = npt.NDArray[np.float64]

CLOSEST_TO_CERTAIN = 1e-12
"""Probabilities of exactly 0 or 1 have no logit; they count as this close to it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured on `n` cases of which `events` had the outcome. None where it is undefined."""

    n: int
    events: int
    auroc: float | None
    auprc: float | None
    brier: float | None
    scaled_brier: float | None
    """1 for a perfect model, 0 for one that gives everybody the observed rate."""
    calibration_intercept: float | None
    """Calibration in the large, in log-odds: 0 is right, above 0 the risks are too low."""
    calibration_slope: float | None
    """1 is right; below 1 the risks are too extreme."""
    mean_predicted: float | None
    mean_observed: float | None

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """Every measure that is defined, by name with `prefix` before it."""
        return {prefix + name: float(value) for name, value in asdict(self).items() if value is not None}


def evaluate(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Evaluation:
    """All measures for labels (0/1 or booleans) and probabilities, both of shape (n,).

    Raises `ValueError` on a shape that differs, a label other than 0 and 1, or a probability that is
    not in 0..1. With one class only, or none, the measures that need both are None.
    """
    y, p = _validated(labels, probabilities)
    if not len(y):
        return Evaluation(0, 0, None, None, None, None, None, None, None, None)
    rate, brier = float(y.mean()), float(np.mean((p - y) ** 2))
    both = 0 < rate < 1
    return Evaluation(
        n=len(y),
        events=int(y.sum()),
        auroc=_auroc(y, p) if both else None,
        auprc=_auprc(y, p) if both else None,
        brier=brier,
        scaled_brier=1 - brier / (rate * (1 - rate)) if both else None,
        calibration_intercept=calibration_intercept(y, p) if both else None,
        calibration_slope=_calibration_slope(y, p) if both else None,
        mean_predicted=float(p.mean()),
        mean_observed=rate,
    )


def _validated(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[Numbers, Numbers]:
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape:
        raise ValueError(f"labels {y.shape} and probabilities {p.shape} must be of one and the same length")
    if not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("a label is neither 0 nor 1")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a probability is outside of 0..1 or not a number")
    return y, p


def calibration_in_the_large(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float | None:
    """Observed minus mean predicted risk: above 0 the risks are too low. None for nobody."""
    y, p = _validated(labels, probabilities)
    return float(y.mean() - p.mean()) if len(y) else None


def observed_expected(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float | None:
    """Observed events per expected event: above 1 the risks are too low. None where (almost) none is."""
    y, p = _validated(labels, probabilities)
    return float(y.sum() / p.sum()) if p.sum() > CLOSEST_TO_CERTAIN else None


def net_benefit(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float) -> float | None:
    """TP/n - FP/n * t/(1-t) of calling everybody above the threshold t (Vickers & Elkin 2006).

    Called is who lies above t and not who lies on it, as a tier begins just above its edge. None for
    nobody. Raises `ValueError` for a threshold that is not between 0 and 1.
    """
    y, p = _validated(labels, probabilities)
    odds = threshold_odds(threshold)
    called = p > threshold
    return float((y[called].sum() - (1 - y[called]).sum() * odds) / len(y)) if len(y) else None


def net_benefit_of_calling_all(rate: float, threshold: float) -> float:
    """The net benefit of calling everybody where `rate` have the outcome: r - (1-r) * t/(1-t)."""
    return rate - (1 - rate) * threshold_odds(threshold)


def threshold_odds(threshold: float) -> float:
    """What a needless call costs in found events, at a threshold between 0 and 1."""
    if not 0 < threshold < 1:
        raise ValueError("a threshold lies between 0 and 1")
    return threshold / (1 - threshold)


def calibration_errors(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike
) -> tuple[float, float, float] | None:
    """Eavg (ICI), E90 and Emax: distances between predicted and smoothed observed risk. None for nobody.

    How it is smoothed is told in `smoothing.py`.
    """
    y, p = _validated(labels, probabilities)
    if not len(y):
        return None
    order = np.argsort(p, kind="stable")
    smoother = Smoother.over(p[order])
    cases = np.diff(smoother.edges).astype(np.float64)[None]
    events = np.add.reduceat(y[order], smoother.edges[:-1])[None]
    eavg, e90, emax = smoother.errors(cases, smoother.curve(cases, events))
    return float(eavg[0]), float(e90[0]), float(emax[0])


def _auroc(y: Numbers, p: Numbers) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, p))


def _auprc(y: Numbers, p: Numbers) -> float:
    """Average precision, the step-wise area, without the optimism of the trapezoid."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(y, p))


def calibration_intercept(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float | None:
    """The shift in log-odds that makes the mean risk the observed rate, or None if there is none.

    It is the intercept of a logistic fit with nothing else in it but the risk's logit as offset.
    """
    y, p = _validated(labels, probabilities)
    coefficients = _logistic(y, np.ones((len(y), 1)), offset=logit(p))
    return None if coefficients is None else float(coefficients[0])


def _calibration_slope(y: Numbers, p: Numbers) -> float | None:
    fitted = logistic_fit(logit(p), y)
    return None if fitted is None else fitted[1]


def logistic_fit(score: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float] | None:
    """Intercept and slope of a maximum-likelihood logistic regression of the labels on one score.

    None where there is no finite answer: one class, one score for all, or classes that the score
    separates.
    """
    x, y = np.asarray(score, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if not len(x) or x.min() == x.max():
        return None
    coefficients = _logistic(y, np.column_stack([np.ones_like(x), x]))
    return None if coefficients is None else (float(coefficients[0]), float(coefficients[1]))


def _logistic(y: Numbers, design: Numbers, offset: Numbers | None = None) -> Numbers | None:
    """Coefficients of a binomial GLM, or None where they do not exist."""
    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import PerfectSeparationError, PerfectSeparationWarning

    if y.min() == y.max():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PerfectSeparationWarning)
        try:
            fit = sm.GLM(y, design, family=sm.families.Binomial(), offset=offset).fit(tol=1e-10)
        except (PerfectSeparationError, PerfectSeparationWarning, np.linalg.LinAlgError):
            return None
    coefficients: Numbers = np.asarray(fit.params, dtype=np.float64)
    return coefficients if fit.converged and np.isfinite(coefficients).all() else None


def logit(probabilities: npt.ArrayLike) -> Numbers:
    """Log-odds; exact 0 and 1 are taken as 1e-12 away from it, so that they stay finite."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), CLOSEST_TO_CERTAIN, 1 - CLOSEST_TO_CERTAIN)
    odds: Numbers = np.log(p) - np.log1p(-p)
    return odds


def sigmoid(log_odds: npt.ArrayLike) -> Numbers:
    """Probabilities of log-odds: the inverse of `logit`."""
    probabilities: Numbers = 1 / (1 + np.exp(-np.asarray(log_odds, dtype=np.float64)))
    return probabilities
