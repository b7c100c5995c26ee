"""How sure a measure is: the measures again on patients drawn anew, a thousand times.

Belongs here: the draws, every measure under many sets of weights at once, percentile intervals.
Does not belong here: which measures are shown of whom (`evaluation.py`), measuring once (`metrics.py`).

Patients are drawn with replacement and bring all their cases along (a clustered bootstrap), since the
cases of one patient resemble each other. A draw is a column of weights: how often each case is in it. All
models meet the same draws, so that differences are paired. Cases are sorted once; a measure is then read
from running sums. AUROC, AUPRC, Brier score and net benefit are exact; slope, intercept and the smooth
curve take the cases in the groups of `smoothing.py`, the slope by Newton steps to the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from medscore_assets.monitoring.assessment import Interval
from medscore_assets.monitoring.metrics import CLOSEST_TO_CERTAIN, logit, sigmoid, threshold_odds
from medscore_assets.monitoring.smoothing import Smoother

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

AT_ONCE = 50
"""Most draws that are worked on at once; fewer where there are very many cases."""

_CELLS_AT_ONCE = 2_000_000
"""Cases times draws, so that one portion of weights stays within 16 MB."""

LEVEL = 0.95
MOST_UNDEFINED = 0.05
"""A measure that is undefined in more of the draws (one class only, say) has no interval."""

_FEWEST_PATIENTS = 2
"""Of one patient every draw is the same: that is no interval."""

_NEWTON_STEPS = 30
_CLOSE_ENOUGH = 1e-8
_BEYOND_ANY_FIT = 50.0
"""A coefficient in log-odds that only grows towards infinity: the classes are separated."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Patients drawn with replacement, as often as there are patients; the same for the same seed."""

    patient: Places
    patients: int
    number: int
    seed: int

    @classmethod
    def of(cls, patients: npt.ArrayLike, number: int, seed: int) -> Self:
        """The draws over the patient of every case, shape (n,)."""
        different, patient = np.unique(np.asarray(patients), return_inverse=True)
        return cls(patient.astype(np.intp), len(different), number, seed)

    def weights(self) -> Iterator[Numbers]:
        """How often each case is in each draw, shape (n, draws), in portions of some draws."""
        random = np.random.default_rng(self.seed)
        if self.patients < _FEWEST_PATIENTS:
            return
        portion = max(1, min(AT_ONCE, _CELLS_AT_ONCE // len(self.patient)))
        for begun in range(0, self.number, portion):
            size = min(portion, self.number - begun)
            drawn = random.integers(self.patients, size=(size, self.patients))
            often = np.empty((self.patients, size))
            for place, of_one in enumerate(drawn):
                often[:, place] = np.bincount(of_one, minlength=self.patients)
            yield often[self.patient]


@dataclass(frozen=True, slots=True)
class Sums:
    """Weighted sums over the cases of one subject, sorted by one model's probability.

    Shapes: `cases` (n + 1, draws), running weights of all; `events` (events + 1, draws), of those with the
    outcome; `of_event` (events, draws), the weight of each; `squares` and `predicted` (draws,).
    """

    cases: Numbers
    events: Numbers
    of_event: Numbers
    squares: Numbers
    predicted: Numbers


@dataclass(frozen=True, slots=True)
class Ranked:
    """The cases of one subject sorted by one model's probability, to be measured under any weights."""

    rows: Places
    """Positions of the sorted cases among all."""
    probabilities: Numbers
    labels: Numbers
    event: Places
    """Positions of the events among the sorted cases."""
    first: Places
    last: Places
    """Per event, where the cases of the same probability begin and end."""
    smoother: Smoother

    @classmethod
    def of(cls, labels: Numbers, probabilities: Numbers, rows: Places) -> Self:
        """The cases at `rows` of arrays over all cases."""
        rows = rows[np.argsort(probabilities[rows], kind="stable")]
        p, y = probabilities[rows], labels[rows]
        event = np.flatnonzero(y > 0)
        first, last = np.searchsorted(p, p[event], "left"), np.searchsorted(p, p[event], "right")
        return cls(rows, p, y, event, first, last, Smoother.over(p))

    def sums(self, weights: Numbers) -> Sums:
        """What the measures are made of, under weights of all cases, shape (all cases, draws)."""
        of_case = weights[self.rows]
        of_event = of_case[self.event]
        linear = np.stack([(self.probabilities - self.labels) ** 2, self.probabilities]) @ of_case
        return Sums(_running(of_case), _running(of_event), of_event, linear[0], linear[1])

    def measures(self, sums: Sums, thresholds: Sequence[float]) -> dict[str, Numbers]:
        """Every measure, shape (draws,), NaN where it is undefined; net benefits by `net_benefit_name`."""
        n, events = sums.cases[-1], sums.events[-1]
        cases, of_group = self.grouped(sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            rate, predicted, brier = events / n, sums.predicted / n, sums.squares / n
            both = np.where((events > 0) & (events < n), 1.0, np.nan)
            intercept, slope = calibration_lines(logit(self.smoother.centres), cases, of_group)
            errors = self.smoother.errors(cases, self.smoother.curve(cases, of_group))
            found = {
                "auroc": self._auroc(sums),
                "auprc": self._auprc(sums),
                "brier": brier,
                "scaled_brier": (1 - brier / (rate * (1 - rate))) * both,
                "calibration_in_the_large": rate - predicted,
                "observed_expected": np.where(sums.predicted > CLOSEST_TO_CERTAIN, rate / predicted, np.nan),
                "calibration_intercept": intercept,
                "calibration_slope": slope,
                **dict(zip(("eavg", "e90", "emax"), errors, strict=True)),
                "mean_predicted": predicted,
                "mean_observed": rate,
            }
            for threshold in thresholds:
                found[net_benefit_name(threshold)] = self._net_benefit(sums, threshold)
        return found

    def grouped(self, sums: Sums) -> tuple[Numbers, Numbers]:
        """Weights of the cases and of the events in each group of the smoother, shape (draws, groups)."""
        edges = self.smoother.edges
        before = np.searchsorted(self.event, edges)
        return np.diff(sums.cases[edges], axis=0).T, np.diff(sums.events[before], axis=0).T

    def _auroc(self, sums: Sums) -> Numbers:
        """The share of pairs of an event and a non-event that are in order; ties count half."""
        others = self._non_events_before(sums, self.first) + self._non_events_before(sums, self.last)
        ordered = np.einsum("ij,ij->j", sums.of_event, others) / 2
        return np.asarray(ordered / (sums.events[-1] * (sums.cases[-1] - sums.events[-1])))

    def _non_events_before(self, sums: Sums, places: Places) -> Numbers:
        before: Numbers = sums.cases[places] - sums.events[np.searchsorted(self.event, places)]
        return before

    def _auprc(self, sums: Sums) -> Numbers:
        """Average precision: the mean, over events, of the precision of calling from each one's risk on."""
        n, events = sums.cases[-1], sums.events[-1]
        hits = events - sums.events[np.searchsorted(self.event, self.first)]
        called = n - sums.cases[self.first]
        precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
        area = np.einsum("ij,ij->j", sums.of_event, precision) / events
        return np.where(events < n, area, np.nan)

    def _net_benefit(self, sums: Sums, threshold: float) -> Numbers:
        place = np.searchsorted(self.probabilities, threshold, side="right")
        n, hits = sums.cases[-1], sums.events[-1] - sums.events[np.searchsorted(self.event, place)]
        needless = n - sums.cases[place] - hits
        return np.asarray((hits - needless * threshold_odds(threshold)) / n)


@dataclass(frozen=True, slots=True)
class Means:
    """What each case of a subgroup adds to the measures that are means over cases, for several models.

    `columns` is (cases, models * terms): squared error, error, and the net benefit per threshold.
    """

    rows: Places
    columns: Numbers
    names: tuple[str, ...]
    thresholds: tuple[float, ...]

    @classmethod
    def of(cls, y: Numbers, p: Mapping[str, Numbers], rows: Places, thresholds: Sequence[float]) -> Self:
        """The cases at `rows` of arrays over all cases; `p` is by model."""
        columns = []
        for of_model in p.values():
            error = of_model[rows] - y[rows]
            columns += [error**2, error]
            for threshold in thresholds:
                worth = np.where(y[rows] > 0, 1.0, -threshold_odds(threshold))
                columns.append(np.where(of_model[rows] > threshold, worth, 0.0))
        return cls(rows, np.column_stack(columns), tuple(p), tuple(thresholds))

    def measures(self, weights: Numbers) -> dict[tuple[str, str], Numbers]:
        """(model, measure) -> values (draws,)."""
        of_case = weights[self.rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            means = self.columns.T @ of_case / of_case.sum(axis=0)
        wide = 2 + len(self.thresholds)
        found = {}
        for place, name in enumerate(self.names):
            brier, error, *benefits = means[place * wide : (place + 1) * wide]
            found[name, "brier"], found[name, "error_in_the_large"] = brier, np.abs(error)
            for threshold, benefit in zip(self.thresholds, benefits, strict=True):
                found[name, net_benefit_name(threshold)] = benefit
        return found


def net_benefit_name(threshold: float) -> str:
    """The measure's name, by the threshold in per cent: `net_benefit_20`."""
    return f"net_benefit_{threshold * 100:g}"


def calibration_lines(log_odds: Numbers, cases: Numbers, events: Numbers) -> tuple[Numbers, Numbers]:
    """Intercept (of a fit with slope 1) and slope of logistic fits on log-odds, each of shape (sets,).

    `log_odds` is (groups,), the weights of each group's cases and events are (sets, groups). NaN where
    there is no finite answer: one class, one prediction, or classes that it separates.
    """
    shift = _newton(log_odds, cases, events, sloped=False)[0]
    return shift, _newton(log_odds, cases, events, sloped=True)[1]


def _newton(x: Numbers, cases: Numbers, events: Numbers, *, sloped: bool) -> tuple[Numbers, Numbers]:
    sets = len(cases)
    intercept, slope = np.zeros(sets), np.ones(sets)
    if not len(x):
        return np.full(sets, np.nan), np.full(sets, np.nan)
    middle = float(x.mean()) if sloped else 0.0
    intercept, x = intercept + middle, x - middle
    converged = np.zeros(sets, dtype=bool)
    with np.errstate(all="ignore"):
        for _ in range(_NEWTON_STEPS):
            risk = sigmoid(intercept[:, None] + slope[:, None] * x)
            missing, spread = events - cases * risk, cases * risk * (1 - risk)
            g0, h00 = missing.sum(axis=1), spread.sum(axis=1)
            if sloped:
                g1, h01, h11 = missing @ x, spread @ x, spread @ x**2
                determinant = h00 * h11 - h01**2
                step0 = (h11 * g0 - h01 * g1) / determinant
                step1 = (h00 * g1 - h01 * g0) / determinant
            else:
                step0, step1 = g0 / h00, np.zeros(sets)
            longest = np.maximum(np.abs(step0), np.abs(step1))
            shorter = np.minimum(1.0, 4.0 / longest)
            intercept, slope = intercept + step0 * shorter, slope + step1 * shorter
            converged = longest < _CLOSE_ENOUGH
            lost = ~(np.maximum(np.abs(intercept), np.abs(slope)) < _BEYOND_ANY_FIT)
            if (converged | lost).all():
                break
    defined = converged & (np.abs(intercept) < _BEYOND_ANY_FIT) & (np.abs(slope) < _BEYOND_ANY_FIT)
    return np.where(defined, intercept, np.nan), np.where(defined, slope, np.nan)


def interval(estimate: float | None, drawn: Numbers) -> Interval:
    """The estimate with the percentiles of the draws that hold 95 % of them.

    Draws have more noise than the cases themselves, so that distances such as Eavg come out larger and
    the percentiles can miss the estimate: the interval is then widened to hold it. No bounds where there
    were no draws or too many were undefined.
    """
    if estimate is None or not np.isfinite(estimate):
        return Interval(None)
    if not len(drawn) or np.mean(~np.isfinite(drawn)) > MOST_UNDEFINED:
        return Interval(float(estimate))
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(np.where(np.isfinite(drawn), drawn, np.nan), [tail, 1 - tail])
    return Interval(float(estimate), min(float(low), float(estimate)), max(float(high), float(estimate)))


def proportion(successes: npt.ArrayLike, patients: npt.ArrayLike) -> Interval:
    """The share of the cases that succeed, with Wilson's interval for as many cases as they are worth.

    Cases of one patient resemble each other: n is divided by the design effect, the variance between
    patients over that of independent cases, never below 1. Holds, unlike the bootstrap, for no success at
    all in a small tier. Undefined for nobody.
    """
    y = np.asarray(successes, dtype=np.float64)
    if not len(y):
        return Interval(None)
    n, share = len(y), float(y.mean())
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    between = float((np.bincount(patient, weights=y - share) ** 2).sum())
    alone = n * share * (1 - share)
    worth = n / max(1.0, between / alone) if alone > 0 else float(n)
    z = 1.959963984540054
    centre = (share + z**2 / (2 * worth)) / (1 + z**2 / worth)
    half = z / (1 + z**2 / worth) * math.sqrt(share * (1 - share) / worth + z**2 / (4 * worth**2))
    # The rounding of either sum must not push a bound past the share itself.
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def _running(weights: Numbers) -> Numbers:
    """Sums of the first 0, 1, ... rows."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums
