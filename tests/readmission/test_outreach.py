"""The morning list on a real database: what happens with every row of a day."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.partitions import mornings, window
from medscore_assets.readmission import queries
from medscore_assets.readmission.outreach import DayNotPublished, OutreachList, top_factors
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.scoring import Explained, ReadmissionModel
from resources.warehouse import Warehouse
from tests.readmission.records import (
    admission,
    admissions_table,
    clean_day,
    discharge,
    events_table,
    local,
)

DAY = "2026-03-02"
POLICY = load_policy()


def rows_of(warehouse: Warehouse, table: sa.Table) -> list[dict[str, Any]]:
    """A whole table by primary key."""
    return warehouse.read(sa.select(table).order_by(*table.primary_key.columns)).to_pylist()


def add(warehouse: Warehouse, rows: list[dict[str, Any]], admissions: Sequence[dict[str, Any]] = ()) -> None:
    with warehouse.transaction() as connection:
        warehouse.append(connection, tables.discharge_events, events_table(rows))
        warehouse.append(connection, tables.inpatient_admissions, admissions_table(list(admissions)))


@pytest.fixture
def publish(warehouse: Warehouse, model: ReadmissionModel):  # type: ignore[no-untyped-def]
    """Makes one day's list."""

    def make(day: str = DAY, **options: Any) -> OutreachList:
        return publish_list(warehouse, window(day), lambda: Champion(model, 1), POLICY, **options)

    return make


def test_every_patient_has_rank_reasons_actions_disclaimer_and_versions(
    warehouse: Warehouse, publish: Any, model: ReadmissionModel
) -> None:
    add(warehouse, clean_day(DAY, 60))
    made = publish()
    assert made.counts == {"events": 60, "superseded": 0, "quarantined": 0, "excluded": 0, "scored": 60}
    scores = sorted(rows_of(warehouse, tables.care_management_scores), key=lambda r: r["rank"])
    assert [r["rank"] for r in scores] == list(range(1, 61))
    probabilities = [r["readmission_probability"] for r in scores]
    assert probabilities == sorted(probabilities, reverse=True)
    for row in scores:
        assert row["risk_tier"] == POLICY.tier(row["readmission_probability"])
        assert row["disclaimer"] == POLICY.disclaimer
        assert json.loads(row["recommended_actions"])
        factors = json.loads(row["top_factors"])
        assert len(factors) == POLICY.top_factors
        for factor in factors:
            assert factor["direction"] == ("raises" if factor["contribution"] > 0 else "lowers")
            assert factor["feature"] in READMISSION.feature_names
        assert row["policy_hash"] == POLICY.hash
        assert row["scored_at"].tzinfo is not None
    assert [r["within_capacity"] for r in scores] == [True] * 60


def test_the_reasons_and_the_baseline_add_up_to_the_probability(model: ReadmissionModel) -> None:
    matrix = READMISSION.encode(events_table(clean_day(DAY, 200))).matrix
    explained = model.explain(matrix)
    logit = np.log(explained.probabilities / (1 - explained.probabilities))
    assert np.abs(explained.baseline + explained.contributions.sum(axis=1) - logit).max() <= 1e-4


@pytest.mark.parametrize("count", [1, 3, 10])
def test_reasons_are_the_largest_contributions_in_words_and_as_json(
    model: ReadmissionModel, count: int
) -> None:
    matrix = READMISSION.encode(events_table(clean_day(DAY, 100))).matrix
    explained = model.explain(matrix)
    texts = top_factors(matrix, explained, count)
    for text, codes, contributions in zip(texts, matrix, explained.contributions, strict=True):
        expected = []
        for column in sorted(range(len(codes)), key=lambda c: -abs(contributions[c]))[:count]:
            feature = READMISSION.features[column]
            value = feature.decode(float(codes[column]))
            direction = "raises" if contributions[column] > 0 else "lowers"
            words = feature.words(value)  # type: ignore[arg-type]
            expected.append(
                {
                    "feature": feature.name,
                    "value": value,
                    "contribution": round(float(contributions[column]), 6),
                    "direction": direction,
                    "text": f"{words} ({direction} the risk)",
                }
            )
        assert text == json.dumps(expected)


