"""When the population report is made: at 02:00 on the first day of a quarter in the platform's zone.

Belongs here: the clock time and which quarter has just ended. Nothing is computed here.
"""

import dagster as dg

from medscore_assets.partitions import REPORT_HOUR, partition_of_quarter, quarter_that_closes
from medscore_assets.settings import Settings

POPULATION_CRON = f"0 {REPORT_HOUR} 1 1,4,7,10 *"
"""After midnight's close of the quarter, before anybody's working day."""


def population_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """The 02:00 schedule of the report on the quarter that has just ended.

    The quarter comes from the scheduled time and never from the clock. The run key is the quarter: a tick
    that fires twice makes one run.
    """

    @dg.schedule(
        name="quarterly_population_report",
        job_name=job_name,
        cron_schedule=POPULATION_CRON,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="The population report of the quarter that has just ended.",
    )
    def quarterly_population_report(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        quarter = quarter_that_closes(context.scheduled_execution_time)
        return dg.RunRequest(run_key=quarter.key, partition_key=partition_of_quarter(quarter))

    return quarterly_population_report
