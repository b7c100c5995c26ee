"""Measures with intervals in closed form, against single measurement, bootstrap and repetition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medscore_assets.monitoring.metrics import evaluate
from medscore_assets.monitoring.resampling import Draws, Ranked
from medscore_assets.monitoring.robust import measures


def cases(n: int = 3000, patients: int = 1200, seed: int = 0) -> tuple[Any, Any, Any]:
    """Patients with several cases that resemble each other; risks a little too high."""
    random = np.random.default_rng(seed)
    patient = random.integers(0, patients, n)
    frailty = random.normal(0, 0.8, patients)
    p = 1 / (1 + np.exp(2 - frailty[patient] - random.normal(0, 0.5, n)))
    p = np.round(p, 3)
    return random.random(n) < 0.9 * p, p, patient


def test_the_estimates_are_those_of_the_single_measurement() -> None:
    y, p, patient = cases()
    found, once = measures(y, p, patient), evaluate(y, p)
    for name in ("auroc", "brier", "calibration_intercept", "calibration_slope"):
        assert found[name].estimate == pytest.approx(getattr(once, name), abs=1e-6), name
    assert found["observed_expected"].estimate == pytest.approx(float(y.sum() / p.sum()))


def test_the_intervals_are_as_wide_as_those_of_the_bootstrap_over_patients() -> None:
    y, p, patient = cases()
    ranked = Ranked.of(y.astype(np.float64), p, np.arange(len(y)))
    drawn = [ranked.measures(ranked.sums(w), ()) for w in Draws.of(patient, 300, 1).weights()]
    for name, found in measures(y, p, patient).items():
        low, high = np.quantile(np.concatenate([d[name] for d in drawn]), [0.025, 0.975])
        assert found.lower is not None
        assert found.upper is not None
        assert found.upper - found.lower == pytest.approx(high - low, rel=0.2), name
        assert abs(found.lower - low) < 0.15 * (high - low), name


def test_cases_of_one_patient_count_as_less_than_cases_of_many() -> None:
    y, p, _ = cases(1000)
    tripled = [np.tile(values, 3) for values in (y, p, np.arange(1000))]
    once, thrice = measures(y, p, np.arange(1000)), measures(*tripled)
    for name, found in once.items():
        assert thrice[name].lower == pytest.approx(found.lower, abs=2e-3), name


@pytest.mark.parametrize("outcome", [False, True])
def test_one_outcome_only_is_undefined_and_not_an_error(outcome: bool) -> None:
    found = measures(np.full(20, outcome), np.linspace(0.1, 0.5, 20), np.arange(20))
    for name in ("auroc", "calibration_intercept", "calibration_slope"):
        assert found[name].estimate is None
    assert found["brier"].estimate is not None
    assert found["observed_expected"].estimate is not None


def test_nobody_and_one_patient_have_no_interval() -> None:
    assert {v.estimate for v in measures([], [], []).values()} == {None}
    alone = measures([True, False], [0.6, 0.2], ["P", "P"])
    assert alone["auroc"].estimate == 1.0
    assert alone["auroc"].lower is None


def test_risks_of_zero_have_no_ratio() -> None:
    assert measures([False, True], [0.0, 0.0], [1, 2])["observed_expected"].estimate is None
