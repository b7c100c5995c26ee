"""The sensor, over Dagster's real event log: what is told, to whom, and when it is over."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.alerting.due_lists import missing_list_alert, watch_lists
from medscore_assets.alerting.ledger import Ledger
from medscore_assets.failures import failures
from medscore_assets.settings import Settings
from resources.errors import ContractViolation
from resources.warehouse import Warehouse
from sensors import alerts as module
from sensors.alerts import alert_sensor
from tests.alerts.conftest import Receiver

SENTINEL = "SENTINEL-PATIENT-4711"
DAYS = dg.DailyPartitionsDefinition("2026-03-01", end_date="2026-04-01")
broken: dict[str, Any] = {}
"""What the assets below do wrong: nothing, unless a test says so."""


@pytest.fixture(autouse=True)
def _nothing_is_broken() -> Iterator[None]:
    broken.clear()
    yield
    broken.clear()


@dg.asset(partitions_def=DAYS, owners=["team:beds"])
def census(context: dg.AssetExecutionContext) -> Iterator[Any]:
    refused = set(broken.get("census", ())) & set(context.partition_keys)
    if refused:
        for day in set(context.partition_keys) - refused:
            yield dg.AssetMaterialization(context.asset_key, partition=day)
        with failures():
            raise ContractViolation(
                "a field is not what it must be", where="census", mend="Correct the feed."
            )
    yield dg.MaterializeResult()


@dg.asset(owners=["team:beds"])
def unguarded() -> None:
    if "unguarded" in broken:
        raise ValueError(SENTINEL)


@dg.asset_check(asset=census, blocking=True)
def census_is_whole(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Every bed is counted."""
    wrong = broken.get("check")
    return dg.AssetCheckResult(
        passed=wrong is None,
        severity=wrong or dg.AssetCheckSeverity.ERROR,
        description=SENTINEL,
        metadata={"row": SENTINEL},
    )


CENSUS = dg.define_asset_job("census_job", selection=dg.AssetSelection.assets(census))
UNGUARDED = dg.define_asset_job("unguarded_job", selection=dg.AssetSelection.assets(unguarded))


