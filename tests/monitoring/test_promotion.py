"""Which models may be used: challengers that are good or bad in a known way, before the gate as delivered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medscore_assets.monitoring.assessment import Assessment, Difference, HeldOut, Interval
from medscore_assets.monitoring.evaluation import EVERYBODY, assess
from medscore_assets.monitoring.metrics import logit, sigmoid
from medscore_assets.monitoring.promotion import DEFAULT_FILE, Gate, Verdict, judge, load_gate
from resources.errors import PermanentError
from tests.monitoring.simulated import Numbers, World

GATE = load_gate()
BASELINES = ("logistic_regression", "lace_like")
DRAWS = 100


@pytest.fixture(scope="module")
def world() -> World:
    return World.of(6000, seed=11)


def judged(held_out: HeldOut, champion: str | None = "champion", gate: Gate = GATE) -> Verdict:
    measured = assess(held_out, thresholds=gate.thresholds, resamples=DRAWS)
    return judge(measured, champion, BASELINES, gate)


def distorted(world: World, factor: float) -> Numbers:
    """The champion's risks, as sure of themselves as `factor` says."""
    margin = logit(world.with_noise(0.5))
    return sigmoid(margin.mean() + factor * (margin - margin.mean()))


def test_a_really_better_challenger_is_promoted(world: World) -> None:
    cases = world.held_out(challenger=world.with_noise(0.2), champion=world.with_noise(0.8))
    verdict = judged(cases)
    assert verdict.promote
    assert verdict.reasons == ()
    assert {c.measure for c in verdict.checked} == {
        "calibration_slope",
        "brier",
        "net_benefit_10",
        "net_benefit_20",
        "error_in_the_large",
    }
    assert all(c.passed and c.sentence.endswith(".") for c in verdict.checked)
    assert "insurance_type = medicaid" in {c.subject for c in verdict.checked}


def test_the_champion_itself_passes(world: World) -> None:
    same = world.with_noise(0.5)
    assert judged(world.held_out(challenger=same, champion=same.copy())).promote


@pytest.mark.parametrize("seed", range(3))
def test_an_equally_good_challenger_passes_with_3000_cases(seed: int) -> None:
    # Two models that were fitted anew disagree about as much as these do.
    few = World.of(3000, seed=20 + seed)
    cases = few.held_out(challenger=few.with_noise(0.2, seed=2), champion=few.with_noise(0.2, seed=3))
    assert judged(cases).reasons == ()


def test_a_challenger_that_is_better_only_in_sample_is_refused(world: World) -> None:
    from sklearn.ensemble import RandomForestClassifier

    train = World.of(800, seed=12)
    grown = RandomForestClassifier(60, random_state=0, n_jobs=1).fit(train.features, train.labels)
    known = grown.predict_proba(train.features)[:, 1]
    in_sample = train.held_out(challenger=known, champion=train.with_noise(0.5))
    better = assess(in_sample, resamples=0).differences["champion"]
    assert {d.measure: d.difference.estimate for d in better if d.subject == EVERYBODY}["brier"] < -0.02
    unknown = grown.predict_proba(world.features)[:, 1]
    verdict = judged(world.held_out(challenger=unknown, champion=world.with_noise(0.5)))
    assert not verdict.promote
    assert any(r.startswith("The calibration slope is 0.") for r in verdict.reasons)
    assert any(
        r.startswith("The Brier score may be up to 0.0") and "more than the margin of 0.002" in r
        for r in verdict.reasons
    )


@pytest.mark.parametrize(("factor", "slope"), [(1.6, "0.6"), (0.6, "1.6")])
def test_a_miscalibrated_challenger_is_refused(world: World, factor: float, slope: str) -> None:
    # It orders the cases exactly as the champion does.
    cases = world.held_out(challenger=distorted(world, factor), champion=world.with_noise(0.5))
    verdict = judged(cases)
    assert not verdict.promote
    assert verdict.reasons[0].startswith(f"The calibration slope is {slope}")
    assert verdict.reasons[0].endswith("outside of 0.8 to 1.25.")


