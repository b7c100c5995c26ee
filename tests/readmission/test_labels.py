"""The 30-day label: which admission after a discharge makes it true."""

from __future__ import annotations

from datetime import timedelta

import pytest

from medscore_assets.readmission.cohort import FOLLOW_UP, unplanned_readmission
from tests.readmission.cohorts import AFTER, DAY
from tests.readmission.records import admission, admissions_table, discharge, events_table


def readmitted(
    *admissions: tuple[timedelta, bool], encounter: str = "next", patient: str = "P-000001"
) -> bool:
    """The label of one discharge that is followed by admissions (time after discharge, planned)."""
    rows = [
        admission(
            f"{encounter}-{n}" if encounter == "next" else encounter, patient, DAY + after, planned=planned
        )
        for n, (after, planned) in enumerate(admissions)
    ]
    return bool(unplanned_readmission(events_table([discharge(1, DAY)]), admissions_table(rows))[0])


@pytest.mark.parametrize(
    ("admissions", "label"),
    [
        ([], False),
        ([(timedelta(days=5), False)], True),
        ([(timedelta(0), False)], True),
        ([(FOLLOW_UP - AFTER, False)], True),
        ([(FOLLOW_UP, False)], False),
        ([(-AFTER, False)], False),
        ([(timedelta(days=5), True)], False),
        ([(timedelta(days=5), True), (timedelta(days=9), False)], False),
        ([(timedelta(days=5), False), (timedelta(days=9), True)], True),
        ([(timedelta(days=9), False), (timedelta(days=5), True)], False),
        ([(timedelta(days=5), True), (timedelta(days=5), False)], True),
        ([(timedelta(days=40), False), (timedelta(days=-40), False)], False),
    ],
)
def test_the_first_admission_within_30_days_decides(
    admissions: list[tuple[timedelta, bool]], label: bool
) -> None:
    assert readmitted(*admissions) is label


def test_only_another_stay_of_the_same_patient_is_a_readmission() -> None:
    assert not readmitted((timedelta(days=5), False), patient="P-000002")
    assert not readmitted((timedelta(0), False), encounter="E-000001")
    assert not readmitted((timedelta(days=2), False), encounter="E-000001")


def test_a_readmission_is_an_index_discharge_of_its_own() -> None:
    first = discharge(1, DAY)
    second = discharge(
        2, DAY + timedelta(days=14), patient_id="P-000001", admitted_at=DAY + timedelta(days=10)
    )
    third = admission("E-3", "P-000001", DAY + timedelta(days=20))
    stays = [admission("E-000001", "P-000001", first["admitted_at"]), third]
    stays.append(admission("E-000002", "P-000001", second["admitted_at"]))
    index = events_table([first, second])
    assert unplanned_readmission(index, admissions_table(stays)).tolist() == [True, True]
