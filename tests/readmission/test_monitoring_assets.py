"""Outcomes and monitoring as Dagster runs them, on lists of a demo hospital in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.database import create_database, upgrade
from medscore_assets.demo.discharges import DemoData
from medscore_assets.monitoring.thresholds import DEFAULT_FILE as THRESHOLDS
from medscore_assets.readmission.cohort import check_context, eligibility
from medscore_assets.readmission.columns import as_mask, as_micros, local_days
from medscore_assets.readmission.monitoring_assets import (
    MONITORING_CHECKS,
    NO_REFERENCE,
    readmission_monitoring,
    readmission_score_outcomes,
)
from medscore_assets.readmission.policy import DEFAULT_FILE, TIERS, load_policy
from medscore_assets.readmission.scoring import MODEL, MODEL_FILE, ReadmissionModel
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse
from tests.conftest import address_of, copied_database
from tests.readmission.records import ZONE, admission, clean_day, local
from tests.readmission.test_outreach import add, rows_of

FIRST, LAST = date(2025, 9, 1), date(2025, 12, 31)
Run = Callable[..., dg.ExecuteInProcessResult]


def lists_of(events: pa.Table, model: ReadmissionModel, version: int) -> tuple[pa.Table, pa.Table]:
    """Headers and scores of many days at once, as their lists hold them, without the reasons."""
    policy = load_policy()
    sound = events.filter(pa.array(check_context(events).valid))
    eligible = sound.filter(
        pa.array(eligibility(sound, sound.slice(0, 0), datetime(2024, 1, 1, tzinfo=UTC)) == "")
    )
    encoded = READMISSION.encode(eligible)
    eligible, matrix = eligible.filter(pa.array(encoded.valid)), encoded.matrix[encoded.valid]
    p = model.score(matrix)
    left = as_micros(eligible["discharged_at"])
    days = local_days(left - 6 * 3_600_000_000, ZONE)
    order = np.lexsort((-p, days))
    eligible, p, days = eligible.take(pa.array(order)), p[order], days[order]
    opened, sizes = np.unique(days, return_counts=True)
    rank = np.concatenate([np.arange(1, size + 1) for size in sizes])
    n = len(p)
    starts = [
        datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=11) for day in opened.tolist()
    ]
    stamp = {
        "model_name": MODEL,
        "model_version": version,
        "policy_version": policy.version,
        "policy_hash": policy.hash,
    }
    headers = [
        {
            "score_date": day,
            "window_start": start,
            "window_end": start + timedelta(days=1),
            "events": size,
            "superseded": 0,
            "quarantined": 0,
            "excluded": 0,
            "scored": size,
            "admissions": 0,
            "contract_hash": READMISSION.hash,
            "published_at": start,
            **stamp,
        }
        for day, start, size in zip(opened.tolist(), starts, sizes.tolist(), strict=True)
    ]
    scores = eligible.select(["encounter_id", "patient_id", "hospital_id", "discharged_at"])
    for name, values in {
        "score_date": pa.array(days),
        "rank": pa.array(rank),
        "within_capacity": pa.array(rank <= 15),
        "readmission_probability": pa.array(p),
        "risk_tier": pa.array([TIERS[i] for i in policy.tier_indices(p)]),
        "top_factors": pa.array(["[]"] * n),
        "recommended_actions": pa.array(['["call"]'] * n),
        "disclaimer": pa.array([policy.disclaimer] * n),
        "features_sha256": pa.array(["-"] * n),
        "scored_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * n),
        **{name: pa.array([value] * n) for name, value in stamp.items()},
    }.items():
        scores = scores.append_column(name, values)
    return pa.Table.from_pylist(headers), scores


def fill(warehouse: Warehouse, events: pa.Table, admissions: pa.Table, model: Any, version: int) -> None:
    headers, scores = lists_of(events, model, version)
    with warehouse.transaction() as connection:
        warehouse.append(connection, tables.discharge_events, events)
        warehouse.append(connection, tables.inpatient_admissions, admissions)
        warehouse.append(connection, tables.outreach_lists, headers)
        warehouse.append(connection, tables.care_management_scores, scores)


@pytest.fixture(scope="session")
def version(champion: ModelRegistry) -> int:
    return champion.champion(MODEL).version


@pytest.fixture(scope="session")
def months_of_lists(postgres: str, demo_year: DemoData, model: ReadmissionModel, version: int) -> str:
    """The name of a database with the demo hospital's lists of four months, to be copied."""
    url = address_of(postgres, "months_of_lists")
    create_database(url)
    upgrade(url)
    events = demo_year.events
    # One clean row per encounter: corrections and late rows are tested with the lists.
    places = pc.index_in(pc.unique(events["encounter_id"]), value_set=events["encounter_id"].combine_chunks())
    events = events.take(places.drop_null())
    since = pa.scalar(datetime(2025, 9, 1, 10, tzinfo=UTC), pa.timestamp("us", "UTC"))
    kept = as_mask(pc.greater_equal(events["discharged_at"], since))
    warehouse = Warehouse(url)
    fill(warehouse, events.filter(pa.array(kept)), demo_year.admissions, model, version)
    warehouse.close()
    return "months_of_lists"


