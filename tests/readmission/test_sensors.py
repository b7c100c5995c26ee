"""What the sensors on lists ask for: what is missing, what came late, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from medscore_assets import failures, tables
from medscore_assets.definitions import build_defs
from medscore_assets.partitions import closed_mornings, window
from medscore_assets.readmission.catch_up import day_states, stretches
from medscore_assets.readmission.policy import DEFAULT_FILE, load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.scoring import ReadmissionModel
from medscore_assets.runs import _of_partitions
from medscore_assets.settings import Settings
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from sensors.late_discharges import late_discharge_sensor
from sensors.list_requests import DAYS_BACK, MAX_ATTEMPTS
from sensors.missing_lists import missing_list_sensor
from tests.readmission.records import ZONE, clean_day, discharge, local
from tests.readmission.test_outreach import add, rows_of

JOB = "readmission_outreach"
TRAINING = "readmission_training"
NOON = datetime(2026, 3, 20, 12, tzinfo=ZONE)
"""The time at which the sensors of these tests look."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as own:
        yield own


SENSORS = ("missing_lists", "late_discharges")


@pytest.fixture(autouse=True)
def look_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets the clock of the sensors, which is at noon without it. Runs have the real one."""

    def at(moment: datetime) -> None:
        class Fixed(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return moment.astimezone(tz)

        for name in SENSORS:
            monkeypatch.setattr(f"sensors.{name}.datetime", Fixed)

    at(NOON)
    return at


@pytest.fixture
def days() -> list[str]:
    """The windows that the sensors look at, oldest first."""
    return closed_mornings(DAYS_BACK, until=NOON)


class Sensor:
    """A sensor as its daemon calls it: each tick gets the cursor of the one before."""

    def __init__(self, definition: dg.SensorDefinition, instance: dg.DagsterInstance, **resources: Any):
        self.definition, self.instance, self.resources = definition, instance, resources
        self.cursor: str | None = None

    def tick(self) -> dict[str | None, str | None]:
        """The run keys that it asks for, by partition, in their order."""
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources=self.resources
        )
        found = self.definition(context)
        if isinstance(found, dg.SensorResult):
            self.cursor = found.cursor
        requests = [found] if isinstance(found, dg.RunRequest) else getattr(found, "run_requests", None) or []
        self.reason = getattr(found, "skip_reason", None) or getattr(found, "skip_message", None)
        return {r.partition_key: r.run_key for r in requests}


@pytest.fixture
def sensor(
    warehouse: Warehouse, champion: ModelRegistry, instance: dg.DagsterInstance, settings: Settings
) -> Callable[..., Sensor]:
    """A sensor by its factory."""

    def of(factory: Callable[..., dg.SensorDefinition], job: str = JOB, **others: Any) -> Sensor:
        given = {"warehouse": warehouse, "registry": champion, "policy_file": DEFAULT_FILE} | others
        wanted = factory(settings, job)
        used = {k: v for k, v in given.items() if k in wanted.required_resource_keys}
        return Sensor(wanted, instance, **used)

    return of


@pytest.fixture
def make(warehouse: Warehouse, model: ReadmissionModel) -> Callable[[str], None]:
    """Makes one list without Dagster."""

    def publish(day: str) -> None:
        publish_list(warehouse, window(day), lambda: Champion(model, 1), load_policy())

    return publish


@pytest.fixture
def run(warehouse: Warehouse, champion: ModelRegistry, instance: dg.DagsterInstance) -> Any:
    """Runs the outreach job for one day or several."""
    built: dict[Warehouse, dg.Definitions] = {}

    def execute(
        first: str, last: str | None = None, into: Warehouse = warehouse
    ) -> dg.ExecuteInProcessResult:
        if into not in built:
            built[into] = build_defs(warehouse=into, registry=champion)
        return (
            built[into]
            .resolve_job_def(JOB)
            .execute_in_process(instance=instance, raise_on_error=False, **_of_partitions(first, last))
        )

    return execute


def dirty_day(day: str, count: int, first_number: int = 1) -> list[dict[str, Any]]:
    return [row | {"insurance_type": "unheard of"} for row in clean_day(day, count, first_number)]


def test_after_a_weekend_down_every_list_is_asked_for_the_empty_days_too(
    warehouse: Warehouse, sensor: Callable[..., Sensor], make: Callable[[str], None], days: list[str]
) -> None:
    friday, saturday, sunday = days[-4:-1]
    add(warehouse, clean_day(friday, 5) + clean_day(sunday, 5, first_number=100))
    make(friday)
    missing = sensor(missing_list_sensor)
    # The newest first, and nothing from before the first record.
    assert list(missing.tick()) == [days[-1], sunday, saturday]
    assert missing.tick() == missing.tick()
    for day in (saturday, sunday, days[-1]):
        make(day)
    assert missing.tick() == {}
    assert "There is a list" in str(missing.reason)
    assert len(rows_of(warehouse, tables.outreach_lists)) == 4


def test_the_window_that_just_closed_is_left_to_the_schedule(
    warehouse: Warehouse, sensor: Callable[..., Sensor], look_at: Callable[[datetime], None], days: list[str]
) -> None:
    add(warehouse, clean_day(days[-1], 5))
    missing = sensor(missing_list_sensor)
    look_at(NOON.replace(hour=6, minute=20))
    assert missing.tick() == {}
    look_at(NOON.replace(hour=6, minute=40))
    assert list(missing.tick()) == [days[-1]]


def test_without_records_and_without_a_champion_nothing_is_asked_for(
    warehouse: Warehouse, sensor: Callable[..., Sensor], empty_registry: ModelRegistry, days: list[str]
) -> None:
    missing = sensor(missing_list_sensor, registry=empty_registry)
    assert missing.tick() == {}
    add(warehouse, clean_day(days[-1], 5))
    assert missing.tick() == {}
    assert "medscore train readmission" in str(missing.reason)


def test_a_refused_day_is_asked_for_again_only_when_its_state_is_another(
    warehouse: Warehouse, sensor: Callable[..., Sensor], run: Any, days: list[str]
) -> None:
    day = days[-1]
    add(warehouse, dirty_day(day, 10))
    # The schedule's run, not one of the sensor's.
    assert not run(day).success
    missing = sensor(missing_list_sensor)
    assert missing.tick() == missing.tick() == {}
    assert "nothing has changed" in str(missing.reason)

    corrected = [row | {"ingested_at": row["ingested_at"] + timedelta(hours=1)} for row in clean_day(day, 10)]
    add(warehouse, corrected[:3])
    first = missing.tick()
    assert list(first) == [day]
    assert missing.tick() == first
    assert not run(day).success
    assert missing.tick() == {}

    add(warehouse, corrected[3:])
    assert missing.tick() not in ({}, first)
    assert run(day).success
    assert missing.tick() == {}


def test_rows_that_came_in_between_a_refusal_and_the_first_look_are_not_missed(
    warehouse: Warehouse, sensor: Callable[..., Sensor], run: Any, days: list[str]
) -> None:
    day = days[-1]
    add(warehouse, dirty_day(day, 10))
    assert not run(day).success
    # The run's own times are those of the real clock.
    arrived = datetime.now(UTC) + timedelta(days=10_000)
    add(warehouse, [row | {"ingested_at": arrived} for row in clean_day(day, 10)])
    assert list(sensor(missing_list_sensor).tick()) == [day]


@pytest.mark.slow
def test_a_failure_that_passes_is_tried_again_a_bounded_number_of_times(
    warehouse: Warehouse,
    sensor: Callable[..., Sensor],
    run: Any,
    days: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failures, "MAX_RETRIES", 0)
    add(warehouse, clean_day(days[-1], 5))
    missing = sensor(missing_list_sensor)
    gone = Warehouse("postgresql+psycopg://127.0.0.1:1/gone")
    keys = []
    for _ in range(MAX_ATTEMPTS + 2):
        keys += missing.tick().values()
        assert not run(days[-1], into=gone).success
    # The daemon starts a run for each different key.
    assert len(set(keys)) == MAX_ATTEMPTS + 1
    assert len(keys) == MAX_ATTEMPTS + 2


def test_a_run_that_somebody_cancelled_is_not_started_again(
    warehouse: Warehouse, sensor: Callable[..., Sensor], instance: dg.DagsterInstance, days: list[str]
) -> None:
    add(warehouse, clean_day(days[-1], 5))
    missing = sensor(missing_list_sensor)
    asked = missing.tick()
    create_run_for_test(
        instance, JOB, status=dg.DagsterRunStatus.CANCELED, tags={"dagster/partition": days[-1]}
    )
    assert missing.tick() == asked


def test_a_late_discharge_opens_its_day_again_once(
    warehouse: Warehouse, sensor: Callable[..., Sensor], run: Any, days: list[str]
) -> None:
    day = days[3]
    add(warehouse, clean_day(day, 5))
    late = sensor(late_discharge_sensor)
    # A day without a list is another sensor's.
    assert late.tick() == {}
    assert run(day).success
    assert late.tick() == {}
    add(warehouse, [discharge(88, local(day, 15))])
    asked = late.tick()
    assert list(asked) == [day]
    assert late.tick() == asked
    assert run(day).success
    assert late.tick() == {}
    add(warehouse, [discharge(89, local(day, 16))])
    assert set(late.tick().values()).isdisjoint(asked.values())


def test_states_of_many_days_are_those_of_each(
    warehouse: Warehouse, make: Callable[[str], None], days: list[str]
) -> None:
    add(warehouse, clean_day(days[-2], 5))
    make(days[-2])
    add(warehouse, [discharge(88, local(days[-2], 15))])
    states = day_states(warehouse, days)
    assert [s.day for s in states] == days
    assert {s.day for s in states if s.missing} == {days[-1]}
    (late,) = [s for s in states if s.out_of_date]
    assert (late.counts["events"], late.listed and late.listed["events"]) == (6, 5)
    assert day_states(warehouse, []) == []
    assert [s for day in days for s in day_states(warehouse, [day])] == states


def test_stretches_of_days_have_no_gap() -> None:
    keys = ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-03", "2026-03-05", "2026-03-06"]
    assert stretches(keys) == [
        ("2026-02-27", "2026-03-01"),
        ("2026-03-03", "2026-03-03"),
        ("2026-03-05", "2026-03-06"),
    ]
    assert stretches([]) == []


def test_a_stretch_of_days_is_one_run(
    warehouse: Warehouse, run: Any, instance: dg.DagsterInstance, days: list[str]
) -> None:
    add(warehouse, clean_day(days[-3], 5))
    assert run(days[-3], days[-1]).success
    assert [str(r["score_date"]) for r in rows_of(warehouse, tables.outreach_lists)] == days[-3:]
    assert instance.get_runs_count() == 1
