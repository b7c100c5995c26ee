"""Eligibility: who is left off the list and out of the training set, and for which reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.readmission.cohort import EXCLUSIONS, check_context, eligibility
from tests.readmission.cohorts import AFTER, DAY, NOW, cohort_of, history
from tests.readmission.records import ZONE, admission, admissions_table, discharge, events_table, local

SIX = local("2026-03-03", 6)


def reasons(
    *rows: dict[str, Any], admissions: Sequence[dict[str, Any]] = (), as_of: datetime = SIX
) -> list[str]:
    found: list[str] = eligibility(
        events_table(list(rows)), admissions_table(list(admissions)), as_of
    ).tolist()
    return found


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"discharge_status": "expired"}, "expired"),
        ({"discharge_status": "hospice"}, "hospice"),
        ({"discharge_status": "transferred"}, "transferred"),
        ({"discharge_status": "left_against_advice"}, "left_against_advice"),
        ({"discharge_status": "unknown"}, "status_unknown"),
        ({"discharge_status": "a status that nobody listed"}, "status_unknown"),
        ({"patient_age": 17}, "minor"),
        ({"patient_age": 0}, "minor"),
        ({"patient_age": 18}, ""),
        ({"service_line": "obstetric"}, "service_line"),
        ({"service_line": "newborn"}, "service_line"),
        ({"service_line": "psychiatric"}, "service_line"),
        ({"service_line": "rehabilitation"}, "service_line"),
        ({"service_line": "cancer_treatment"}, "service_line"),
        ({"deceased_at": SIX}, "deceased"),
        ({"deceased_at": SIX + AFTER}, "deceased"),
        ({"covered_until": date(2026, 3, 2)}, "not_covered"),
        ({"covered_until": date(2026, 3, 3)}, ""),
    ],
)
def test_each_reason_to_leave_somebody_off_the_list(changes: dict[str, Any], reason: str) -> None:
    assert reasons(discharge(1, DAY), discharge(2, DAY, **changes)) == ["", reason]


@pytest.mark.parametrize("age", [None, -1, 121])
def test_an_invalid_age_is_left_to_the_contract(age: int | None) -> None:
    assert reasons(discharge(1, DAY, patient_age=age)) == [""]


def test_the_first_reason_in_the_declared_order_is_given() -> None:
    everything = {
        "discharge_status": "expired",
        "patient_age": 3,
        "deceased_at": DAY,
        "service_line": "newborn",
    }
    assert reasons(discharge(1, DAY, **everything)) == ["expired"]
    assert reasons(discharge(1, DAY, **everything | {"discharge_status": "routine"})) == ["minor"]
    assert EXCLUSIONS.index("minor") < EXCLUSIONS.index("service_line") < EXCLUSIONS.index("deceased")


@pytest.mark.parametrize(
    ("encounter", "patient", "admitted_at", "reason"),
    [
        ("other", "P-000001", DAY + timedelta(hours=5), "readmitted"),
        ("other", "P-000001", DAY, "readmitted"),
        ("other", "P-000001", SIX, ""),
        ("other", "P-000001", DAY - AFTER, ""),
        ("other", "P-000002", DAY + timedelta(hours=5), ""),
        ("E-000001", "P-000001", DAY, ""),
        ("E-000001", "P-000001", DAY + timedelta(hours=1), ""),
    ],
)
def test_readmitted_before_the_list_is_made(
    encounter: str, patient: str, admitted_at: datetime, reason: str
) -> None:
    assert reasons(discharge(1, DAY), admissions=[admission(encounter, patient, admitted_at)]) == [reason]


def test_a_planned_admission_also_takes_a_patient_off_the_list() -> None:
    again = admission("other", "P-000001", DAY + timedelta(hours=1), planned=True)
    assert reasons(discharge(1, DAY), admissions=[again]) == ["readmitted"]


def test_a_second_discharge_that_day_shows_the_readmission_without_any_admissions_feed() -> None:
    second = discharge(
        2, DAY + timedelta(hours=9), patient_id="P-000001", admitted_at=DAY + timedelta(hours=2)
    )
    assert reasons(discharge(1, DAY), second) == ["readmitted", ""]
    assert reasons(second, discharge(1, DAY)) == ["", "readmitted"]


def test_a_stay_that_ends_as_it_begins_is_not_its_own_readmission() -> None:
    brief = discharge(1, DAY, admitted_at=DAY)
    assert reasons(brief, admissions=[admission("E-000001", "P-000001", DAY)]) == [""]
    again = admission("other", "P-000001", DAY + timedelta(hours=1))
    own = admission("E-000001", "P-000001", DAY)
    assert reasons(brief, admissions=[own, again]) == ["readmitted"]


def test_nobody_is_nobody() -> None:
    assert reasons() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60), st.integers(0, 30)), max_size=25))
def test_readmitted_agrees_with_a_search_row_by_row(stays: list[tuple[int, int, int]]) -> None:
    rows = [
        discharge(
            n,
            DAY + timedelta(hours=end),
            patient_id=f"P-{patient}",
            admitted_at=DAY + timedelta(hours=end - length),
        )
        for n, (patient, end, length) in enumerate(stays)
    ]
    as_of = DAY + timedelta(hours=50)
    slow = [
        "readmitted"
        if any(
            other["patient_id"] == row["patient_id"]
            and other["encounter_id"] != row["encounter_id"]
            and row["discharged_at"] <= other["admitted_at"] < as_of
            for other in rows
        )
        else ""
        for row in rows
    ]
    assert reasons(*rows, as_of=as_of) == slow


def test_the_list_and_the_training_set_agree_on_who_is_covered_at_discharge() -> None:
    at = local("2024-02-01", 22)
    row = discharge(9000, at, covered_until=date(2024, 2, 1))
    assert reasons(row, as_of=at) == [""]
    rows, stays = history()
    cohort = cohort_of([*rows, row], stays, as_of=NOW.astimezone(ZONE))
    assert cohort.flow["excluded_not_covered"] == 0


def test_discharge_before_admission_breaks_the_context() -> None:
    checked = check_context(events_table([discharge(1, DAY), discharge(2, DAY, admitted_at=SIX)]))
    assert checked.valid.tolist() == [True, False]
    assert checked.counts() == {"discharged_at: before_admission": 1}