def test_what_contributes_nothing_is_no_reason() -> None:
    matrix = READMISSION.encode(events_table([discharge(1, local(DAY))])).matrix
    contributions = np.zeros((1, len(READMISSION.features)))
    contributions[0, :5] = [-0.0, 0.25, 4e-7, -0.5, -4e-7]
    explained = Explained(np.array([0.3]), contributions, -1.0)
    reasons = json.loads(top_factors(matrix, explained, 10)[0])
    assert [(r["feature"], r["direction"]) for r in reasons] == [
        (READMISSION.feature_names[3], "lowers"),
        (READMISSION.feature_names[1], "raises"),
    ]


def test_capacity_marks_the_first_ranks_only(warehouse: Warehouse, publish: Any) -> None:
    add(warehouse, clean_day(DAY, POLICY.daily_calls + 5))
    publish()
    scores = rows_of(warehouse, tables.care_management_scores)
    assert {r["rank"] for r in scores if r["within_capacity"]} == set(range(1, POLICY.daily_calls + 1))


def test_ties_are_ordered_by_discharge_time_and_then_encounter(warehouse: Warehouse, publish: Any) -> None:
    twin = {k: v for k, v in discharge(1, local(DAY)).items() if k in READMISSION.feature_names}
    early, late = local(DAY, 9), local(DAY, 17)
    add(
        warehouse,
        [discharge(5, late, **twin), discharge(4, early, **twin), discharge(3, late, **twin)],
    )
    publish()
    ranked = sorted(rows_of(warehouse, tables.care_management_scores), key=lambda r: r["rank"])
    assert [r["encounter_id"] for r in ranked] == ["E-000004", "E-000003", "E-000005"]


def test_the_same_day_twice_is_the_same_table_row_for_row(warehouse: Warehouse, publish: Any) -> None:
    add(warehouse, [*clean_day(DAY, 50), discharge(900, local(DAY), patient_age=None)])
    publish()
    before = {t: rows_of(warehouse, t) for t in (tables.care_management_scores, tables.encounter_quarantine)}
    publish()
    assert {t: rows_of(warehouse, t) for t in before} == before


@pytest.mark.parametrize(
    ("dirt", "field", "reason"),
    [
        ({"emergency_admission": None}, "emergency_admission", "missing"),
        ({"insurance_type": None}, "insurance_type", "missing"),
        ({"insurance_type": "Medicare"}, "insurance_type", "unknown_category"),
        ({"primary_diagnosis_group": " cardiac"}, "primary_diagnosis_group", "unknown_category"),
        ({"primary_diagnosis_group": "cardac"}, "primary_diagnosis_group", "unknown_category"),
        ({"patient_age": 121}, "patient_age", "above_maximum"),
        ({"length_of_stay_days": -1}, "length_of_stay_days", "below_minimum"),
        ({"length_of_stay_days": 366}, "length_of_stay_days", "above_maximum"),
        ({"encounter_id": None}, "encounter_id", "missing"),
        ({"patient_id": "  "}, "patient_id", "empty"),
        ({"patient_id": "P-000401 "}, "patient_id", "padded"),
        ({"length_of_stay_days": 2.7}, "length_of_stay_days", "not_whole"),
        ({"discharged_at": local("2062-03-02"), "ingested_at": local(DAY)}, "discharged_at", "after_arrival"),
        ({"discharge_status": "dead"}, "discharge_status", "unknown_category"),
        ({"discharged_at": None}, "discharged_at", "missing"),
        ({"admitted_at": local("2026-03-04")}, "discharged_at", "before_admission"),
    ],
)
def test_one_bad_row_in_800_leaves_799_scores_and_one_quarantined(
    warehouse: Warehouse, publish: Any, dirt: dict[str, Any], field: str, reason: str
) -> None:
    rows = clean_day(DAY, 800)
    rows[400] |= dirt
    add(warehouse, rows)
    made = publish()
    assert made.counts["scored"] == 799
    assert made.counts["quarantined"] == 1
    (kept,) = rows_of(warehouse, tables.encounter_quarantine)
    assert (kept["field"], kept["reason"]) == (field, reason)
    assert kept["encounter_id"] == rows[400]["encounter_id"]


