"""Quarters, their partitions, and the schedule that closes them."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medscore_assets.partitions import (
    partition_of_quarter,
    quarter_of_partition,
    quarter_that_closes,
    quarters,
    require_closed_quarter,
)
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.settings import Settings
from resources.errors import PermanentError
from schedules.population import population_schedule
from tests.readmission.records import ZONE


@given(st.dates(date(1900, 4, 1), date(2999, 12, 31)))
def test_every_day_lies_in_one_quarter_that_is_named_and_read_alike(day: date) -> None:
    quarter = Quarter.of(day)
    assert quarter.first_day <= day <= quarter.last_day
    assert Quarter.parse(quarter.key) == quarter
    assert quarter.previous.last_day == quarter.first_day - timedelta(days=1)
    assert quarter.previous < quarter


@pytest.mark.parametrize(
    "text", ["2026-Q0", "2026-Q5", "2026Q3", "26-Q3", "2026-q3", "2026-Q3 ", "", "٢٠٢٦-Q3"]
)
def test_other_texts_are_no_quarters(text: str) -> None:
    with pytest.raises(PermanentError, match="such as 2026-Q3"):
        Quarter.parse(text)


def test_partitions_are_the_quarters_of_the_named_zone() -> None:
    keys = quarters().get_partition_keys(current_time=datetime(2026, 10, 1, 2, tzinfo=ZONE))
    assert keys[-1] == "2026-07-01" == partition_of_quarter(Quarter(2026, 3))
    assert [quarter_of_partition(k).number for k in keys[:5]] == [1, 2, 3, 4, 1]
    with pytest.raises(PermanentError, match="has not ended"):
        require_closed_quarter(Quarter(2999, 1))


def test_at_two_on_the_first_day_the_quarter_that_ended_is_reported_once(settings: Settings) -> None:
    schedule = population_schedule(settings, "job")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 2 1 1,4,7,10 *", settings.timezone)
    at = datetime(2027, 1, 1, 2, tzinfo=ZONE)
    requests = [schedule(dg.build_schedule_context(scheduled_execution_time=at)) for _ in range(2)]
    assert {(r.run_key, r.partition_key) for r in requests} == {("2026-Q4", "2026-10-01")}
    # Seconds before midnight in the zone the quarter is not over, though it is in UTC.
    assert quarter_that_closes(datetime(2026, 12, 31, 23, 59, 59, tzinfo=ZONE)) == Quarter(2026, 3)
