"""The windows of time in which assets are cut.

Belongs here: partition definitions, shared by assets, schedules, sensors and the command line.
Does not belong here: when something runs (`schedules/`, `sensors/`).
"""

import functools
import warnings
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from medscore_assets.readmission.outreach import Window
from medscore_assets.settings import Settings

# Assets say with `backfill_policy` that a range of days is one run; the parameter is marked as beta.
warnings.filterwarnings("ignore", message=".*`backfill_policy`.*", category=dg.BetaWarning)

MORNING_HOUR = 6
"""The list of a morning is made at this hour, local time."""


READY_BY_HOUR = 7
"""The team opens the list at this hour, local time."""


@functools.cache
def mornings() -> dg.DailyPartitionsDefinition:
    """Days from 06:00 to 06:00 in the platform's zone; the key is the day on which the window opens.

    On the days when the clocks change a window is 23 or 25 hours long, so that no discharge falls
    between two lists or on both.
    """
    settings = Settings()
    return dg.DailyPartitionsDefinition(
        start_date=settings.first_day.isoformat(), timezone=settings.timezone, hour_offset=MORNING_HOUR
    )


def window(partition_key: str) -> Window:
    """The window of one morning list."""
    bounds = mornings().time_window_for_partition_key(partition_key)
    return Window(date.fromisoformat(partition_key), bounds.start, bounds.end)


def closed_morning(at: datetime) -> str:
    """The key of the last window that had closed by `at` (a time with a zone)."""
    return mornings().get_partition_key_for_timestamp(at.timestamp(), end_closed=True)


def latest_morning() -> str:
    """The key of the last window that has closed by now."""
    current = mornings().get_last_partition_key()
    return current or closed_morning(datetime.now(UTC))


def ready_by_seven() -> dg.FreshnessPolicy:
    """The list of the morning is there when the team begins: stale from 07:00 on if it is not."""
    return dg.FreshnessPolicy.cron(
        deadline_cron=f"0 {READY_BY_HOUR} * * *",
        lower_bound_delta=timedelta(hours=READY_BY_HOUR - MORNING_HOUR),
        timezone=Settings().timezone,
    )