def test_a_day_with_thirty_percent_bad_rows_is_not_published_and_the_old_list_stands(
    warehouse: Warehouse, publish: Any
) -> None:
    add(warehouse, clean_day(DAY, 70))
    publish()
    before = rows_of(warehouse, tables.care_management_scores), rows_of(warehouse, tables.outreach_lists)
    bad = [row | {"insurance_type": "SENTINEL"} for row in clean_day(DAY, 30, first_number=500)]
    add(warehouse, bad)
    with pytest.raises(DayNotPublished, match="30 of 100 discharges break the contract") as refused:
        publish()
    assert "insurance_type unknown_category x30" in str(refused.value)
    assert "SENTINEL" not in str(refused.value)
    assert (
        rows_of(warehouse, tables.care_management_scores),
        rows_of(warehouse, tables.outreach_lists),
    ) == before
    assert len(rows_of(warehouse, tables.encounter_quarantine)) == 30


def test_an_empty_day_is_attested_with_zero(warehouse: Warehouse, publish: Any) -> None:
    made = publish()
    assert set(made.counts.values()) == {0}
    (header,) = rows_of(warehouse, tables.outreach_lists)
    assert header["scored"] == 0
    assert rows_of(warehouse, tables.care_management_scores) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"discharge_status": "expired"}, "expired"),
        ({"discharge_status": "hospice"}, "hospice"),
        ({"discharge_status": "transferred"}, "transferred"),
        ({"discharge_status": "left_against_advice"}, "left_against_advice"),
        ({"discharge_status": "unknown"}, "status_unknown"),
        ({"patient_age": 17}, "minor"),
        ({"service_line": "obstetric"}, "service_line"),
        ({"deceased_at": local(DAY, 20)}, "deceased"),
        ({"deceased_at": local("2026-03-05")}, "deceased"),
        ({"covered_until": date(2026, 3, 1)}, "not_covered"),
    ],
)
def test_who_must_not_be_called_is_excluded_with_the_reason(
    warehouse: Warehouse, publish: Any, changes: dict[str, Any], reason: str
) -> None:
    add(warehouse, [*clean_day(DAY, 3), discharge(50, local(DAY), **changes)])
    assert publish().exclusion_reasons == {reason: 1}
    listed = {r["encounter_id"] for r in rows_of(warehouse, tables.care_management_scores)}
    assert listed == {"E-000001", "E-000002", "E-000003"}
    (excluded,) = rows_of(warehouse, tables.outreach_exclusions)
    assert (excluded["encounter_id"], excluded["reason"]) == ("E-000050", reason)


def test_a_patient_readmitted_before_six_is_not_called(warehouse: Warehouse, publish: Any) -> None:
    again = admission("E-NEXT", "P-000001", local(DAY, 23))
    add(warehouse, [discharge(1, local(DAY)), discharge(2, local(DAY))], [again])
    assert publish().exclusion_reasons == {"readmitted": 1}


def test_two_discharges_of_one_patient_in_a_day_do_not_collide(warehouse: Warehouse, publish: Any) -> None:
    first = discharge(1, local(DAY, 8))
    second = discharge(2, local(DAY, 22), patient_id="P-000001", admitted_at=local(DAY, 12))
    add(warehouse, [first, second])
    made = publish()
    assert made.counts["scored"] + made.counts["excluded"] == 2
    assert made.exclusion_reasons == {"readmitted": 1}
    assert [r["encounter_id"] for r in rows_of(warehouse, tables.care_management_scores)] == ["E-000002"]


