"""The smoothed calibration curve and the errors that are read from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.monitoring.metrics import calibration_errors
from medscore_assets.monitoring.smoothing import GROUPS, SPAN, Smoother
from tests.monitoring.simulated import World


def smoothed(labels: np.ndarray, risks: np.ndarray) -> tuple[Smoother, np.ndarray]:
    order = np.argsort(risks, kind="stable")
    smoother = Smoother.over(risks[order])
    events = np.add.reduceat(labels[order].astype(float), smoother.edges[:-1])
    return smoother, smoother.curve(np.diff(smoother.edges).astype(float)[None], events[None])[0]


def test_with_a_group_per_case_it_is_lowess_without_robustness_steps() -> None:
    from statsmodels.nonparametric.smoothers_lowess import lowess

    world = World.of(200)
    risks = world.with_noise(0.5)
    smoother, curve = smoothed(world.labels, risks)
    order = np.argsort(risks)
    expected = lowess(world.labels[order].astype(float), risks[order], frac=SPAN, it=0, return_sorted=False)
    assert len(smoother.centres) == 200
    assert curve == pytest.approx(np.clip(expected, 0, 1), abs=1e-6)


def test_in_groups_it_stays_close_to_lowess_over_all_cases() -> None:
    from statsmodels.nonparametric.smoothers_lowess import lowess

    world = World.of(4000)
    risks = world.with_noise(0.5) ** 1.3
    smoother, curve = smoothed(world.labels, risks)
    expected = lowess(world.labels.astype(float), risks, frac=SPAN, it=0, xvals=smoother.centres)
    assert len(smoother.centres) == GROUPS
    assert np.abs(curve - expected).mean() < 5e-4
    assert np.abs(curve - expected).max() < 1e-2


def test_a_constant_offset_is_found_as_every_error() -> None:
    # In each group of 1,000 the observed rate lies .05 above what is said, and the curve is a line.
    said = np.repeat([0.1, 0.2, 0.3, 0.4], 1000)
    labels = np.concatenate([np.arange(1000) < round(1000 * (p + 0.05)) for p in (0.1, 0.2, 0.3, 0.4)])
    assert calibration_errors(labels, said) == pytest.approx((0.05, 0.05, 0.05), abs=1e-9)


def test_two_groups_in_closed_form() -> None:
    # Two thirds of the cases are needed: each neighbourhood reaches just to the other group, which then
    # weighs nothing, so that the curve is the observed rate of each.
    said = np.repeat([0.2, 0.6], 50)
    labels = np.concatenate([np.arange(50) < 15, np.arange(50) < 25])
    eavg, e90, emax = calibration_errors(labels, said) or (0, 0, 0)
    assert (eavg, e90, emax) == pytest.approx((0.1, 0.1, 0.1))


def test_many_calibrated_cases_have_almost_no_error() -> None:
    world = World.of(200_000, seed=4)
    eavg, e90, _ = calibration_errors(world.labels, 1 / (1 + np.exp(-world.log_odds))) or (1, 1, 1)
    assert eavg < 0.003
    assert e90 < 0.006


def test_one_risk_for_all_is_off_by_the_distance_to_the_observed_rate() -> None:
    assert calibration_errors([1, 0, 0, 0], [0.4] * 4) == pytest.approx((0.15, 0.15, 0.15))
    assert calibration_errors([1], [0.4]) == pytest.approx((0.6, 0.6, 0.6))
    assert calibration_errors([], []) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=40))
def test_errors_are_ordered_shares_whatever_the_cases(cases: list[tuple[bool, float]]) -> None:
    errors = calibration_errors([c[0] for c in cases], [c[1] for c in cases])
    assert errors is not None
    eavg, e90, emax = errors
    assert 0 <= eavg <= emax + 1e-12
    assert 0 <= e90 <= emax <= 1
