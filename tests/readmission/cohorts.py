"""A history of discharges and admissions, and the training cohort that is made of it, for tests.

Belongs here: what tests of eligibility, label, cohort and split share. Does not belong here: single rows
(`records.py`) and sets with a known risk (`training_sets.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from medscore_assets.readmission.cohort import PARTS, TrainingCohort, training_cohort
from tests.readmission.records import TIMESTAMP, admission, admissions_table, discharge, events_table, local

DAY = local("2026-03-02").astimezone(UTC)
AFTER = timedelta(microseconds=1)
FIRST_DAY = datetime(2024, 1, 1, 12, tzinfo=UTC)
LAST_DAY = FIRST_DAY + timedelta(days=399)
NOW = LAST_DAY + timedelta(days=60)


def outcomes_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of `readmission_outcomes`."""
    return pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            [
                ("encounter_id", pa.string()),
                ("readmitted_within_30_days", pa.bool_()),
                ("source", pa.string()),
                ("recorded_at", TIMESTAMP),
            ]
        ),
    )


def history(patients: int = 500, days: int = 400) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Discharges spread over `days`, each tenth followed by an unplanned readmission after a week."""
    rows = [
        discharge(n, FIRST_DAY + timedelta(days=days) * n / patients, admitted_at=FIRST_DAY)
        | {"source": "test"}
        for n in range(patients)
    ]
    for row in rows:
        row["admitted_at"] = row["discharged_at"] - timedelta(days=2)
    stays = [admission(r["encounter_id"], r["patient_id"], r["admitted_at"]) for r in rows]
    stays += [
        admission(f"R-{n}", r["patient_id"], r["discharged_at"] + timedelta(days=7))
        for n, r in enumerate(rows)
        if n % 10 == 0
    ]
    return rows, stays


def cohort_of(
    rows: list[dict[str, Any]],
    stays: list[dict[str, Any]],
    outcomes: Sequence[dict[str, Any]] = (),
    as_of: datetime = NOW,
) -> TrainingCohort:
    return training_cohort(events_table(rows), admissions_table(stays), outcomes_table(list(outcomes)), as_of)


def labels_of(cohort: TrainingCohort) -> dict[str, bool]:
    return dict(
        zip(
            cohort.table["encounter_id"].to_pylist(),
            cohort.table["readmitted_within_30_days"].to_pylist(),
            strict=True,
        )
    )


def assert_adds_up(cohort: TrainingCohort) -> None:
    dropped_or_placed = [n for step, n in cohort.flow.items() if step != "events"]
    assert sum(dropped_or_placed) == cohort.flow["events"], cohort.flow
    assert sum(cohort.flow[part] for part in PARTS) == len(cohort.table)