def test_an_exact_repeat_is_superseded_and_a_correction_counts(warehouse: Warehouse, publish: Any) -> None:
    row = discharge(1, local(DAY), num_prior_admissions_12m=0)
    corrected = row | {"num_prior_admissions_12m": 9, "ingested_at": row["ingested_at"] + timedelta(hours=1)}
    add(warehouse, [row, row, corrected])
    made = publish()
    assert made.counts == {"events": 3, "superseded": 2, "quarantined": 0, "excluded": 0, "scored": 1}
    (score,) = rows_of(warehouse, tables.care_management_scores)
    alone = READMISSION.encode_row(corrected)
    from medscore_assets.readmission.outreach import features_sha256

    assert score["features_sha256"] == features_sha256(alone)[0]


def test_the_newest_row_counts_even_if_it_is_the_broken_one(warehouse: Warehouse, publish: Any) -> None:
    row = discharge(1, local(DAY))
    broken = row | {"patient_age": None, "ingested_at": row["ingested_at"] + timedelta(hours=1)}
    add(warehouse, [row, broken])
    assert publish().counts == {"events": 2, "superseded": 1, "quarantined": 1, "excluded": 0, "scored": 0}


def out_of_date(warehouse: Warehouse, day: str = DAY) -> bool:
    """Whether the window holds something that its list was not made from."""
    (state,) = warehouse.read(queries.window_state(window(day))).to_pylist()
    return any(state[name] != state[f"listed_{name}"] for name in ("events", "superseded", "admissions"))


def test_a_late_discharge_marks_its_list_and_appears_on_the_rerun(warehouse: Warehouse, publish: Any) -> None:
    add(warehouse, clean_day(DAY, 5))
    publish()
    assert not out_of_date(warehouse)
    add(warehouse, [discharge(77, local(DAY, 14), ingested_at=local("2026-03-05"))])
    assert out_of_date(warehouse)
    publish()
    assert "E-000077" in {r["encounter_id"] for r in rows_of(warehouse, tables.care_management_scores)}
    assert not out_of_date(warehouse)


def test_a_late_admission_marks_the_list_and_takes_the_patient_off(
    warehouse: Warehouse, publish: Any
) -> None:
    add(warehouse, clean_day(DAY, 3))
    publish()
    add(warehouse, [], [admission("E-NEXT", "P-000001", local(DAY, 23))])
    assert out_of_date(warehouse)
    assert publish().exclusion_reasons == {"readmitted": 1}
    assert not out_of_date(warehouse)


def test_a_second_stay_counts_as_a_readmission_even_in_quarantine(warehouse: Warehouse, publish: Any) -> None:
    again = discharge(2, local(DAY, 22), patient_id="P-000001", admitted_at=local(DAY, 12), hospital_id=None)
    add(warehouse, [discharge(1, local(DAY, 8)), again])
    made = publish()
    assert (made.counts["scored"], made.counts["quarantined"]) == (0, 1)
    assert made.exclusion_reasons == {"readmitted": 1}


def test_an_infinite_date_does_not_stop_the_day(warehouse: Warehouse, publish: Any) -> None:
    add(warehouse, clean_day(DAY, 20))
    with warehouse.transaction() as connection:
        connection.execute(
            sa.text("UPDATE discharge_events SET covered_until = 'infinity' WHERE encounter_id = 'E-000001'")
        )
    assert publish().counts["scored"] == 20


