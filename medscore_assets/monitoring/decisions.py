"""What follows from acting on probabilities: net benefit, tiers, workload, how risks are spread.

Belongs here: the parts of an assessment that are about who is called. Does not belong here: the drawing of
patients (`resampling.py`) and the rules of a family (its policy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from medscore_assets.monitoring.assessment import (
    DecisionCurve,
    Flagged,
    HeldOut,
    Interval,
    Numbers,
    RiskDistribution,
    TierOutcome,
)
from medscore_assets.monitoring.metrics import net_benefit, net_benefit_of_calling_all
from medscore_assets.monitoring.resampling import proportion

TREAT_ALL = "treat all"
TREAT_NONE = "treat none"

CURVE_THRESHOLDS = np.arange(1, 61) / 100
RISK_EDGES = np.linspace(0, 1, 41)


def decision_curve(y: Numbers, probabilities: Mapping[str, Numbers]) -> DecisionCurve:
    """Net benefit at 1 % to 60 % of every model, of calling all and of calling nobody."""
    grid = CURVE_THRESHOLDS

    def benefits(p: npt.NDArray[np.float64]) -> Numbers:
        return np.array([net_benefit(y, p, t) for t in grid], dtype=np.float64)

    rate = float(y.mean()) if len(y) else np.nan
    return DecisionCurve(
        grid,
        {
            **{name: benefits(p) for name, p in probabilities.items()},
            TREAT_ALL: np.array([net_benefit_of_calling_all(rate, t) for t in grid]),
            TREAT_NONE: np.zeros(len(grid)),
        },
    )


def risk_distribution(labels: npt.NDArray[np.bool_], p: Numbers) -> RiskDistribution:
    """Shares of the events and of the others per 2.5 % of predicted risk."""

    def shares(of: Numbers) -> Numbers:
        counts = np.histogram(of, RISK_EDGES)[0].astype(np.float64)
        return counts / max(1, len(of))

    return RiskDistribution(RISK_EDGES, shares(p[labels]), shares(p[~labels]))


def tiers(held_out: HeldOut, p: Numbers) -> tuple[TierOutcome, ...]:
    """Size and observed rate of each tier, in the order of `tier_edges`, else of the mean risk."""
    found = np.unique(held_out.tiers).tolist()
    found.sort(key=lambda tier: float(p[held_out.tiers == tier].mean()))
    known = [*held_out.tier_edges, *(tier for tier in found if tier not in held_out.tier_edges)]
    outcomes = []
    for tier in known:
        rows = np.flatnonzero(held_out.tiers == tier)
        outcomes.append(
            TierOutcome(
                tier=tier,
                n=len(rows),
                share=len(rows) / max(1, len(p)),
                mean_predicted=float(p[rows].mean()) if len(rows) else None,
                observed=proportion(held_out.labels[rows], held_out.patients[rows]),
            )
        )
    return tuple(outcomes)


def workload(held_out: HeldOut, p: Numbers, thresholds: Sequence[float]) -> tuple[Flagged, ...]:
    """At each threshold, then from each tier on but the lowest, which calls everybody."""
    edges = {f"{t * 100:g} %": float(t) for t in thresholds}
    edges |= {tier: edge for tier, edge in held_out.tier_edges.items() if edge > 0}
    return tuple(_flagged(held_out, p, name, edge) for name, edge in edges.items())


def _flagged(held_out: HeldOut, p: Numbers, name: str, threshold: float) -> Flagged:
    labels, patients, called = held_out.labels, held_out.patients, p > threshold
    predictive = proportion(labels[called], patients[called])
    return Flagged(
        name=name,
        threshold=threshold,
        flagged=int(called.sum()),
        flag_rate=proportion(called, patients),
        sensitivity=proportion(called[labels], patients[labels]),
        specificity=proportion(~called[~labels], patients[~labels]),
        positive_predictive_value=predictive,
        number_needed_to_evaluate=_reciprocal(predictive),
    )


def _reciprocal(share: Interval) -> Interval:
    """One per so many. Unlimited where the share can be 0: no number, then."""
    turned = [1 / value if value else None for value in (share.estimate, share.upper, share.lower)]
    return Interval(*turned)
