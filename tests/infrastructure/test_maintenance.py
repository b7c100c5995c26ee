"""What is past its period goes, what is still needed stays, and Dagster knows its partitions as before."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.event_log import SqlEventLogStorage

from medscore_assets import tables
from medscore_assets.maintenance import (
    cutoffs,
    maintenance_job,
    prune_answers,
    prune_audit,
    prune_event_log,
    prune_lists,
)
from medscore_assets.settings import PROJECT_ROOT, Settings
from resources.warehouse import Warehouse
from tests.conftest import address_of

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
TODAY = NOW.date()
DAYS = dg.StaticPartitionsDefinition(["good", "bad", "never"])


@dg.asset(partitions_def=DAYS)
def something(context: dg.AssetExecutionContext) -> None:
    print("printed by a step")
    context.log.info("a line of the log")
    if context.partition_key == "bad":
        raise ValueError("as expected")


@dg.asset_check(asset=something)
def something_is_well() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, postgres: str, tmp_path: Path) -> Path:
    """MEDSCORE_HOME of an installation whose Dagster is in PostgreSQL."""
    monkeypatch.setenv("MEDSCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEDSCORE_DATABASE_URL", address_of(postgres, "maintained", "postgresql"))
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT_ROOT))
    return tmp_path / "home"


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as shared:
        yield shared


def in_the_log(instance: dg.DagsterInstance, statement: str) -> Any:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with storage.index_connection() as connection:
        return connection.execute(sa.text(statement))


def what_dagster_tells(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What its UI is drawn from: partitions, materializations, checks, runs."""
    # A cached status would be the same whatever happened to the events.
    in_the_log(instance, "UPDATE asset_keys SET cached_status_data = NULL")
    event = instance.get_latest_materialization_event(something.key)
    check = instance.event_log_storage.get_latest_asset_check_execution_by_key([something_is_well.check_key])
    return {
        "partitions": instance.get_status_by_partition(something.key, DAYS.get_partition_keys(), DAYS),
        "materialized": instance.get_materialized_partitions(something.key),
        "newest": event and (event.run_id, event.timestamp),
        "checks": {key: record.status for key, record in check.items()},
        "runs": {
            run.run_id: (run.status, instance.get_run_stats(run.run_id).steps_failed)
            for run in instance.get_runs()
        },
    }


@pytest.mark.slow
def test_old_log_lines_go_and_dagster_knows_its_partitions_as_before(
    instance: dg.DagsterInstance, home: Path, warehouse: Warehouse
) -> None:
    def run(partition: str) -> str:
        assets = [something, something_is_well]
        return dg.materialize(assets, instance=instance, partition_key=partition, raise_on_error=False).run_id

    old = [run("good"), run("bad")]
    in_the_log(instance, "UPDATE event_logs SET timestamp = timestamp - interval '40 days'")
    recent = run("good")
    before = what_dagster_tells(instance)
    assert before["partitions"]["good"].value == "MATERIALIZED"
    assert before["partitions"]["bad"].value == "FAILED"
    lines = len(instance.all_logs(recent))
    files = sorted((home / "dagster" / "compute_logs").rglob("*.out"))
    aged = [file for file in files if any(run_id in str(file) for run_id in old)]
    assert aged
    month_ago = (datetime.now(UTC) - timedelta(days=40)).timestamp()
    for file in {parent for f in aged for parent in (f, f.parent, f.parent.parent)}:
        os.utime(file, (month_ago, month_ago))

    job = maintenance_job(Settings())
    defs = dg.Definitions(jobs=[job], resources={"warehouse": warehouse})
    counts = []
    for _ in range(2):
        result = defs.resolve_job_def("maintenance").execute_in_process(instance=instance)
        (output,) = [
            e for e in result.all_events if e.is_successful_output and e.step_key == "prune_run_logs"
        ]
        metadata = output.step_output_data.metadata
        counts.append((metadata["log_lines"].value, metadata["files"].value))
        instance.delete_run(result.run_id)
    assert counts[0][0] > 10
    assert counts[0][1] >= len(aged)
    assert counts[1] == (0, 0)

    assert what_dagster_tells(instance) == before
    assert len(instance.all_logs(recent)) == lines
    kept = {
        e.dagster_event.event_type_value
        for run_id in old
        for e in instance.all_logs(run_id)
        if e.dagster_event
    }
    assert kept >= {"ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION", "STEP_FAILURE", "PIPELINE_SUCCESS"}
    assert not kept & {"ENGINE_EVENT", "STEP_START", "LOGS_CAPTURED", "STEP_OUTPUT"}
    assert not [e for run_id in old for e in instance.all_logs(run_id) if not e.dagster_event]
    assert [file for file in files if file.exists()] == [file for file in files if file not in aged]


