"""Everything that Dagster loads: assets, checks, jobs, schedules, sensors and what they talk to.

Belongs here: wiring, and nothing that needs a database, the network or a heavy library at import.
"""

from typing import Any

import dagster as dg

from medscore_assets.maintenance import maintenance_job
from medscore_assets.mobility.checks import CHECKS as MOBILITY_CHECKS
from medscore_assets.mobility.jobs import ASSETS as MOBILITY_ASSETS
from medscore_assets.mobility.jobs import DAILY_JOB, TRAINING_JOB, mobility_resources
from medscore_assets.mobility.jobs import JOBS as MOBILITY_JOBS
from medscore_assets.mobility.monitoring_assets import MONITORING_ASSETS as MOBILITY_MONITORING_ASSETS
from medscore_assets.mobility.monitoring_assets import MONITORING_CHECKS as MOBILITY_MONITORING_CHECKS
from medscore_assets.mobility.monitoring_assets import MONITORING_JOB as MOBILITY_MONITORING_JOB
from medscore_assets.mobility.monitoring_assets import MONITORING_JOBS as MOBILITY_MONITORING_JOBS
from medscore_assets.monitoring.promotion import DEFAULT_FILE as DEFAULT_GATE
from medscore_assets.partitions import require_same_mornings
from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.checks import CHECKS
from medscore_assets.readmission.freshness_checks import READINESS, freshness_checks
from medscore_assets.readmission.model_assets import (
    readmission_champion,
    readmission_evaluation,
    readmission_model,
    readmission_training_set,
)
from medscore_assets.readmission.monitoring_assets import MONITORING_ASSETS, MONITORING_CHECKS
from medscore_assets.readmission.population.assets import (
    member_features,
    population_risk_report,
    population_risk_summary,
)
from medscore_assets.readmission.population.checks import CHECKS as POPULATION_CHECKS
from medscore_assets.readmission.population.engines import population_engine
from medscore_assets.readmission.sources import SOURCES
from medscore_assets.settings import Settings
from medscore_assets.wait_times.checks import CHECKS as WAIT_CHECKS
from medscore_assets.wait_times.jobs import ASSETS as WAIT_ASSETS
from medscore_assets.wait_times.jobs import FIT_JOB, SCORING_JOB, TICK_JOB, wait_time_resources
from medscore_assets.wait_times.jobs import JOBS as WAIT_JOBS
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from schedules.maintenance import maintenance_schedule
from schedules.mobility import mobility_schedule, mobility_training_schedule
from schedules.mobility_monitoring import mobility_monitoring_schedule
from schedules.monitoring import monitoring_schedule, readiness_schedule
from schedules.outreach import morning_schedule
from schedules.population import population_schedule
from schedules.training import training_schedule
from schedules.wait_times import fit_schedule, scoring_schedule, tick_schedule
from sensors.alerts import alert_sensor
from sensors.champion import champion_sensor
from sensors.degradation import degradation_sensor
from sensors.late_discharges import late_discharge_sensor
from sensors.late_steps import late_steps_sensor
from sensors.missing_lists import missing_list_sensor
from sensors.mobility_degradation import mobility_degradation_sensor
from sensors.wait_times import wait_time_sensor

TRAINING = dg.AssetSelection.assets(
    readmission_training_set, readmission_model, readmission_evaluation, readmission_champion
)
OUTREACH = dg.AssetSelection.assets(care_management_scores)
MONITORING = dg.AssetSelection.assets("readmission_score_outcomes", "readmission_monitoring")
POPULATION = dg.AssetSelection.assets(population_risk_summary, population_risk_report)

JOBS = [
    dg.define_asset_job(
        "readmission_training",
        selection=TRAINING,
        description="Training set, model and evaluation. The model becomes champion if the gate passes it.",
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
    dg.define_asset_job(
        "readmission_daily_monitoring",
        selection=MONITORING,
        description="Outcomes joined to the scores of the past; drift and performance of the champion.",
    ),
    dg.define_asset_job(
        "population_report",
        selection=POPULATION,
        description="Risk of a quarter's members in cubes, and the report as files.",
    ),
    dg.define_asset_job(
        "readmission_readiness",
        selection=READINESS,
        description="Checks by the clock: the list of the morning is there, the feeds deliver.",
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
        "gate_file": DEFAULT_GATE,
        "thresholds_file": settings.thresholds_path,
        "reports_folder": settings.home / "reports",
        "population_engine": population_engine(settings),
        **mobility_resources(settings),
        **wait_time_resources(settings),
        "mlflow_address": f"http://localhost:{settings.mlflow_port}",
    }


def build_defs(settings: Settings | None = None, **resources: Any) -> dg.Definitions:
    """The definitions; `resources` replace the defaults by name, as tests do.

    Raises `PermanentError` if the settings have another zone or first day than the environment.
    """
    settings = require_same_mornings(settings or Settings())
    return dg.Definitions(
        assets=[
            *SOURCES,
            readmission_training_set,
            readmission_model,
            readmission_evaluation,
            readmission_champion,
            care_management_scores,
            *MONITORING_ASSETS,
            member_features,
            population_risk_summary,
            population_risk_report,
            *MOBILITY_ASSETS,
            *MOBILITY_MONITORING_ASSETS,
            *WAIT_ASSETS,
        ],
        asset_checks=[
            *CHECKS,
            *MONITORING_CHECKS,
            *POPULATION_CHECKS,
            *MOBILITY_CHECKS,
            *MOBILITY_MONITORING_CHECKS,
            *WAIT_CHECKS,
            *freshness_checks(settings),
        ],
        jobs=[*JOBS, *MOBILITY_JOBS, *MOBILITY_MONITORING_JOBS, *WAIT_JOBS, maintenance_job(settings)],
        schedules=[
            morning_schedule(settings, "readmission_outreach"),
            training_schedule(settings, "readmission_training"),
            monitoring_schedule(settings, "readmission_daily_monitoring"),
            readiness_schedule(settings, "readmission_readiness"),
            population_schedule(settings, "population_report"),
            mobility_schedule(settings, DAILY_JOB),
            mobility_training_schedule(settings, TRAINING_JOB),
            mobility_monitoring_schedule(settings, MOBILITY_MONITORING_JOB),
            tick_schedule(settings, TICK_JOB),
            fit_schedule(settings, FIT_JOB),
            scoring_schedule(settings, SCORING_JOB),
            maintenance_schedule(settings, "maintenance"),
        ],
        sensors=[
            missing_list_sensor(settings, "readmission_outreach"),
            late_discharge_sensor(settings, "readmission_outreach"),
            champion_sensor(settings),
            late_steps_sensor(settings, DAILY_JOB),
            degradation_sensor(settings, "readmission_training", ("readmission",)),
            mobility_degradation_sensor(settings, TRAINING_JOB),
            wait_time_sensor(settings),
            alert_sensor(settings),
        ],
        resources={**default_resources(settings), **resources},
        # A step in a process of its own costs seconds of start-up; parallel training opts in by job.
        executor=dg.in_process_executor,
    )


defs = build_defs()
