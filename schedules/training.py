"""When models are trained: every Sunday at 03:00 in the platform's zone.

Belongs here: the clock time. Whether what was trained goes live is the gate's decision.
"""

import dagster as dg

from medscore_assets.settings import Settings

TRAINING_CRON = "0 3 * * 0"
"""Sundays, when nobody waits for a list; on a day that loses the hour from 02:00 to 03:00 as well."""


def training_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """The weekly training. The run key is the scheduled time: a tick that fires twice makes one run."""

    @dg.schedule(
        name="weekly_training",
        job_name=job_name,
        cron_schedule=TRAINING_CRON,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="A model trained on all records whose outcome is known by now.",
    )
    def weekly_training(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    return weekly_training
