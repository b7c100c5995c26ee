"""When the morning list is made: every day at 06:00 in the platform's zone.

Belongs here: the clock time and which window it closes. Nothing is computed here.
"""

import dagster as dg

from medscore_assets.partitions import MORNING_HOUR, morning_that_closes
from medscore_assets.settings import Settings


def morning_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """The 06:00 schedule of the outreach job.

    The window comes from the scheduled time and never from the clock, so a late start makes the same
    list. The run key is the window: a tick that fires twice makes one run.
    """

    @dg.schedule(
        name="morning_outreach",
        job_name=job_name,
        cron_schedule=f"0 {MORNING_HOUR} * * *",
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="The outreach list of the discharges until 06:00 this morning.",
    )
    def morning_outreach(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = morning_that_closes(context.scheduled_execution_time)
        return dg.RunRequest(run_key=day, partition_key=day)

    return morning_outreach
