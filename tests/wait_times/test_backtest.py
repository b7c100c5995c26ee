from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.demo.emergency import known_at, simulate
from medscore_assets.wait_times.attribution import attribute
from medscore_assets.wait_times.backtest import BacktestResult, backtest, on_record, prediction_rows
from medscore_assets.wait_times.comparison import Contender, evidence, leaderboard
from medscore_assets.wait_times.model import BatchModel, Fitted, History, Model
from medscore_assets.wait_times.prediction import Prediction, Predictions, Status
from medscore_assets.wait_times.running import run_models
from medscore_assets.wait_times.snapshot import Snapshot, build_snapshot
from medscore_assets.wait_times.visits import Visits
from resources.errors import PermanentError

FIRST = datetime(2026, 10, 31, 4, tzinfo=UTC)
"""Midnight in Toronto, where the clocks go back in the night to 1 November."""

BANDS = ("all_posted",)


class Recent(Model):
    """What the last twenty patients waited."""

    name = "recent"
    version = "1.0.0"
    bands = BANDS

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        waits = data.wait_seconds.dropna().tail(20)
        return Prediction(wait_seconds=float(waits.median())) if len(waits) else None


class Learned(BatchModel):
    """The mean wait of the days that it learned from, corrected by how `recent` did; nothing before."""

    name = "learned"
    version = "1.0.0"
    bands = BANDS

    def __init__(self) -> None:
        self.fits: list[datetime] = []
        self.resolved = 0

    def outcomes_of(self) -> tuple[tuple[str, str], ...]:
        return (("recent", "1.0.0"),)

    def fit(self, history: History) -> dict[str, dict[str, Any]]:
        self.fits.append(history.as_of)
        visits, outcomes = history.visits, history.outcomes
        assert outcomes is not None
        ended = outcomes.filter(pc.is_valid(outcomes["resolved_at"]))
        assert all(at <= history.as_of for at in ended["resolved_at"].to_pylist())
        self.resolved += len(ended)
        off = np.nan_to_num(
            pc.mean(pc.subtract(ended["actual_seconds"], ended["p50_seconds"])).as_py() or 0.0
        )
        # Every version is taken as it comes: a history must not hold what was not known.
        waits = (visits.pia_at - visits.arrival) / np.timedelta64(1, "s")
        return {
            facility: {"wait": float(abs(np.nanmean(waits[visits.facility == number]))), "off": float(off)}
            for number, facility in enumerate(visits.facilities)
        }

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        said = Predictions.empty(len(snapshot), self.bands)
        for scene, facility in enumerate(snapshot.facilities):
            if facility in fitted:
                wait = max(fitted[facility]["wait"] + fitted[facility]["off"], 0.0)
                said.put(scene, 0, Prediction(wait_seconds=wait))
        return said


class Raising(Recent):
    name = "raising"

    def fit(self, history: History) -> None:
        raise ValueError("a value that must not get out")

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        raise ValueError("a value that must not get out")


class Live(Recent):
    """A service that knows the present only."""

    name = "live"
    replayable = False


@pytest.fixture(scope="module")
def simulated() -> pa.Table:
    return simulate(2, date(2026, 10, 26), 8, 3).visits


def replayed(
    visits: pa.Table, models: list[Model], days: float = 2, every: int = 60, **options: Any
) -> BacktestResult:
    history = Visits.of(visits)
    zones = dict.fromkeys(("demo-ed-001", "demo-ed-002"), "America/Toronto")
    options = {"warm_up": timedelta(days=1), "days": 3} | options
    last = FIRST + timedelta(days=days)
    every_so_often = timedelta(minutes=every)
    return backtest(history, models, tuple(zones), zones, FIRST, last, every_so_often, **options)


def values(predictions: pa.Table, until: datetime | None = None) -> list[tuple]:
    if until is not None:
        predictions = predictions.filter(
            pc.less_equal(predictions["as_of"], pa.scalar(until, predictions["as_of"].type))
        )
    return sorted(tuple(row.values()) for row in predictions.to_pylist())


def test_a_tick_of_a_replay_is_the_tick_that_was_live(simulated: pa.Table) -> None:
    result = replayed(simulated, [Recent()])
    tick = FIRST + timedelta(hours=33)
    zones = dict.fromkeys(("demo-ed-001", "demo-ed-002"), "America/Toronto")
    live = build_snapshot(Visits.of(known_at(simulated, tick)), [(name, tick) for name in zones], zones)
    rows = prediction_rows(run_models([Recent()], live, {}), live)
    there = result.predictions.filter(
        pc.equal(result.predictions["as_of"], pa.scalar(tick, pa.timestamp("us", tz="UTC")))
    )
    assert len(rows) == 2
    assert values(there) == values(rows)


def test_patients_of_the_period_are_attributed_as_by_hand(simulated: pa.Table) -> None:
    result = replayed(simulated, [Recent()], every=30)
    again = attribute(Visits.of(simulated), result.predictions, FIRST + timedelta(days=3), FIRST)
    last = pa.scalar(FIRST + timedelta(days=2), pa.timestamp("us", tz="UTC"))
    again = again.filter(pc.less(again["arrival"], last))
    assert len(again) > 200
    assert result.attributed.drop_columns(["day", "block"]).equals(again)


