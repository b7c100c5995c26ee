"""Fits as the training job runs them: each in a process of its own, which knows the environment alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from medscore_assets.mobility.model import MODEL_FILE, model_name
from medscore_assets.mobility.model_assets import SETTINGS_TAG
from medscore_assets.mobility.training import Settings, fit_cohort
from medscore_assets.mobility.training_rows import TRAINING_ROWS, read_training_set, target_name
from medscore_assets.mobility.training_set import TARGET
from medscore_assets.runs import QUIET
from resources.lake import Lake
from resources.registry import CHALLENGER, ModelRegistry
from tests.conftest import copied_database
from tests.mobility.fits import two_fits
from tests.mobility.simulated import feature_table, simulated_steps

COHORT = "MS"
NEAR, FAR = model_name(COHORT, 1), model_name(COHORT, 7)
ROUNDS = 2
FEW = 3
"""Patients whose steps of a week on are known, too few to fit a model."""


@pytest.fixture
def taught(tmp_path: Path) -> Lake:
    """A lake with training rows alone, of one cohort."""
    table = feature_table(simulated_steps(20, 25, seed=5), 1)
    ids, target = table["patient_id"], table[TARGET]
    of_few = pc.is_in(ids, pc.unique(ids).slice(0, FEW))
    columns = {name: table[name] for name in table.column_names if name != TARGET}
    columns["disease"] = pa.array([COHORT] * table.num_rows, pa.string())
    columns |= {target_name(1): target, target_name(7): pc.if_else(of_few, target, None)}
    lake = Lake(tmp_path / "lake")
    lake.write(TRAINING_ROWS, pa.table(columns))
    return lake


@pytest.mark.slow
def test_a_process_for_each_fit_makes_the_model_that_is_made_in_one(
    taught: Lake, database: str, postgres: str, empty_store: str, tmp_path: Path, clean_environment: Any
) -> None:
    how = tmp_path / "training.toml"
    how.write_text(f"[default]\nmax_rounds = {ROUNDS}\n")
    with copied_database(postgres, empty_store) as store:
        known = {"HOME": str(tmp_path), "DATABASE_URL": database, "MLFLOW_DATABASE_URL": store}
        for name, value in known.items():
            clean_environment.setenv(f"MEDSCORE_{name}", value)
        made, processes = _run({SETTINGS_TAG: str(how)}, tmp_path)
        registry = ModelRegistry(store, artifacts=(tmp_path / "mlflow").as_uri(), cache=tmp_path / "cache")
        stored = registry.stored(NEAR, made["near"]["version"])
        assert registry.version_with(NEAR, CHALLENGER) == stored.version
    assert len({*processes, os.getpid()}) == 3
    here = fit_cohort(read_training_set(taught, 1)[0], COHORT, Settings(max_rounds=ROUNDS))
    here.save(tmp_path)
    assert (stored.directory / MODEL_FILE).read_bytes() == (tmp_path / MODEL_FILE).read_bytes()
    assert made["near"]["rows"] == sum(here.manifest.rows.values())
    assert (made["far"]["name"], made["far"]["version"]) == (FAR, "none")
    assert "too few to fit a model" in made["far"]["reason"]


def _run(tags: dict[str, str], folder: Path) -> tuple[dict[str, dict[str, Any]], list[int]]:
    """What each step told, and the processes of the steps."""
    wanted = {"near": 1, "far": 7}
    inputs = {
        step: {"inputs": {"wanted": {"cohort": {"value": COHORT}, "horizon_days": {"value": days}}}}
        for step, days in wanted.items()
    }
    with (
        dg.DagsterInstance.local_temp(str(folder), {"telemetry": {"enabled": False}}) as instance,
        dg.execute_job(
            dg.reconstructable(two_fits), instance, run_config=QUIET | {"ops": inputs}, tags=tags
        ) as result,
    ):
        failed = [e.step_failure_data.error_display_string for e in result.all_events if e.is_step_failure]
        assert result.success, failed
        started = (e for e in result.all_events if e.event_type_value == "STEP_WORKER_STARTED")
        processes = [int(e.event_specific_data.metadata["pid"].value) for e in started]
        return {step: result.output_for_node(step) for step in wanted}, processes
