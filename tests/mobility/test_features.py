"""What the features of a day are, by date, and that they know nothing of the day itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import ibis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medscore_assets.mobility.engines import Engine, EngineOptions, connect
from medscore_assets.mobility.features import Inputs, feature_frame, reads
from medscore_assets.mobility.rollups import monthly_rollup, months_of
from tests.mobility.histories import History, inputs, odd_histories, plain_features, rows, tables, walked

FIRST, LAST = date(2025, 12, 20), date(2026, 3, 8)
"""Days asked for; the history begins 60 days before. Among them the ends of a year and of a February."""


Cases = Mapping[tuple[str, date], dict[str, Any]]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with connect(EngineOptions(threads=1)) as connected:
        yield connected


@pytest.fixture(scope="module")
def odd() -> dict[str, History]:
    begin = FIRST - timedelta(days=60)
    return odd_histories(begin, (LAST - begin).days)


@pytest.fixture(scope="module")
def ranged(engine: Engine, odd: Mapping[str, History]) -> dict[tuple[str, date], dict[str, Any]]:
    """Features of the odd histories over the whole range, in one pass."""
    return rows(engine, feature_frame(inputs(odd), FIRST, LAST))


def _close(found: Any, wanted: Any) -> bool:
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-6)
    return type(found) is type(wanted) and bool(found == wanted)


def test_every_feature_is_what_its_definition_says_for_every_patient_and_day(
    odd: Mapping[str, History], ranged: Cases
) -> None:
    days = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
    plain = {(who, day): plain_features(history, day) for who, history in odd.items() for day in days}
    expected = {key: row for key, row in plain.items() if row is not None}
    assert ranged.keys() == expected.keys()
    for key, row in expected.items():
        assert ranged[key].keys() == row.keys()
        different = [name for name, value in row.items() if not _close(ranged[key][name], value)]
        assert different == [], key


@pytest.mark.parametrize("day", [date(2026, 1, 1), date(2026, 2, 17)])
def test_one_day_from_the_rows_that_it_needs_equals_the_range_to_the_last_bit(
    engine: Engine,
    odd: Mapping[str, History],
    ranged: Cases,
    day: date,
) -> None:
    needs = reads(day, day)
    given_all = inputs(odd)
    needed = {
        who: History({d: v for d, v in h.days.items() if needs.first_day <= d <= needs.last_day})
        for who, h in odd.items()
    }
    few = Inputs(
        ibis.memtable(tables(needed)["daily"]),
        given_all.rollups.filter(given_all.rollups.month < needs.months_before),
        given_all.patients,
        given_all.diagnoses,
        given_all.therapies,
        given_all.side_effects,
    )
    assert rows(engine, feature_frame(few, day, day)) == {k: v for k, v in ranged.items() if k[1] == day}


def test_a_day_reads_28_days_or_its_month_and_the_months_before() -> None:
    assert reads(date(2026, 3, 1), date(2026, 3, 1)).first_day == date(2026, 2, 1)
    needs = reads(date(2026, 3, 31), date(2026, 4, 2))
    assert (needs.first_day, needs.last_day) == (date(2026, 3, 1), date(2026, 4, 1))
    assert needs.months_before == date(2026, 3, 1)
    assert months_of([date(2026, 3, 31), date(2026, 3, 2), date(2025, 3, 9)]) == [
        date(2025, 3, 1),
        date(2026, 3, 1),
    ]


DAY = date(2026, 2, 10)


@pytest.fixture(scope="module")
def cases(engine: Engine) -> dict[tuple[str, date], dict[str, Any]]:
    """Features of the days around DAY, of a patient for each case below."""
    diseases = [(name, date(2020, 1, n + 1), None) for n, name in enumerate(["gout", "RA", "PD", "RA"])]
    steady = walked(date(2026, 2, 1), [5000] * 12)
    histories = {
        "gap": History(walked(date(2025, 12, 31), [1000, 3000])),
        "missing days": History(walked(date(2026, 2, 1), [7000, *[None] * 6, 100, 200])),
        "one day": History(walked(date(2026, 2, 9), [5000])),
        "zeros": History(walked(date(2026, 1, 1), [0] * 40)),
        "impossible": History(walked(date(2025, 2, 10), [4000]) | walked(date(2026, 2, 8), [10**9, -1])),
        "begins": History(
            steady,
            diagnoses=[("MS", DAY, None)],
            therapies=[("walking", date(2026, 1, 1), DAY), ("drug", DAY, None)],
        ),
        "diseases": History(steady, diagnoses=diseases, therapies=diseases),
    }
    return rows(engine, feature_frame(inputs(histories), DAY - timedelta(days=1), DAY + timedelta(days=1)))


def test_a_gap_of_40_days_empties_the_windows_and_not_the_baseline(cases: Cases) -> None:
    row = cases["gap", DAY]
    assert row["days_since_data"] == 40
    assert {row[name] for name in row if name.startswith(("steps_", "baseline_deviation"))} == {None}
    assert (row["baseline_mean"], row["baseline_days"], row["wear_share_28"]) == (2000.0, 2, 0.0)


def test_a_missing_day_does_not_stretch_a_window(cases: Cases) -> None:
    row = cases["missing days", DAY]
    assert (row["steps_mean_7"], row["steps_max_7"], row["steps_max_14"]) == (150.0, 200.0, 7000.0)
    assert (row["steps_lag_1"], row["steps_lag_2"], row["steps_lag_3"]) == (200.0, 100.0, None)


def test_one_day_of_data_has_means_and_no_deviation(cases: Cases) -> None:
    row = cases["one day", DAY]
    assert (row["steps_mean_28"], row["baseline_mean"], row["baseline_ratio_mean_7"]) == (5000.0, 5000.0, 1.0)
    names = ("steps_std_3", "steps_std_28", "baseline_std", "steps_trend_14", "steps_trend_28")
    assert [row[name] for name in names] == [None] * 5


def test_all_zeros_are_data_and_divide_nothing(cases: Cases) -> None:
    row = cases["zeros", DAY]
    assert (row["steps_mean_7"], row["steps_std_7"], row["steps_trend_14"]) == (0.0, 0.0, 0.0)
    assert (row["baseline_mean"], row["baseline_std"], row["baseline_ratio_mean_7"]) == (0.0, 0.0, None)


def test_an_impossible_sum_is_no_data_and_a_year_without_data_ends_eligibility(cases: Cases) -> None:
    row = cases["impossible", DAY]
    assert (row["baseline_days"], row["steps_lag_1"], row["days_since_data"]) == (1, None, 365)
    assert ("impossible", DAY + timedelta(days=1)) not in cases


def test_a_therapy_and_a_diagnosis_are_known_the_day_after_they_begin(cases: Cases) -> None:
    names = ("disease", "therapy", "days_on_therapy", "active_therapies")
    found = [tuple(cases["begins", DAY + timedelta(days=n)][name] for name in names) for n in (-1, 0, 1)]
    assert found == [("unknown", "walking", 39, 1), ("unknown", "walking", 40, 1), ("MS", "drug", 1, 1)]


def test_several_diseases_make_one_row_of_the_first_cohort(cases: Cases) -> None:
    # A fan-out would have left fewer keys than rows; the contract wants each patient and day once.
    row = cases["diseases", DAY]
    assert (row["disease"], row["active_diseases"], row["active_therapies"]) == ("PD", 3, 3)
    assert (row["therapy"], row["days_on_therapy"]) == ("RA", (DAY - date(2020, 1, 4)).days)


def test_a_year_is_a_circle_and_the_last_day_of_a_leap_year_is_its_366th(engine: Engine) -> None:
    history = History(walked(date(2024, 12, 1), [5000] * 40))
    frame = rows(engine, feature_frame(inputs({"p": history}), date(2024, 12, 29), date(2025, 1, 2)))
    found = [(row["weekday"], row["month"], row["is_weekend"]) for _, row in sorted(frame.items())]
    assert found == [(6, 12, 1), (0, 12, 0), (1, 12, 0), (2, 1, 0), (3, 1, 0)]
    ends = [
        (frame["p", day]["year_sin"], frame["p", day]["year_cos"])
        for day in (date(2024, 12, 31), date(2025, 1, 1), date(2025, 1, 2))
    ]
    assert ends[1] == (0.0, 1.0)
    assert ends[0][0] == pytest.approx(-ends[2][0], rel=0.01)


KNOWN_UNTIL = date(2026, 2, 16)
"""The day of the property: what is dated on it or later is the future."""
offsets = st.integers(-40, -1)
step_counts = st.integers(-5, 500_000)
pasts = st.dictionaries(offsets, step_counts, min_size=1, max_size=12)
futures = st.dictionaries(st.integers(0, 20), step_counts, max_size=8)
spans_before = st.lists(st.tuples(st.sampled_from("abMP"), offsets), max_size=3)
spans_after = st.lists(st.tuples(st.sampled_from("abMP"), st.integers(0, 20)), max_size=3)
ends = st.none() | st.integers(0, 20)
later_on = st.tuples(futures, spans_after, ends)


def _drawn(past: dict[int, int], spans: Any, future: dict[int, int], later: Any, end: int | None) -> History:
    def on(n: int) -> date:
        return KNOWN_UNTIL + timedelta(days=n)

    over = None if end is None else on(end)
    names = {"M": "MS", "P": "PD"}
    valid = [(names.get(what, what), on(n), over) for what, n in spans]
    valid += [(names.get(what, what), on(n), None) for what, n in later]
    return History(
        {on(n): (steps, steps % 1440) for n, steps in (past | future).items()},
        date(1960, 1, 1),
        "female",
        valid,
        valid,
        [((what, 1 + len(what) % 3), begin, until) for what, begin, until in valid],
    )


@pytest.fixture(scope="module")
def planned(engine: Engine) -> None:
    """Views of the day's features over tables to be filled, by itself and in a pass over its neighbours."""
    empty = {}
    for name, table in tables({}).items():
        engine.backend.con.from_arrow(table).create(name)
        empty[name] = engine.backend.table(name)
    all_tables = Inputs(rollups=monthly_rollup(empty["daily"]), **empty)
    engine.backend.create_view("by_itself", feature_frame(all_tables, KNOWN_UNTIL, KNOWN_UNTIL))
    around = feature_frame(all_tables, KNOWN_UNTIL - timedelta(days=2), KNOWN_UNTIL + timedelta(days=5))
    engine.backend.create_view("in_a_range", around)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(pasts, spans_before, later_on, later_on), min_size=1, max_size=4),
    st.sampled_from(["by_itself", "in_a_range"]),
)
def test_no_value_on_or_after_the_day_changes_a_feature_of_the_day(
    engine: Engine, planned: None, drawn: list[Any], view: str
) -> None:
    histories = {}
    for n, (past, spans, future, other_future) in enumerate(drawn):
        histories[f"{n} as it was"] = _drawn(past, spans, *future)
        histories[f"{n} changed"] = _drawn(past, spans, *other_future)
    connection = engine.backend.con
    for name, table in tables(histories).items():
        connection.execute(f"delete from {name}")
        connection.from_arrow(table).insert_into(name)
    found = connection.sql(f"select * from {view} where day = '{KNOWN_UNTIL}'").to_arrow_table().to_pylist()
    by_patient = {row.pop("patient_id"): row for row in found}
    eligible = [n for n, (past, *_) in enumerate(drawn) if any(0 <= s <= 450_000 for s in past.values())]
    assert len(found) == len(by_patient) == 2 * len(eligible)
    for n in eligible:
        assert by_patient[f"{n} as it was"] == by_patient[f"{n} changed"]
