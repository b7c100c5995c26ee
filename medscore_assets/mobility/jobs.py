"""Mobility's jobs, and what its assets ask for by name.

Belongs here: which assets run together and how. Does not belong here: when (`schedules/`, `sensors/`), and
the definitions that these are part of (`medscore_assets/definitions.py`).
"""

from typing import Any

import dagster as dg

from medscore_assets.lake_access import open_lake
from medscore_assets.mobility.assets import (
    daily_steps,
    mobility_forecasts,
    monthly_rollups,
    patient_features,
)
from medscore_assets.mobility.day_engine import day_engine
from medscore_assets.mobility.engines import EngineOptions
from medscore_assets.mobility.gate import DEFAULT_FILE
from medscore_assets.mobility.model_assets import (
    EXECUTOR,
    mobility_global_model,
    mobility_models,
    mobility_routes,
    mobility_training_rows,
)
from medscore_assets.mobility.sources import SOURCES
from medscore_assets.settings import Settings

DAILY_JOB, TRAINING_JOB = "mobility_daily", "mobility_training"

DAYS = [daily_steps, monthly_rollups, patient_features, mobility_forecasts]
MODELS = [mobility_training_rows, mobility_models, mobility_global_model, mobility_routes]
ASSETS = [*SOURCES, *DAYS, *MODELS]

JOBS = [
    dg.define_asset_job(
        DAILY_JOB,
        selection=dg.AssetSelection.assets(*DAYS),
        description="Steps of one or more days that are over; features and forecasts of the mornings after.",
    ),
    dg.define_asset_job(
        TRAINING_JOB,
        selection=dg.AssetSelection.assets(*MODELS),
        executor_def=EXECUTOR,
        description="Models by cohort side by side, then who serves whom. A model serves if the gate passes "
        "it and it beats the naive forecasts.",
    ),
]


def mobility_resources(settings: Settings) -> dict[str, Any]:
    """What mobility's assets, checks and sensors ask for by name. Nothing is opened before it is used."""
    return {
        "lake": open_lake(settings),
        "mobility_engine": EngineOptions(scratch=settings.home / "scratch"),
        "day_engine": day_engine(settings),
        "mobility_gate_file": DEFAULT_FILE,
        "mobility_training_file": settings.mobility_training_file,
    }


def training_job() -> dg.JobDefinition:
    """The job `mobility_training`, to be found again by the processes of its steps."""
    from medscore_assets.definitions import defs

    return defs.resolve_job_def(TRAINING_JOB)
