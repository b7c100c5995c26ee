"""Measuring a model on held-out cases beside its champion and its baselines, whole and by subgroup.

Belongs here: which measures, curves, tiers, subgroups and differences make an `Assessment`.
Does not belong here: which cases and models (each family's `evaluation.py`), formulas (`metrics.py`), draws
and intervals (`resampling.py`), whether the model may be used (`promotion.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medscore_assets.monitoring.assessment import (
    Assessment,
    CalibrationCurve,
    Difference,
    HeldOut,
    Interval,
    Performance,
    Subgroup,
)
from medscore_assets.monitoring.decisions import decision_curve, risk_distribution, tiers, workload
from medscore_assets.monitoring.metrics import (
    calibration_errors,
    calibration_in_the_large,
    evaluate,
    net_benefit,
    observed_expected,
)
from medscore_assets.monitoring.resampling import (
    Draws,
    Means,
    Numbers,
    Places,
    Ranked,
    interval,
    net_benefit_name,
    proportion,
)

THRESHOLDS = (0.10, 0.20)
MIN_SUBGROUP = (100, 10)
"""Cases and events that a subgroup needs to be measured."""

EVERYBODY = "all"
"""The subject of a difference over all cases."""

TENTHS = 10


@dataclass(frozen=True, slots=True)
class Measure:
    """What a measure says, in words, and which way it is better."""

    words: str
    better_if: str
    """"higher", "lower", "nearer 0", "nearer 1", or "" for what is neither good nor bad."""


MEASURES: Mapping[str, Measure] = {
    "auroc": Measure("area under the ROC curve", "higher"),
    "auprc": Measure("area under the precision-recall curve (average precision)", "higher"),
    "brier": Measure("Brier score", "lower"),
    "scaled_brier": Measure("Brier score against that of the observed rate", "higher"),
    "calibration_in_the_large": Measure("observed minus mean predicted risk", "nearer 0"),
    "observed_expected": Measure("observed per expected events", "nearer 1"),
    "calibration_intercept": Measure("calibration intercept in log-odds, slope fixed at 1", "nearer 0"),
    "calibration_slope": Measure("calibration slope", "nearer 1"),
    "eavg": Measure("mean distance of predicted from smoothed observed risk (Eavg, ICI)", "lower"),
    "e90": Measure("90th percentile of that distance (E90)", "lower"),
    "emax": Measure("largest such distance (Emax)", "lower"),
    "mean_predicted": Measure("mean predicted risk", ""),
    "mean_observed": Measure("observed rate", ""),
    "error_in_the_large": Measure("distance of observed from mean predicted risk", "lower"),
}
"""Every measure but the net benefits, whose names hold their thresholds: see `measure`."""


def measure(name: str) -> Measure:
    """A measure by its name, net benefits included. Raises `KeyError` for an unknown one."""
    percent = name.removeprefix("net_benefit_")
    return Measure(f"net benefit at {percent} %", "higher") if percent != name else MEASURES[name]


_Drawn = dict[str, Numbers]
"""Measure -> its values over the draws."""

_Estimates = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class _Subject:
    """One value of one attribute with enough cases, and where they are."""

    attribute: str
    value: str
    rows: Places
    measured: bool


def assess(
    held_out: HeldOut,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
    min_subgroup: tuple[int, int] = MIN_SUBGROUP,
) -> Assessment:
    """Every measure of every model, and the first model by tier and subgroup and against the others.

    Intervals hold 95 %: by percentiles of `resamples` draws of patients, the same draws for all models
    and the same for the same seed; Wilson's with a design effect for shares of cases. A subgroup with fewer
    than `min_subgroup` cases or events is listed with its size, its measures undefined. Nobody, one
    case or one outcome leave undefined what needs more.

    Raises `ValueError` for arrays that do not fit, no model, or a probability or threshold that is none.
    """
    names = _validated(held_out, resamples)
    everybody = np.arange(len(held_out.labels))
    subjects = _subjects(held_out, min_subgroup)
    drawn = _draw(held_out, names, [s.rows for s in subjects if s.measured], thresholds, resamples, seed)
    y = held_out.labels.astype(np.float64)
    performance = {
        name: _performance(held_out, name, everybody, thresholds, drawn.whole[name]) for name in names
    }
    first = held_out.probabilities[names[0]]
    return Assessment(
        model=names[0],
        n=len(y),
        patients=len(np.unique(held_out.patients)),
        events=int(y.sum()),
        performance=performance,
        calibration={name: _calibration(held_out, name, drawn) for name in names},
        decision_curve=decision_curve(y, held_out.probabilities),
        risk_distribution=risk_distribution(held_out.labels, first),
        tiers=tiers(held_out, first),
        workload=workload(held_out, first, thresholds),
        subgroups=_subgroups(held_out, names[0], subjects, thresholds, drawn),
        differences={
            name: _differences(held_out, name, performance, subjects, thresholds, drawn) for name in names[1:]
        },
        thresholds=tuple(float(t) for t in thresholds),
        resamples=resamples,
        seed=seed,
    )


def _validated(held_out: HeldOut, resamples: int) -> list[str]:
    """The names of the models."""
    if not held_out.probabilities:
        raise ValueError("there is no model to measure")
    if resamples < 0:
        raise ValueError("the number of resamples is below 0")
    shape = held_out.labels.shape
    for what, array in {
        "patients": held_out.patients,
        "tiers": held_out.tiers,
        **held_out.probabilities,
        **held_out.groups,
    }.items():
        if len(shape) != 1 or array.shape != shape:
            raise ValueError(f"{what} {array.shape} and labels {shape} must be of one and the same length")
    return list(held_out.probabilities)


def _subjects(held_out: HeldOut, min_subgroup: tuple[int, int]) -> list[_Subject]:
    found = []
    for attribute, values in held_out.groups.items():
        for value in np.unique(values).tolist():
            rows = np.flatnonzero(values == value)
            events = int(held_out.labels[rows].sum())
            enough = len(rows) >= min_subgroup[0] and events >= min_subgroup[1]
            found.append(_Subject(attribute, value, rows, enough))
    return found


@dataclass(frozen=True, slots=True)
class _AllDrawn:
    """What the draws gave: per model on all cases, per subgroup for the first model, and in pairs.

    `curves` are smooth curves at the centres of `ranked`, shape (draws, groups). `paired` is subgroup ->
    model -> measure; subgroups are numbered among those that are measured.
    """

    ranked: dict[str, Ranked]
    whole: dict[str, _Drawn]
    curves: dict[str, Numbers]
    subgroups: list[_Drawn]
    paired: list[dict[str, _Drawn]]


def _draw(
    held_out: HeldOut,
    names: Sequence[str],
    subgroups: Sequence[Places],
    thresholds: Sequence[float],
    resamples: int,
    seed: int,
) -> _AllDrawn:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    y = held_out.labels.astype(np.float64)
    p = {name: np.asarray(held_out.probabilities[name], dtype=np.float64) for name in names}
    whole = {name: Ranked.of(y, p[name], np.arange(len(y))) for name in names}
    parts = [Ranked.of(y, p[names[0]], rows) for rows in subgroups]
    means = [Means.of(y, p, rows, thresholds) for rows in subgroups]
    found: dict[tuple[object, ...], list[Numbers]] = defaultdict(list)
    # Products this small gain nothing from threads, and lose much where the processors are busy.
    with threadpool_limits(1, user_api="blas"):
        for weights in Draws.of(held_out.patients, resamples, seed).weights():
            for name, ranked in whole.items():
                sums = ranked.sums(weights)
                found["curve", name].append(ranked.smoother.curve(*ranked.grouped(sums)))
                for measured, values in ranked.measures(sums, thresholds).items():
                    found["whole", name, measured].append(values)
            for place, (part, mean) in enumerate(zip(parts, means, strict=True)):
                for measured, values in part.measures(part.sums(weights), thresholds).items():
                    found["part", place, measured].append(values)
                for (name, measured), values in mean.measures(weights).items():
                    found["pair", place, name, measured].append(values)
    joined = {key: np.concatenate(values) for key, values in found.items()}

    def under(*key: object) -> _Drawn:
        return {str(k[-1]): values for k, values in joined.items() if k[:-1] == key}

    return _AllDrawn(
        ranked=whole,
        whole={name: _with_error(under("whole", name)) for name in names},
        curves={name: joined.get(("curve", name), np.empty((0, 0))) for name in names},
        subgroups=[under("part", place) for place in range(len(parts))],
        paired=[{name: under("pair", place, name) for name in names} for place in range(len(parts))],
    )


def _with_error(drawn: _Drawn) -> _Drawn:
    if not drawn:
        return drawn
    return {**drawn, "error_in_the_large": np.abs(drawn["calibration_in_the_large"])}


def _estimates(y: Numbers, p: Numbers, thresholds: Sequence[float]) -> _Estimates:
    found = evaluate(y, p)
    errors = calibration_errors(y, p) or (None, None, None)
    return {
        "auroc": found.auroc,
        "auprc": found.auprc,
        "brier": found.brier,
        "scaled_brier": found.scaled_brier,
        "calibration_in_the_large": calibration_in_the_large(y, p),
        "observed_expected": observed_expected(y, p),
        "calibration_intercept": found.calibration_intercept,
        "calibration_slope": found.calibration_slope,
        "eavg": errors[0],
        "e90": errors[1],
        "emax": errors[2],
        "mean_predicted": found.mean_predicted,
        "mean_observed": found.mean_observed,
        **{net_benefit_name(t): net_benefit(y, p, t) for t in thresholds},
    }


def _performance(
    held_out: HeldOut, name: str, rows: Places, thresholds: Sequence[float], drawn: _Drawn | None
) -> Performance:
    """One model on the cases at `rows`; without draws (None) every measure is undefined."""
    y = held_out.labels[rows].astype(np.float64)
    estimates = _estimates(y, held_out.probabilities[name][rows], thresholds)
    measures = {
        measured: Interval(None) if drawn is None else interval(value, drawn.get(measured, np.empty(0)))
        for measured, value in estimates.items()
    }
    return Performance(len(y), len(np.unique(held_out.patients[rows])), int(y.sum()), measures)


def _calibration(held_out: HeldOut, name: str, drawn: _AllDrawn) -> CalibrationCurve:
    ranked, curves = drawn.ranked[name], drawn.curves[name]
    smoother = ranked.smoother
    smooth, lower, upper = np.empty(0), np.empty(0), np.empty(0)
    if len(smoother.centres):
        once = ranked.grouped(ranked.sums(np.ones((len(held_out.labels), 1))))
        smooth = smoother.curve(*once)[0]
        around = [interval(s, c) for s, c in zip(smooth, curves.T, strict=True)] if len(curves) else []
        lower = np.array([np.nan if i.lower is None else i.lower for i in around] or smooth * np.nan)
        upper = np.array([np.nan if i.upper is None else i.upper for i in around] or smooth * np.nan)
    bins = [b for b in np.array_split(ranked.rows, TENTHS) if len(b)]
    observed = [proportion(held_out.labels[b], held_out.patients[b]) for b in bins]
    return CalibrationCurve(
        grid=smoother.centres,
        smooth=smooth,
        lower=lower,
        upper=upper,
        bin_predicted=np.array([held_out.probabilities[name][b].mean() for b in bins]),
        bin_observed=np.array([i.estimate for i in observed], dtype=np.float64),
        bin_lower=np.array([i.lower for i in observed], dtype=np.float64),
        bin_upper=np.array([i.upper for i in observed], dtype=np.float64),
        bin_n=np.array([len(b) for b in bins], dtype=np.int64),
    )


def _subgroups(
    held_out: HeldOut,
    name: str,
    subjects: Sequence[_Subject],
    thresholds: Sequence[float],
    drawn: _AllDrawn,
) -> tuple[Subgroup, ...]:
    measured = iter(drawn.subgroups)
    p = held_out.probabilities[name]
    found = []
    for subject in subjects:
        of_part = next(measured) if subject.measured else None
        performance = _performance(held_out, name, subject.rows, thresholds, of_part)
        flag_rate = Interval(None)
        if thresholds and subject.measured:
            flag_rate = proportion(p[subject.rows] > thresholds[0], held_out.patients[subject.rows])
        found.append(Subgroup(subject.attribute, subject.value, performance, flag_rate))
    return tuple(found)


def _differences(
    held_out: HeldOut,
    other: str,
    performance: Mapping[str, Performance],
    subjects: Sequence[_Subject],
    thresholds: Sequence[float],
    drawn: _AllDrawn,
) -> tuple[Difference, ...]:
    """The first model minus the other, on all cases and then by subgroup."""
    first = next(iter(held_out.probabilities))
    means = ("brier", *map(net_benefit_name, thresholds), "error_in_the_large")
    here, there = (_with_its_error(performance[name]) for name in (first, other))
    pairs = (drawn.whole[first], drawn.whole[other])
    size = (EVERYBODY, len(held_out.labels), int(held_out.labels.sum()))
    found = [_difference(name, size, (here, there), pairs) for name in ("auroc", "auprc", *means)]
    parts = (subject for subject in subjects if subject.measured)
    for subject, paired in zip(parts, drawn.paired, strict=True):
        y = held_out.labels[subject.rows].astype(np.float64)
        size = (f"{subject.attribute} = {subject.value}", len(y), int(y.sum()))
        here, there = (
            _means(y, held_out.probabilities[name][subject.rows], thresholds) for name in (first, other)
        )
        found += [_difference(name, size, (here, there), (paired[first], paired[other])) for name in means]
    return tuple(found)


def _with_its_error(performance: Performance) -> _Estimates:
    found = {name: of.estimate for name, of in performance.measures.items()}
    large = found["calibration_in_the_large"]
    return {**found, "error_in_the_large": None if large is None else abs(large)}


def _means(y: Numbers, p: Numbers, thresholds: Sequence[float]) -> _Estimates:
    """The measures of a subgroup that are compared between models."""
    return {
        "brier": float(np.mean((p - y) ** 2)),
        "error_in_the_large": abs(float(y.mean() - p.mean())),
        **{net_benefit_name(t): net_benefit(y, p, t) for t in thresholds},
    }


def _difference(
    name: str,
    size: tuple[str, int, int],
    estimates: tuple[_Estimates, _Estimates],
    drawn: tuple[_Drawn, _Drawn],
) -> Difference:
    """`size` is the subject, its cases and its events."""
    (a, b), nothing = (found[name] for found in estimates), np.empty(0)
    between = None if a is None or b is None else a - b
    values = drawn[0].get(name, nothing) - drawn[1].get(name, nothing)
    return Difference(name, *size, measure(name).better_if, interval(between, values))
