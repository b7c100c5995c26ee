from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from medscore_assets.wait_times.bands import ALL_BANDS, BANDS
from medscore_assets.wait_times.clock import local_hours
from medscore_assets.wait_times.snapshot import build_snapshot
from medscore_assets.wait_times.visits import COLUMNS, Visits
from resources.errors import PermanentError
from tests.wait_times.conftest import Simulated
from tests.wait_times.made import NOW, ZONE, snapshot, visit, visits


def dropped(*rows: dict) -> dict[str, int]:
    return {rule: count for rule, count in snapshot(*rows).dropped["ed"].items() if count}


def test_a_wait_ends_with_the_physician_and_not_with_the_disposition() -> None:
    seen_but_here = visit(-100, -10)
    found = snapshot(seen_but_here)
    assert found.completed().tolist() == [True]
    assert found.waits().tolist() == [90]
    assert not found.waiting().any()


def test_patients_who_wait_and_patients_who_left_are_in_the_snapshot() -> None:
    found = snapshot(visit(-200, left_at=-50), visit(-90), visit(-30, disposition_at=-5))
    assert found.arrived.tolist() == [-200, -90, -30]
    assert found.waiting().tolist() == [False, True, False]
    assert not found.completed().any()


def test_nothing_that_happens_later_is_known() -> None:
    rows = visit(-60, 20, disposition_at=90), visit(-50, left_at=1), visit(5)
    found = snapshot(*rows)
    assert found.waiting().tolist() == [True, True]
    assert np.isnan(found.seen).all()
    assert np.isnan(found.departed).all()
    assert snapshot(*rows, after=20).seen.tolist()[0] == 0  # at its own moment it is known


def test_a_version_counts_from_its_recording_until_another_replaces_it() -> None:
    rows = (
        visit(-60, id="a", recorded_at=-55, superseded_at=-5),
        visit(-60, -20, id="a", recorded_at=-5),
        visit(-40, -30, id="late", recorded_at=1),
    )
    before, at_its_time, afterwards = (snapshot(*rows, after=minutes) for minutes in (-6, -5, 1))
    assert before.waiting().tolist() == [True]
    assert at_its_time.seen.tolist() == [-15]
    assert len(afterwards.arrived) == 2


def test_what_is_recorded_later_changes_nothing_that_was_known(simulated: Simulated) -> None:
    full = simulated.snapshot(ticks=4)
    earlier = simulated.tables.visits.filter(
        pc.less_equal(simulated.tables.visits["recorded_at"], pa.scalar(simulated.now))
    )
    scenes = list(zip(full.facilities, (time.item().replace(tzinfo=UTC) for time in full.as_of), strict=True))
    cut = build_snapshot(Visits.of(earlier), scenes, simulated.zones)
    for name in ("arrived", "seen", "left", "departed", "ctas", "newest_record", "offsets"):
        np.testing.assert_array_equal(getattr(full, name), getattr(cut, name))


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (visit(-60, -30, scheduled=True), "scheduled_visit"),
        (visit(None, -30), "arrival_missing"),
        (visit(-30, -60), "seen_before_arrival"),
        (visit(-60, -10, left_at=-20), "seen_after_leaving"),
        (visit(-60, -10, disposition_at=-20), "seen_after_leaving"),
        (visit(-1500, -10), "wait_above_cap"),
        (visit(-1500), "never_closed"),
    ],
)
def test_a_visit_that_breaks_a_rule_is_left_out_and_counted(row: dict, rule: str) -> None:
    assert dropped(row, visit(-20)) == {rule: 1}
    assert len(snapshot(row, visit(-20)).arrived) == 1


def test_a_visit_at_the_edge_of_a_rule_counts() -> None:
    edges = visit(-60, -60), visit(-1440, 0), visit(-1440), visit(-30, -20, left_at=-20)
    assert dropped(*edges) == {}


def test_a_missing_triage_level_is_of_the_headline_only() -> None:
    found = snapshot(visit(-5, ctas=None), *(visit(-4, ctas=level) for level in (1, 2, 3, 4, 5)))
    members = {band: found.ctas[found.in_band(band)].tolist() for band in ALL_BANDS}
    assert members == {"all_posted": [0, 3, 4, 5], "ctas_2": [2], "ctas_3": [3], "ctas_4_5": [4, 5]}
    assert sorted(BANDS["ctas_3"].served_first) == [1, 2, 3]


def test_of_duplicates_the_first_counts() -> None:
    twice = visit(-60, -10, id="a"), visit(-60, -10, id="b")
    assert dropped(*twice) == {"duplicate": 1}
    newer = visit(-60, id="a", recorded_at=-60), visit(-58, -9, id="a", recorded_at=-50)
    assert dropped(*newer) == {"duplicate": 1}
    assert snapshot(*newer).seen.tolist() == [-9]  # the version that was recorded last


