"""Posted waits: what is read of them, and what forecasts them better than as they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from medscore_assets.wait_times.importers.posted_waits import (
    SERIES_SCHEMA,
    PostedWaits,
    read_posted_waits,
)
from medscore_assets.wait_times.importers.records import Report
from medscore_assets.wait_times.posted_experiment import (
    BASELINE,
    forecasters,
    on_grid,
    posted_wait_experiment,
)
from resources.errors import PermanentError

TORONTO = ZoneInfo("America/Toronto")
START = datetime(2026, 3, 2, tzinfo=UTC)


def series(values: np.ndarray, start: datetime = START, every: float = 15) -> PostedWaits:
    at = [start + timedelta(minutes=every * i) for i in range(len(values))]
    columns = [pa.array(["ED"] * len(at)), pa.array(at, pa.timestamp("us", "UTC")), pa.array(values)]
    return PostedWaits(pa.table(columns, schema=SERIES_SCHEMA), TORONTO)


def test_hours_on_the_wall_clock_become_minutes_in_utc_and_bad_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "posted.csv"
    path.write_text(
        "Time,UH,VH\n"
        "2025-11-02 00:45:00,1.5,2\n"
        "2025-11-02 01:15:00,2,\n"
        "2025-11-02 01:45:00,2,25\n"
        "2025-11-02 01:15:00,3,nan\n"
        "2025-11-02 02:15:00,3,soon\n"
        "2025-11-02 02:05:00,9,9\n"
        "2025-11-02 02:45:00,3\n"
        "later,3,3\n"
    )
    report = Report()
    # The first 01:15 may be either; the second one, and what follows it, can only be after the change.
    posted = read_posted_waits(path, TORONTO, report)
    rows = posted.series.to_pylist()
    assert [(r["seen_at"].hour, r["seen_at"].minute, r["wait_minutes"]) for r in rows][:5] == [
        (4, 45, 90.0),
        (5, 15, 120.0),
        (5, 45, 120.0),
        (6, 15, 180.0),
        (7, 15, 180.0),
    ]
    assert {(key, found.rows, found.first) for key, found in report.refused.items()} == {
        (("VH", "is not between 0 and 24 hours"), 2, "posted.csv:4"),
        (("VH", "is not a number"), 1, "posted.csv:6"),
        (("Time", "not later than the row before"), 1, "posted.csv:7"),
        (("row", "has another number of fields than the header"), 1, "posted.csv:8"),
        (("Time", "the time cannot be read"), 1, "posted.csv:9"),
    }


def test_a_gap_stays_a_gap() -> None:
    posted = series(np.arange(20.0))
    kept = [row for row in range(20) if row not in (5, 10, 11, 12)]
    grid, values = on_grid(posted.series.take(pa.array(kept)))
    assert len(grid) == 20
    # One post that is missing is bridged by the one before; after half an hour nothing is known.
    assert values[5] == 4
    assert values[10:12].tolist() == [9, 9]
    assert np.isnan(values[12])
    assert values[13] == 13


def test_no_forecast_knows_what_is_posted_later() -> None:
    rng = np.random.default_rng(1)
    values = 120 + np.cumsum(rng.normal(0, 5, 800))
    hours = (np.arange(800) // 4) % 24
    changed = values.copy()
    changed[600:] += 1000
    for name, forecast in forecasters(values[:400], hours).items():
        for steps in (1, 8):
            before, after = forecast(values, steps), forecast(changed, steps)
            np.testing.assert_array_equal(before[:600], after[:600], err_msg=name)


def test_each_model_wins_on_the_series_that_is_made_for_it() -> None:
    rng = np.random.default_rng(2)
    n = 96 * 12
    noise = rng.normal(0, 10, n)
    slow = np.zeros(n)
    for i in range(1, n):
        slow[i] = 0.9 * slow[i - 1] + noise[i]
    day = 60 * np.sin(2 * np.pi * np.arange(n) / 96)
    made = {
        "carry_forward": 300 + np.cumsum(noise / 5),
        "ets": 300 + noise * 3,
        "ar5": 300 + slow,
        "time_of_day": 300 + day + noise,
    }
    for name, values in made.items():
        scores = posted_wait_experiment(series(values)).scores
        at_two_hours = {s.model: s.mae for s in scores if s.minutes_ahead == 120}
        assert at_two_hours[name] <= min(at_two_hours.values()) * 1.03, name
        assert all(s.against_baseline == 0 for s in scores if s.model == BASELINE)


def test_a_series_of_a_day_is_too_short() -> None:
    with pytest.raises(PermanentError, match="too short"):
        posted_wait_experiment(series(np.ones(96)))


def test_the_posted_waits_of_london_are_compared_as_they_are(shared_data: Path) -> None:
    report = Report()
    posted = read_posted_waits(shared_data / "london_on_lhsc_15min.csv", TORONTO, report)
    assert (report.taken, report.refused) == (1062, {})
    found = posted_wait_experiment(posted)
    assert {score.facility_id for score in found.scores} == {"UH", "VH"}
    errors = {(s.facility_id, s.model, s.minutes_ahead): s.mae for s in found.scores}
    # A posted wait already is an average: averaging it again only makes it older.
    for facility in ("UH", "VH"):
        assert errors[facility, BASELINE, 15] < 30
        for minutes in (15, 60, 120):
            assert errors[facility, BASELINE, minutes] < errors[facility, "moving_average_60", minutes]
    assert min(score.n for score in found.scores) > 500
