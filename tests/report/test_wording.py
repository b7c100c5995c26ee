"""Numbers as people read them, and counts that may not be shown."""

from __future__ import annotations

import pytest

from medscore_assets.monitoring.assessment import Interval, TierOutcome
from medscore_assets.monitoring.resampling import net_benefit_name
from medscore_assets.report import wording


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.71249, "0.712"),
        (-0.0206, "−0.021"),
        (-0.0001, "0.000"),
        (None, "not defined"),
        (float("nan"), "not defined"),
        (float("inf"), "not defined"),
    ],
)
def test_a_number_is_rounded_with_a_true_minus_or_not_defined(value: float | None, shown: str) -> None:
    assert wording.number(value) == shown


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (Interval(0.7, 0.65, 0.75), "0.700 (0.650 to 0.750)"),
        (Interval(0.7), "0.700 (interval not defined)"),
        (Interval(0.7, 0.65, float("nan")), "0.700 (interval not defined)"),
        (Interval(None, 0.1, 0.2), "not defined"),
    ],
)
def test_an_interval_never_shows_what_is_not_there(found: Interval, shown: str) -> None:
    assert wording.interval(found) == shown


def test_intervals_are_shown_as_percentages_and_with_signs() -> None:
    assert wording.interval(Interval(0.123, 0.1, 0.15), 1, as_percent=True) == "12.3 % (10.0 to 15.0)"
    assert wording.interval(Interval(0.01, -0.02, 0.04), 2, sign=True) == "+0.01 (−0.02 to +0.04)"
    assert wording.signed(0.0001, 2) == "0.00"


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([500, 300, 200], ["500", "300", "200"]),
        ([500, 300, 0], ["500", "300", "0"]),
        ([500, 300, 7], ["500", "not shown", "fewer than 11"]),
        ([500, 300, 7, 8], ["500", "300", "fewer than 11", "fewer than 11"]),
        # Two that are hidden and add up to a small sum would still say too much.
        ([500, 300, 2, 3], ["500", "not shown", "fewer than 11", "fewer than 11"]),
        ([5], ["fewer than 11"]),
        ([11, 10], ["not shown", "fewer than 11"]),
    ],
)
def test_small_counts_neither_show_nor_follow(counts: list[int], shown: list[str]) -> None:
    assert wording.counts(counts) == shown


def test_a_tier_with_few_outcomes_is_hidden_with_the_one_beside_it() -> None:
    tiers = [
        TierOutcome("low", 1000, 0.8, 0.1, Interval(0.1)),
        TierOutcome("moderate", 200, 0.16, 0.3, Interval(0.3)),
        TierOutcome("high", 50, 0.04, 0.5, Interval(0.1)),
    ]
    assert wording.shown_tiers(tiers) == [True, False, False]


def test_measures_have_names_and_thresholds_are_read_from_them() -> None:
    assert wording.measure("auroc").label == "AUROC"
    assert wording.measure(net_benefit_name(0.2)).label == "Net benefit at 20 %"
    assert wording.measure("something_else").label == "something else"
