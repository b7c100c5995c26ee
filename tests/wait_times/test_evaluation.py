from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.wait_times.attribution import localised
from medscore_assets.wait_times.comparison import (
    Contender,
    daily_differences,
    evidence,
    matched,
    mean_difference,
)
from medscore_assets.wait_times.evaluation import (
    availability,
    calibration_by_level,
    coverage_by_block,
    displayed_predictions,
    pinball,
    score,
    stability,
)

NOON = datetime(2026, 3, 2, 17, tzinfo=UTC)
"""In Toronto."""

TORONTO = {"A": "America/Toronto", "B": "America/Toronto"}


def patient(visit: str, p50: float, p80: float | None, actual: float | None = None, **rest: object) -> dict:
    """A row of an attributed table, times in seconds."""
    row = {
        "facility_id": "A",
        "visit_id": visit,
        "band": "all_posted",
        "model": "m",
        "version": "1.0.0",
        "as_of": NOON,
        "arrival": NOON,
        "p50_seconds": p50,
        "p80_seconds": p80,
        "actual_seconds": actual,
        "censored_at_seconds": None,
        "left_unseen": False,
        "resolved_at": None,
    }
    return row | rest


def attributed(*rows: dict) -> pa.Table:
    optional = ("p80_seconds", "actual_seconds", "censored_at_seconds")
    table = pa.Table.from_pylist(list(rows))
    for name in optional:
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.float64()))
    return table


def ticks(
    model: str, waits: list[float | None], statuses: str = "", first: int = 0, **rest: object
) -> list[dict]:
    """Rows of predictions, one per tick; a status is its first letter."""
    names = {"o": "ok", "f": "fallback", "e": "error", "n": "no_data"}
    statuses = statuses or "".join("n" if wait is None else "o" for wait in waits)
    return [
        {
            "facility_id": "A",
            "band": "all_posted",
            "model": model,
            "version": "1.0.0",
            "as_of": NOON + (first + place) * timedelta(minutes=15),
            "wait_seconds": wait,
            "p80_seconds": None,
            "status": names[status],
        }
        | rest
        for place, (wait, status) in enumerate(zip(waits, statuses, strict=True))
    ]


def test_pinball_costs_a_shortfall_four_times_an_excess_at_level_80() -> None:
    assert pinball([100.0, 50.0], [50.0, 100.0], 0.8).tolist() == pytest.approx([40.0, 10.0])
    assert pinball([100.0, 50.0], [50.0, 100.0], 0.5).tolist() == pytest.approx([25.0, 25.0])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.sampled_from([0.5, 0.8]))
def test_no_value_has_a_lower_pinball_loss_than_the_quantile_itself(waits: list[int], level: float) -> None:
    losses = [pinball(waits, np.full(len(waits), posted), level).sum() for posted in range(10)]
    quantile = sorted(waits)[math.ceil(level * len(waits)) - 1]
    assert losses[quantile] == pytest.approx(min(losses))


def test_measures_are_those_counted_by_hand() -> None:
    found = score(
        attributed(
            patient("within the typical", 600, 1200, 500),
            patient("within the posted", 600, 1200, 1200),
            patient("after the posted", 600, 1200, 1600),
            patient("still waiting, past it", 600, 1200, censored_at_seconds=1201),
            patient("still waiting, within it", 600, 1200, censored_at_seconds=1200),
            patient("left in time", 600, 1200, censored_at_seconds=900, left_unseen=True),
            patient("left after it", 600, 1200, censored_at_seconds=2000, left_unseen=True),
        )
    ).to_pylist()
    assert found == [
        {
            "model": "m",
            "version": "1.0.0",
            "n": 3,
            "left_unseen": 2,
            "known_misses": 1,
            "unresolved": 1,
            "pinball_50": pytest.approx((50 + 300 + 500) / 3),
            "pinball_80": pytest.approx((140 + 0 + 320) / 3),
            "mae": pytest.approx((100 + 600 + 1000) / 3),
            "bias": pytest.approx((100 - 600 - 1000) / 3),
            "coverage_seen": pytest.approx(2 / 3),
            "coverage": pytest.approx(2 / 4),
            "coverage_lower": pytest.approx(2 / 6),
            "coverage_upper": pytest.approx(3 / 6),
            "mean_posted": 1200,
        }
    ]


