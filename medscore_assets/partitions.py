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
from resources.errors import PermanentError

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


def require_same_mornings(settings: Settings) -> Settings:
    """The settings, if their zone and first day are those of `mornings`, which the assets are bound to.

    Raises `PermanentError` otherwise: schedules and windows would disagree about when a morning is.
    """
    bound = mornings()
    first_day = bound.start.date()
    if (settings.timezone, settings.first_day) != (bound.timezone, first_day):
        raise PermanentError(
            f"mornings from {settings.first_day} in {settings.timezone} are asked for, and the assets have "
            f"mornings from {first_day} in {bound.timezone}",
            where="MEDSCORE_TIMEZONE, MEDSCORE_FIRST_DAY",
            mend="Set both in the environment or .env before anything is loaded.",
        )
    return settings


def window(partition_key: str) -> Window:
    """The window of one morning list."""
    bounds = mornings().time_window_for_partition_key(partition_key)
    return Window(date.fromisoformat(partition_key), bounds.start, bounds.end)


def morning_that_closes(at: datetime) -> str:
    """The key of the window that ends at `at` (a time with a zone), or that `at` lies in."""
    return mornings().get_partition_key_for_timestamp(at.timestamp(), end_closed=True)


def closed_mornings(count: int, until: datetime) -> list[str]:
    """The keys of the last windows that had closed by `until` (a time with a zone), oldest first."""
    return list(mornings().get_partition_keys(current_time=until))[-count:]


def latest_morning() -> str:
    """The key of the last window that has closed by now. Raises `PermanentError` if there is none yet."""
    closed = closed_mornings(1, until=datetime.now(UTC))
    if not closed:
        raise PermanentError(
            "no window has closed yet", where="MEDSCORE_FIRST_DAY", mend="Set it to an earlier day."
        )
    return closed[0]


def require_closed(partition_key: str) -> str:
    """The key, if its window has closed. Raises `PermanentError` that says which days there are."""
    last = latest_morning()
    first = mornings().get_first_partition_key() or last
    if not first <= partition_key <= last:
        raise PermanentError(
            f"the window of {partition_key} is not closed, or before the first day",
            where="--date",
            mend=f"Choose a day from {first} to {last}; a window closes at 06:00 the morning after.",
        )
    return partition_key


def ready_by_seven() -> dg.FreshnessPolicy:
    """The list of the morning is there when the team begins: stale from 07:00 on if it is not."""
    return dg.FreshnessPolicy.cron(
        deadline_cron=f"0 {READY_BY_HOUR} * * *",
        lower_bound_delta=timedelta(hours=READY_BY_HOUR - MORNING_HOUR),
        timezone=Settings().timezone,
    )
