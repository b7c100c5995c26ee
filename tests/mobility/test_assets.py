"""Mobility's assets as Dagster runs them: one path to forecasts, re-runs, faults, late files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.definitions import build_defs
from medscore_assets.mobility import shape_plots
from medscore_assets.mobility.baselines import EXPANDING, NAIVE
from medscore_assets.mobility.champions import compare
from medscore_assets.mobility.cohorts import COHORT_MODEL, GLOBAL_MODEL
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.forecasts import FORECASTS, HORIZONS, PATIENT_FEATURES, Serving, features_of
from medscore_assets.mobility.jobs import DAILY_JOB, TRAINING_JOB
from medscore_assets.mobility.model import MobilityModel, model_name
from medscore_assets.mobility.raw import RAW_STEPS
from medscore_assets.mobility.stored import stored_reasons
from medscore_assets.model_decisions import GATE, PROMOTED, journal
from medscore_assets.settings import Settings
from resources.lake import Lake
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from schedules.mobility import mobility_schedule
from sensors.late_steps import stale_days
from tests.conftest import copied_database
from tests.mobility.walks import FIRST, days_from, patient_ids, write_raw, write_walks

PATIENTS, DAYS, RAW_DAYS = 480, 40, 3
KEYS = [day.isoformat() for day in days_from(FIRST, DAYS)]
LAST = KEYS[-1]
MORNING = date.fromisoformat(LAST) + timedelta(days=1)
LOOKED_AT, DRAW = model_name("global", 1), shape_plots.write_shapes
pytestmark = pytest.mark.slow

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Platform:
    """A lake, databases and the jobs over them."""

    lake: Lake
    warehouse: Warehouse
    registry: ModelRegistry
    instance: dg.DagsterInstance
    settings_file: Path

    def run(self, job: str, first: str, last: str | None = None, **config: Any) -> dg.ExecuteInProcessResult:
        ends = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        defs = build_defs(
            lake=self.lake,
            warehouse=self.warehouse,
            registry=self.registry,
            mobility_training_file=self.settings_file,
        )
        ops = {"ops": {"mobility_forecasts": {"config": config}}} if config else {}
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            tags=ends if last else {},
            partition_key=None if last else first,
            run_config=QUIET | ops,
            raise_on_error=False,
        )

    def rows(self, *columns: Any) -> list[dict[str, Any]]:
        return self.warehouse.read(sa.select(*columns)).to_pylist()


def _drawn_for_one(model: MobilityModel, folder: Path) -> Path:
    """Plots of one model alone: drawing takes as long as fitting."""
    if model.name == LOOKED_AT:
        return DRAW(model, folder)
    (folder / "shapes.png").touch()
    return folder / "shapes.png"


@pytest.fixture(scope="module")
def platform(
    postgres: str, migrated_template: str, empty_store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """480 patients over 40 days, the last three as raw files; trained, and forecast for the morning after."""
    folder = tmp_path_factory.mktemp("mobility-platform")
    settings_file = folder / "training.toml"
    settings_file.write_text("[default]\nmax_rounds = 25\n")
    with (
        copied_database(postgres, migrated_template) as url,
        copied_database(postgres, empty_store) as store,
        dg.DagsterInstance.ephemeral() as instance,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(shape_plots, "write_shapes", _drawn_for_one)
        made = Platform(
            Lake(folder / "lake"),
            Warehouse(url),
            ModelRegistry(store, artifacts=(folder / "artifacts").as_uri(), cache=folder / "cache"),
            instance,
            settings_file,
        )
        write_walks(made.lake, PATIENTS, DAYS, raw_days=RAW_DAYS)
        assert made.run(DAILY_JOB, KEYS[-3], KEYS[-2]).success
        assert made.run(TRAINING_JOB, "MS").success
        assert made.run(DAILY_JOB, LAST).success
        yield made
        made.warehouse.close()


@pytest.fixture
def untrained(
    platform: Platform, warehouse: Warehouse, empty_registry: ModelRegistry, tmp_path: Path
) -> Iterator[Platform]:
    """A lake of few patients with two days of raw files, of its own; nothing was trained."""
    lake = Lake(tmp_path / "lake")
    write_walks(lake, 8, 4, raw_days=3)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Platform(lake, warehouse, empty_registry, instance, platform.settings_file)


def test_models_pass_the_gate_and_routes_say_in_words_who_serves(platform: Platform) -> None:
    (decision,) = journal(platform.warehouse, model_name("global", 1))
    assert (decision.decision, decision.decided_by) == (PROMOTED, GATE)
    routes = platform.rows(tables.mobility_routes)
    assert {(row["cohort"], row["horizon_days"]) for row in routes} == {
        (cohort, horizon) for cohort in ("MS", "PD", "RA", "other", "new") for horizon in HORIZONS
    }
    assert {row["serves"] for row in routes if row["cohort"] == "new"} == {"global"}
    assert all("serves" in row["reason"] and row["contract_hash"] == MOBILITY.hash for row in routes)
    # Too few of a cohort are held out: its own model was trained, judged, and refused with that reason.
    (refused,) = journal(platform.warehouse, model_name("MS", 1))
    assert refused.champion_after is None
    assert "patients in held-out patients are too few" in refused.reason


def test_models_are_compared_with_the_naive_forecasts_also_those_that_the_gate_refused(
    platform: Platform,
) -> None:
    found = compare(platform.lake, platform.registry, 1)
    assert set(found) == {"MS", "PD", "RA", "other", "new"}
    assert set(found["MS"].measured) == {COHORT_MODEL, GLOBAL_MODEL, *NAIVE}
    assert set(found["new"].measured) == {GLOBAL_MODEL, EXPANDING}
    error = found["MS"].measured[COHORT_MODEL]["later_dates"].measures["mae"]
    assert error.lower < error.estimate < error.upper


def test_a_registered_version_has_the_plots_of_its_shapes(platform: Platform, tmp_path: Path) -> None:
    folder = platform.registry.attached(LOOKED_AT, 1, "explanation", tmp_path / "explanation")
    assert (folder / "shapes.png").read_bytes().startswith(b"\x89PNG")


def test_every_patient_with_data_is_forecast_with_reasons_that_add_up(platform: Platform) -> None:
    table = tables.mobility_forecasts
    stored = platform.warehouse.read(sa.select(table).where(table.c.forecast_day == MORNING)).to_pylist()
    features = features_of(platform.lake, MORNING)
    assert {(r["patient_id"], r["horizon_days"]) for r in stored} == {
        (patient, horizon) for patient in features["patient_id"].to_pylist() for horizon in HORIZONS
    }
    assert len(stored) == PATIENTS * len(HORIZONS)
    for row in stored:
        told = stored_reasons(row)
        assert told.baseline + sum(r.steps for r in told.reasons) + told.other + told.raised == told.forecast
        assert row["lower"] <= row["expected_steps"] <= row["upper"]
        assert row["data_until"] < MORNING
    (header,) = platform.rows(tables.mobility_forecast_days.c.patients, tables.mobility_forecast_days.c.rows)[
        -1:
    ]
    assert header == {"patients": PATIENTS, "rows": len(stored)}
    assert pq.read_metadata(platform.lake.local(platform.lake.files(FORECASTS, MORNING))[0]).num_rows == len(
        stored
    )


def test_a_stored_forecast_is_the_one_computed_on_demand_to_the_last_bit(platform: Platform) -> None:
    serving = Serving.present(platform.warehouse, platform.registry)
    features = features_of(platform.lake, MORNING)
    table = tables.mobility_forecasts
    for horizon in HORIZONS:
        query = sa.select(table).where(table.c.forecast_day == MORNING, table.c.horizon_days == horizon)
        stored = {row["patient_id"]: row for row in platform.warehouse.read(query).to_pylist()}
        for place in (0, 7, PATIENTS - 1):
            alone = features.slice(place, 1)
            made = serving.forecast(alone, horizon)
            row = stored[alone["patient_id"][0].as_py()]
            assert (row["expected_steps"], row["lower"], row["upper"]) == (
                made.steps[0],
                made.lower[0],
                made.upper[0],
            )
            assert [stored_reasons(row)] == list(made.reasons.rows())


def test_the_same_run_again_writes_nothing_and_forecasts_of_the_past_stand(platform: Platform) -> None:
    table = tables.mobility_forecasts
    newest = sa.func.max(table.c.made_at).label("made_at")
    before = platform.rows(newest)
    again = platform.run(DAILY_JOB, LAST, remake=True)
    (event,) = again.asset_materializations_for_node("mobility_forecasts")
    assert (event.metadata["written"].value, event.metadata["dagster/row_count"].value) == (0, PATIENTS * 2)
    standing = platform.run(DAILY_JOB, LAST)
    (event,) = standing.asset_materializations_for_node("mobility_forecasts")
    assert "stand" in event.metadata["note"].text
    assert platform.rows(newest) == before
    assert {e.check_name for e in standing.get_asset_check_evaluations() if e.passed} >= {
        "every_patient_with_data_is_forecast",
        "no_forecast_is_impossible",
        "forecasts_are_of_this_contract",
        "intervals_held_the_day",
    }


def test_a_damaged_file_fails_its_day_by_name_and_the_other_days_are_made(untrained: Platform) -> None:
    lake, keys = untrained.lake, KEYS[1:4]
    # Of the middle day; the days beside it hold none of its moments but look at its folder.
    (name,) = lake.files(RAW_STEPS, date.fromisoformat(keys[-1]))
    file = Path(lake.local([name])[0])
    file.write_bytes(file.read_bytes()[:200])
    assert untrained.run(DAILY_JOB, keys[0], keys[0]).success
    result = untrained.run(DAILY_JOB, keys[0], keys[-1])
    assert not result.success
    (failed,) = [e for e in result.all_events if e.is_step_failure]
    data = failed.step_failure_data.user_failure_data
    assert data is not None
    assert name in str(data.metadata["what"].value)
    made = [e.partition for e in result.asset_materializations_for_node("daily_steps") if e.partition]
    assert made == [keys[0]]
    assert lake.days(DAILY_STEPS) == [FIRST, date.fromisoformat(keys[0])]
    assert {row["day"].isoformat() for row in untrained.rows(tables.mobility_days)} == {keys[0]}


def test_without_raw_files_a_day_has_no_rows_and_says_so(untrained: Platform) -> None:
    shutil.rmtree(untrained.lake.url + "/raw")
    result = untrained.run(DAILY_JOB, KEYS[1])
    assert result.success
    (event,) = result.asset_materializations_for_node("daily_steps")
    assert (event.metadata["dagster/row_count"].value, event.metadata["raw_files"].value) == (0, 0)
    assert "nobody's steps" in event.metadata["note"].text
    # The day before is known, so that there are forecasts: nothing was trained, so the mean to date serves.
    (forecasts,) = result.asset_materializations_for_node("mobility_forecasts")
    assert forecasts.metadata["by_naive_forecasts"].value == forecasts.metadata["dagster/row_count"].value > 0


def test_a_late_file_reopens_its_day_and_what_reads_it(untrained: Platform) -> None:
    lake, days = untrained.lake, days_from(FIRST, 4)[1:]
    assert stale_days(lake, untrained.warehouse, days) is None
    assert untrained.run(DAILY_JOB, KEYS[1], KEYS[3]).success
    current = stale_days(lake, untrained.warehouse, days)
    assert current is not None
    assert current.days == ()
    key, morning = KEYS[2], date.fromisoformat(KEYS[2]) + timedelta(days=1)
    before = features_of(lake, morning)
    write_raw(lake, date.fromisoformat(key), [patient_ids(8)[0]], np.array([9000.0]), hour=22)
    late = stale_days(lake, untrained.warehouse, days)
    assert late is not None
    # The file lies in a folder that the days beside it look into, too.
    assert date.fromisoformat(key) in late.days
    assert untrained.run(DAILY_JOB, late.days[0].isoformat(), KEYS[3]).success
    assert not features_of(lake, morning).equals(before)
    mended = stale_days(lake, untrained.warehouse, days)
    assert mended is not None
    assert mended.days == ()
    assert mended.fingerprint != late.fingerprint


def test_the_schedule_makes_the_day_that_is_over_also_when_clocks_change() -> None:
    schedule = mobility_schedule(Settings(), DAILY_JOB)
    at = datetime(2026, 3, 9, 5, tzinfo=ZoneInfo("America/New_York"))
    context = dg.build_schedule_context(scheduled_execution_time=at)
    request = schedule(context)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2026-03-08"


def test_the_lake_keeps_the_contract_of_its_features_and_forecasts_all_columns(platform: Platform) -> None:
    (name,) = platform.lake.files(PATIENT_FEATURES, MORNING)
    told = pq.read_schema(platform.lake.local([name])[0]).metadata
    assert told[b"contract_hash"].decode() == MOBILITY.hash
    assert set(FORECASTS.schema.names) == set(tables.mobility_forecasts.columns.keys())
    served = platform.rows(tables.mobility_forecast_days.c.served)[-1]["served"]
    assert json.loads(served)["new"] == {"1": "mobility-global-1d 1", "7": "mobility-global-7d 1"}
