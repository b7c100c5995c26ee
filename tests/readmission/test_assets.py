"""The readmission assets as Dagster runs them: materializations, refusals, backfills, ticks."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.definitions import build_defs
from medscore_assets.failures import failures
from medscore_assets.model_decisions import GATE, journal
from medscore_assets.monitoring.promotion import DEFAULT_FILE as GATE_FILE
from medscore_assets.readmission.assets import care_management_scores
from medscore_assets.readmission.checks import CHECKS, integrity, mixed, unaccounted
from medscore_assets.readmission.policy import DEFAULT_FILE
from medscore_assets.readmission.scoring import MODEL
from resources.errors import ContractViolation, TransientError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from tests.readmission.records import ZONE, clean_day, discharge, local
from tests.readmission.test_outreach import DAY, add, rows_of


@pytest.fixture(scope="session")
def instance() -> Any:
    with dg.DagsterInstance.ephemeral() as shared:
        yield shared


@pytest.fixture
def materialize(warehouse: Warehouse, champion: ModelRegistry, instance: dg.DagsterInstance) -> Any:
    """Materializes the list of one day, or of a range of days in one run, with its checks."""

    def run(first: str = DAY, last: str | None = None, registry: ModelRegistry = champion) -> Any:
        days: dict[str, Any] = {"partition_key": first}
        if last:
            days = {
                "tags": {
                    "dagster/asset_partition_range_start": first,
                    "dagster/asset_partition_range_end": last,
                }
            }
        return dg.materialize(
            [care_management_scores, *CHECKS],
            resources={"warehouse": warehouse, "registry": registry, "policy_file": DEFAULT_FILE},
            instance=instance,
            raise_on_error=False,
            **days,
        )

    return run


def failure_of(result: dg.ExecuteInProcessResult) -> dg.Failure | Any:
    (event,) = [e for e in result.all_events if e.is_step_failure]
    return event.step_failure_data


def test_a_day_is_materialized_with_counts_and_checks(warehouse: Warehouse, materialize: Any) -> None:
    add(warehouse, [*clean_day(DAY, 30), discharge(99, local(DAY), patient_age=None)])
    result = materialize()
    assert result.success
    (event,) = result.asset_materializations_for_node("care_management_scores")
    counts = {k: v.value for k, v in event.metadata.items()}
    assert (counts["scored"], counts["quarantined"], counts["events"]) == (30, 1, 31)
    assert counts["contract_hash"] == READMISSION.hash
    evaluations = result.get_asset_check_evaluations()
    assert {e.check_name for e in evaluations} == {
        "every_discharge_is_accounted_for",
        "one_model_and_one_policy_per_list",
        "tiers_follow_from_probabilities",
        "quarantine_stays_small",
        "discharges_arrive_in_time",
    }
    assert all(e.passed for e in evaluations)


def test_an_empty_day_succeeds_and_says_zero(materialize: Any) -> None:
    result = materialize()
    assert result.success
    (event,) = result.asset_materializations_for_node("care_management_scores")
    assert event.metadata["scored"].value == 0


def test_a_day_with_too_many_bad_rows_fails_clearly_and_for_good(
    warehouse: Warehouse, materialize: Any
) -> None:
    good, bad = clean_day(DAY, 70), clean_day(DAY, 30, first_number=500)
    add(warehouse, good + [row | {"insurance_type": "SENTINEL-PAYER"} for row in bad])
    result = materialize()
    assert not result.success
    failure = failure_of(result).user_failure_data
    assert "30 of 100 discharges break the contract, so nothing was published" in failure.description
    assert "Materialize" in failure.description or "materialize" in failure.description
    (record,) = failure.metadata["broken_rules"].records
    assert record.data == {
        "day": DAY,
        "field": "insurance_type",
        "reason": "unknown_category",
        "rows": 30,
    }
    assert rows_of(warehouse, tables.care_management_scores) == []
    assert not [e for e in result.all_events if e.is_step_up_for_retry]


def test_fourteen_days_are_backfilled_in_one_run(warehouse: Warehouse, materialize: Any) -> None:
    days = [f"2026-03-{n:02d}" for n in range(1, 15)]
    for number, day in enumerate(days):
        add(warehouse, clean_day(day, number + 1, first_number=1000 * number))
    result = materialize(days[0], days[-1])
    assert result.success
    scored = {
        e.partition: e.metadata["scored"].value
        for e in result.asset_materializations_for_node("care_management_scores")
    }
    assert scored == {day: number + 1 for number, day in enumerate(days)}


def test_one_refused_day_of_a_backfill_leaves_the_others_published(
    warehouse: Warehouse, materialize: Any
) -> None:
    for day in ("2026-03-01", "2026-03-03"):
        add(warehouse, clean_day(day, 10, first_number=int(day[-2:]) * 100))
    add(warehouse, [row | {"patient_age": None} for row in clean_day(DAY, 10, first_number=900)])
    result = materialize("2026-03-01", "2026-03-03")
    assert not result.success
    published = {e.partition for e in result.all_events if e.event_type_value == "ASSET_MATERIALIZATION"}
    assert published == {"2026-03-01", "2026-03-03"}
    assert {str(r["score_date"]) for r in rows_of(warehouse, tables.outreach_lists)} == published
    assert failure_of(result).user_failure_data.metadata["broken_rules"].records[0].data["day"] == DAY


def test_without_a_champion_nothing_is_written(
    warehouse: Warehouse, materialize: Any, empty_registry: ModelRegistry
) -> None:
    add(warehouse, clean_day(DAY, 10))
    result = materialize(registry=empty_registry)
    assert not result.success
    description = failure_of(result).user_failure_data.description
    assert "champion" in description
    assert "medscore train readmission" in description
    assert rows_of(warehouse, tables.outreach_lists) == []


def test_the_06_00_tick_asks_for_the_window_that_just_closed() -> None:
    defs = build_defs()
    schedule = defs.resolve_schedule_def("morning_outreach")
    repository = defs.get_repository_def()
    for scheduled, day in [
        (datetime(2026, 3, 3, 6, tzinfo=ZONE), "2026-03-02"),
        (datetime(2026, 3, 8, 6, tzinfo=ZONE), "2026-03-07"),
        (datetime(2026, 11, 1, 6, tzinfo=ZONE), "2026-10-31"),
    ]:
        context = dg.build_schedule_context(scheduled_execution_time=scheduled, repository_def=repository)
        (request,) = schedule.evaluate_tick(context).run_requests
        assert (request.partition_key, request.run_key) == (day, day)


def test_the_schedule_is_at_six_in_the_named_zone() -> None:
    schedule = build_defs().resolve_schedule_def("morning_outreach")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 6 * * *", "America/New_York")


def test_a_list_that_lost_a_row_is_told_from_a_whole_one(warehouse: Warehouse, materialize: Any) -> None:
    add(warehouse, clean_day(DAY, 10))
    materialize()
    whole = integrity(warehouse, [DAY])
    assert (unaccounted(whole), mixed(whole)) == ([], [])
    with warehouse.transaction() as connection:
        connection.execute(sa.text("DELETE FROM care_management_scores WHERE rank = 3"))
    damaged = integrity(warehouse, [DAY])
    assert (unaccounted(damaged), mixed(damaged)) == ([DAY], [DAY])
    assert (unaccounted({DAY: {}}), mixed({DAY: {}})) == ([DAY], [DAY])


def test_an_error_of_another_library_tells_its_kind_and_place_only() -> None:
    with pytest.raises(dg.Failure) as failed, failures():
        pa.scalar("SENTINEL").cast(pa.int64())
    assert "ArrowInvalid" in failed.value.description
    assert "SENTINEL" not in repr(failed.value) + str(failed.value.metadata)
    assert failed.value.__cause__ is None
    assert not failed.value.allow_retries


def test_a_lost_connection_is_retried_and_a_broken_contract_is_not() -> None:
    with pytest.raises(dg.RetryRequested), failures():
        raise TransientError("gone", where="here", mend="wait")
    with pytest.raises(dg.Failure) as failed, failures():
        raise ContractViolation("broken", where="here", mend="mend it")
    assert not failed.value.allow_retries


def test_no_patient_is_in_any_event_of_a_run(
    warehouse: Warehouse, materialize: Any, instance: dg.DagsterInstance
) -> None:
    sentinel = {"encounter_id": "SENTINEL-ENCOUNTER", "patient_id": "SENTINEL-PATIENT"}
    add(warehouse, [*clean_day(DAY, 20), discharge(1000, local(DAY), **sentinel)])
    broken = {**sentinel, "encounter_id": "SENTINEL-2", "insurance_type": "SENTINEL-PAYER"}
    add(warehouse, [discharge(1001, local(DAY), **broken)])
    result = materialize()
    assert result.success
    events = instance.all_logs(result.run_id)
    assert events
    assert "SENTINEL" not in " ".join(map(repr, events))
    assert "P-000001" not in " ".join(map(repr, events))


def test_columns_and_owners_stand_in_the_catalogue() -> None:
    graph = build_defs().resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.group_name in ("readmission", "mobility", "wait_times")
        assert node.owners
        assert node.kinds
        assert node.description
    scores = graph.get(dg.AssetKey("care_management_scores"))
    assert scores.code_version == READMISSION.hash
    columns = {c.name: c for c in scores.metadata["dagster/column_schema"].columns}
    assert columns["risk_tier"].constraints.other == ["risk_tier IN ('low', 'moderate', 'high', 'very_high')"]


@pytest.mark.slow
def test_training_makes_a_set_and_a_champion_from_the_sources(
    warehouse: Warehouse,
    empty_registry: ModelRegistry,
    instance: dg.DagsterInstance,
    demo_year: Any,
    tmp_path: Path,
) -> None:
    from medscore_assets.loading import Records, load

    load(
        warehouse,
        Records("demo", demo_year.events, demo_year.admissions, truth=demo_year.truth),
        replace=False,
    )
    # A year of a small hospital is few cases for the margins in force; they are not what is tested here.
    wide = re.sub(r"net_benefit = [\d.]+", "net_benefit = 0.05", GATE_FILE.read_text())
    (tmp_path / "gate.toml").write_text(wide.replace("resamples = 1000", "resamples = 100"))
    defs = build_defs(
        warehouse=warehouse,
        registry=empty_registry,
        gate_file=tmp_path / "gate.toml",
        reports_folder=tmp_path / "reports",
    )
    result = defs.resolve_job_def("readmission_training").execute_in_process(instance=instance)
    assert result.success
    parts = warehouse.read(
        sa.select(tables.readmission_training_set.c.part, sa.func.count().label("n")).group_by("part")
    ).to_pylist()
    assert {p["part"] for p in parts} == {"train", "validation", "test"}
    stored = empty_registry.champion(MODEL)
    assert stored.tags["contract_hash"] == READMISSION.hash
    manifest = json.loads((stored.directory / "manifest.json").read_text())
    assert manifest["data_fingerprint"] == stored.tags["data_fingerprint"]
    assert "treatment paradox" in stored.tags["limitations"]
    (decision,) = journal(warehouse, MODEL)
    assert (decision.decision, decision.champion_after, decision.decided_by) == ("promoted", 1, GATE)
    (evaluated,) = result.asset_materializations_for_node("readmission_evaluation")
    page = Path(evaluated.metadata["report"].value).read_text()
    assert f"{len(demo_year.events):,}" in page, "the flow begins with all events"


def test_a_list_that_is_not_there_by_seven_is_stale() -> None:
    policy = build_defs().resolve_asset_graph().get(dg.AssetKey("care_management_scores")).freshness_policy
    assert isinstance(policy, dg.FreshnessPolicy)
    assert (policy.deadline_cron, policy.timezone) == ("0 7 * * *", "America/New_York")  # type: ignore[attr-defined]
    assert policy.lower_bound_delta == timedelta(hours=1)  # type: ignore[attr-defined]
