"""Everything that Dagster loads: assets, checks, jobs, schedules, sensors and what they talk to.

Belongs here: wiring, and nothing that needs a database, the network or a heavy library at import.
"""

from typing import Any

import dagster as dg

from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.checks import CHECKS
from medscore_assets.readmission.model_assets import readmission_model, readmission_training_set
from medscore_assets.readmission.sources import SOURCES
from medscore_assets.settings import Settings
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from schedules.outreach import morning_schedule
from sensors.late_discharges import late_discharge_sensor

TRAINING = dg.AssetSelection.assets(readmission_training_set, readmission_model)
OUTREACH = dg.AssetSelection.assets(care_management_scores)

JOBS = [
    dg.define_asset_job(
        "readmission_training",
        selection=TRAINING,
        description="Training set and model. The model becomes champion if it is fit for use.",
    ),
    dg.define_asset_job(
        "readmission_outreach",
        selection=OUTREACH,
        description="The morning list of one or more days, with the present champion.",
    ),
    dg.define_asset_job(
        "readmission",
        selection=TRAINING | OUTREACH,
        description="From the source tables to one morning list: train, then score the day.",
    ),
]


def default_resources(settings: Settings) -> dict[str, Any]:
    """What assets, checks and sensors ask for by name. Nothing is opened before it is used."""
    return {
        "warehouse": Warehouse(lambda: settings.databases().warehouse),
        "registry": ModelRegistry(
            lambda: settings.databases().mlflow,
            artifacts=settings.mlflow_artifacts_url,
            cache=settings.home / "models",
        ),
        "policy_file": settings.policy_path,
    }


def build_defs(settings: Settings | None = None, **resources: Any) -> dg.Definitions:
    """The definitions; `resources` replace the defaults by name, as tests do."""
    settings = settings or Settings()
    return dg.Definitions(
        assets=[
            *SOURCES,
            readmission_training_set,
            readmission_model,
            care_management_scores,
        ],
        asset_checks=CHECKS,
        jobs=JOBS,
        schedules=[morning_schedule(settings, "readmission_outreach")],
        sensors=[late_discharge_sensor(settings, "readmission_outreach")],
        resources={**default_resources(settings), **resources},
        # A step in a process of its own costs seconds of start-up; parallel training opts in by job.
        executor=dg.in_process_executor,
    )


defs = build_defs()
