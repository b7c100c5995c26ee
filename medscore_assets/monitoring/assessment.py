"""What is known of a model after it was measured on held-out cases, as plain values.

Belongs here: the shapes that measuring (`evaluation.py`), judging (`promotion.py`) and showing (`report/`)
share. Does not belong here: any computation, any family's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Cases that no model under comparison was fitted on, and what each model says of them.

    All arrays have the shape (n,). `patients` numbers the patients: cases of one patient belong together
    when cases are drawn anew. `probabilities` is by model name: the model to be judged first, then the
    champion if there is one, then the baselines. `groups` is attribute -> value per case.
    """

    labels: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]
    probabilities: Mapping[str, Numbers]
    groups: Mapping[str, npt.NDArray[np.str_]]
    tiers: npt.NDArray[np.str_]
    """The tier of each case by the first model and the policy."""
    tier_edges: Mapping[str, float] = field(default_factory=dict)
    """Tier -> probability above which it begins, from the lowest tier (0) on."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval; None where it is undefined."""

    estimate: float | None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True)
class Performance:
    """One model on one set of cases. `measures` is by name, see `evaluation.MEASURES`."""

    n: int
    patients: int
    events: int
    measures: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class CalibrationCurve:
    """Observed against predicted risk: smoothed with its interval, and by tenths of the cases.

    `grid`, `smooth`, `lower` and `upper` have one shape; `bin_predicted`, `bin_observed`, `bin_lower`,
    `bin_upper` and `bin_n` another.
    """

    grid: Numbers
    smooth: Numbers
    lower: Numbers
    upper: Numbers
    bin_predicted: Numbers
    bin_observed: Numbers
    bin_lower: Numbers
    bin_upper: Numbers
    bin_n: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DecisionCurve:
    """Net benefit by threshold for every model, `treat all` and `treat none`; all of one shape."""

    thresholds: Numbers
    net_benefit: Mapping[str, Numbers]


@dataclass(frozen=True, slots=True)
class Flagged:
    """What follows from calling everybody from a threshold (or tier) on."""

    name: str
    """The tier, or the threshold as it is shown: "20 %"."""
    threshold: float
    flagged: int
    flag_rate: Interval
    sensitivity: Interval
    specificity: Interval
    positive_predictive_value: Interval
    number_needed_to_evaluate: Interval
    """Calls per readmission among those called: 1 / positive predictive value."""


@dataclass(frozen=True, slots=True)
class TierOutcome:
    """One tier: how many are in it, and how many of them had the outcome."""

    tier: str
    n: int
    share: float
    mean_predicted: float | None
    observed: Interval


@dataclass(frozen=True, slots=True)
class RiskDistribution:
    """Shares of the cases with and without the outcome per bin of predicted risk; `edges` is one longer."""

    edges: Numbers
    with_outcome: Numbers
    without_outcome: Numbers


@dataclass(frozen=True, slots=True)
class Subgroup:
    """The judged model on the cases with one value of one attribute."""

    attribute: str
    value: str
    performance: Performance
    flag_rate: Interval
    """At the first threshold of the assessment."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A minus B of one measure on the same cases, with its paired 95 % interval.

    `better_if` is "lower" or "higher". `subject` is "all", or "insurance_type = Medicaid".
    """

    measure: str
    subject: str
    n: int
    events: int
    better_if: str
    difference: Interval


@dataclass(frozen=True, slots=True)
class Assessment:
    """Everything that was measured of the first model of a `HeldOut` and of those beside it."""

    model: str
    n: int
    patients: int
    events: int
    performance: Mapping[str, Performance]
    calibration: Mapping[str, CalibrationCurve]
    decision_curve: DecisionCurve
    risk_distribution: RiskDistribution
    tiers: tuple[TierOutcome, ...]
    workload: tuple[Flagged, ...]
    subgroups: tuple[Subgroup, ...]
    differences: Mapping[str, tuple[Difference, ...]]
    """By the name of the model compared with (champion, baselines): this model minus that one."""
    thresholds: tuple[float, ...]
    resamples: int
    seed: int
