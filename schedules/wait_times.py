"""When wait times are predicted, every quarter of an hour, when models are fitted and when they are scored.

Belongs here: clock times, and which moment a run is about: always the scheduled one.
"""

import dagster as dg

from medscore_assets.settings import Settings
from medscore_assets.wait_times.assets import at_moment

TICK_CRON = "*/15 * * * *"
FIT_CRON = "0 4 * * *"
"""When few patients arrive, in the platform's zone: as in backtests."""
SCORING_CRON = "5 * * * *"
"""Not at the moment of a tick."""


def tick_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """The tick, in UTC: quarters of an hour go on when the clocks change.

    The run key is the moment: a tick that fires twice makes one run.
    """

    @dg.schedule(
        name="wait_time_tick",
        job_name=job_name,
        cron_schedule=TICK_CRON,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="All wait-time models for all emergency departments.",
    )
    def wait_time_tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        at = context.scheduled_execution_time
        return dg.RunRequest(run_key=at.isoformat(), run_config=at_moment(at, "wait_time_predictions"))

    return wait_time_tick


def fit_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """The daily fit of the wait-time models."""

    @dg.schedule(
        name="wait_time_fit",
        job_name=job_name,
        cron_schedule=FIT_CRON,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="Wait-time models learn from the last six weeks.",
    )
    def wait_time_fit(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        at = context.scheduled_execution_time
        return dg.RunRequest(run_key=at.isoformat(), run_config=at_moment(at, "wait_time_model_parameters"))

    return wait_time_fit


def scoring_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """Outcomes and performance, every hour."""

    @dg.schedule(
        name="wait_time_scoring",
        job_name=job_name,
        cron_schedule=SCORING_CRON,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="Outcomes of wait-time predictions, and how each model does.",
    )
    def wait_time_scoring(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        at = context.scheduled_execution_time
        assets = ("wait_time_outcomes", "wait_time_performance")
        return dg.RunRequest(run_key=at.isoformat(), run_config=at_moment(at, *assets))

    return wait_time_scoring