def test_a_challenger_that_is_blind_in_one_subgroup_is_refused_by_its_name(world: World) -> None:
    better, blind = world.with_noise(0.1), world.payer == "medicaid"
    better[blind] = world.labels[blind].mean()
    cases = world.held_out(challenger=better, champion=world.with_noise(0.5))
    verdict = judged(cases)
    whole = [c for c in verdict.checked if c.subject == EVERYBODY and c.measure == "calibration_slope"]
    assert whole[0].passed
    of_subgroups = [c for c in verdict.checked if c.subject != EVERYBODY and not c.passed]
    assert {c.subject for c in of_subgroups} == {"insurance_type = medicaid"}
    assert any("insurance_type = medicaid" in r and "margin of 0.0" in r for r in verdict.reasons)


def test_a_challenger_that_is_shifted_in_one_subgroup_is_refused_for_nothing_else(world: World) -> None:
    # Better for all others, so that the whole looks better than the champion.
    better, shifted = world.with_noise(0.05), world.payer == "medicaid"
    better[shifted] = sigmoid(logit(better[shifted]) + 0.5)
    cases = world.held_out(challenger=better, champion=world.with_noise(1.0))
    (reason,) = judged(cases).reasons
    assert reason.startswith(
        "The distance of observed from mean predicted risk for insurance_type = medicaid ("
    )
    assert "more than the margin of 0.03" in reason


def test_a_subgroup_below_the_gate_s_size_decides_nothing(world: World) -> None:
    small = np.where(np.arange(6000) < 400, "small", world.payer)
    better = world.with_noise(0.05)
    better[:400] = world.labels.mean()
    cases = replace(world, payer=small).held_out(challenger=better, champion=world.with_noise(0.5))
    verdict = judged(cases)
    assert verdict.promote
    assert "insurance_type = small" not in {c.subject for c in verdict.checked}


def test_the_first_model_needs_to_beat_both_baselines(world: World) -> None:
    risks = {"first": world.with_noise(0.3), "logistic_regression": world.with_noise(0.8, seed=5)}
    first = world.held_out(**risks, lace_like=world.with_noise(1.5))
    assert judged(first, champion=None).reasons == ()
    beaten = world.held_out(**risks, lace_like=world.with_noise(0.01))
    verdict = judged(beaten, champion=None)
    assert not verdict.promote
    assert any("worse than that of lace_like, which it must beat" in r for r in verdict.reasons)
    assert not any("logistic_regression" in r for r in verdict.reasons)


def with_differences(*differences: Difference, slope: float | None = 1.0) -> Assessment:
    """A real assessment in which the slope and the differences from the champion are put."""
    few = World.of(50)
    measured = assess(
        few.held_out(a=few.with_noise(0.3), champion=few.with_noise(0.4)),
        thresholds=GATE.thresholds,
        resamples=0,
    )
    own = measured.performance["a"]
    performance = replace(own, measures={**own.measures, "calibration_slope": Interval(slope)})
    return replace(measured, performance={"a": performance}, differences={"champion": differences})


@pytest.mark.parametrize(
    ("slope", "passes"), [(0.8, True), (1.25, True), (0.7999, False), (1.2501, False), (None, False)]
)
def test_the_slope_s_bounds_are_inside(slope: float | None, passes: bool) -> None:
    assert judge(with_differences(slope=slope), "champion", (), GATE).promote == passes