def test_fits_are_at_four_on_the_local_clock_and_ticks_keep_to_their_distance(simulated: pa.Table) -> None:
    model = Learned()
    result = replayed(simulated, [model, Recent()])
    assert [fit.isoformat(timespec="minutes") for fit in model.fits] == [
        "2026-10-30T04:00+00:00",
        "2026-10-30T08:00+00:00",
        "2026-10-31T08:00+00:00",
        # After the clocks went back.
        "2026-11-01T09:00+00:00",
    ]
    ticks = result.predictions["as_of"].unique().to_pylist()
    assert ticks == [FIRST + timedelta(hours=hour) for hour in range(48)]
    assert model.resolved > 100
    ranked = leaderboard(result.attributed, result.predictions).to_pylist()
    assert {row["model"] for row in ranked} == {"recent", "learned"}
    assert ranked[0]["pinball_80"] < ranked[1]["pinball_80"]
    assert ranked[0]["n"] == ranked[1]["n"] > 0
    recent, nobody = (
        Contender.of(result.attributed, result.predictions, name, "1.0.0") for name in ("recent", "nobody")
    )
    assert (recent.available, nobody.available, len(nobody.attributed)) == (1.0, 0.0, 0)
    assert evidence(recent, nobody).verdict == "no difference"


class Counted(Recent):
    """It learns from visits alone, and notes when it was asked."""

    name = "counted"

    def __init__(self) -> None:
        self.fits: list[datetime] = []
        self.asked: list[datetime] = []

    def fit(self, history: History) -> None:
        self.fits.append(history.as_of)

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        self.asked.append(as_of)
        return super().predict(data, as_of)


def test_nobody_warms_up_from_whose_outcomes_nobody_learns(simulated: pa.Table) -> None:
    alone, among, learning = Counted(), Counted(), Learned()
    result = replayed(simulated, [alone], days=0.5)
    replayed(simulated, [among, learning, Recent()], days=0.5)
    before = FIRST - timedelta(hours=20)
    assert alone.fits == among.fits == [before, FIRST + timedelta(hours=4)]
    assert min(alone.asked) == min(among.asked) == before
    assert learning.fits[0] < before
    assert min(result.predictions["as_of"].to_pylist()) == FIRST


@pytest.fixture(scope="module")
def told(simulated: pa.Table) -> pa.Table:
    return replayed(simulated, [Recent(), Learned()], every=120).predictions


@settings(max_examples=6, deadline=None)
@given(minutes=st.integers(0, 47 * 60), what=st.sampled_from(["forgotten", "rewritten"]))
def test_nothing_recorded_after_a_moment_changes_what_was_said_by_then(
    simulated: pa.Table, told: pa.Table, minutes: int, what: str
) -> None:
    moment = FIRST + timedelta(minutes=minutes)
    other = known_at(simulated, moment) if what == "forgotten" else rewritten_after(simulated, moment)
    again = replayed(other, [Recent(), Learned()], every=120).predictions
    assert values(again, moment) == values(told, moment)


def rewritten_after(visits: pa.Table, moment: datetime) -> pa.Table:
    """Whatever was recorded after a moment says something else: the PIA an hour later, another triage."""
    later = pc.greater(visits["recorded_at"], pa.scalar(moment, visits["recorded_at"].type))
    hour = pa.scalar(timedelta(hours=1), pa.duration("us"))
    changed = {
        "pia_at": pc.add(visits["pia_at"], hour).cast(visits["pia_at"].type),
        "ctas": pa.array([2] * len(visits), visits["ctas"].type),
    }
    for name, values_after in changed.items():
        place = visits.column_names.index(name)
        visits = visits.set_column(place, name, pc.if_else(later, values_after, visits[name]))
    return visits


def test_what_was_on_record_is_what_stood_then(simulated: pa.Table) -> None:
    moment = FIRST + timedelta(hours=30)
    past = on_record(Visits.of(simulated), moment, moment - timedelta(days=30))
    assert past.recorded_at.max() <= np.datetime64(moment.replace(tzinfo=None), "us")
    # What was superseded later is current in it, and nothing lies ahead.
    assert (np.nan_to_num(past.superseded_at.astype(np.int64)) <= moment.timestamp() * 1e6).all()
    scenes = [(name, moment) for name in past.facilities]
    zones = dict.fromkeys(past.facilities, "UTC")
    ours, theirs = (
        build_snapshot(visits, scenes, zones) for visits in (past, Visits.of(known_at(simulated, moment)))
    )
    for name in ("offsets", "arrived", "seen", "left", "departed", "ctas"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_model_that_raises_is_a_fault_and_in_nobodys_way(simulated: pa.Table) -> None:
    alone = replayed(simulated, [Recent()], days=0.25)
    result = replayed(simulated, [Raising(), Live(), Recent()], days=0.25)
    kept = result.predictions.filter(pc.equal(result.predictions["model"].cast(pa.string()), "recent"))
    assert values(kept) == values(alone.predictions)
    raising = result.predictions.filter(pc.equal(result.predictions["model"].cast(pa.string()), "raising"))
    assert set(raising["status"].to_pylist()) == {Status.ERROR.code}
    faults = {(fault.model, fault.doing) for fault in result.faults}
    assert faults == {("raising", "fit"), ("raising", "predict")}
    assert not any("must not get out" in fault.sentence for fault in result.faults)
    assert result.skipped == ("live",)


def test_a_period_without_ticks_is_refused(simulated: pa.Table) -> None:
    with pytest.raises(PermanentError, match="no ticks"):
        replayed(simulated, [Recent()], days=0)
