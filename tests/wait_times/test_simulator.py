"""The made-up emergency departments: what they are like, and what is recorded of them and when."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from medscore_assets.demo.emergency import (
    DIRT,
    FacilityPlan,
    SimulatedVisits,
    default_plans,
    known_at,
    simulate,
)
from medscore_assets.demo.emergency_physics import _queue
from medscore_assets.wait_times.importers.versions import VISITS_SCHEMA

FIRST, SEED = date(2026, 1, 5), 7
KEY = ["facility_id", "visit_id"]


@pytest.fixture(scope="module")
def month() -> SimulatedVisits:
    return simulate(6, FIRST, 30, SEED)


def sorted_visits(visits: pa.Table, facility: str) -> pa.Table:
    mine = visits.filter(pc.equal(visits["facility_id"], facility))
    return mine.sort_by([("visit_id", "ascending"), ("recorded_at", "ascending")])


def test_departments_are_as_crowded_as_those_of_ontario(month: SimulatedVisits) -> None:
    truth = month.truth.to_pandas()
    real = truth[~truth.fault.isin(["scheduled", "duplicate"])]
    wait = (real.pia_at - real.arrival).dt.total_seconds() / 60
    by_facility = pd.DataFrame(
        {
            "visits": real.groupby("facility_id").size() / 30,
            "wait": wait.groupby(real.facility_id).mean(),
            "left": real.left_at.notna().groupby(real.facility_id).mean(),
        }
    )
    expected = [plan.visits_per_day for plan in default_plans(6)]
    assert np.abs(by_facility.visits / expected - 1).max() < 0.1
    assert by_facility.wait.between(45, 190).all()
    assert by_facility.left.between(0.06, 0.22).all()
    shares = real.ctas.value_counts(normalize=True).sort_index()
    assert np.abs(shares.to_numpy() - [0.01, 0.18, 0.45, 0.28, 0.08]).max() < 0.02
    # Sicker patients are seen sooner, those of level 1 at once.
    assert wait.groupby(real.ctas).median().is_monotonic_increasing
    assert wait[real.ctas == 1].median() < 20


def test_a_facility_is_the_same_in_any_company_and_more_days_change_none(month: SimulatedVisits) -> None:
    plans = default_plans(3)
    alone = simulate([plans[2]], FIRST, 30, SEED)
    assert sorted_visits(month.visits, "demo-ed-003") == sorted_visits(alone.visits, "demo-ed-003")
    longer = simulate([plans[2]], FIRST, 34, SEED)
    common = longer.visits.filter(pc.is_in(longer.visits["visit_id"], alone.visits["visit_id"]))
    # A department that stays crowded over the end still closes its last visits in a busy world.
    assert sorted_visits(common, "demo-ed-003") == sorted_visits(alone.visits, "demo-ed-003")
    assert simulate([plans[2]], FIRST, 30, SEED + 1).visits != alone.visits


def test_versions_of_a_visit_follow_each_other_and_tell_nothing_before_it_happens(
    month: SimulatedVisits,
) -> None:
    assert month.visits.schema == VISITS_SCHEMA
    rows = month.visits.to_pandas()
    assert not rows.duplicated([*KEY, "recorded_at"]).any()
    rows = rows.sort_values([*KEY, "recorded_at"])
    following = rows.groupby(KEY).recorded_at.shift(-1)
    assert following.equals(rows.superseded_at.rename(following.name))
    for name in ("triage_at", "pia_at", "left_at", "disposition_at"):
        assert not (rows[name] > rows.recorded_at).any(), name
    delay = (rows.recorded_at - rows.pia_at)[rows.pia_at.notna() & rows.disposition_at.isna()]
    assert delay.median() < timedelta(minutes=10)
    assert delay.max() > timedelta(hours=3)


def test_what_was_known_at_a_moment_has_one_open_version_per_visit(month: SimulatedVisits) -> None:
    moment = datetime(2026, 1, 20, 18, tzinfo=UTC)
    known = known_at(month.visits, moment).to_pandas()
    assert known.recorded_at.max() <= moment
    assert not (known.superseded_at > moment).any()
    current = known[known.superseded_at.isna()]
    assert not current.duplicated(KEY).any()
    assert len(current) == len(known[KEY].drop_duplicates())
    waiting = current[current.pia_at.isna() & current.left_at.isna() & current.arrival.notna()]
    assert 20 < len(waiting) < 600


def test_every_declared_fault_is_there_at_its_rate(month: SimulatedVisits) -> None:
    truth = month.truth.to_pandas()
    found = truth.fault.value_counts() / len(truth)
    for name, share in DIRT.items():
        assert 0.3 * share < found[name] < 2.5 * share, name
    last = month.visits.filter(pc.is_null(month.visits["superseded_at"])).to_pandas()
    faulty = last.merge(truth[[*KEY, "fault"]], on=KEY).set_index("fault")
    wait = faulty.pia_at - faulty.arrival
    assert faulty.loc["no_arrival"].arrival.isna().all()
    assert (wait.loc["negative_wait"] < timedelta()).all()
    assert (wait.loc["absurd_wait"].dropna() > timedelta(hours=24)).all()
    assert (faulty.loc["pia_after_left"].pia_at > faulty.loc["pia_after_left"].left_at).all()
    assert faulty.loc["never_closed"][["pia_at", "left_at", "disposition_at"]].isna().all(axis=None)
    assert faulty.loc["unknown_ctas"].ctas.isna().all()
    assert faulty.loc["scheduled"].scheduled.all()
    assert faulty.scheduled.sum() == len(faulty.loc["scheduled"])
    copies = faulty.loc["duplicate"]
    originals = last.set_index("visit_id").loc[copies.visit_id.str.removesuffix("-again")]
    assert len(copies) > 5
    assert not copies.visit_id.isin(originals.index).any()
    # A copy is the same but for when it was recorded.
    both = originals.reset_index().merge(copies.reset_index(), on=["facility_id", "arrival"])
    assert len(both) >= len(copies)


def test_a_silent_feed_tells_everything_at_its_end() -> None:
    plan = FacilityPlan("ed", 150, 1.0)
    made = simulate([plan], FIRST, 120, SEED)
    assert len(made.outages) > 0
    recorded = made.visits.column("recorded_at").to_numpy()
    for span in made.outages.to_pylist():
        start, end = (np.datetime64(span[name].replace(tzinfo=None)) for name in ("start", "end"))
        assert not ((recorded >= start) & (recorded < end)).any()
        assert (recorded == end).sum() > 5


def test_local_hours_decide_and_the_clock_change_makes_no_hole() -> None:
    plan = [FacilityPlan("ed", 400, 1.0, zone="America/Toronto")]
    made = simulate(plan, date(2026, 3, 7), 3, SEED).truth.to_pandas()
    arrival = made.arrival.sort_values()
    assert arrival.min() >= pd.Timestamp("2026-03-07 05:00", tz="UTC")
    assert arrival.max() < pd.Timestamp("2026-03-10 04:00", tz="UTC")
    assert arrival.diff().max() < timedelta(hours=1)


def test_the_queue_sees_the_sickest_first_and_nobody_who_has_left() -> None:
    # One physician who needs an hour for the first; a CTAS 4, a CTAS 2 and one without patience wait.
    arrival, level = [0.0, 60.0, 120.0, 180.0], [2, 3, 1, 2]
    leaves = [9e9, 9e9, 9e9, 600.0]
    seen = _queue(arrival, level, leaves, [3600.0, 60.0, 60.0, 60.0], [1, 1, 1], [1.0, 1.0, 1.0])
    assert seen[:3].tolist() == [0.0, 3660.0, 3600.0]
    assert np.isnan(seen[3])


def test_a_physician_who_comes_on_duty_takes_the_next_and_slow_hours_take_longer() -> None:
    arrival, service = [0.0, 10.0, 20.0], [7200.0, 1800.0, 600.0]
    seen = _queue(arrival, [2, 2, 2], [9e9] * 3, service, [1, 2, 1], [1.0, 0.5, 1.0])
    assert seen.tolist() == [0.0, 3600.0, 7200.0]
