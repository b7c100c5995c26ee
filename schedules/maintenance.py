"""When what is past its declared period is deleted: every night at 04:30 in the platform's zone.

Belongs here: the clock time. What is kept for how long: `medscore_assets/maintenance.py`.
"""

import dagster as dg

from medscore_assets.settings import Settings

MAINTENANCE_CRON = "30 4 * * *"
"""Between the training of Sundays and the list of the morning."""


def maintenance_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """The nightly maintenance. A night that was missed is made good by the next one."""

    @dg.schedule(
        name="nightly_maintenance",
        job_name=job_name,
        cron_schedule=MAINTENANCE_CRON,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="Deletes what is older than the declared periods.",
    )
    def nightly_maintenance(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    return nightly_maintenance
