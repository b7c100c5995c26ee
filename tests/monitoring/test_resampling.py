"""Patients drawn anew: weights are repeats, draws are paired, intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.monitoring.metrics import evaluate, net_benefit, observed_expected
from medscore_assets.monitoring.resampling import (
    AT_ONCE,
    Draws,
    Means,
    Ranked,
    interval,
    net_benefit_name,
    proportion,
)
from tests.monitoring.simulated import World

THRESHOLDS = (0.1, 0.2)
EXACT = ("auroc", "auprc", "brier", "scaled_brier", "mean_predicted", "mean_observed")


def measured(labels: np.ndarray, risks: np.ndarray, weights: np.ndarray) -> dict[str, float | None]:
    """By the sums that the draws use, for one draw."""
    ranked = Ranked.of(labels.astype(float), risks, np.arange(len(labels)))
    found = ranked.measures(ranked.sums(weights.astype(float)[:, None]), THRESHOLDS)
    return {name: None if np.isnan(values[0]) else float(values[0]) for name, values in found.items()}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0]), st.integers(0, 3)),
        min_size=1,
        max_size=40,
    ).filter(lambda cases: any(c[2] for c in cases))
)
def test_a_weight_counts_like_so_many_repeats(cases: list[tuple[bool, float, int]]) -> None:
    labels, risks, weights = (np.array(column) for column in zip(*cases, strict=True))
    y, p = np.repeat(labels, weights), np.repeat(risks, weights)
    found, expected = measured(labels, risks, weights), evaluate(y, p)
    for name in EXACT:
        value = getattr(expected, name)
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name
    ratio = observed_expected(y, p)
    assert found["observed_expected"] == (None if ratio is None else pytest.approx(ratio))
    for threshold in THRESHOLDS:
        assert found[net_benefit_name(threshold)] == pytest.approx(net_benefit(y, p, threshold))


def test_slope_and_intercept_under_weights_are_those_of_the_repeats() -> None:
    world = World.of(200)
    risks, weights = world.with_noise(0.5), np.random.default_rng(2).integers(0, 4, 200)
    found = measured(world.labels, risks, weights)
    expected = evaluate(np.repeat(world.labels, weights), np.repeat(risks, weights))
    assert found["calibration_slope"] == pytest.approx(expected.calibration_slope, abs=1e-6)
    assert found["calibration_intercept"] == pytest.approx(expected.calibration_intercept, abs=1e-6)


def test_grouping_thousands_of_cases_hardly_moves_slope_and_intercept() -> None:
    world = World.of(8000)
    risks = world.with_noise(0.5)
    found, expected = measured(world.labels, risks, np.ones(8000)), evaluate(world.labels, risks)
    assert found["calibration_slope"] == pytest.approx(expected.calibration_slope, abs=3e-3)
    assert found["calibration_intercept"] == pytest.approx(expected.calibration_intercept, abs=3e-3)


def test_separated_classes_and_one_class_are_undefined_in_a_draw() -> None:
    labels, risks = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    separated = measured(labels, risks, np.ones(4))
    assert separated["calibration_slope"] is None
    assert separated["auroc"] == 1
    one = measured(labels, risks, np.array([1, 1, 0, 0]))
    assert one["auroc"] is one["auprc"] is one["calibration_intercept"] is one["calibration_slope"] is None
    assert one["brier"] == pytest.approx((0.1**2 + 0.2**2) / 2)


def test_a_patient_comes_with_all_cases_or_not_at_all() -> None:
    patients = np.array([7, 7, 7, 3, 3, 9])
    portions = list(Draws.of(patients, 2 * AT_ONCE + 5, 0).weights())
    assert [portion.shape for portion in portions] == [(6, AT_ONCE), (6, AT_ONCE), (6, 5)]
    weights = np.hstack(portions)
    assert (weights[0] == weights[1]).all()
    assert (weights[0] == weights[2]).all()
    assert (weights[3] == weights[4]).all()
    assert (weights[0] + weights[3] + weights[5] == 3).all()
    assert weights[[0, 3, 5]].mean(axis=1) == pytest.approx([1, 1, 1], abs=0.3)


def test_draws_depend_on_the_seed_alone() -> None:
    def drawn(seed: int) -> np.ndarray:
        return np.hstack(list(Draws.of(np.arange(30), 20, seed).weights()))

    assert (drawn(1) == drawn(1)).all()
    assert (drawn(1) != drawn(2)).any()


def test_one_patient_gives_no_draws() -> None:
    assert list(Draws.of(np.array([4, 4]), 10, 0).weights()) == []
    assert list(Draws.of(np.array([]), 10, 0).weights()) == []


def test_means_of_several_models_are_those_of_each_one() -> None:
    world = World.of(300)
    risks = {"a": world.with_noise(0.2), "b": world.with_noise(1.0)}
    rows = np.flatnonzero(world.payer == "medicaid")
    weights = next(Draws.of(world.patients, 5, 0).weights())
    y = world.labels.astype(float)
    found = Means.of(y, risks, rows, THRESHOLDS).measures(weights)
    for name, p in risks.items():
        ranked = Ranked.of(y, p, rows)
        alone = ranked.measures(ranked.sums(weights), THRESHOLDS)
        assert found[name, "brier"] == pytest.approx(alone["brier"])
        assert found[name, "net_benefit_20"] == pytest.approx(alone["net_benefit_20"])
        assert found[name, "error_in_the_large"] == pytest.approx(np.abs(alone["calibration_in_the_large"]))


def test_an_interval_holds_its_estimate_and_is_absent_where_too_much_is_undefined() -> None:
    drawn = np.linspace(0.5, 0.6, 1001)
    assert interval(0.55, drawn).lower == pytest.approx(0.5025)
    assert interval(0.55, drawn).upper == pytest.approx(0.5975)
    assert interval(0.4, drawn).lower == 0.4
    few = np.where(np.arange(1001) < 40, np.nan, drawn)
    assert interval(0.55, few).lower is not None
    many = np.where(np.arange(1001) < 60, np.nan, drawn)
    assert interval(0.55, many).lower is interval(0.55, np.empty(0)).upper is None
    assert interval(None, drawn).estimate is None


def test_percentiles_of_the_auroc_agree_with_de_long() -> None:
    # DeLong's variance from the placements of every case (DeLong, DeLong & Clarke-Pearson 1988).
    world = World.of(1500, seed=3)
    risks, y, alone = world.with_noise(0.5), world.labels, np.arange(1500)
    cases, others = risks[y], risks[~y]
    ordered = (cases[:, None] > others[None, :]) + 0.5 * (cases[:, None] == others[None, :])
    spread = np.sqrt(ordered.mean(1).var(ddof=1) / len(cases) + ordered.mean(0).var(ddof=1) / len(others))
    ranked = Ranked.of(y.astype(float), risks, alone)
    drawn = [ranked.measures(ranked.sums(w), ())["auroc"] for w in Draws.of(alone, 1000, 0).weights()]
    found = interval(float(ordered.mean()), np.concatenate(drawn))
    assert found.lower == pytest.approx(ordered.mean() - 1.96 * spread, abs=0.003)
    assert found.upper == pytest.approx(ordered.mean() + 1.96 * spread, abs=0.003)


def test_cases_that_come_in_pairs_widen_the_interval_by_the_root_of_two() -> None:
    world = World.of(1000, seed=5)
    risks = world.with_noise(0.5)
    y, p, patients = np.repeat(world.labels, 2), np.repeat(risks, 2), np.repeat(np.arange(1000), 2)

    def width(patients: np.ndarray) -> float:
        ranked = Ranked.of(y.astype(float), p, np.arange(2000))
        drawn = [ranked.measures(ranked.sums(w), ())["brier"] for w in Draws.of(patients, 400, 0).weights()]
        return float(np.ptp(np.quantile(np.concatenate(drawn), [0.025, 0.975])))

    assert width(patients) / width(np.arange(2000)) == pytest.approx(np.sqrt(2), rel=0.15)


def test_a_share_has_wilsons_interval() -> None:
    # Newcombe, Stat Med 1998, table I: 81 of 263 and 0 of 20, method 3.
    large = proportion([1] * 81 + [0] * 182, np.arange(263))
    assert (large.lower, large.upper) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    none = proportion([0] * 20, np.arange(20))
    assert (none.estimate, none.lower) == (0, 0)
    assert none.upper == pytest.approx(0.1611, abs=5e-5)
    assert proportion([], []).estimate is None


def test_pairs_of_equal_cases_are_worth_half_in_a_share() -> None:
    once = proportion([1] * 30 + [0] * 70, np.arange(100))
    twice = proportion(np.repeat([1] * 30 + [0] * 70, 2), np.repeat(np.arange(100), 2))
    assert (twice.lower, twice.upper) == pytest.approx((once.lower, once.upper))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_a_share_lies_in_its_interval_and_that_in_0_to_1(cases: list[tuple[bool, int]]) -> None:
    share = proportion([c[0] for c in cases], [c[1] for c in cases])
    assert share.estimate is not None
    assert share.lower is not None
    assert share.upper is not None
    assert 0 <= share.lower <= share.estimate <= share.upper <= 1
