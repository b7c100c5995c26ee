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
    """The tick, in UTC: quarters of an hour go on when the clocks change."""
    return _at_its_moment(
        settings,
        job_name,
        "wait_time_predictions",
        name="wait_time_tick",
        cron_schedule=TICK_CRON,
        execution_timezone="UTC",
        description="All wait-time models for all emergency departments.",
    )


def fit_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """The daily fit of the wait-time models."""
    return _at_its_moment(
        settings,
        job_name,
        "wait_time_model_parameters",
        name="wait_time_fit",
        cron_schedule=FIT_CRON,
        execution_timezone=settings.timezone,
        description="Wait-time models learn from the last six weeks.",
    )


def scoring_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """Outcomes and performance, every hour."""
    return _at_its_moment(
        settings,
        job_name,
        "wait_time_outcomes",
        "wait_time_performance",
        name="wait_time_scoring",
        cron_schedule=SCORING_CRON,
        execution_timezone="UTC",
        description="Outcomes of wait-time predictions, and how each model does.",
    )


def _at_its_moment(
    settings: Settings,
    job_name: str,
    *assets: str,
    name: str,
    cron_schedule: str,
    execution_timezone: str,
    description: str,
) -> dg.ScheduleDefinition:
    """A schedule whose runs tell these assets the scheduled moment.

    The run key is the moment: a tick that fires twice makes one run.
    """

    @dg.schedule(
        name=name,
        job_name=job_name,
        cron_schedule=cron_schedule,
        execution_timezone=execution_timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description=description,
    )
    def at_its_moment(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        at = context.scheduled_execution_time
        return dg.RunRequest(run_key=at.isoformat(), run_config=at_moment(at, *assets))

    return at_its_moment
