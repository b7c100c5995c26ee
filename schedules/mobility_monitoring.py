"""When it is measured how mobility forecasts do: every morning after the day's forecasts.

Belongs here: the clock time. Does not belong here: what is measured (assets and checks).
"""

import dagster as dg

from medscore_assets.settings import Settings


def mobility_monitoring_schedule(settings: Settings, job_name: str) -> dg.ScheduleDefinition:
    """Outcomes joined to forecasts, errors, drift. A day that comes late is measured the next morning."""

    @dg.schedule(
        name="daily_mobility_monitoring",
        job_name=job_name,
        cron_schedule=f"45 {settings.mobility_hour} * * *",
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus[settings.schedules.upper()],
        description="Outcomes joined to mobility forecasts; error, coverage and drift of who serves.",
    )
    def daily_mobility_monitoring(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    return daily_mobility_monitoring
