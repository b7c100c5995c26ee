"""The windows of time in which assets are cut.

Belongs here: partition definitions, shared by assets, schedules, sensors and the command line.
Does not belong here: when something runs (`schedules/`, `sensors/`).
"""

import functools
import warnings
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from medscore_assets.readmission.outreach import Window
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.settings import Settings
from resources.errors import PermanentError

# Assets say with `backfill_policy` that a range of days is one run; the parameter is marked as beta.
warnings.filterwarnings("ignore", message=".*`backfill_policy`.*", category=dg.BetaWarning)
# The first days of a platform have no days before them.
warnings.filterwarnings(
    "ignore", message=".*`allow_nonexistent_upstream_partitions`.*", category=dg.BetaWarning
)

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


REPORT_HOUR = 2
"""The report of a quarter is made at this hour, local time, on the day after its last."""

REPORT_BY_HOUR = 7
"""Whoever negotiates opens the report at this hour, local time."""


@functools.cache
def quarters() -> dg.TimeWindowPartitionsDefinition:
    """Calendar quarters in the platform's zone; the key is the first day, such as `2026-07-01`."""
    settings = Settings()
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule="0 0 1 1,4,7,10 *",
        start=Quarter.of(settings.first_day).first_day.isoformat(),
        fmt="%Y-%m-%d",
        timezone=settings.timezone,
    )


def partition_of_quarter(quarter: Quarter) -> str:
    """The partition key of a quarter."""
    return quarter.first_day.isoformat()


def quarter_of_partition(partition_key: str) -> Quarter:
    """The quarter of a partition key."""
    return Quarter.of(date.fromisoformat(partition_key))


def quarter_that_closes(at: datetime) -> Quarter:
    """The last quarter that had ended by `at` (a time with a zone)."""
    return Quarter.of(at.astimezone(Settings().zone).date()).previous


def require_closed_quarter(quarter: Quarter | None = None) -> Quarter:
    """The quarter, by default the last one, if it has ended. Raises `PermanentError` naming those that did.

    A quarter before the first day of the platform has no partition.
    """
    first, last = Quarter.of(Settings().first_day), quarter_that_closes(datetime.now(UTC))
    quarter = quarter or last
    if not first <= quarter <= last:
        raise PermanentError(
            f"{quarter} has not ended, or lies before the first day",
            where="--quarter",
            mend=f"Choose a quarter from {first} to {last}, or set MEDSCORE_FIRST_DAY to an earlier day.",
        )
    return quarter


def report_by_morning() -> dg.FreshnessPolicy:
    """The report is there when the first day of the next quarter begins: stale from 07:00 on if it is not."""
    return dg.FreshnessPolicy.cron(
        deadline_cron=f"0 {REPORT_BY_HOUR} 1 1,4,7,10 *",
        lower_bound_delta=timedelta(hours=REPORT_BY_HOUR - REPORT_HOUR),
        timezone=Settings().timezone,
    )


FORECASTS_BY_HOUR = 7
"""The forecasts of a morning are looked at from this hour on, local time."""


@functools.cache
def step_days() -> dg.DailyPartitionsDefinition:
    """Local days in the platform's zone; the key is a day that is over, whose steps are in.

    What is made of it next, features and forecasts, is of the morning after: see `morning_after`.
    """
    settings = Settings()
    return dg.DailyPartitionsDefinition(start_date=settings.first_day.isoformat(), timezone=settings.timezone)


def step_day_that_closes(at: datetime) -> str:
    """The key of the last day that had ended by `at` (a time with a zone)."""
    return closed_step_days(1, until=at)[0]


def closed_step_days(count: int, until: datetime) -> list[str]:
    """The keys of the last days that had ended by `until` (a time with a zone), oldest first."""
    return list(step_days().get_partition_keys(current_time=until))[-count:]


def morning_after(partition_key: str) -> date:
    """The day whose features and forecasts know the steps of a partition's day."""
    return date.fromisoformat(partition_key) + timedelta(days=1)


def require_closed_step_day(partition_key: str | None = None) -> str:
    """The key, by default the last one, if its day is over. Raises `PermanentError` that says which are."""
    closed = closed_step_days(1, until=datetime.now(UTC))
    first = step_days().get_first_partition_key()
    if not closed or first is None:
        raise PermanentError(
            "no day is over yet", where="MEDSCORE_FIRST_DAY", mend="Set it to an earlier day."
        )
    if partition_key is not None and not first <= partition_key <= closed[0]:
        raise PermanentError(
            f"the day {partition_key} is not over, or before the first day",
            where="--day, --from",
            mend=f"Choose a day from {first} to {closed[0]}, or set MEDSCORE_FIRST_DAY to an earlier day.",
        )
    return partition_key or closed[0]


def forecasts_by_morning() -> dg.FreshnessPolicy:
    """The forecasts are there when the day begins: stale from 07:00 on if they are not."""
    return dg.FreshnessPolicy.cron(
        deadline_cron=f"0 {FORECASTS_BY_HOUR} * * *",
        lower_bound_delta=timedelta(hours=FORECASTS_BY_HOUR),
        timezone=Settings().timezone,
    )