def test_a_model_without_an_80th_percentile_posts_its_typical_wait() -> None:
    table = attributed(patient("a", 600, None, 700), patient("b", 600, None, 500))
    (found,) = score(table).to_pylist()
    assert (found["coverage_seen"], found["mean_posted"]) == (0.5, 600)
    assert found["pinball_80"] == pytest.approx((0.8 * 100 + 0.2 * 100) / 2)
    assert [row["level"] for row in calibration_by_level(table).to_pylist()] == [0.5]


def test_measures_of_nobody_are_null_and_of_no_rows_there_are_none() -> None:
    (found,) = score(attributed(patient("a", 600, 1200, censored_at_seconds=10))).to_pylist()
    assert (found["n"], found["unresolved"], found["mae"], found["coverage"]) == (0, 1, None, None)
    assert len(score(attributed(patient("a", 1, 1)).slice(0, 0))) == 0


def test_live_coverage_is_too_kind_and_known_misses_take_half_of_that_away() -> None:
    """Exponential waits of everybody who arrived in six hours, looked at as the sixth ends."""
    random = np.random.default_rng(1)
    mean, window, n = 5400.0, 21_600.0, 4000
    waits, elapsed = random.exponential(mean, n), random.uniform(0, window, n)
    shown = -mean * math.log(0.2)
    seen = waits <= elapsed
    table = attributed(
        *(
            patient(str(i), shown / 2, shown, float(waits[i]))
            if seen[i]
            else patient(str(i), shown / 2, shown, censored_at_seconds=float(elapsed[i]))
            for i in range(n)
        )
    )
    (found,) = score(table).to_pylist()
    within = 1 - (mean * 0.8 + 0.2 * (window - shown)) / window
    seen_by_now = 1 - mean * (1 - math.exp(-window / mean)) / window
    past = mean * (0.2 - math.exp(-window / mean)) / window
    # The truth is 0.8; in closed form 0.90 of those seen, and 0.85 with the known misses.
    assert found["coverage_seen"] == pytest.approx(within / seen_by_now, abs=0.02)
    assert found["coverage"] == pytest.approx(within / (seen_by_now + past), abs=0.02)


def test_calibration_by_level_counts_each_quantile_with_its_known_misses() -> None:
    table = attributed(
        patient("a", 600, 1200, 500),
        patient("b", 600, 1200, 900),
        patient("c", 600, 1200, censored_at_seconds=700),
    )
    typical, high = calibration_by_level(table).to_pylist()
    assert (typical["level"], typical["n"], typical["observed"]) == (0.5, 3, pytest.approx(1 / 3))
    assert (high["level"], high["n"], high["observed"]) == (0.8, 2, 1.0)


def test_blocks_are_of_the_local_clock_on_both_sides_of_a_clock_change() -> None:
    """In Toronto the night of 8 March 2026 has no two o'clock: 06:59 UTC is 01:59, 08:00 UTC is 04:00."""
    arrivals = [datetime(2026, 3, 8, *clock, tzinfo=UTC) for clock in ((4, 59), (6, 59), (8, 0), (12, 0))]
    table = attributed(*(patient(str(i), 600, 1200, 500, arrival=at) for i, at in enumerate(arrivals)))
    local = localised(table, TORONTO)
    assert local["day"].to_pylist() == [date(2026, 3, 7)] + [date(2026, 3, 8)] * 3
    assert local["block"].to_pylist() == [5, 0, 1, 2]
    blocks = coverage_by_block(local)
    assert blocks.select(["block", "n"]).to_pylist() == [{"block": b, "n": 1} for b in (0, 1, 2, 5)]