@pytest.mark.parametrize(
    ("measured", "better_if", "interval", "passes"),
    [
        ("brier", "lower", Interval(0.0005, -0.001, 0.002), True),
        ("brier", "lower", Interval(0.0005, -0.001, 0.0021), False),
        ("brier", "lower", Interval(-0.01, -0.02, -0.005), True),
        ("brier", "lower", Interval(0.0), False),
        ("net_benefit_20", "higher", Interval(-0.001, -0.007, 0.02), True),
        ("net_benefit_20", "higher", Interval(-0.001, -0.0071, 0.02), False),
        ("net_benefit_20", "higher", Interval(None), False),
        ("auroc", "higher", Interval(-0.3, -0.4, -0.2), True),
    ],
)
def test_not_worse_is_the_unfavourable_end_within_the_margin(
    measured: str, better_if: str, interval: Interval, passes: bool
) -> None:
    difference = Difference(measured, EVERYBODY, 5000, 700, better_if, interval)
    assert judge(with_differences(difference), "champion", (), GATE).promote == passes


@pytest.mark.parametrize(
    ("measured", "better_if", "interval", "n", "passes"),
    [
        ("brier", "lower", Interval(0.02, 0.001, 0.04), 500, False),
        ("brier", "lower", Interval(0.02, 0.001, 0.04), 499, True),
        ("brier", "lower", Interval(0.02, -0.001, 0.04), 500, True),
        ("brier", "lower", Interval(0.008, 0.001, 0.04), 500, True),
        ("net_benefit_10", "higher", Interval(-0.03, -0.05, -0.01), 500, False),
        ("net_benefit_10", "higher", Interval(-0.03, -0.05, 0.01), 500, True),
        ("error_in_the_large", "lower", Interval(0.04, 0.01, 0.06), 500, False),
        ("error_in_the_large", "lower", Interval(None), 500, False),
    ],
)
def test_a_subgroup_falls_beyond_the_margin_and_beyond_chance(
    measured: str, better_if: str, interval: Interval, n: int, passes: bool
) -> None:
    difference = Difference(measured, "sex = female", n, 60, better_if, interval)
    verdict = judge(with_differences(difference), "champion", (), GATE)
    assert verdict.promote == passes
    assert all("sex = female" in reason for reason in verdict.reasons)


def test_models_and_thresholds_that_were_not_measured_are_an_error() -> None:
    measured = with_differences()
    with pytest.raises(ValueError, match="previous"):
        judge(measured, "previous", (), GATE)
    with pytest.raises(ValueError, match="neither"):
        judge(measured, None, (), GATE)
    with pytest.raises(ValueError, match="threshold"):
        judge(measured, "champion", (), GATE.model_copy(update={"thresholds": [0.33]}))


def test_the_hash_is_of_the_rules_and_not_of_the_layout(tmp_path: Path) -> None:
    text = DEFAULT_FILE.read_text(encoding="utf-8")
    file = tmp_path / "gate.toml"
    file.write_text("# a comment\n" + text, encoding="utf-8")
    assert load_gate(file).hash == GATE.hash
    file.write_text(text.replace("brier = 0.002", "brier = 0.003"), encoding="utf-8")
    assert load_gate(file).hash != GATE.hash


@pytest.mark.parametrize(
    ("found", "put", "named"),
    [
        ("lowest = 0.8", "lowest = 1.8", "slope.lowest"),
        ("brier = 0.002", "brier = -0.1", "not_worse.brier"),
        ("brier = 0.002", 'brier = "0.002"', "not_worse.brier"),
        ("[0.10, 0.20]", "[0.20, 0.10]", "the thresholds must rise"),
        ("[0.10, 0.20]", "[]", "thresholds"),
        ("min_cases = 500", "min_case = 500", "subgroups.min_case"),
        ("highest = 1.25", "highest = nan", "slope.highest"),
        ("[slope]", "[slope", "TOML"),
    ],
)
def test_a_gate_that_is_not_valid_does_not_load(tmp_path: Path, found: str, put: str, named: str) -> None:
    text = DEFAULT_FILE.read_text(encoding="utf-8")
    assert found in text
    file = tmp_path / "gate.toml"
    file.write_text(text.replace(found, put), encoding="utf-8")
    with pytest.raises(PermanentError, match=named):
        load_gate(file)


def test_a_gate_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="cannot be read"):
        load_gate(tmp_path / "none.toml")
