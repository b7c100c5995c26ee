"""When things happen: clock times in the platform's zone, and one run a tick."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import dagster as dg
import pytest

from medscore_assets.settings import Settings
from schedules.maintenance import maintenance_schedule
from schedules.monitoring import READINESS_CRON, monitoring_schedule, readiness_schedule
from schedules.training import training_schedule
from tests.readmission.records import ZONE


@pytest.mark.parametrize(
    ("factory", "cron"),
    [
        (training_schedule, "0 3 * * 0"),
        (monitoring_schedule, "15 7 * * *"),
        (readiness_schedule, "0 1-23/3 * * *"),
        (maintenance_schedule, "30 4 * * *"),
    ],
)
def test_schedules_are_in_the_named_zone_and_a_tick_that_fires_twice_makes_one_run(
    settings: Settings, factory: Callable[..., dg.ScheduleDefinition], cron: str
) -> None:
    schedule = factory(settings, "job")
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, settings.timezone)
    keys = []
    for hour in (3, 3, 4):
        at = datetime(2026, 3, 8, hour, tzinfo=ZONE)
        keys.append(schedule(dg.build_schedule_context(scheduled_execution_time=at)).run_key)
    assert keys[0] == keys[1] != keys[2]


def test_the_readiness_of_the_list_is_looked_at_when_it_is_due() -> None:
    from dagster._utils.schedules import cron_string_iterator

    start = datetime(2026, 3, 7, 0, tzinfo=ZONE).timestamp()
    ticks = cron_string_iterator(start, READINESS_CRON, "America/New_York")
    hours = {(at := next(ticks)).strftime("%d %H:%M") for _ in range(16)}
    assert {"07 07:00", "08 07:00"} <= hours
    assert at.tzinfo is not None