def test_a_refused_run_keeps_its_quarantine_in_the_transaction_that_held_the_lock(
    warehouse: Warehouse, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(warehouse, [row | {"patient_age": None} for row in clean_day(DAY, 30)])
    opened = []
    transaction = Warehouse.transaction

    def counting(self: Warehouse) -> Any:
        opened.append(self)
        return transaction(self)

    monkeypatch.setattr(Warehouse, "transaction", counting)
    with pytest.raises(DayNotPublished):
        publish()
    assert len(opened) == 1
    assert len(rows_of(warehouse, tables.encounter_quarantine)) == 30


def test_the_versions_on_a_score_are_those_that_made_it(
    warehouse: Warehouse, model: ReadmissionModel
) -> None:
    add(warehouse, clean_day(DAY, 2))
    before = datetime.now(UTC)
    publish_list(warehouse, window(DAY), lambda: Champion(model, 7), POLICY)
    for row in rows_of(warehouse, tables.care_management_scores):
        assert (row["model_name"], row["model_version"]) == (model.name, 7)
        assert (row["policy_version"], row["policy_hash"]) == (POLICY.version, POLICY.hash)
        assert before <= row["scored_at"] <= datetime.now(UTC)


def test_a_discharge_corrected_to_another_day_leaves_the_first_list(
    warehouse: Warehouse, publish: Any
) -> None:
    row = discharge(1, local(DAY))
    add(warehouse, [row, discharge(2, local(DAY))])
    publish()
    moved = row | {"discharged_at": local("2026-03-03"), "ingested_at": local("2026-03-03", 13)}
    add(warehouse, [moved])
    assert out_of_date(warehouse)
    publish()
    publish("2026-03-03")
    listed = [
        (str(r["score_date"]), r["encounter_id"]) for r in rows_of(warehouse, tables.care_management_scores)
    ]
    assert listed == [("2026-03-02", "E-000002"), ("2026-03-03", "E-000001")]


@pytest.mark.parametrize(("changes_on", "hours"), [("2026-03-07", 23), ("2026-10-31", 25)])
def test_on_the_days_when_clocks_change_every_discharge_is_on_exactly_one_list(
    warehouse: Warehouse, publish: Any, changes_on: str, hours: int
) -> None:
    days = [(date.fromisoformat(changes_on) + timedelta(days=n)).isoformat() for n in (-1, 0, 1)]
    # In UTC: Python subtracts two times of one zone as if their clocks never changed.
    start, opened, closed, end = (
        moment.astimezone(UTC)
        for moment in (window(days[0]).start, window(days[1]).start, window(days[1]).end, window(days[2]).end)
    )
    assert closed - opened == timedelta(hours=hours)
    count = int((end - start) / timedelta(minutes=30))
    add(warehouse, [discharge(n, start + n * timedelta(minutes=30)) for n in range(count)])
    total = sum(publish(day).counts["scored"] for day in days)
    listed = [r["encounter_id"] for r in rows_of(warehouse, tables.care_management_scores)]
    assert total == len(listed) == len(set(listed)) == count


def test_the_documents_24_hours_lose_an_hour_when_clocks_go_back() -> None:
    opened = window("2026-10-31").start.astimezone(UTC)
    closed = window("2026-10-31").end.astimezone(UTC)
    assert closed - timedelta(hours=24) > opened


def test_windows_touch_without_gap_or_overlap_all_year() -> None:
    keys = [k for k in mornings().get_partition_keys() if k.startswith("2025")]
    bounds = [window(k) for k in keys]
    assert len(bounds) == 365
    assert all(a.end == b.start for a, b in itertools.pairwise(bounds))
    assert all(b.start.hour == 6 for b in bounds)


@pytest.mark.faults
def test_two_runs_at_once_leave_the_table_of_one(warehouse: Warehouse, publish: Any) -> None:
    add(warehouse, clean_day(DAY, 120))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            publish()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    raced = rows_of(warehouse, tables.care_management_scores)
    publish()
    assert rows_of(warehouse, tables.care_management_scores) == raced
    assert len(raced) == 120


def test_scores_without_reasons_are_the_scores_with_reasons(warehouse: Warehouse, publish: Any) -> None:
    add(warehouse, clean_day(DAY, 300))
    publish(explain=True)
    explained = {r["encounter_id"]: r for r in rows_of(warehouse, tables.care_management_scores)}
    publish(explain=False)
    for row in rows_of(warehouse, tables.care_management_scores):
        other = explained[row["encounter_id"]]
        assert row["readmission_probability"] == other["readmission_probability"]
        assert (row["risk_tier"], row["rank"]) == (other["risk_tier"], other["rank"])
