"""The split of the training cohort: which patient is in which part."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medscore_assets.readmission.cohort import FOLLOW_UP
from resources.errors import PermanentError
from tests.readmission.cohorts import FIRST_DAY, assert_adds_up, cohort_of, history
from tests.readmission.records import discharge


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.integers(120, 400))
def test_a_patient_is_in_one_part_and_the_test_is_later_in_time(seed: int, patients: int) -> None:
    random = np.random.default_rng(seed)
    rows, outcomes = [], []
    for n in range(900):
        at = FIRST_DAY + timedelta(days=400) * float(random.random())
        row = discharge(n, at, patient_id=f"P-{random.integers(patients)}")
        rows.append(row | {"admitted_at": at - timedelta(hours=6)})
        outcomes.append(
            {
                "encounter_id": row["encounter_id"],
                "readmitted_within_30_days": bool(random.random() < 0.3),
                "source": "test",
                "recorded_at": at + FOLLOW_UP,
            }
        )
    cohort = cohort_of(rows, [], outcomes)
    assert_adds_up(cohort)
    frame = cohort.table.to_pandas()
    assert (frame.groupby("patient_id")["part"].nunique() == 1).all()
    opens = frame.loc[frame["part"] == "test", "discharged_at"].min()
    development = frame[frame["part"] != "test"]
    assert (development["discharged_at"] + FOLLOW_UP <= opens).all()
    in_period = sum(r["discharged_at"] >= opens for r in rows)
    assert in_period == cohort.flow["test"]
    assert abs(in_period - 180) <= 1


def test_the_split_does_not_depend_on_the_order_of_rows() -> None:
    rows, stays = history()
    assert cohort_of(rows, stays).table.equals(cohort_of(rows[::-1], stays[::-1]).table)


def test_train_and_validation_divide_four_to_one_and_stay_put_when_patients_come() -> None:
    rows, stays = history(2000)
    cohort = cohort_of(rows, stays)
    share = cohort.flow["train"] / (cohort.flow["train"] + cohort.flow["validation"])
    assert 0.77 < share < 0.83
    fewer = cohort_of([r for n, r in enumerate(rows) if n % 3], stays)
    part = dict(zip(cohort.table["patient_id"].to_pylist(), cohort.table["part"].to_pylist(), strict=True))
    moved = [
        p
        for p, q in zip(fewer.table["patient_id"].to_pylist(), fewer.table["part"].to_pylist(), strict=True)
        if {part.get(p, q), q} == {"train", "validation"}
    ]
    assert moved == []


def test_a_part_with_one_outcome_only_is_refused_by_name() -> None:
    rows, stays = history()
    early = FIRST_DAY + timedelta(days=200)
    none_late = [s for s in stays if s["admitted_at"] < early or s["encounter_id"].startswith("E")]
    with pytest.raises(PermanentError, match=r"the test part .* all with the same outcome"):
        cohort_of(rows, none_late)


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(PermanentError, match="the test part of the training set has no discharges"):
        cohort_of([], [])
