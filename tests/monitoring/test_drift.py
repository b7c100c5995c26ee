"""Drift: hand-computed stability, closed forms of what is to be expected, references that do not move."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.monitoring.drift import (
    QUANTILES,
    CategoryBins,
    NumberBins,
    Reference,
    expected_confusion,
    expected_performance,
    feature_psi,
    missing_rates,
    mix,
    psi,
    reference_of,
)
from medscore_assets.monitoring.measurement import Window, drift_measurements, latest_verdicts
from medscore_assets.monitoring.metrics import evaluate
from medscore_assets.monitoring.thresholds import load_thresholds
from resources.errors import IntegrityError
from tests.readmission.training_sets import random_matrix, true_probability

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
TIERS = ("low", "moderate", "high", "very_high")
COUNTS = st.lists(st.integers(0, 10_000), min_size=1, max_size=12)
RISKS = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1).map(lambda p: round(p, 2)))


def reference(rows: int = 4000, seed: int = 1) -> Reference:
    matrix = random_matrix(rows, seed)
    return reference_of(matrix, READMISSION, true_probability(matrix), START, END)


# --- the population stability index -----------------------------------------------------------------


def test_psi_of_a_table_computed_by_hand() -> None:
    # Shares .50 .30 .20 against .40 .30 .30; the middle cell adds nothing.
    # -.10 ln(.8) + .10 ln(1.5) = .0223144 + .0405465
    found = psi([50, 30, 20], [400, 300, 300])
    assert found == pytest.approx(0.0223144 + 0.0405465, abs=1e-7)


def test_psi_of_a_cell_that_has_emptied_computed_by_hand() -> None:
    # Half a case each: 90.5 10.5 of 101 against 100.5 0.5 of 101, so .0990099 x (.104808 + 3.044522).
    e, a = (90.5 / 101, 10.5 / 101), (100.5 / 101, 0.5 / 101)
    by_hand = (a[0] - e[0]) * math.log(a[0] / e[0]) + (a[1] - e[1]) * math.log(a[1] / e[1])
    assert psi([90, 10], [100, 0]) == pytest.approx(by_hand, abs=1e-12)
    assert by_hand == pytest.approx(0.311815, abs=1e-6)


def test_a_cell_that_is_empty_in_both_changes_nothing() -> None:
    assert psi([50, 0, 50], [20, 0, 80]) == psi([50, 50], [20, 80])


@pytest.mark.parametrize("empty", [([0, 0], [1, 2]), ([1, 2], [0, 0])])
def test_psi_of_nobody_is_undefined(empty: Any) -> None:
    assert psi(*empty) is None


@pytest.mark.parametrize("tables", [([1, 2], [1, 2, 3]), ([1, -2], [1, 2])])
def test_tables_that_cannot_be_compared_are_refused(tables: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot be compared|below 0"):
        psi(*tables)


@given(COUNTS, st.data())
def test_psi_is_never_negative_and_symmetric(expected: list[int], data: st.DataObject) -> None:
    size = len(expected)
    actual = data.draw(st.lists(st.integers(0, 10_000), min_size=size, max_size=size))
    found = psi(expected, actual)
    if found is not None:
        assert found >= 0
        assert psi(actual, expected) == pytest.approx(found, abs=1e-9)


@given(COUNTS, st.integers(1, 50))
def test_psi_of_equal_shares_is_zero(expected: list[int], times: int) -> None:
    found = psi(expected, np.array(expected) * times)
    assert found is None if not sum(expected) else found == pytest.approx(0, abs=1e-12)


# --- the reference ----------------------------------------------------------------------------------


@given(hnp.arrays(np.float64, st.integers(1, 200), elements=st.integers(-5, 40).map(float)))
def test_every_value_is_in_one_cell_and_none_of_the_reference_in_the_outer_ones(values: Any) -> None:
    bins = NumberBins.of(values)
    assert sum(bins.counts) == len(values)
    assert bins.counts[0] == bins.counts[-1] == 0
    assert psi(bins.counts, bins.count(values)) == pytest.approx(0, abs=1e-12)


def test_a_value_on_an_edge_belongs_to_the_cell_below() -> None:
    bins = NumberBins(edges=(0.0, 10.0), counts=(0, 1, 0))
    assert bins.count([0.0, 10.0, 10.0001]).tolist() == [1, 1, 1]


def test_a_feature_that_was_constant_and_now_varies_is_seen() -> None:
    bins = NumberBins.of(np.full(1000, 3.0))
    assert (psi(bins.counts, bins.count(np.r_[np.full(500, 3.0), np.full(500, 2.0)])) or 0) > 0.25


def test_a_reference_is_the_same_after_storing() -> None:
    made = reference()
    assert Reference.from_json(made.to_json(), "here") == made
    assert len(made.score_quantiles) == QUANTILES
    assert isinstance(made.features["insurance_type"], CategoryBins)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"n": 4000', b'"n": 4001'), (b"medscore-reference/1", b"medscore-reference/2"), (b'"n":', b'"m":')],
)
def test_a_changed_reference_is_refused_without_its_values(old: bytes, new: bytes) -> None:
    content = reference().to_json()
    assert old in content
    with pytest.raises(IntegrityError, match="drift reference is not valid"):
        Reference.from_json(content.replace(old, new, 1), "here")


def test_only_the_feature_that_moved_has_moved() -> None:
    moved = random_matrix(3000, 2)
    position = READMISSION.feature_names.index("num_medications_at_discharge")
    moved[:, position] += 8
    found = feature_psi(reference(), moved, READMISSION)
    assert (found.pop("num_medications_at_discharge") or 0) > 0.25
    assert max(value or 0 for value in found.values()) < 0.02


# --- what is to be expected ----------------------------------------------------------------------------


def brute_force(p: np.ndarray[Any, Any]) -> float | None:
    """Over all pairs of different cases, with ties as a half."""
    right = total = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            if i != j:
                weight = p[i] * (1 - p[j])
                total += weight
                right += weight * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    return right / total if total > 0 else None


@given(RISKS)
def test_the_expected_auroc_is_that_of_all_pairs(p: Any) -> None:
    found, by_hand = expected_performance(p).auroc, brute_force(p)
    if by_hand is None:
        assert found is None or found == pytest.approx(0.5, abs=0.5)
    else:
        assert found == pytest.approx(by_hand, abs=1e-9)


@given(RISKS)
def test_the_expected_brier_score_is_p_times_one_less_p(p: Any) -> None:
    assert expected_performance(p).brier == pytest.approx(float(np.mean(p * (1 - p))), abs=1e-12)


def test_calibrated_outcomes_bear_out_what_was_expected() -> None:
    random = np.random.default_rng(5)
    p = random.beta(2, 8, 60_000)
    expected, found = expected_performance(p), evaluate(random.random(60_000) < p, p)
    assert found.auroc == pytest.approx(expected.auroc, abs=0.01)
    assert found.brier == pytest.approx(expected.brier, abs=0.002)
    assert found.events == pytest.approx(expected.events, rel=0.02)


def test_expected_counts_at_a_threshold_add_up() -> None:
    found = expected_confusion([0.1, 0.2, 0.6, 0.9], 0.2)
    assert (found.true_positives, found.false_positives) == pytest.approx((1.5, 0.5))
    assert (found.false_negatives, found.true_negatives) == pytest.approx((0.3, 1.7))


def test_nobody_promises_nothing_and_no_risk_is_refused() -> None:
    assert expected_performance([]).auroc is None
    assert expected_performance([0.3]).auroc is None
    with pytest.raises(ValueError, match=r"outside of 0\.\.1"):
        expected_performance([0.2, float("nan")])


# --- a window, judged -----------------------------------------------------------------------------------


def window(rows: int = 2000, **changes: Any) -> Window:
    matrix = random_matrix(rows, 9)
    scores = true_probability(matrix)
    edges = [0.2, 0.4, 0.6]
    given: dict[str, Any] = {
        "model_name": "readmission",
        "model_version": 1,
        "first": date(2026, 4, 1),
        "last": date(2026, 4, 28),
        "features": dict(zip(READMISSION.feature_names, matrix.T, strict=True)),
        "scores": scores,
        "tiers": np.searchsorted(edges, scores),
        "tier_names": TIERS,
        "reference_tiers": np.searchsorted(edges, reference().score_quantiles),
        "missing": {"patient_age": 20},
        "rows": rows,
        "reference_missing": {"patient_age": 40},
        "reference_rows": 4000,
    }
    return Window(**given | changes)


def states(found: Any) -> dict[tuple[str, str], str]:
    return {(m.measure, m.subject): m.state for m in found}


def test_the_same_patients_are_good_in_everything() -> None:
    found = states(drift_measurements(window(), reference(), load_thresholds()))
    judged = {key: state for key, state in found.items() if key[0] not in ("expected_brier", "expected_rate")}
    assert set(judged.values()) == {"good"}
    assert len(judged) == 10 + 2 + 1 + 4 + 1


def test_a_feed_that_forgets_a_field_alarms() -> None:
    found = states(drift_measurements(window(missing={"patient_age": 400}), reference(), load_thresholds()))
    assert found["missing_rate", "patient_age"] == "alarm"


def test_scores_that_all_rise_alarm_by_score_and_tier() -> None:
    raised = np.clip(true_probability(random_matrix(2000, 9)) * 1.8, 0, 1)
    changed = window(scores=raised, tiers=np.searchsorted([0.2, 0.4, 0.6], raised))
    found = states(drift_measurements(changed, reference(), load_thresholds()))
    assert found["psi", "score"] == found["psi", "tier"] == found["tier_share", "low"] == "alarm"
    assert found["psi", "patient_age"] == "good"


def test_a_model_without_a_reference_is_not_judged() -> None:
    found = drift_measurements(window(reference_rows=0, reference_missing={}), None, load_thresholds())
    assert {m.state for m in found} == {"not_judged"}
    assert latest_verdicts(found) == []


def test_an_empty_window_is_undefined_and_not_an_error() -> None:
    empty = np.empty(0)
    nothing = window(
        features=dict.fromkeys(READMISSION.feature_names, empty),
        scores=empty,
        tiers=empty.astype(int),
        missing={"patient_age": 0},
        rows=0,
    )
    found = drift_measurements(nothing, reference(), load_thresholds())
    assert {m.state for m in found} == {"not_judged"}
    assert {m.value for m in found} == {None}


def test_the_latest_verdicts_are_those_of_the_newest_window() -> None:
    old = drift_measurements(window(missing={"patient_age": 900}), reference(), load_thresholds())
    newer = window(first=date(2026, 4, 2), last=date(2026, 4, 29))
    found = latest_verdicts([*old, *drift_measurements(newer, reference(), load_thresholds())])
    assert {m.period_end for m in found} == {date(2026, 4, 29)}
    assert {m.state for m in found} == {"good"}


def test_shares_and_rates_of_small_tables() -> None:
    assert mix([0, 0, 3], TIERS) == {"low": 2, "moderate": 0, "high": 0, "very_high": 1}
    assert missing_rates({"a": 1, "b": 0}, 4) == {"a": 0.25, "b": 0.0}
    assert missing_rates({"a": 0}, 0) == {"a": None}
