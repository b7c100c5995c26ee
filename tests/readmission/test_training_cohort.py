"""The training cohort: which discharges are in it, with which label, and what became of the others."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.cohort import CLAIMS_LAG, FOLLOW_UP, training_cohort
from resources.errors import PermanentError
from tests.readmission.cohorts import (
    AFTER,
    FIRST_DAY,
    LAST_DAY,
    NOW,
    assert_adds_up,
    cohort_of,
    history,
    labels_of,
    outcomes_table,
)
from tests.readmission.records import ZONE, admission, admissions_table, discharge, events_table, local


def test_the_set_has_the_tables_columns_and_strict_types() -> None:
    rows, stays = history()
    cohort = cohort_of(rows, stays)
    assert_adds_up(cohort)
    context = ["encounter_id", "patient_id", "discharged_at", "part", "readmitted_within_30_days"]
    assert cohort.table.column_names == [*context, *READMISSION.feature_names, "contract_hash"]
    assert cohort.table.schema.field("patient_age").type == pa.int64()
    assert cohort.table.schema.field("emergency_admission").type == pa.bool_()
    assert cohort.table.schema.field("insurance_type").type == pa.string()
    assert set(cohort.table["contract_hash"].to_pylist()) == {READMISSION.hash}
    assert READMISSION.encode(cohort.table).valid.all()
    assert all(column.null_count == 0 for column in cohort.table.columns)
    assert [e for e, label in labels_of(cohort).items() if label] == [
        e for e in labels_of(cohort) if int(e[2:]) % 10 == 0
    ]


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"discharge_status": "expired"}, "excluded_expired"),
        ({"patient_age": 12}, "excluded_minor"),
        ({"service_line": "obstetric"}, "excluded_service_line"),
        ({"covered_until": FIRST_DAY.date() - timedelta(days=9)}, "excluded_not_covered"),
        ({"deceased_at": FIRST_DAY}, "excluded_deceased"),
        ({"patient_id": ""}, "invalid_context"),
        ({"admitted_at": LAST_DAY}, "invalid_context"),
        ({"insurance_type": "SENTINEL"}, "invalid_features"),
        ({"num_medications_at_discharge": None}, "invalid_features"),
        ({"ingested_at": NOW + AFTER}, "arrived_later"),
        ({"covered_until": FIRST_DAY.date() + timedelta(days=29)}, "coverage_ended"),
    ],
)
def test_what_is_no_sound_index_discharge_is_dropped_and_counted(changes: dict[str, Any], step: str) -> None:
    rows, stays = history()
    before = cohort_of(rows, stays)
    rows[0] |= changes
    cohort = cohort_of(rows, stays)
    assert cohort.flow[step] == before.flow[step] + 1
    assert rows[0]["encounter_id"] not in labels_of(cohort)
    assert_adds_up(cohort)
    assert "SENTINEL" not in f"{cohort.flow} {cohort.broken_rules}"


def test_broken_rules_are_counted_by_field_and_reason() -> None:
    rows, stays = history()
    rows[0]["insurance_type"] = rows[1]["insurance_type"] = "Medicare"
    rows[2]["admitted_at"] = NOW
    assert cohort_of(rows, stays).broken_rules == {
        "discharged_at: before_admission": 1,
        "insurance_type: unknown_category": 2,
    }


@pytest.mark.parametrize(
    ("covered_until", "recorded", "dropped_for"),
    [
        (date(2024, 1, 31), True, "excluded_not_covered"),
        (date(2024, 2, 1), True, None),
        (date(2024, 3, 1), False, "coverage_ended"),
        (date(2024, 3, 2), False, None),
    ],
)
def test_days_of_coverage_are_days_in_the_platforms_zone(
    covered_until: date, recorded: bool, dropped_for: str | None
) -> None:
    rows, stays = history()
    # 22:00 in New York: in UTC both this day and the one 30 days later are a day further.
    late = discharge(9000, local("2024-02-01", 22), covered_until=covered_until)
    stays.append(admission(late["encounter_id"], late["patient_id"], late["admitted_at"]))
    outcome = {"encounter_id": "E-009000", "readmitted_within_30_days": False, "source": "test"}
    outcomes = [outcome | {"recorded_at": late["discharged_at"] + FOLLOW_UP}] if recorded else []
    without = cohort_of(rows, stays, outcomes, as_of=NOW.astimezone(ZONE))
    cohort = cohort_of([*rows, late], stays, outcomes, as_of=NOW.astimezone(ZONE))
    if dropped_for:
        assert cohort.flow[dropped_for] == without.flow[dropped_for] + 1
    else:
        assert "E-009000" in labels_of(cohort)
    assert_adds_up(cohort)


def test_death_within_30_days_stays_as_not_readmitted_even_though_coverage_ends_with_it() -> None:
    rows, stays = history()
    died = FIRST_DAY + timedelta(days=12)
    rows[1] |= {"deceased_at": died, "covered_until": died.date()}
    assert labels_of(cohort_of(rows, stays))["E-000001"] is False


def test_a_readmission_after_the_discharge_does_not_exclude_it() -> None:
    rows, stays = history()
    cohort = cohort_of(rows, stays)
    assert labels_of(cohort)["E-000000"] is True
    assert "excluded_readmitted" not in cohort.flow


def test_the_latest_row_of_an_encounter_counts_also_when_it_is_broken() -> None:
    rows, stays = history()
    correction = rows[1] | {"num_prior_admissions_12m": 99, "ingested_at": LAST_DAY}
    broken = rows[2] | {"patient_age": None, "ingested_at": LAST_DAY}
    cohort = cohort_of([correction, broken, *rows], stays)
    assert cohort.flow["superseded"] == 2
    by_encounter = dict(
        zip(
            cohort.table["encounter_id"].to_pylist(),
            cohort.table["num_prior_admissions_12m"].to_pylist(),
            strict=True,
        )
    )
    assert by_encounter["E-000001"] == 99
    assert "E-000002" not in by_encounter
    assert_adds_up(cohort)


def test_equal_arrival_is_decided_by_the_events_key() -> None:
    rows, stays = history()
    twin = rows[1] | {"num_prior_admissions_12m": 50}
    for keys, expected in [((0, 1), 50), ((1, 0), rows[1]["num_prior_admissions_12m"])]:
        events = events_table([rows[1], twin, *(r for r in rows if r is not rows[1])])
        ids = [*keys, *range(2, len(events))]
        cohort = training_cohort(
            events.append_column("event_id", pa.array(ids)), admissions_table(stays), outcomes_table([]), NOW
        )
        at = cohort.table["encounter_id"].to_pylist().index("E-000001")
        assert cohort.table["num_prior_admissions_12m"][at].as_py() == expected


def test_labels_wait_for_follow_up_and_claims() -> None:
    rows, stays = history()
    late = discharge(9000, LAST_DAY)
    stays.append(admission(late["encounter_id"], late["patient_id"], late["admitted_at"]))
    matured = LAST_DAY + FOLLOW_UP + CLAIMS_LAG
    assert "E-009000" in labels_of(cohort_of([*rows, late], stays, as_of=matured))
    too_early = cohort_of([*rows, late], stays, as_of=matured - AFTER)
    assert "E-009000" not in labels_of(too_early)
    assert too_early.flow["label_not_matured"] >= 1
    assert_adds_up(too_early)


def test_a_recorded_outcome_wins_and_needs_no_claims_lag() -> None:
    rows, stays = history()
    last = discharge(9000, LAST_DAY)
    recorded_at = LAST_DAY + FOLLOW_UP
    outcomes = [
        {"encounter_id": e, "readmitted_within_30_days": label, "source": "test", "recorded_at": recorded_at}
        for e, label in [("E-000001", True), ("E-000000", False), ("E-009000", True)]
    ]
    labels = labels_of(cohort_of([*rows, last], stays, outcomes, as_of=recorded_at))
    assert (labels["E-000001"], labels["E-000000"], labels["E-009000"]) == (True, False, True)
    unknown_yet = labels_of(cohort_of([*rows, last], stays, outcomes, as_of=recorded_at - AFTER))
    assert (unknown_yet["E-000001"], unknown_yet["E-000000"]) == (False, True)
    assert "E-009000" not in unknown_yet


def test_a_discharge_that_the_admissions_feed_does_not_cover_has_no_label() -> None:
    rows, stays = history()
    uncovered = [s for s in stays if s["encounter_id"] != "E-000003"]
    cohort = cohort_of(rows, uncovered)
    assert cohort.flow["label_unknown"] == 1
    assert "E-000003" not in labels_of(cohort)
    with pytest.raises(PermanentError, match="no discharges"):
        cohort_of(rows, [])


def test_admissions_that_arrived_later_are_not_known() -> None:
    rows, stays = history()
    for stay in stays:
        if stay["encounter_id"] == "R-0":
            stay["ingested_at"] = NOW + AFTER
    assert labels_of(cohort_of(rows, stays))["E-000000"] is False


def test_outcomes_alone_make_a_training_set() -> None:
    rows, _ = history()
    outcomes = [
        {
            "encounter_id": r["encounter_id"],
            "readmitted_within_30_days": n % 7 == 0,
            "source": "test",
            "recorded_at": r["discharged_at"] + FOLLOW_UP,
        }
        for n, r in enumerate(rows)
    ]
    cohort = cohort_of(rows, [], outcomes)
    assert_adds_up(cohort)
    assert labels_of(cohort) == {e: int(e[2:]) % 7 == 0 for e in labels_of(cohort)}