@pytest.fixture
def hospital(postgres: str, months_of_lists: str) -> Iterator[Warehouse]:
    with copied_database(postgres, months_of_lists) as url:
        warehouse = Warehouse(url)
        yield warehouse
        warehouse.close()


@pytest.fixture(scope="module")
def instance() -> Any:
    with dg.DagsterInstance.ephemeral() as shared:
        yield shared


@pytest.fixture
def run(champion: ModelRegistry, instance: dg.DagsterInstance, tmp_path: Path) -> Run:
    """Materializes outcomes and monitoring with their checks."""

    def materialize(warehouse: Warehouse, registry: ModelRegistry = champion) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [readmission_score_outcomes, readmission_monitoring, *MONITORING_CHECKS],
            resources={
                "warehouse": warehouse,
                "registry": registry,
                "policy_file": DEFAULT_FILE,
                "thresholds_file": THRESHOLDS,
                "reports_folder": tmp_path,
            },
            instance=instance,
            raise_on_error=False,
        )

    return materialize


def checks(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, str]]:
    return {e.check_name: (e.passed, e.severity.value) for e in result.get_asset_check_evaluations()}


def told(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


def measures(warehouse: Warehouse) -> dict[tuple[str, str, date], dict[str, Any]]:
    rows = rows_of(warehouse, tables.monitoring_measures)
    return {(row["measure"], row["subject"], row["period_start"]): row for row in rows}


def execute(warehouse: Warehouse, statement: str) -> None:
    with warehouse.transaction() as connection:
        connection.execute(sa.text(statement))


# --- as it should be --------------------------------------------------------------------------------


def test_steady_lists_are_good_and_the_same_run_again_changes_nothing(
    hospital: Warehouse, run: Run, tmp_path: Path
) -> None:
    result = run(hospital)
    assert result.success
    assert checks(result) == {"no_drift_alarm": (True, "WARN"), "performance_holds": (True, "ERROR")}
    found = measures(hospital)
    steady = found["psi", "score", LAST - timedelta(days=27)]
    assert (steady["state"], steady["period_end"]) == ("good", LAST)
    assert found["auroc", "all", date(2025, 10, 1)]["state"] == "good"
    assert found["auroc", "all", date(2025, 10, 1)]["events"] >= 50
    # December's labels are not mature, and of November only the first half is.
    assert ("auroc", "all", date(2025, 12, 1)) not in found
    assert told(result, "readmission_monitoring")["states"].get("alarm", 0) == 0
    page = (tmp_path / MODEL / "monitoring.html").read_bytes()

    outcomes, kept = (
        rows_of(hospital, tables.readmission_score_outcomes),
        rows_of(hospital, tables.monitoring_measures),
    )
    again = run(hospital)
    assert told(again, "readmission_score_outcomes")["rows_changed"] == 0
    assert rows_of(hospital, tables.readmission_score_outcomes) == outcomes
    assert rows_of(hospital, tables.monitoring_measures) == kept
    assert (tmp_path / MODEL / "monitoring.html").read_bytes() == page


def test_the_label_is_that_of_the_training_set(hospital: Warehouse, run: Run, demo_year: DemoData) -> None:
    from medscore_assets.readmission.cohort import training_cohort
    from tests.models import NO_OUTCOMES

    assert run(hospital).success
    newest = hospital.read(sa.select(sa.func.max(tables.inpatient_admissions.c.ingested_at).label("at")))
    cohort = training_cohort(
        demo_year.events, demo_year.admissions, NO_OUTCOMES, newest["at"][0].as_py().astimezone(ZONE)
    ).table
    trained_on = dict(
        zip(cohort["encounter_id"].to_pylist(), cohort["readmitted_within_30_days"].to_pylist(), strict=True)
    )
    found = {
        row["encounter_id"]: row["readmitted_within_30_days"]
        for row in rows_of(hospital, tables.readmission_score_outcomes)
    }
    both = found.keys() & trained_on.keys()
    assert len(both) > 1000
    assert {e: found[e] for e in both} == {e: trained_on[e] for e in both}


# --- drift and loss of performance ------------------------------------------------------------------


def test_a_feature_that_moves_alarms_and_nothing_else_fails(
    hospital: Warehouse, run: Run, tmp_path: Path
) -> None:
    execute(
        hospital,
        "UPDATE discharge_events SET num_medications_at_discharge = num_medications_at_discharge + 12 "
        "WHERE discharged_at >= '2025-12-01' AND num_medications_at_discharge < 80",
    )
    result = run(hospital)
    assert result.success
    assert checks(result) == {"no_drift_alarm": (False, "WARN"), "performance_holds": (True, "ERROR")}
    found = measures(hospital)
    for days in (7, 28):
        start = LAST - timedelta(days=days - 1)
        assert found["psi", "num_medications_at_discharge", start]["state"] in ("alarm", "not_judged")
        assert found["psi", "patient_age", start]["state"] in ("good", "not_judged")
    assert found["psi", "num_medications_at_discharge", LAST - timedelta(days=27)]["state"] == "alarm"
    verdicts = told(result, "readmission_monitoring")["verdicts"]
    assert "num medications at discharge" in verdicts
    assert "act" in (tmp_path / MODEL / "monitoring.html").read_text()


def test_a_field_that_goes_missing_alarms(hospital: Warehouse, run: Run) -> None:
    execute(
        hospital,
        "UPDATE discharge_events SET insurance_type = ' ' "
        "WHERE discharged_at >= '2025-12-01' AND event_id % 5 = 0",
    )
    run(hospital)
    row = measures(hospital)["missing_rate", "insurance_type", LAST - timedelta(days=27)]
    assert row["value"] == pytest.approx(0.2, abs=0.03)
    assert row["state"] == "alarm"


def test_scores_that_outcomes_do_not_bear_out_are_an_error(hospital: Warehouse, run: Run) -> None:
    execute(
        hospital,
        "UPDATE care_management_scores SET readmission_probability = least(1, readmission_probability * 2)",
    )
    result = run(hospital)
    assert checks(result)["performance_holds"] == (False, "ERROR")
    row = measures(hospital)["observed_expected", "all", date(2025, 10, 1)]
    assert row["state"] == "alarm"
    assert row["upper"] < 0.7


def test_with_calls_the_verdict_rests_on_those_who_were_not_called(
    hospital: Warehouse, run: Run, tmp_path: Path
) -> None:
    execute(
        hospital,
        "INSERT INTO outreach_calls SELECT encounter_id, discharged_at + interval '2 days', "
        "(array['called', 'reached', 'declined'])[1 + rank % 3], 'test' "
        "FROM care_management_scores WHERE within_capacity",
    )
    result = run(hospital)
    assert told(result, "readmission_score_outcomes")["calls"].keys() == {
        "not_called",
        "called",
        "reached",
        "declined",
    }
    found = measures(hospital)
    october = date(2025, 10, 1)
    assert {found["auroc", arm, october]["state"] for arm in ("all", "reached", "within_capacity")} == {
        "not_judged"
    }
    not_called = found["observed_expected", "not_called", october]
    assert (not_called["state"], not_called["n"]) == ("good", found["auroc", "over_capacity", october]["n"])
    page = (tmp_path / MODEL / "monitoring.html").read_text()
    assert "treatment paradox" in page
    assert "not called" in page


def test_drift_of_an_earlier_day_stays_when_a_later_one_is_measured(hospital: Warehouse, run: Run) -> None:
    run(hospital)
    before = [row for row in rows_of(hospital, tables.monitoring_measures) if row["measure"] == "psi"]
    execute(hospital, "DELETE FROM care_management_scores WHERE score_date = '2025-12-31'")
    execute(hospital, "DELETE FROM outreach_lists WHERE score_date = '2025-12-31'")
    run(hospital)
    after = [row for row in rows_of(hospital, tables.monitoring_measures) if row["measure"] == "psi"]
    assert [row for row in after if row["period_end"] == LAST] == before
    assert len(after) == 2 * len(before)


# --- labels as they mature -----------------------------------------------------------------------------


def test_labels_mature_day_by_day(
    warehouse: Warehouse, run: Run, model: ReadmissionModel, version: int
) -> None:
    days = [f"2025-03-0{n}" for n in (1, 2, 3)]
    rows = [row for n, day in enumerate(days) for row in clean_day(day, 2, first_number=10 * n + 1)]
    from tests.readmission.records import admissions_table, events_table

    stays = [admission(r["encounter_id"], r["patient_id"], r["admitted_at"]) for r in rows]
    fill(warehouse, events_table(rows), admissions_table(stays), model, version)
    seen = []
    for number, day in enumerate(("2025-04-13", "2025-04-15", "2025-04-16", "2025-04-17")):
        # The feed tells of somebody else on that day: so far it is known.
        add(warehouse, [], [admission(f"X-{number}", f"Y-{number}", local(day, 6))])
        assert run(warehouse).success
        found = rows_of(warehouse, tables.readmission_score_outcomes)
        seen.append(sorted({row["score_date"].isoformat() for row in found}))
    assert seen == [[], days[:1], days[:2], days]


# --- what may be absent ------------------------------------------------------------------------------------


def test_an_empty_warehouse_is_measured_without_an_error(
    warehouse: Warehouse, run: Run, tmp_path: Path
) -> None:
    result = run(warehouse)
    assert result.success
    assert rows_of(warehouse, tables.monitoring_measures) == []
    assert all(passed for passed, _ in checks(result).values())
    assert "No list was published yet" in (tmp_path / MODEL / "monitoring.html").read_text()


def test_a_model_stored_without_a_reference_is_not_judged_and_says_what_mends_it(
    hospital: Warehouse, run: Run, model: ReadmissionModel, empty_registry: ModelRegistry, tmp_path: Path
) -> None:
    files = {MODEL_FILE: model.manifest.files[MODEL_FILE]}
    older = replace(model, reference=None, manifest=model.manifest.model_copy(update={"files": files}))
    older.save(tmp_path / "older")
    empty_registry.set_alias(MODEL, empty_registry.register(MODEL, tmp_path / "older"), CHAMPION)
    result = run(hospital, empty_registry)
    assert result.success
    assert told(result, "readmission_monitoring")["not_judged_because"] == NO_REFERENCE
    drift = [row for row in rows_of(hospital, tables.monitoring_measures) if row["measure"] == "psi"]
    assert {row["state"] for row in drift} == {"not_judged"}
    assert "medscore train readmission" in (tmp_path / MODEL / "monitoring.html").read_text()


def test_nothing_of_a_patient_is_told(hospital: Warehouse, run: Run, tmp_path: Path) -> None:
    result = run(hospital)
    page = (tmp_path / MODEL / "monitoring.html").read_text()
    metadata = str([told(result, a) for a in ("readmission_score_outcomes", "readmission_monitoring")])
    patients = hospital.read(sa.select(tables.care_management_scores.c.patient_id).limit(200))
    for patient in patients["patient_id"].to_pylist():
        assert patient not in page
        assert patient not in metadata
