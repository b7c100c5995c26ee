from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.mobility.conformal import FLOOR_STEPS, Conformal, quantile, scale, unsure


def _days(random: np.random.Generator, patients: int, days: int):
    """Exchangeable rows: steps, forecast, spread, valid days, patient. Spreads differ tenfold."""
    spread = np.repeat(np.exp(random.uniform(np.log(300), np.log(3000), patients)), days)
    # Far from 0, where intervals end and steps do.
    forecast = random.uniform(40_000, 90_000, patients * days)
    steps = forecast + spread * random.laplace(size=patients * days)
    return steps, forecast, spread, np.full(patients * days, 60.0), np.repeat(np.arange(patients), days)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_further_exchangeable_rows_fall_within_as_often_as_stated(coverage):
    random = np.random.default_rng(1)
    held = []
    for _ in range(150):
        fitted = Conformal.fitted(*_days(random, 100, 1), coverage=coverage)
        steps, forecast, spread, valid_days, _ = _days(random, 400, 1)
        band = fitted.interval(forecast, spread, valid_days)
        held.append(band.holds(steps).mean())
    # Of 100 exchangeable scores rank k covers k / 101 on average; the error of 150 means is about 0.004.
    expected = np.ceil(101 * coverage) / 101
    assert abs(np.mean(held) - expected) < 0.015
    assert np.mean(held) > coverage - 0.01


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_the_quantile_is_the_smallest_score_that_enough_scores_do_not_exceed(scores, coverage):
    found = quantile(np.array(scores), coverage)
    needed = (len(scores) + 1) * coverage - 1e-6
    if found is None:
        assert len(scores) < needed
        return
    assert found in scores
    assert sum(score <= found for score in scores) >= needed
    assert sum(score < found for score in scores) < needed


def test_the_rank_is_exact_where_floats_are_not():
    # 10 * 0.9 is the 9th of 9 scores, not a 10th that there is not.
    assert quantile(np.arange(1.0, 10.0), 0.9) == 9.0
    assert quantile(np.arange(1.0, 9.0), 0.9) is None
    assert quantile(np.arange(1.0, 20.0), 0.95) == 19.0


def test_a_patient_of_few_days_never_gets_less_than_the_cohorts_scale():
    spread = np.array([100.0, 100.0, 4000.0, np.nan, 4000.0])
    valid_days = np.array([2.0, 3.0, 2.0, 1.0, 50.0])
    assert scale(spread, valid_days, 1500.0).tolist() == [1500.0, FLOOR_STEPS, 4000.0, 1500.0, 4000.0]
    assert unsure(spread, valid_days).tolist() == [True, False, True, True, False]
    fitted = Conformal.fitted(*_days(np.random.default_rng(0), 40, 10))
    band = fitted.interval(np.full(5, 6000.0), spread, valid_days)
    assert (band.upper - band.lower)[band.unsure].min() >= 2 * fitted.quantile * fitted.typical_scale - 1e-6
    assert band.unsure.tolist() == [True, False, True, True, False]


def test_no_interval_begins_below_zero_steps_and_each_holds_its_forecast():
    fitted = Conformal.fitted(*_days(np.random.default_rng(0), 40, 10))
    forecast = np.array([0.0, 10.0, 20_000.0])
    band = fitted.interval(forecast, np.full(3, 5000.0), np.full(3, 90.0))
    assert band.lower.tolist()[:2] == [0.0, 0.0]
    assert ((band.lower <= forecast) & (forecast <= band.upper)).all()


def test_too_few_rows_or_patients_have_no_quantile_of_their_own():
    random = np.random.default_rng(0)
    assert Conformal.fitted(*_days(random, 9, 100)) is None
    assert Conformal.fitted(*_days(random, 33, 3)) is None
    assert Conformal.fitted(*_days(random, 34, 3)) is not None
