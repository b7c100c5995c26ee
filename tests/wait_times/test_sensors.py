"""The sensor on wait times, tick by tick: when it looks, what it tells, and that it tells it once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from medscore_assets import tables
from medscore_assets.settings import Settings
from medscore_assets.wait_times.troubles import DEAD_MAN, LATE, SCHEDULE
from resources.warehouse import Warehouse
from schedules.wait_times import TICK_CRON
from sensors.wait_times import wait_time_sensor


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def look(warehouse: Warehouse, settings: Settings, instance: dg.DagsterInstance) -> Callable[..., str | None]:
    """What the sensor says at a tick of its own, with the schedule of wait times on by default or not."""

    def tick(schedules: str = "running", instance: dg.DagsterInstance = instance) -> str | None:
        sensor = wait_time_sensor(settings.model_copy(update={"schedules": schedules}))
        context = dg.build_sensor_context(instance=instance, resources={"warehouse": warehouse})
        found = sensor.evaluate_tick(context)
        assert (found.run_requests, found.asset_events) == ([], [])
        return found.skip_message

    return tick


def made(warehouse: Warehouse, ago: timedelta, problems: str = "{}") -> None:
    """A tick was made for the moment so long ago."""
    at = datetime.now(UTC) - ago
    row = {"as_of": at, "started_at": at, "finished_at": at, "problems": sa.text(f"'{problems}'::jsonb")}
    counts = {"visits": 1, "rows": 1, "with_value": 1, "replay": False, "run_id": "r", "code_version": "1"}
    with warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.wait_time_ticks).values(**row, **counts))


def alerts(warehouse: Warehouse) -> list[tuple[str, int, bool]]:
    """Key, how often it was seen, and whether it is over, of each alert, oldest first."""
    c = tables.alerts.c
    query = sa.select(c.alert_key, c.occurrences, c.recovered_at).order_by(c.alert_id)
    return [
        (row["alert_key"], row["occurrences"], row["recovered_at"] is not None)
        for row in warehouse.read(query).to_pylist()
    ]


def switched(instance: dg.DagsterInstance, status: InstigatorStatus) -> None:
    """Somebody switched the schedule of ticks in Dagster's UI."""
    target = LoadableTargetOrigin(module_name="medscore_assets.definitions")
    location = InProcessCodeLocationOrigin(target, location_name="medscore")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), SCHEDULE)
    data = ScheduleInstigatorData(TICK_CRON)
    instance.add_instigator_state(InstigatorState(origin, InstigatorType.SCHEDULE, status, data))


def test_where_no_ticks_are_wanted_their_absence_is_nobodys_trouble(
    warehouse: Warehouse, look: Callable[..., str | None]
) -> None:
    made(warehouse, ago=2 * LATE)
    assert look("stopped") == "The schedule of ticks is off."
    assert alerts(warehouse) == []


def test_the_switch_in_dagsters_ui_counts_more_than_the_setting(
    warehouse: Warehouse, tmp_path: Path, look: Callable[..., str | None]
) -> None:
    made(warehouse, ago=2 * LATE)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        switched(instance, InstigatorStatus.RUNNING)
        assert look("stopped", instance) == f"Wrong now: {DEAD_MAN}."
    assert alerts(warehouse) == [(DEAD_MAN, 1, False)]


def test_missing_ticks_are_one_alert_that_the_next_tick_ends(
    warehouse: Warehouse, look: Callable[..., str | None]
) -> None:
    assert look() == "Wrong now: nothing."
    made(warehouse, ago=2 * LATE)
    assert [look(), look()] == [f"Wrong now: {DEAD_MAN}."] * 2
    assert alerts(warehouse) == [(DEAD_MAN, 2, False)]
    made(warehouse, ago=timedelta(0))
    assert look() == "Wrong now: nothing."
    assert alerts(warehouse) == [(DEAD_MAN, 2, True)]


def test_a_model_with_a_problem_is_named_until_a_tick_without_it(
    warehouse: Warehouse, look: Callable[..., str | None]
) -> None:
    key = "waits:model:steady 1.0.0"
    made(warehouse, timedelta(minutes=1), '{"steady 1.0.0": "ValueError in predict"}')
    assert [look(), look()] == [f"Wrong now: {key}."] * 2
    ((told, _, over),) = alerts(warehouse)
    assert (told, over) == (key, False)
    made(warehouse, timedelta(0))
    assert look() == "Wrong now: nothing."
    assert [(told, over) for told, _, over in alerts(warehouse)] == [(key, True)]
