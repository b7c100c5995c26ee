"""Wait times as Dagster runs them: fit, ticks, outcomes, performance, evidence; schedules, retention."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.definitions import build_defs
from medscore_assets.settings import Settings
from medscore_assets.wait_times import store
from medscore_assets.wait_times.assets import at_moment
from medscore_assets.wait_times.assignment import Pair
from medscore_assets.wait_times.checks import JUMPS, jumping_series, stuck_series
from medscore_assets.wait_times.evidence import evidence_for
from medscore_assets.wait_times.jobs import FIT_JOB, SCORING_JOB, TICK_JOB
from medscore_assets.wait_times.registry import Registry
from medscore_assets.wait_times.retention import prune_waits
from medscore_assets.wait_times.scoring_outcomes import MENDED_FOR, days_to_score, outcomes_between
from medscore_assets.wait_times.troubles import SCHEDULE
from resources.warehouse import Warehouse
from schedules.wait_times import fit_schedule, scoring_schedule, tick_schedule
from tests.conftest import copied_database
from tests.wait_times.stored import BUILT_IN, DEFAULT, EVERY, NOW, ticks

TICKS = 16
SCORED = NOW + timedelta(hours=1)


class Platform:
    """The wait-time jobs on a warehouse with simulated visits."""

    def __init__(self, warehouse: Warehouse, models: Path, instance: dg.DagsterInstance) -> None:
        self.warehouse, self.instance = warehouse, instance
        self._defs = build_defs(warehouse=warehouse, wait_models_file=models, wait_bootstrap=DEFAULT)

    def run(self, job: str, at: datetime, *assets: str) -> dg.ExecuteInProcessResult:
        return self._defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, run_config=at_moment(at, *assets), raise_on_error=False
        )

    def score(self, at: datetime) -> dict[str, Any]:
        result = self.run(SCORING_JOB, at, "wait_time_outcomes", "wait_time_performance")
        assert result.success
        (made,) = result.asset_materializations_for_node("wait_time_outcomes")
        return {name: value.value for name, value in made.metadata.items()}

    def performance(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        rows = self.warehouse.read(sa.select(tables.wait_time_performance)).to_pylist()
        return {(row["facility_id"], row["band"], row["model"]): row for row in rows}


@pytest.fixture(scope="module")
def platform(
    postgres: str, waits_template: str, library: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """Fitted before the first of some ticks, the last one by Dagster; scored an hour later."""
    models = tmp_path_factory.mktemp("models") / "models.toml"
    models.write_text(BUILT_IN)
    with copied_database(postgres, waits_template) as url, dg.DagsterInstance.ephemeral() as instance:
        made = Platform(Warehouse(url), models, instance)
        assert made.run(FIT_JOB, NOW - TICKS * EVERY, "wait_time_model_parameters").success
        ticks(made.warehouse, TICKS - 1, library, last=NOW - EVERY)
        yield made
        made.warehouse.close()


def test_a_day_from_the_fit_to_the_performance(platform: Platform) -> None:
    fitted = store.fitted_parameters(platform.warehouse, NOW)
    assert ("queue_fluid", "1.0.0") in fitted
    assert store.fitted_parameters(platform.warehouse, NOW - (TICKS + 1) * EVERY) == {}

    result = platform.run(TICK_JOB, NOW, "wait_time_predictions")
    assert result.success
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {
        "every_model_answered": True,
        "visits_come_in": True,
        "every_board_has_a_value": True,
        "predictions_are_not_stuck": True,
        "predictions_do_not_jump": checks[JUMPS],
    }
    assert len([e for e in result.all_events if e.event_type_value == "STEP_SUCCESS"]) == 1

    assert platform.score(SCORED)["days_scored"] == 1
    found = platform.performance()
    fluid, board = (found["demo-ed-001", "all_posted", model] for model in ("queue_fluid", "board"))
    assert fluid["n"] > 8
    assert fluid["ticks"] == TICKS
    assert fluid["pinball_80"] < found["demo-ed-001", "all_posted", "document_moving_average"]["pinball_80"]
    assert 0 < board["mae"] < 3 * 3600

    outcomes = outcomes_between(platform.warehouse, NOW - TICKS * EVERY, SCORED)
    of_fluid = [r for r in outcomes.to_pylist() if (r["model"], r["band"]) == ("queue_fluid", "all_posted")]
    here = [r for r in of_fluid if r["facility_id"] == "demo-ed-001"]
    assert sum(r["actual_seconds"] is not None for r in here) == fluid["n"]
    assert all(timedelta(0) <= r["arrival"] - r["as_of"] <= timedelta(minutes=30) for r in here)
    losses = [
        max(0.8 * (r["actual_seconds"] - p), 0.2 * (p - r["actual_seconds"]))
        for r in here
        if r["actual_seconds"] is not None
        for p in [r["p80_seconds"] or r["p50_seconds"]]
    ]
    assert sum(losses) / len(losses) == pytest.approx(fluid["pinball_80"])


def test_a_day_is_scored_again_when_a_late_correction_comes(platform: Platform) -> None:
    later = SCORED + timedelta(days=3)
    with platform.warehouse.transaction() as connection:
        # As if all had been made on time: a replay would open its day again.
        connection.execute(sa.update(tables.wait_time_ticks).values(replay=False))
    platform.score(later)
    assert days_to_score(platform.warehouse, later) == []
    # The day at the far end is not scored again at every hour, of the part that is still looked at.
    assert days_to_score(platform.warehouse, NOW + MENDED_FOR - timedelta(hours=2)) == []
    before = platform.performance()["demo-ed-001", "all_posted", "queue_fluid"]
    visits = tables.ed_visits
    seen = sa.select(visits).where(
        visits.c.facility_id == "demo-ed-001",
        visits.c.superseded_at.is_(None),
        visits.c.ctas == 3,
        visits.c.scheduled.is_(False),
        visits.c.arrival.between(NOW - timedelta(hours=3), NOW),
        visits.c.pia_at.is_not(None),
    )
    (row,) = platform.warehouse.read(seen.order_by(visits.c.visit_id).limit(1)).to_pylist()
    corrected = later + timedelta(minutes=30)
    with platform.warehouse.transaction() as connection:
        same = sa.and_(
            visits.c.facility_id == row["facility_id"],
            visits.c.visit_id == row["visit_id"],
            visits.c.superseded_at.is_(None),
        )
        connection.execute(sa.update(visits).where(same).values(superseded_at=corrected))
        moved = row | {"recorded_at": corrected, "pia_at": row["pia_at"] + timedelta(hours=1)}
        connection.execute(sa.insert(visits).values(moved | {"disposition_at": None, "left_at": None}))
    (day,) = days_to_score(platform.warehouse, corrected + timedelta(minutes=1))
    assert (day.facility_id, day.day) == ("demo-ed-001", date(2026, 3, 12))
    told = platform.score(corrected + timedelta(minutes=1))
    # Its rows and those of a visit that looked like its double, of some hundreds of the day.
    assert 12 <= told["rows_changed"] <= 24
    after = platform.performance()["demo-ed-001", "all_posted", "queue_fluid"]
    assert after["mae"] != before["mae"]
    assert after["measured_at"] > before["measured_at"]


def test_a_few_hours_are_no_evidence(platform: Platform) -> None:
    found = evidence_for(
        platform.warehouse,
        "demo-ed-001",
        "all_posted",
        Pair("moving_average_60", "1.0.0"),
        Pair("queue_fluid", "1.0.0"),
        SCORED,
    )
    assert (found.verdict, found.days) == ("no difference", 1)
    assert found.patients > 8
    assert "28 are needed" in found.sentence


def test_a_run_without_a_moment_says_so(platform: Platform) -> None:
    result = platform.run(TICK_JOB, NOW)
    (failure,) = result.get_step_failure_events()
    assert not result.success
    assert "which moment" in failure.step_failure_data.user_failure_data.description


def test_stuck_and_jumping_series_are_named(waits: Warehouse, library: Registry) -> None:
    moments = ticks(waits, 12, library)
    assert stuck_series(waits, NOW) == []
    c = tables.wait_time_predictions.c
    of_fluid = sa.and_(c.model == "queue_fluid", c.band == "all_posted", c.facility_id == "demo-ed-002")
    update = sa.update(tables.wait_time_predictions).where(of_fluid)
    with waits.transaction() as connection:
        connection.execute(update.values(wait_seconds=3600, p80_seconds=None, status="ok"))
    assert stuck_series(waits, NOW) == ["demo-ed-002: queue_fluid 1.0.0"]
    before = jumping_series(waits, NOW)
    assert "demo-ed-002: queue_fluid 1.0.0" not in before
    with waits.transaction() as connection:
        connection.execute(update.where(c.as_of == moments[-1]).values(wait_seconds=3 * 3600))
    assert stuck_series(waits, NOW) == []
    assert sorted(jumping_series(waits, NOW)) == sorted([*before, "demo-ed-002: queue_fluid 1.0.0"])


@pytest.mark.parametrize(
    ("factory", "cron", "zone", "asset"),
    [
        (tick_schedule, "*/15 * * * *", "UTC", "wait_time_predictions"),
        (fit_schedule, "0 4 * * *", "America/New_York", "wait_time_model_parameters"),
        (scoring_schedule, "5 * * * *", "UTC", "wait_time_outcomes"),
    ],
)
def test_a_run_is_about_the_scheduled_moment(
    settings: Settings, factory: Any, cron: str, zone: str, asset: str
) -> None:
    schedule = factory(settings, "job")
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, zone)
    request = schedule(dg.build_schedule_context(scheduled_execution_time=NOW))
    assert request.run_config["ops"][asset]["config"]["as_of"] == NOW.isoformat()
    assert request.run_key == NOW.isoformat()
    assert tick_schedule(settings, TICK_JOB).name == SCHEDULE


def test_old_months_go_whole_and_assignments_stay(waits: Warehouse, library: Registry) -> None:
    ticks(waits, 2, library)
    end, audit = datetime(2026, 3, 31, 23, tzinfo=UTC), NOW - timedelta(days=365)
    deleted = prune_waits(waits, end, audit)
    assert (deleted["wait_time_predictions"], deleted["wait_time_displays"]) == (0, 24)
    deleted = prune_waits(waits, end + timedelta(hours=1), audit)
    assert (deleted["wait_time_predictions"], deleted["wait_time_ticks"]) == (120, 0)
    ticks(waits, 1, library)
