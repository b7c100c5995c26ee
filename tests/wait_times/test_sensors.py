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
from medscore_assets.alerting.ledger import Ledger
from medscore_assets.alerting.routing import load_routing
from medscore_assets.settings import Settings
from medscore_assets.wait_times.assignment import Pair, promote
from medscore_assets.wait_times.registry import Registry
from medscore_assets.wait_times.troubles import DEAD_MAN, LATE, SCHEDULE, watch_waits
from resources.warehouse import Warehouse
from schedules.wait_times import TICK_CRON
from sensors.wait_times import wait_time_sensor
from tests.wait_times.stored import DEFAULT, NOW, tick


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


def switched(instance: dg.DagsterInstance, status: InstigatorStatus, ago: timedelta | None = None) -> None:
    """Somebody switched the schedule of ticks in Dagster's UI."""
    target = LoadableTargetOrigin(module_name="medscore_assets.definitions")
    location = InProcessCodeLocationOrigin(target, location_name="medscore")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), SCHEDULE)
    since = (datetime.now(UTC) - ago).timestamp() if ago else None
    data = ScheduleInstigatorData(TICK_CRON, since)
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


def came(warehouse: Warehouse, ago: timedelta) -> None:
    """A department is known, and somebody came to it so long ago."""
    at = datetime.now(UTC) - ago
    visit = {"facility_id": "ed", "visit_id": "v", "recorded_at": at, "arrival": at, "scheduled": False}
    with warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.ed_facilities).values(facility_id="ed", name="ED", zone="UTC"))
        connection.execute(sa.insert(tables.ed_visits).values(visit | {"source": "test"}))


def test_a_first_tick_that_never_comes_is_told_once_patients_come_and_the_schedule_is_on(
    warehouse: Warehouse, tmp_path: Path, settings: Settings, look: Callable[..., str | None]
) -> None:
    ledger, now = Ledger(warehouse, load_routing(settings)), datetime.now(UTC)
    assert watch_waits(ledger, warehouse, since=now - 2 * LATE) == []
    came(warehouse, ago=2 * LATE)
    assert watch_waits(ledger, warehouse, since=now - LATE / 2) == []
    assert watch_waits(ledger, warehouse, since=now - 9 * LATE, now=now - LATE * 1.5) == []
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        switched(instance, InstigatorStatus.RUNNING, ago=2 * LATE)
        assert [look("stopped", instance) for _ in range(2)] == [f"Wrong now: {DEAD_MAN}."] * 2
        made(warehouse, ago=timedelta(0))
        assert look("stopped", instance) == "Wrong now: nothing."
    assert alerts(warehouse) == [(DEAD_MAN, 2, True)]


def test_an_assigned_version_that_is_not_run_is_named_until_another_is_assigned(
    waits: Warehouse, library: Registry, settings: Settings
) -> None:
    ledger, place = Ledger(waits, load_routing(settings)), ("demo-ed-001", "ctas_3")
    tick(waits, NOW, library)
    old, new = Pair("life_table", "0.9.0"), Pair("life_table", "1.0.0")
    with waits.transaction() as connection:
        table = tables.wait_time_model_versions
        row = {"model": old.model, "version": old.version, "fingerprint": "f", "parameters": {}}
        row |= {"kind": "built_in", "baseline": False, "first_seen_at": NOW}
        connection.execute(sa.insert(table).values(row))
    decided = {"by": "ann", "reason": "a trial of the version", "evidence": None, "default": DEFAULT}
    promote(waits, *place, old, **decided, force=True, now=NOW)
    key = f"waits:assigned:{old}"
    assert watch_waits(ledger, waits, now=NOW) == [key]
    (told,) = waits.read(sa.select(tables.alerts.c.detail)).to_pylist()
    assert told["detail"].endswith("demo-ed-001 ctas_3. Of the model this is run: life_table 1.0.0.")
    promote(waits, *place, new, **decided, force=True, now=NOW)
    assert watch_waits(ledger, waits, now=NOW) == []
    assert ledger.open_keys() == []


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