def test_two_people_who_come_together_are_no_duplicates_while_they_wait() -> None:
    together = visit(-60, 10, id="a"), visit(-60, 10, id="b")
    assert dropped(*together) == {}
    assert dropped(visit(-60, -10, id="a"), visit(-60, -10, id="b", ctas=4)) == {}
    assert dropped(visit(-60, -10, id="a"), visit(-60, -10, id="b", facility="other")) == {}


def test_a_duplicate_of_a_faulty_visit_counts() -> None:
    assert dropped(visit(-60, -10, scheduled=True), visit(-60, -10)) == {"scheduled_visit": 1}


def test_scenes_of_a_batch_are_what_they_are_alone(simulated: Simulated) -> None:
    batch = simulated.snapshot(ticks=3)
    for scene in (0, 4, 8):
        time = batch.as_of[scene].item().replace(tzinfo=UTC)
        alone = build_snapshot(simulated.visits, [(batch.facilities[scene], time)], simulated.zones)
        part = batch.only([scene])
        for name in ("arrived", "seen", "left", "departed", "ctas", "rows", "newest_record", "offsets"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(part, name))
        assert len(alone.arrived) > 50


def test_the_input_cannot_be_written_to() -> None:
    found = snapshot(visit(-60, -10), visit(-5))
    arrays = found.arrived, found.seen, found.ctas, found.scene(), found.waits(), found.waiting()
    for array in (*arrays, found.in_band("ctas_3"), found.only([0]).left):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    frame = found.frame(0)
    frame["wait_seconds"] = 0.0
    assert found.frame(0)["wait_seconds"].tolist()[0] == 3000


def test_a_frame_holds_times_in_utc_and_those_of_a_band_only() -> None:
    found = snapshot(visit(-60, -10, ctas=2), visit(-5, ctas=3))
    frame = found.frame(0, "ctas_3")
    assert frame["arrival"].tolist() == [NOW - timedelta(minutes=5)]
    assert str(frame["seen"].dtype) == "datetime64[us, UTC]"
    assert frame["waiting"].tolist() == [True]
    assert len(found.frame(0)) == 2


def test_an_hour_is_an_hour_on_the_days_when_clocks_change() -> None:
    before_spring = datetime(2026, 3, 8, 6, 30, tzinfo=UTC)  # 01:30 in Toronto; 02:00 is skipped
    found = snapshot(visit(-30, 60), now=before_spring, after=90)
    assert found.waits().tolist() == [90]
    assert found.local_hour().tolist() == [4]
    assert found.local_hours(found.arrived, found.scene()).tolist() == [1]
    autumn = np.datetime64("2026-11-01T04:30", "us") + np.arange(4) * np.timedelta64(1, "h")
    assert local_hours(autumn, ZONE).tolist() == [0, 1, 1, 2]
    assert local_hours(autumn[:2], "Asia/Kolkata").tolist() == [10, 11]


def test_the_freshness_of_the_input_is_known() -> None:
    found = snapshot(visit(-60, -10, recorded_at=-7), visit(-90, recorded_at=-80))
    assert found.newest_record[0] == np.datetime64("2026-01-15T16:53", "us")
    assert np.isnat(snapshot(visit(5)).newest_record[0])


def test_a_facility_without_visits_is_an_empty_scene() -> None:
    found = build_snapshot(visits(visit(-5)), [("none", NOW), ("ed", NOW)], {"ed": ZONE, "none": ZONE})
    assert found.offsets.tolist() == [0, 0, 1]
    assert found.frame(0).empty


def test_times_without_a_zone_are_refused() -> None:
    with pytest.raises(PermanentError, match="no zone"):
        build_snapshot(visits(visit(-5)), [("ed", datetime(2026, 1, 15))], {"ed": ZONE})  # noqa: DTZ001
    columns = {name: pa.array([], pa.timestamp("us")) for name in COLUMNS}
    with pytest.raises(PermanentError, match="recorded_at"):
        Visits.of(pa.table(columns))


def test_visits_as_arrays_are_those_of_a_table(simulated: Simulated) -> None:
    table = simulated.tables.visits.slice(0, 500)
    arrays = {
        name: pc.cast(table[name], pa.timestamp("us")).to_numpy()
        if pa.types.is_timestamp(table[name].type)
        else table[name]
        for name in COLUMNS
    }
    first, second = Visits.of(table), Visits.of(arrays)
    for name in ("arrival", "pia_at", "superseded_at", "ctas", "visit"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
