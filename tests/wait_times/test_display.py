from __future__ import annotations

import math

import numpy as np
import pytest

from medscore_assets.wait_times.display import CAP_MINUTES, NOTHING, Displayed, displayed, displayed_series


def minutes(p50: float, p80: float | None = None, previous: Displayed | None = None) -> Displayed:
    return displayed(p50 * 60, None if p80 is None else p80 * 60, previous)


@pytest.mark.parametrize(
    ("p50", "p80", "low", "high", "code"),
    [
        (0, 0, 15, 15, "about"),
        (15, 15.1, 15, 30, "range"),
        (76, 118, 90, 120, "range"),
        (40, None, 45, 45, "about"),
        (100, 80, 105, 105, "about"),
        (300, 361, 300, CAP_MINUTES, "open_range"),
        (360, 360, 360, 360, "about"),
        (361, 700, CAP_MINUTES, CAP_MINUTES, "above_cap"),
        (math.nan, math.nan, NOTHING, NOTHING, "nothing"),
    ],
)
def test_a_range_is_rounded_up_to_quarters_and_never_zero(
    p50: float, p80: float | None, low: int, high: int, code: str
) -> None:
    shown = minutes(p50, p80)
    assert (shown.low_minutes, shown.high_minutes, shown.code) == (low, high, code)


def test_a_small_change_is_shown_when_it_lasts_for_two_ticks() -> None:
    first = minutes(44, 88)
    second = minutes(46, 88, first)
    assert (second.low_minutes, second.pending) == (45, True)
    third = minutes(47, 88, second)
    assert (third.low_minutes, third.pending) == (60, False)


def test_a_small_change_that_goes_back_is_never_shown() -> None:
    shown = minutes(44, 88)
    for p50 in (46, 44, 46, 44):
        shown = minutes(p50, 88, shown)
        assert shown.low_minutes == 45


def test_a_change_of_more_than_ten_minutes_is_shown_at_once() -> None:
    first = minutes(44, 60)
    assert minutes(54, 60, first).low_minutes == 45
    assert minutes(54.1, 60, first).low_minutes == 60
    assert minutes(44, 70.5, first).high_minutes == 75


def test_creeping_is_measured_from_what_is_shown() -> None:
    shown = minutes(31, 31)
    for p50 in (34, 37, 40, 43):
        shown = minutes(p50, p50, shown)
    assert (shown.low_minutes, shown.basis_p50) == (45, 31 * 60)
    assert minutes(45.5, 45.5, shown).low_minutes == 60


def test_nothing_is_shown_at_once_and_left_at_once() -> None:
    shown = minutes(44, 60)
    gone = minutes(math.nan, None, shown)
    assert gone.code == "nothing"
    assert minutes(44, 60, gone).low_minutes == 45


def test_the_cap_holds_from_tick_to_tick() -> None:
    above = minutes(365, 400)
    kept = minutes(358, 400, above)
    assert (kept.code, kept.pending) == ("above_cap", True)
    assert minutes(358, 400, kept).code == "open_range"


def test_a_series_shows_what_tick_after_tick_shows() -> None:
    random = np.random.default_rng(5)
    p50 = np.abs(np.array([20, 100, 350]) + np.cumsum(random.normal(0, 8, (60, 3)), axis=0)) * 60
    p80 = p50 * random.uniform(1, 1.4, (60, 3))
    p50[20:22, 1] = p80[20:22, 1] = np.nan
    low, high = displayed_series(p50, p80)
    for series in range(3):
        shown = None
        for tick in range(60):
            shown = displayed(p50[tick, series], p80[tick, series], shown)
            assert shown.low_minutes == min(low[tick, series], CAP_MINUTES)
            assert shown.high_minutes == min(high[tick, series], CAP_MINUTES)
    assert (high > CAP_MINUTES).any()
    assert (low[20:22, 1] == NOTHING).all()