def test_availability_counts_failed_and_absent_ticks_from_the_first_one_on() -> None:
    rows = ticks("steady", [600.0] * 8) + ticks("late", [600.0, None, 600.0, 600.0], "oefo", first=3)
    found = {row["model"]: row for row in availability(pa.Table.from_pylist(rows)).to_pylist()}
    assert found["steady"]["availability"] == 1.0
    # Saved at ticks 3 to 6 with one error, absent at tick 7.
    assert (found["late"]["ticks"], found["late"]["ok"], found["late"]["fallback"]) == (5, 2, 1)
    assert found["late"]["availability"] == pytest.approx(3 / 5)


def test_stability_is_of_neighbouring_ticks_of_one_series() -> None:
    rows = ticks("m", [600.0, 900.0, 5000.0, None, 5000.0]) + ticks("m", [9000.0, 9000.0], facility_id="B")
    far = ticks("m", [0.0], first=40)
    (found,) = stability(pa.Table.from_pylist(rows + far)).to_pylist()
    # 300, 4100, then 0 over a single gap, 0 in the other department; nothing across the long gap.
    assert found["changes"] == 4
    assert (found["mean_change"], found["jumps"]) == (pytest.approx(4400 / 4), pytest.approx(1 / 4))


def test_what_was_displayed_is_rounded_steady_and_promises_nothing_above_the_cap() -> None:
    minutes = [50.0, 61.0, 62.0, None, 400.0, 20.0]
    rows = ticks("m", [None if wait is None else 60 * wait for wait in minutes])
    other = ticks("other", [60 * 100.0], "o", first=2)
    found = displayed_predictions(pa.Table.from_pylist(rows + other)).to_pylist()
    shown = [(row["model"], (row["as_of"] - NOON).seconds // 900, row["wait_seconds"] / 60) for row in found]
    assert shown == [("m", 0, 60), ("m", 1, 75), ("m", 2, 75), ("m", 5, 30), ("other", 2, 105)]
    assert [row["p80_seconds"] for row in found] == [row["wait_seconds"] for row in found]


def test_only_patients_with_a_value_of_every_model_of_the_band_are_matched() -> None:
    rows = [
        patient("both", 1, 2, 3),
        patient("both", 1, 2, 3, model="other"),
        patient("one", 1, 2, 3),
        # Another department has a visit of the same number.
        patient("one", 1, 2, 3, model="other", facility_id="B"),
        # A band that one model alone has.
        patient("both", 1, 2, 3, band="ctas_3"),
    ]
    kept = matched(attributed(*rows)).select(["visit_id", "model", "band"]).to_pylist()
    assert [tuple(row.values()) for row in kept] == [
        ("both", "m", "all_posted"),
        ("both", "other", "all_posted"),
        ("both", "m", "ctas_3"),
    ]


def two_models(
    days: int, per_day: int, gain: np.ndarray, *, posted: float = 1200.0, seen_within: float = 0.8
) -> tuple[Contender, Contender]:
    """A champion, and a challenger whose posted wait is nearer to the long waits of a day by `gain`."""
    rows: dict[str, list[dict]] = {"champion": [], "challenger": []}
    for day in range(days):
        for number in range(per_day):
            long = number >= seen_within * per_day
            actual = posted + 600 if long else posted - 600
            for model, better in (("champion", 0.0), ("challenger", gain[day])):
                rows[model].append(
                    patient(
                        f"{day}-{number}",
                        600,
                        posted + (better if long else 0),
                        actual,
                        arrival=NOON + timedelta(days=day),
                        model=model,
                    )
                )
    champion, challenger = (
        Contender(name, "1.0.0", localised(attributed(*rows[name]), TORONTO), 1.0) for name in rows
    )
    return champion, challenger


def test_daily_differences_and_their_interval_agree_with_the_closed_form() -> None:
    gain = np.array([100.0, 0.0, 200.0, 100.0])
    champion, challenger = two_models(4, 10, gain)
    daily = daily_differences(champion.attributed, challenger.attributed)
    assert daily["patients"].to_pylist() == [10] * 4
    # Two of ten waits are long, and each is missed by `gain` seconds less, at four fifths of a second each.
    assert daily["difference"].to_pylist() == pytest.approx((-0.8 * 0.2 * gain).tolist())
    found = mean_difference(daily)
    d = -0.16 * gain
    # The neighbours of these days are opposed, so that the ties do not widen the plain interval of a mean.
    reach = 2.353363 * d.std(ddof=1) / math.sqrt(4)
    assert found.estimate == pytest.approx(d.mean())
    assert (found.lower, found.upper) == pytest.approx((d.mean() - reach, d.mean() + reach), rel=1e-4)


def test_days_that_resemble_their_neighbours_widen_the_interval() -> None:
    days = [date(2026, 1, 1) + timedelta(days=d) for d in range(40)]
    runs = np.repeat([-1.0, 1.0] * 4, 5)

    def upper(difference: np.ndarray) -> float:
        columns = {"day": days, "patients": [30] * 40, "difference": difference}
        found = mean_difference(pa.table(columns))
        assert found.upper is not None
        return found.upper

    assert upper(runs) > 1.3 * upper(np.tile([-1.0, 1.0], 20))


GAIN = np.tile([100.0, 200.0], 20)


def test_a_challenger_that_brings_all_the_evidence_is_better() -> None:
    found = evidence(*two_models(30, 40, GAIN))
    assert (found.verdict, found.reasons, found.days, found.patients) == ("better", (), 30, 1200)
    assert found.coverage == pytest.approx(0.8)
    assert "challenger 1.0.0 is better than champion 1.0.0" in found.sentence


@pytest.mark.parametrize(
    ("days", "per_day", "gain", "options", "lacks"),
    [
        (27, 40, GAIN, {}, "27 days are too few"),
        (30, 30, GAIN, {}, "900 patients are too few"),
        (30, 40, np.tile([900.0, -900.0], 20), {}, "not shown to be lower"),
        (30, 40, -GAIN, {}, "loss is higher"),
        (30, 40, GAIN, {"seen_within": 0.75}, "75.0%, more than 3 points"),
    ],
)
def test_a_challenger_that_lacks_a_part_of_the_evidence_makes_no_difference(
    days: int, per_day: int, gain: np.ndarray, options: dict[str, float], lacks: str
) -> None:
    found = evidence(*two_models(days, per_day, gain, **options))
    assert found.verdict == "no difference"
    assert any(lacks in reason for reason in found.reasons)
    assert lacks in found.sentence


def test_coverage_is_that_of_the_patients_whom_both_told_a_wait() -> None:
    champion, challenger = two_models(30, 60, GAIN)
    # On half of the short waits of each day the champion had no value.
    number = pc.cast(pc.list_element(pc.split_pattern(champion.attributed["visit_id"], "-"), 1), pa.int64())
    both = Contender("champion", "1.0.0", champion.attributed.filter(pc.greater_equal(number, 24)), 1.0)
    found = evidence(both, challenger)
    assert found.patients == 30 * 36
    assert found.coverage == pytest.approx(24 / 36)
    assert found.verdict == "no difference"


def test_a_challenger_that_is_less_available_makes_no_difference() -> None:
    champion, challenger = two_models(30, 40, GAIN)
    rarer = Contender("challenger", "1.0.0", challenger.attributed, 0.97)
    assert evidence(champion, rarer).reasons == ("it had a value at 97.0% of ticks, the champion at 100.0%",)


def test_a_challenger_nobody_met_makes_no_difference() -> None:
    champion, challenger = two_models(3, 10, GAIN)
    nobody = Contender("challenger", "1.0.0", challenger.attributed.slice(0, 0), 0.0)
    found = evidence(champion, nobody)
    assert (found.verdict, found.patients, found.coverage, found.difference.estimate) == (
        "no difference",
        0,
        None,
        None,
    )