class Platform:
    """Runs and ticks on one instance."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings, warehouse: Warehouse) -> None:
        self.instance, self.warehouse = instance, warehouse
        self.sensor = alert_sensor(settings)
        self.defs = dg.Definitions(
            assets=[census, unguarded],
            asset_checks=[census_is_whole],
            jobs=[CENSUS, UNGUARDED],
            sensors=[self.sensor],
            resources={"warehouse": warehouse},
            executor=dg.in_process_executor,
        )
        self.cursor: str | None = None

    def run(self, job: str = "census_job", day: str | None = "2026-03-02", **tags: str) -> Any:
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=day, tags=tags, raise_on_error=False
        )

    def backfill(self, first: str, last: str) -> Any:
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return self.run(day=None, **tags)

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            with dg.build_sensor_context(
                instance=self.instance,
                cursor=self.cursor,
                repository_def=self.defs.get_repository_def(),
                resources={"warehouse": self.warehouse},
            ) as context:
                self.cursor = self.sensor.evaluate_tick(context).cursor


@pytest.fixture
def platform(told: Settings, warehouse: Warehouse) -> Iterator[Platform]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Platform(instance, told, warehouse)


def keys(receiver: Receiver) -> list[tuple[str, str]]:
    return [(m["state"], m["key"]) for m in receiver.messages]


def test_a_failed_run_is_told_once_to_its_owner_and_so_is_its_recovery(
    platform: Platform, receiver: Receiver
) -> None:
    broken["census"] = ["2026-03-02"]
    platform.run()
    platform.tick(4)
    (message,) = receiver.messages
    assert message["key"] == "run:census_job:census:2026-03-02"
    assert (message["owner"], message["severity"]) == ("team:beds", "critical")
    assert message["title"] == "census_job failed for 2026-03-02"
    assert "a field is not what it must be (census)" in message["detail"]
    assert message["mend"].startswith("Correct the feed.")
    platform.run(day="2026-03-03")
    platform.tick(2)
    assert len(receiver.messages) == 1
    broken.clear()
    platform.run()
    platform.tick(3)
    assert receiver.states == ["open", "recovered"]


def test_failures_between_two_ticks_are_all_told(platform: Platform, receiver: Receiver) -> None:
    broken["census"] = ["2026-03-02", "2026-03-03"]
    for day in ("2026-03-02", "2026-03-03", "2026-03-02"):
        platform.run(day=day)
    platform.tick(2)
    assert keys(receiver) == [
        ("open", "run:census_job:census:2026-03-02"),
        ("open", "run:census_job:census:2026-03-03"),
    ]


def test_failure_and_recovery_between_two_ticks_are_both_told(platform: Platform, receiver: Receiver) -> None:
    broken["census"] = ["2026-03-02"]
    platform.run()
    broken.clear()
    platform.run()
    platform.tick(3)
    assert receiver.states == ["open", "recovered"]


def test_of_a_range_the_days_that_failed_are_told_and_recover_one_by_one(
    platform: Platform, receiver: Receiver
) -> None:
    broken["census"] = ["2026-03-03", "2026-03-05"]
    platform.backfill("2026-03-01", "2026-03-14")
    platform.tick()
    assert [key for _, key in keys(receiver)] == [
        "run:census_job:census:2026-03-03",
        "run:census_job:census:2026-03-05",
    ]
    broken.clear()
    platform.run(day="2026-03-03")
    platform.tick()
    assert keys(receiver)[2:] == [("recovered", "run:census_job:census:2026-03-03")]
    platform.backfill("2026-03-04", "2026-03-06")
    platform.tick()
    assert keys(receiver)[3:] == [("recovered", "run:census_job:census:2026-03-05")]


def test_a_range_that_failed_altogether_is_one_alert(platform: Platform, receiver: Receiver) -> None:
    broken["census"] = [f"2026-03-{day:02d}" for day in range(1, 15)]
    platform.backfill("2026-03-01", "2026-03-14")
    platform.tick()
    assert [key for _, key in keys(receiver)] == ["run:census_job:census:2026-03-01...2026-03-14"]
    broken.clear()
    platform.backfill("2026-03-01", "2026-03-20")
    platform.tick()
    assert receiver.states == ["open", "recovered"]


def test_a_blocking_check_that_fails_is_one_alert_and_not_two(platform: Platform, receiver: Receiver) -> None:
    broken["check"] = dg.AssetCheckSeverity.ERROR
    assert not platform.run().success
    platform.tick(2)
    (message,) = receiver.messages
    assert message["key"] == "check:census:census_is_whole:2026-03-02"
    assert (message["owner"], message["severity"]) == ("team:beds", "critical")
    assert message["detail"] == "Every bed is counted."
    broken.clear()
    platform.run(day="2026-03-03")
    platform.tick()
    assert receiver.states == ["open"]
    platform.run()
    platform.tick(2)
    assert receiver.states == ["open", "recovered"]


def test_a_check_that_warns_is_a_warning(platform: Platform, receiver: Receiver) -> None:
    broken["check"] = dg.AssetCheckSeverity.WARN
    assert platform.run().success
    platform.tick(2)
    assert [(m["state"], m["severity"]) for m in receiver.messages] == [("open", "warning")]


def test_nothing_of_a_patient_reaches_a_receiver(
    platform: Platform, receiver: Receiver, warehouse: Warehouse
) -> None:
    broken["unguarded"] = True
    broken["check"] = dg.AssetCheckSeverity.ERROR
    platform.run("unguarded_job", day=None)
    platform.run()
    platform.tick()
    assert len(receiver.requests) == 2
    assert SENTINEL not in repr(receiver.requests)
    assert SENTINEL not in repr(warehouse.read(sa.select(tables.alerts)).to_pylist())
    details = [m["detail"] for m in receiver.messages]
    assert "ValueError in step unguarded; its text is withheld." in details


def test_a_receiver_that_was_down_gets_all_later(platform: Platform, receiver: Receiver) -> None:
    receiver.stop()
    broken["unguarded"] = True
    platform.run("unguarded_job", day=None)
    platform.tick(2)
    broken.clear()
    platform.run("unguarded_job", day=None)
    platform.tick()
    receiver.start()
    platform.tick(2)
    assert receiver.states == ["open", "recovered"]


def test_a_tick_that_is_repeated_tells_nothing_again(platform: Platform, receiver: Receiver) -> None:
    broken["unguarded"] = True
    platform.run("unguarded_job", day=None)
    platform.tick()
    broken.clear()
    platform.run("unguarded_job", day=None)
    before = platform.cursor
    platform.tick()
    platform.cursor = before
    platform.tick()
    platform.cursor = None
    platform.tick()
    assert receiver.states == ["open", "recovered"]


def test_more_events_than_one_page_are_read_in_order(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    monkeypatch.setattr(module, "OVERLAP", 0)
    days = [f"2026-03-{day:02d}" for day in range(1, 5)]
    for wrong in (days, []):
        broken["census"] = wrong
        for day in days:
            platform.run(day=day)
    platform.tick(12)
    assert receiver.states.count("open") == receiver.states.count("recovered") == 4


def test_an_event_that_is_seen_after_a_later_one_is_not_lost(platform: Platform, receiver: Receiver) -> None:
    platform.tick()
    broken["unguarded"] = True
    platform.run("unguarded_job", day=None)
    # As if an event that another process began to write later had been read before this one.
    last = platform.instance.event_log_storage.get_maximum_record_id()
    platform.cursor = json.dumps(json.loads(str(platform.cursor)) | {"after": last})
    platform.tick(2)
    assert receiver.states == ["open"]


def test_a_run_that_somebody_mended_while_it_waited_for_its_retry_is_not_told(
    retrying: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken["census"] = ["2026-03-02"]
    retrying.run()
    retrying.tick()
    broken.clear()
    retrying.run()
    monkeypatch.setattr(module, "OVERLAP", 0)
    retrying.tick()
    monkeypatch.setattr(module, "RETRY_PATIENCE_S", 0.0)
    retrying.tick(2)
    assert "open" not in receiver.states


@pytest.fixture
def retrying(told: Settings, warehouse: Warehouse) -> Iterator[Platform]:
    """A platform whose instance retries runs, as `dagster.yaml` has it, also for failed steps."""
    retries = {"run_retries": {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": True}}
    with dg.DagsterInstance.ephemeral(settings=retries) as instance:
        yield Platform(instance, told, warehouse)


def test_a_run_that_will_be_retried_is_not_told_unless_the_retry_never_begins(
    retrying: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken["census"] = ["2026-03-02"]
    failed = retrying.run()
    assert retrying.instance.get_run_by_id(failed.run_id).tags["dagster/will_retry"] == "true"
    monkeypatch.setattr(module, "OVERLAP", 0)
    retrying.tick(2)
    assert receiver.requests == []
    monkeypatch.setattr(module, "RETRY_PATIENCE_S", 0.0)
    retrying.tick(2)
    assert receiver.states == ["open"]


def test_the_outcome_of_the_retry_is_what_is_told(retrying: Platform, receiver: Receiver) -> None:
    broken["census"] = ["2026-03-02"]
    failed = retrying.run()
    retrying.tick()
    retry = retrying.run(
        **{
            "dagster/parent_run_id": failed.run_id,
            "dagster/root_run_id": failed.run_id,
            "dagster/max_retries": "0",
        }
    )
    retrying.instance.add_run_tags(failed.run_id, {"dagster/auto_retry_run_id": retry.run_id})
    retrying.tick(3)
    assert receiver.states == ["open"]
    assert retry.run_id in receiver.messages[0]["mend"]


def test_dagster_giving_up_on_a_retry_is_told(retrying: Platform, receiver: Receiver) -> None:
    broken["census"] = ["2026-03-02"]
    failed = retrying.run()
    retrying.tick()
    retrying.instance.add_run_tags(failed.run_id, {"dagster/will_retry": "false"})
    retrying.tick(2)
    assert receiver.states == ["open"]


NEW_YORK = ZoneInfo("America/New_York")


def list_of(day: date) -> dict[str, Any]:
    """A header of a list; the counts do not matter here."""
    filled: dict[str, Any] = {}
    for column in tables.outreach_lists.columns:
        if column.nullable or column.server_default is not None:
            continue
        kind = column.type.python_type
        filled[column.name] = {int: 0, str: "x", datetime: datetime.now(UTC), date: day, float: 0.0}.get(
            kind, {}
        )
    return filled | {"score_date": day}


@pytest.mark.parametrize(
    ("local", "due"),
    [
        (datetime(2026, 3, 3, 6, 59, tzinfo=NEW_YORK), "2026-03-01"),
        (datetime(2026, 3, 3, 7, 0, tzinfo=NEW_YORK), "2026-03-02"),
        (datetime(2026, 3, 8, 7, 0, tzinfo=NEW_YORK), "2026-03-07"),
        (datetime(2026, 11, 1, 6, 59, tzinfo=NEW_YORK), "2026-10-30"),
        (datetime(2026, 11, 1, 7, 0, tzinfo=NEW_YORK), "2026-10-31"),
    ],
)
def test_a_list_is_missing_from_seven_on(
    warehouse: Warehouse, ledger: Ledger, receiver: Receiver, local: datetime, due: str
) -> None:
    missing = missing_list_alert(warehouse, now=local)
    assert missing is not None
    assert missing.key == f"missing-list:outreach:{due}"
    assert f"--date {due}" in missing.mend
    for _ in range(2):
        watch_lists(ledger, warehouse, now=local)
        ledger.deliver()
    with warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.outreach_lists).values(list_of(date.fromisoformat(due))))
    assert missing_list_alert(warehouse, now=local) is None
    for _ in range(2):
        watch_lists(ledger, warehouse, now=local)
        ledger.deliver()
    assert receiver.states == ["open", "recovered"]


def test_the_sensor_tells_of_a_missing_list_without_any_run(
    platform: Platform, told: Settings, receiver: Receiver
) -> None:
    platform.tick()
    assert receiver.requests == []
    platform.sensor = alert_sensor(told.model_copy(update={"schedules": "running"}))
    platform.tick(2)
    assert [key.rpartition(":")[0] for _, key in keys(receiver)] == ["missing-list:outreach"]
