"""When it is looked whether all is well: outcomes and drift, the list of the morning, the feeds.

Belongs here: clock times. Does not belong here: what is looked at (assets and checks).
"""

import dagster as dg

from medscore_assets.partitions import READY_BY_HOUR
from medscore_assets.settings import Settings

MONITORING_CRON = f"15 {READY_BY_HOUR} * * *"
"""After the list of the morning, which is measured too."""

READINESS_CRON = f"0 {READY_BY_HOUR % 3}-23/3 * * *"
"""Every three hours, and at the time by which the list is to be there."""


def monitoring_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """The daily join of outcomes to scores, and the measures of drift and performance."""

    @dg.schedule(
        name="daily_monitoring",
        job_name=job_name,
        cron_schedule=MONITORING_CRON,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="Outcomes joined to the scores of the past; drift and performance of the champion.",
    )
    def daily_monitoring(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    return daily_monitoring


def readiness_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """The checks that hold whether or not anything ran: a list that nobody made fails no run."""

    @dg.schedule(
        name="readmission_readiness",
        job_name=job_name,
        cron_schedule=READINESS_CRON,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="Whether the list of the morning is there, and whether the feeds still deliver.",
    )
    def readmission_readiness(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    return readmission_readiness
