"""An assessment as a whole: what is in it, paired differences, subgroups, and cases that define little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.monitoring.assessment import Assessment, HeldOut, Interval
from medscore_assets.monitoring.decisions import TREAT_ALL, TREAT_NONE
from medscore_assets.monitoring.evaluation import EVERYBODY, MEASURES, assess, measure
from medscore_assets.monitoring.metrics import evaluate, net_benefit
from tests.monitoring.simulated import PAYERS, World


@pytest.fixture(scope="module")
def world() -> World:
    return World.of(3000)


@pytest.fixture(scope="module")
def assessed(world: World) -> Assessment:
    good, noisy = world.with_noise(0.3), world.with_noise(1.5)
    return assess(world.held_out(readmission=good, champion=good.copy(), lace_like=noisy), resamples=120)


def few(labels: list[int], risks: list[float], other: list[float] | None = None) -> HeldOut:
    n = len(labels)
    return HeldOut(
        labels=np.array(labels, dtype=bool),
        patients=np.arange(n),
        probabilities={"a": np.array(risks, dtype=float), "b": np.array(other or risks, dtype=float)},
        groups={"hospital": np.array(["north"] * n, dtype=np.str_)},
        tiers=np.array(["low"] * n, dtype=np.str_),
    )


def test_estimates_are_the_single_measurements_and_lie_in_their_intervals(
    world: World, assessed: Assessment
) -> None:
    whole = assessed.performance["readmission"]
    expected = evaluate(world.labels, world.with_noise(0.3))
    for name in ("auroc", "auprc", "brier", "calibration_intercept", "calibration_slope"):
        assert whole.measures[name].estimate == getattr(expected, name)
    for performance in assessed.performance.values():
        for name, found in performance.measures.items():
            assert measure(name).words
            assert found.lower <= found.estimate <= found.upper, name
            assert found.lower < found.upper, name
    assert set(MEASURES) - {"error_in_the_large"} <= set(whole.measures)
    assert whole.measures["net_benefit_10"].estimate == net_benefit(world.labels, world.with_noise(0.3), 0.1)
    assert (whole.n, whole.patients, whole.events) == (3000, assessed.patients, int(world.labels.sum()))


def test_a_model_differs_from_itself_by_exactly_nothing(assessed: Assessment) -> None:
    for difference in assessed.differences["champion"]:
        assert difference.difference == Interval(0.0, 0.0, 0.0)


def test_a_better_model_is_better_by_the_paired_interval(assessed: Assessment) -> None:
    whole = {d.measure: d for d in assessed.differences["lace_like"] if d.subject == EVERYBODY}
    assert whole["auroc"].difference.lower > 0
    assert whole["brier"].difference.upper < 0
    assert (whole["auroc"].better_if, whole["brier"].better_if) == ("higher", "lower")


def test_pairing_makes_a_difference_surer_than_its_parts(assessed: Assessment) -> None:
    parts = [assessed.performance[name].measures["brier"] for name in ("readmission", "lace_like")]
    unpaired = np.hypot(*(part.upper - part.lower for part in parts))
    (paired,) = (
        d.difference
        for d in assessed.differences["lace_like"]
        if (d.measure, d.subject) == ("brier", EVERYBODY)
    )
    assert paired.upper - paired.lower < unpaired / 2


def test_subgroups_are_measured_and_compared_alone(world: World, assessed: Assessment) -> None:
    assert [(s.attribute, s.value) for s in assessed.subgroups] == [("insurance_type", p) for p in PAYERS]
    for subgroup in assessed.subgroups:
        rows = world.payer == subgroup.value
        alone = evaluate(world.labels[rows], world.with_noise(0.3)[rows])
        assert subgroup.performance.measures["auroc"].estimate == pytest.approx(alone.auroc)
        assert subgroup.flag_rate.estimate == pytest.approx((world.with_noise(0.3)[rows] > 0.1).mean())
    compared = {d.subject for d in assessed.differences["lace_like"]}
    assert compared == {EVERYBODY, *(f"insurance_type = {p}" for p in PAYERS)}


def test_a_subgroup_with_few_cases_or_events_is_listed_and_not_measured(world: World) -> None:
    rare = replace(world, payer=np.where(np.arange(3000) < 99, "rare", world.payer))
    quiet = replace(rare, labels=np.where(world.payer == "medicaid", False, world.labels))
    found = assess(quiet.held_out(a=world.with_noise(0.3), b=world.with_noise(0.4)), resamples=20)
    unmeasured = {"rare", "medicaid"}
    for subgroup in found.subgroups:
        measures = subgroup.performance.measures.values()
        assert all(m.estimate is None for m in measures) == (subgroup.value in unmeasured)
        assert subgroup.performance.n > 0
    assert {d.subject.split(" = ")[-1] for d in found.differences["b"]}.isdisjoint(unmeasured)


def test_tiers_and_workload_count_who_is_called(world: World, assessed: Assessment) -> None:
    risks, labels = world.with_noise(0.3), world.labels
    assert [t.tier for t in assessed.tiers] == ["low", "high"]
    assert sum(t.n for t in assessed.tiers) == 3000
    assert assessed.tiers[1].observed.estimate == pytest.approx(labels[risks > 0.2].mean())
    assert [f.name for f in assessed.workload] == ["10 %", "20 %", "high"]
    flagged = assessed.workload[1]
    called = risks > 0.2
    assert flagged.flagged == called.sum()
    assert flagged.flag_rate.estimate == pytest.approx(called.mean())
    assert flagged.sensitivity.estimate == pytest.approx(called[labels].mean())
    assert flagged.specificity.estimate == pytest.approx((~called)[~labels].mean())
    needed = flagged.number_needed_to_evaluate
    assert needed.estimate == pytest.approx(called.sum() / labels[called].sum())
    assert needed.lower < needed.estimate < needed.upper


def test_a_tier_without_anybody_is_listed(world: World) -> None:
    cases = replace(
        world.held_out(a=world.with_noise(0.3)), tier_edges={"low": 0.0, "high": 0.2, "very_high": 0.999}
    )
    last = assess(cases, resamples=0).tiers[-1]
    assert (last.tier, last.n, last.mean_predicted, last.observed.estimate) == ("very_high", 0, None, None)


def test_curves_have_their_shapes_and_meanings(world: World, assessed: Assessment) -> None:
    for curve in assessed.calibration.values():
        assert curve.grid.shape == curve.smooth.shape == curve.lower.shape == curve.upper.shape
        assert ((curve.lower <= curve.smooth) & (curve.smooth <= curve.upper)).all()
        assert ((curve.bin_lower <= curve.bin_observed) & (curve.bin_observed <= curve.bin_upper)).all()
        assert curve.bin_n.tolist() == [300] * 10
        assert (np.diff(curve.bin_predicted) > 0).all()
    decision = assessed.decision_curve
    at = int(np.argmin(np.abs(decision.thresholds - 0.2)))
    measures = assessed.performance["readmission"].measures
    assert decision.net_benefit["readmission"][at] == measures["net_benefit_20"].estimate
    rate = world.labels.mean()
    assert decision.net_benefit[TREAT_ALL][at] == pytest.approx(rate - (1 - rate) / 4)
    assert (decision.net_benefit[TREAT_NONE] == 0).all()
    shares = assessed.risk_distribution
    assert len(shares.edges) == len(shares.with_outcome) + 1
    assert shares.with_outcome.sum() == pytest.approx(1)
    assert shares.without_outcome.sum() == pytest.approx(1)


def test_the_same_seed_gives_the_same_intervals(world: World) -> None:
    cases = world.held_out(a=world.with_noise(0.3))
    once, again, other = (assess(cases, resamples=20, seed=s).performance["a"] for s in (1, 1, 2))
    assert once == again
    assert once != other


@pytest.mark.parametrize(
    ("labels", "risks", "defined", "undefined"),
    [
        ([], [], (), ("brier", "auroc", "eavg", "mean_observed", "net_benefit_10")),
        ([1], [0.3], ("brier", "eavg", "net_benefit_10"), ("auroc", "calibration_slope")),
        ([0, 0, 0], [0.2, 0.3, 0.4], ("brier", "observed_expected"), ("auroc", "calibration_intercept")),
        ([1, 1], [0.2, 0.3], ("brier",), ("auroc", "scaled_brier", "calibration_slope")),
        ([0, 1] * 30, [0.5] * 60, ("auroc", "calibration_intercept"), ("calibration_slope",)),
        ([0, 1] * 30, [0.0, 1.0] * 30, ("auroc", "eavg"), ("calibration_slope",)),
        ([0, 0], [0.0, 0.0], ("brier",), ("observed_expected",)),
    ],
)
def test_what_few_cases_leave_undefined_is_none(
    labels: list[int], risks: list[float], defined: tuple[str, ...], undefined: tuple[str, ...]
) -> None:
    found = assess(few(labels, risks), resamples=20, min_subgroup=(1, 0))
    measures = found.performance["a"].measures
    assert all(measures[name].estimate is not None for name in defined)
    assert all(measures[name] == Interval(None) for name in undefined)
    assert all(d.difference.estimate in (None, 0) for d in found.differences["b"])
    assert found.n == len(labels)


def test_one_patient_has_estimates_and_no_intervals() -> None:
    cases = replace(few([0, 1, 0], [0.2, 0.4, 0.3]), patients=np.zeros(3, dtype=np.int64))
    brier = assess(cases, resamples=20).performance["a"].measures["brier"]
    assert brier.estimate is not None
    assert brier.lower is brier.upper is None


@pytest.mark.parametrize(
    "broken",
    [
        replace(few([0, 1], [0.1, 0.2]), probabilities={}),
        replace(few([0, 1], [0.1, 0.2]), patients=np.arange(3)),
        replace(few([0, 1], [0.1, 0.2]), tiers=np.array(["low"])),
        few([0, 1], [0.1, 1.2]),
        few([0, 1], [0.1, float("nan")]),
    ],
)
def test_cases_that_do_not_fit_are_refused(broken: HeldOut) -> None:
    with pytest.raises(ValueError, match=r"model|length|probability"):
        assess(broken, resamples=5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=30))
def test_every_interval_holds_its_estimate_whatever_the_cases(cases: list[tuple[bool, float, int]]) -> None:
    labels, risks, patients = zip(*cases, strict=True)
    held_out = replace(few(list(labels), list(risks)), patients=np.array(patients))
    found = assess(held_out, resamples=15, min_subgroup=(1, 0))
    parts = [found.performance["a"], *(s.performance for s in found.subgroups)]
    for performance in parts:
        for of in performance.measures.values():
            assert of.estimate is None or np.isfinite(of.estimate)
            assert of.lower is None or of.lower <= of.estimate <= of.upper
    assert all(d.difference.estimate in (None, 0) for d in found.differences["b"])
