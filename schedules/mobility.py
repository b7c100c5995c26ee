"""When mobility's days are made, every morning, and its models, every Sunday, in the platform's zone.

Belongs here: clock times, and which day is over. Whether a trained model serves is the gate's decision.
"""

import dagster as dg

from medscore_assets.mobility.model_assets import ALL_COHORTS
from medscore_assets.partitions import step_day_that_closes
from medscore_assets.settings import Settings

MOBILITY_TRAINING_CRON = "30 0 * * 0"
"""Sundays, before the day's forecasts and the other families' training."""


def mobility_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """Steps of the day that is over, features and forecasts of the day that begins.

    The day comes from the scheduled time and never from the clock. The run key is the day: a tick that
    fires twice makes one run.
    """

    @dg.schedule(
        name="daily_mobility",
        job_name=job_name,
        cron_schedule=f"0 {settings.mobility_hour} * * *",
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="Steps of yesterday, features and forecasts of today.",
    )
    def daily_mobility(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = step_day_that_closes(context.scheduled_execution_time)
        return dg.RunRequest(run_key=day, partition_key=day)

    return daily_mobility


def mobility_training_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """The weekly training of all cohorts. The run key is the scheduled time."""

    @dg.schedule(
        name="weekly_mobility_training",
        job_name=job_name,
        cron_schedule=MOBILITY_TRAINING_CRON,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="Mobility models of all cohorts, trained on the last year.",
    )
    def weekly_mobility_training(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat(), tags=ALL_COHORTS)

    return weekly_mobility_training