def test_many_lines_go_in_batches(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medscore_assets.maintenance.ROWS_AT_ONCE", 7)
    in_the_log(
        instance,
        "INSERT INTO event_logs (run_id, event, timestamp) "
        "SELECT 'r', '{}', timestamp '2020-01-01' FROM generate_series(1, 30)",
    )
    assert prune_event_log(instance, datetime(2020, 1, 1, tzinfo=UTC)) == 0
    assert prune_event_log(instance, datetime(2020, 1, 2, tzinfo=UTC)) == 30


def a_list(warehouse: Warehouse, day: date) -> None:
    """One list with a row in every table that belongs to it."""
    at = datetime(day.year, day.month, day.day, 11, tzinfo=UTC)
    who = {"score_date": day, "encounter_id": f"E-{day}"}
    made = {"model_name": "readmission", "model_version": 1, "policy_version": "1", "policy_hash": "h"}
    score = {"patient_id": "P", "discharged_at": at, "readmission_probability": 0.2, "risk_tier": "low"}
    counts = {"events": 3, "superseded": 0, "quarantined": 1, "excluded": 1, "scored": 1, "admissions": 0}
    with warehouse.transaction() as connection:
        event = connection.execute(
            sa.insert(tables.discharge_events)
            .values(source="test", discharged_at=at, ingested_at=at)
            .returning(tables.discharge_events.c.event_id)
        ).scalar()
        for table, row in (
            (
                tables.outreach_lists,
                {"score_date": day, "window_start": at, "window_end": at + timedelta(days=1)}
                | counts
                | made
                | {"contract_hash": "h", "published_at": at},
            ),
            (
                tables.care_management_scores,
                who
                | score
                | made
                | {
                    "hospital_id": "H",
                    "rank": 1,
                    "within_capacity": True,
                    "top_factors": [],
                    "recommended_actions": ["call"],
                    "disclaimer": "d",
                    "features_sha256": "f",
                    "scored_at": at,
                },
            ),
            (tables.outreach_exclusions, {**who, "encounter_id": "X", "reason": "transferred"}),
            (
                tables.encounter_quarantine,
                {"score_date": day, "event_id": event, "field": "patient_age", "reason": "missing"},
            ),
            (
                tables.readmission_score_outcomes,
                who | score | {"model_version": 1, "readmitted_within_30_days": False},
            ),
        ):
            connection.execute(sa.insert(table).values(row))


def outcomes_told(warehouse: Warehouse, at: datetime) -> None:
    """The newest row of the feed of admissions."""
    with warehouse.transaction() as connection:
        connection.execute(
            sa.insert(tables.inpatient_admissions).values(
                encounter_id=f"A-{at}",
                patient_id="P",
                admitted_at=at,
                planned=False,
                source="t",
                ingested_at=at,
            )
        )


def days_of(warehouse: Warehouse, table: sa.Table) -> list[date]:
    return list(
        warehouse.read(sa.select(table.c.score_date).order_by("score_date"))["score_date"].to_pylist()
    )


LISTS = (
    tables.outreach_lists,
    tables.care_management_scores,
    tables.outreach_exclusions,
    tables.encounter_quarantine,
    tables.readmission_score_outcomes,
)


def test_a_list_goes_with_all_that_belongs_to_it_when_its_period_is_over(
    warehouse: Warehouse, settings: Settings
) -> None:
    edge = TODAY - timedelta(days=settings.keep_lists_days)
    days = [edge - timedelta(days=400), edge - timedelta(days=1), edge, TODAY - timedelta(days=1)]
    for day in days:
        a_list(warehouse, day)
    outcomes_told(warehouse, NOW)
    ends = cutoffs(warehouse, settings, NOW)
    assert prune_lists(warehouse, ends.lists) == {table.name: 2 for table in LISTS}
    assert prune_lists(warehouse, ends.lists) == {table.name: 0 for table in LISTS}
    for table in LISTS:
        assert days_of(warehouse, table) == days[2:]
    # What hospitals sent is theirs.
    assert warehouse.read(sa.select(tables.discharge_events)).num_rows == 4


def test_the_newest_list_and_those_whose_outcomes_may_still_come_stay(
    warehouse: Warehouse, settings: Settings
) -> None:
    edge = TODAY - timedelta(days=settings.keep_lists_days)
    old = [edge - timedelta(days=n) for n in (200, 100, 50)]
    for day in old:
        a_list(warehouse, day)
    # Nobody tells outcomes: all but the newest list may go by their age.
    assert cutoffs(warehouse, settings, NOW).lists == old[-1]
    # The feed that tells them stopped when the outcomes of the second list were still open.
    told = datetime.combine(old[1] + timedelta(days=40), datetime.min.time(), UTC)
    outcomes_told(warehouse, told)
    ends = cutoffs(warehouse, settings, NOW)
    assert old[0] < ends.lists <= old[1]
    prune_lists(warehouse, ends.lists)
    assert days_of(warehouse, tables.care_management_scores) == old[1:]


def test_an_audit_goes_after_its_period_but_for_what_is_still_in_force(
    warehouse: Warehouse, settings: Settings
) -> None:
    before = NOW - timedelta(days=settings.keep_audit_days)
    old, young = before - timedelta(days=1), before + timedelta(days=1)

    def decision(version: int, decided: str, at: datetime) -> dict[str, Any]:
        words = {"reason": "because", "decided_by": "gate"}
        return {"model_name": "m", "model_version": version, "decision": decided, "decided_at": at} | words

    def alert(key: str, over: datetime | None) -> dict[str, Any]:
        words = {"owner": "o", "severity": "warning", "title": "t", "detail": "d", "mend": "m"}
        times = {"opened_at": old, "last_seen_at": old, "recovered_at": over}
        return {"alert_key": key, "channel": "log", "occurrences": 1} | words | times

    def measure(day: date) -> dict[str, Any]:
        period = {"period_start": day, "period_end": day, "measured_at": old}
        what = {"model_name": "m", "model_version": 1, "measure": "psi", "subject": "score"}
        return {"n": 1, "value": 0.1, "state": "good"} | period | what

    decisions = [("promoted", old), ("promoted", old), ("refused", old), ("refused", young)]

    def event(sequence: int, at: datetime) -> dict[str, Any]:
        chain = {"previous_hash": str(sequence - 1), "hash": str(sequence)}
        return {"sequence": sequence, "recorded_at": at, "event": "{}"} | chain

    with warehouse.transaction() as connection:
        for table, rows in (
            # The clock went back between two events: the chain is cut at one place all the same.
            (tables.audit_events, [event(1, old), event(2, young), event(3, old), event(4, young)]),
            (tables.model_decisions, [decision(n, *d) for n, d in enumerate(decisions, 1)]),
            (tables.alerts, [alert("over", old), alert("open", None), alert("lately over", young)]),
            (tables.monitoring_measures, [measure(old.date()), measure(young.date())]),
        ):
            connection.execute(sa.insert(table), rows)

    assert prune_audit(warehouse, before) == {
        "monitoring_measures": 1,
        "alerts": 1,
        "model_decisions": 2,
        "audit_events": 1,
    }
    assert set(prune_audit(warehouse, before).values()) == {0}
    kept = warehouse.read(sa.select(tables.model_decisions)).to_pylist()
    assert [(d["model_version"], d["decision"]) for d in kept] == [(2, "promoted"), (4, "refused")]
    keys = warehouse.read(sa.select(tables.alerts.c.alert_key))["alert_key"].to_pylist()
    assert sorted(keys) == ["lately over", "open"]
    # When all is old, the end of the chain stays.
    assert prune_audit(warehouse, NOW)["audit_events"] == 2


def test_what_the_api_answered_goes_with_the_lists_and_a_used_token_when_it_has_expired(
    warehouse: Warehouse,
) -> None:
    with warehouse.transaction() as connection:
        for issuer, age in (("a", timedelta(days=2)), ("b", timedelta(hours=1)), ("c", -timedelta(hours=1))):
            token = {"issuer": issuer, "token_id": "t", "expires_at": NOW - age}
            connection.execute(sa.insert(tables.replayed_tokens).values(token))
        for number, age in enumerate((800, 100)):
            at = NOW - timedelta(days=age)
            shadow = {"score_id": str(number), "model_version": 1, "readmission_probability": 0.1}
            connection.execute(sa.insert(tables.shadow_scores).values(shadow | {"scored_at": at}))
    before = TODAY - timedelta(days=730)
    deleted = {"cds_feedback": 0, "shadow_scores": 1, "readmission_scores": 0, "replayed_tokens": 1}
    assert prune_answers(warehouse, before, NOW) == deleted


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("keep_lists_days", 90),
        ("keep_forecasts_days", 90),
        ("keep_audit_days", 365),
        ("keep_run_logs_days", 7),
    ],
)
def test_no_period_can_be_set_so_short_that_something_breaks(name: str, least: int) -> None:
    from resources.errors import PermanentError

    assert getattr(Settings(**{name: least}), name) == least
    with pytest.raises(PermanentError):
        Settings(**{name: least - 1})
