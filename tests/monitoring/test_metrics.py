"""Measures against worked examples and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.monitoring.metrics import (
    calibration_in_the_large,
    calibration_intercept,
    evaluate,
    logistic_fit,
    logit,
    net_benefit,
    net_benefit_of_calling_all,
    observed_expected,
)

LABELS = [0, 0, 1, 1]
RISKS = [0.1, 0.4, 0.35, 0.8]


def logit1(p: float) -> float:
    return math.log(p / (1 - p))


def test_a_worked_example() -> None:
    measured = evaluate(LABELS, RISKS)
    assert (measured.n, measured.events) == (4, 2)
    # Of the four pairs of a case and a non-case three are in the right order.
    assert measured.auroc == pytest.approx(0.75)
    # From the top: precision 1/1 at the first case, 2/3 at the second.
    assert measured.auprc == pytest.approx((1 + 2 / 3) / 2)
    assert measured.brier == pytest.approx((0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4)
    assert measured.scaled_brier == pytest.approx(1 - measured.brier / 0.25)
    assert measured.mean_predicted == pytest.approx(0.4125)
    assert measured.mean_observed == 0.5


def test_ties_count_half_in_the_auroc() -> None:
    assert evaluate([0, 1, 0, 1], [0.3, 0.3, 0.1, 0.9]).auroc == pytest.approx(3.5 / 4)


def test_calibration_in_the_large_is_the_difference_of_logits_for_one_risk() -> None:
    labels = [1] * 30 + [0] * 70
    measured = evaluate(labels, [0.2] * 100)
    assert measured.calibration_intercept == pytest.approx(logit1(0.3) - logit1(0.2), abs=1e-8)
    assert measured.calibration_slope is None
    assert measured.auroc == pytest.approx(0.5)


def grouped(*groups: tuple[float, float]) -> tuple[list[int], list[float]]:
    """Labels and risks of groups of 100: (risk that is said, rate that is observed)."""
    labels, risks = [], []
    for said, observed in groups:
        labels += [1] * round(observed * 100) + [0] * round(100 - observed * 100)
        risks += [said] * 100
    return labels, risks


def test_slope_and_intercept_of_two_groups_in_closed_form() -> None:
    # With two groups the fit is exact: a line through two points in log-odds.
    labels, risks = grouped((0.1, 0.2), (0.6, 0.4))
    slope = (logit1(0.4) - logit1(0.2)) / (logit1(0.6) - logit1(0.1))
    assert evaluate(labels, risks).calibration_slope == pytest.approx(slope, abs=1e-8)
    fitted = logistic_fit(logit(risks), labels)
    assert fitted == pytest.approx((logit1(0.2) - slope * logit1(0.1), slope), abs=1e-7)


def test_perfect_calibration_is_zero_and_one() -> None:
    measured = evaluate(*grouped((0.1, 0.1), (0.3, 0.3), (0.8, 0.8)))
    assert measured.calibration_intercept == pytest.approx(0, abs=1e-8)
    assert measured.calibration_slope == pytest.approx(1, abs=1e-8)


def test_the_observed_rate_for_everybody_has_no_skill() -> None:
    assert evaluate([1, 0, 0, 0], [0.25] * 4).scaled_brier == pytest.approx(0)
    assert evaluate([1, 0], [1, 0]).scaled_brier == 1


@pytest.mark.parametrize(("labels", "rate"), [([0, 0, 0], 0.0), ([1, 1, 1], 1.0)])
def test_one_class_leaves_undefined_what_needs_two(labels: list[int], rate: float) -> None:
    measured = evaluate(labels, [0.2, 0.5, 0.3])
    assert measured.auroc is measured.auprc is measured.scaled_brier is None
    assert measured.calibration_intercept is measured.calibration_slope is None
    assert measured.mean_observed == rate
    assert measured.brier is not None


def test_nobody_is_measured_as_nobody() -> None:
    measured = evaluate([], [])
    assert (measured.n, measured.events, measured.brier, measured.mean_predicted) == (0, 0, None, None)
    assert measured.as_dict() == {"n": 0.0, "events": 0.0}


def test_separated_classes_have_no_slope() -> None:
    measured = evaluate([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert measured.auroc == 1
    assert measured.calibration_slope is None


def test_certain_risks_stay_finite() -> None:
    measured = evaluate([0, 1, 0, 1, 1], [0.0, 1.0, 1.0, 0.0, 0.5])
    assert measured.calibration_intercept is not None
    assert math.isfinite(measured.calibration_intercept)


@pytest.mark.parametrize(
    ("labels", "risks"),
    [
        ([0, 1], [0.5]),
        ([0, 2], [0.5, 0.5]),
        ([0, 1], [0.5, 1.1]),
        ([0, 1], [-0.1, 0.5]),
        ([0, 1], [float("nan"), 0.5]),
        ([[0], [1]], [[0.1], [0.2]]),
    ],
)
def test_what_is_no_label_or_no_probability_is_refused(labels: list[object], risks: list[object]) -> None:
    with pytest.raises(ValueError, match=r"label|probabilit"):
        evaluate(labels, risks)  # type: ignore[arg-type]


def test_names_carry_a_prefix() -> None:
    assert evaluate(LABELS, RISKS).as_dict("lace_like.")["lace_like.auroc"] == pytest.approx(0.75)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 0.99)), min_size=4, max_size=60))
def test_the_auroc_is_the_share_of_ordered_pairs(cases: list[tuple[bool, float]]) -> None:
    labels, risks = [c[0] for c in cases], [c[1] for c in cases]
    pairs = [1.0 if p > q else 0.5 if p == q else 0.0 for y, p in cases if y for z, q in cases if not z]
    measured = evaluate(labels, risks).auroc
    assert measured == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_shifting_all_log_odds_shows_as_the_intercept() -> None:
    labels, risks = grouped((0.1, 0.1), (0.3, 0.3), (0.8, 0.8))
    shifted = 1 / (1 + np.exp(-(logit(risks) - 0.7)))
    assert calibration_intercept(labels, shifted) == pytest.approx(0.7, abs=1e-7)


def test_calibration_in_the_large_as_a_difference_and_as_a_ratio() -> None:
    labels, risks = grouped((0.1, 0.2), (0.3, 0.4))
    assert calibration_in_the_large(labels, risks) == pytest.approx(0.1)
    assert observed_expected(labels, risks) == pytest.approx(0.3 / 0.2)
    assert calibration_in_the_large([], []) is observed_expected([], []) is None
    assert observed_expected([0, 1], [0, 0]) is None


def test_net_benefit_by_hand() -> None:
    # 1,000 cases, 233 called at 20 %: 80 rightly, 153 needlessly. 80/1000 - 153/1000 * .2/.8 = .04175.
    labels = [1] * 80 + [0] * 153 + [1] * 20 + [0] * 747
    risks = [0.5] * 233 + [0.1] * 767
    assert net_benefit(labels, risks, 0.2) == pytest.approx(0.04175)
    # At even odds a needless call costs as much as a found event is worth.
    assert net_benefit(labels, [0.6] * 233 + [0.1] * 767, 0.5) == pytest.approx((80 - 153) / 1000)


def test_calling_everybody_has_the_net_benefit_of_its_closed_form() -> None:
    labels = [1] * 14 + [0] * 86
    for threshold in (0.05, 0.14, 0.4):
        expected = 0.14 - 0.86 * threshold / (1 - threshold)
        assert net_benefit_of_calling_all(0.14, threshold) == pytest.approx(expected)
        assert net_benefit(labels, [1.0] * 100, threshold) == pytest.approx(expected)
    assert net_benefit_of_calling_all(0.14, 0.14) == pytest.approx(0)


def test_who_lies_on_the_threshold_is_not_called() -> None:
    assert net_benefit([1, 1], [0.2, 0.2], 0.2) == 0
    assert net_benefit([1, 1], [0.2, np.nextafter(0.2, 1)], 0.2) == 0.5
    assert net_benefit([], [], 0.2) is None


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, float("nan")])
def test_a_threshold_lies_between_0_and_1(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        net_benefit([1], [0.5], threshold)


@pytest.mark.parametrize(("stretched", "shifted"), [(1.6, 0.0), (0.5, 0.3)])
def test_stretched_log_odds_have_the_reciprocal_as_slope(stretched: float, shifted: float) -> None:
    labels, risks = grouped((0.1, 0.1), (0.3, 0.3), (0.8, 0.8))
    distorted = 1 / (1 + np.exp(-(logit(risks) * stretched + shifted)))
    assert evaluate(labels, distorted).calibration_slope == pytest.approx(1 / stretched, abs=1e-6)


def test_the_brier_score_is_reliability_less_resolution_plus_uncertainty() -> None:
    # Murphy's decomposition, exact for groups of one risk each.
    labels, risks = grouped((0.1, 0.2), (0.3, 0.3), (0.8, 0.6))
    y, p, rate = np.array(labels), np.array(risks), np.mean(labels)
    groups = [(np.mean(p == said), said, y[p == said].mean()) for said in (0.1, 0.3, 0.8)]
    reliability = sum(share * (said - seen) ** 2 for share, said, seen in groups)
    resolution = sum(share * (seen - rate) ** 2 for share, _, seen in groups)
    assert evaluate(labels, risks).brier == pytest.approx(reliability - resolution + rate * (1 - rate))
