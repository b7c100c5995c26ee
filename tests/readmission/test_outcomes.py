"""Outcomes of past scores: when a label counts, which call, and performance by month and arm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from medscore_assets.monitoring.metrics import evaluate
from medscore_assets.monitoring.thresholds import load_thresholds
from medscore_assets.readmission.outcomes import (
    ARMS,
    CALL_OUTCOMES,
    PARTITIONS,
    furthest_call,
    matured_outcomes,
    performance,
)
from tests.readmission.records import ZONE, admission, admissions_table, local

TIMESTAMP = pa.timestamp("us", "UTC")
LEFT = local("2026-01-10").astimezone(UTC)
HOUR = timedelta(hours=1)


def scores(*encounters: str, discharged_at: datetime = LEFT) -> pa.Table:
    n = len(encounters)
    return pa.table(
        {
            "score_date": pa.array([discharged_at.date()] * n, pa.date32()),
            "encounter_id": pa.array(encounters, pa.string()),
            "patient_id": pa.array([f"P-{e}" for e in encounters], pa.string()),
            "discharged_at": pa.array([discharged_at] * n, TIMESTAMP),
            "model_version": pa.array([1] * n, pa.int64()),
            "readmission_probability": pa.array([0.25] * n, pa.float64()),
            "risk_tier": pa.array(["moderate"] * n, pa.string()),
        }
    )


def stays(*encounters: str, covered_until: Any = None) -> pa.Table:
    n = len(encounters)
    return pa.table(
        {
            "encounter_id": pa.array(encounters, pa.string()),
            "deceased_at": pa.array([None] * n, TIMESTAMP),
            "covered_until": pa.array([covered_until] * n, pa.date32()),
        }
    )


def recorded(*rows: tuple[str, bool, datetime]) -> pa.Table:
    return pa.table(
        {
            "encounter_id": pa.array([r[0] for r in rows], pa.string()),
            "readmitted_within_30_days": pa.array([r[1] for r in rows], pa.bool_()),
            "recorded_at": pa.array([r[2] for r in rows], TIMESTAMP),
        }
    )


def calls(*rows: tuple[str, datetime, str]) -> pa.Table:
    return pa.table(
        {
            "encounter_id": pa.array([r[0] for r in rows], pa.string()),
            "called_at": pa.array([r[1] for r in rows], TIMESTAMP),
            "outcome": pa.array([r[2] for r in rows], pa.string()),
        }
    )


def joined(as_of: datetime, **given: Any) -> list[dict[str, Any]]:
    tables: dict[str, Any] = {
        "scores": scores("A"),
        "stays": stays("A"),
        "admissions": admissions_table([admission("A", "P-A", LEFT - timedelta(days=3))]),
        "outcomes": recorded(),
        "calls": calls(),
    }
    rows: list[dict[str, Any]] = matured_outcomes(
        **(tables | given), as_of=as_of.astimezone(ZONE)
    ).to_pylist()
    return rows


# --- labels ---------------------------------------------------------------------------------------------


def test_a_label_from_admissions_counts_from_the_44th_day_on() -> None:
    assert joined(LEFT + timedelta(days=44) - HOUR) == []
    (row,) = joined(LEFT + timedelta(days=44))
    assert row["readmitted_within_30_days"] is False
    assert row["call_outcome"] is None


def test_a_recorded_label_counts_from_the_30th_day_on_and_once_it_has_arrived() -> None:
    known = recorded(("A", True, LEFT + timedelta(days=33)))
    assert joined(LEFT + timedelta(days=32), outcomes=known) == []
    (row,) = joined(LEFT + timedelta(days=33), outcomes=known)
    assert row["readmitted_within_30_days"] is True
    early = recorded(("A", True, LEFT + timedelta(days=5)))
    assert joined(LEFT + timedelta(days=30) - HOUR, outcomes=early) == []


def test_an_unplanned_stay_within_30_days_is_a_readmission() -> None:
    stay = [admission("A", "P-A", LEFT - timedelta(days=3)), admission("B", "P-A", LEFT + timedelta(days=29))]
    (row,) = joined(LEFT + timedelta(days=44), admissions=admissions_table(stay))
    assert row["readmitted_within_30_days"] is True


def test_a_feed_that_does_not_list_the_stay_tells_nothing_of_it() -> None:
    other = admissions_table([admission("X", "P-X", LEFT)])
    assert joined(LEFT + timedelta(days=60), admissions=other) == []


def test_who_was_not_covered_to_the_end_has_no_outcome() -> None:
    ended = stays("A", covered_until=(LEFT + timedelta(days=20)).date())
    assert joined(LEFT + timedelta(days=60), stays=ended) == []


def test_a_score_whose_discharge_is_gone_is_left_out() -> None:
    assert joined(LEFT + timedelta(days=60), stays=stays()) == []


# --- calls ------------------------------------------------------------------------------------------------


def test_the_furthest_of_several_calls_counts() -> None:
    made = calls(
        ("A", LEFT + HOUR, "reached"),
        ("A", LEFT + 2 * HOUR, "declined"),
        ("B", LEFT + HOUR, "declined"),
        ("B", LEFT + 2 * HOUR, "called"),
        ("Z", LEFT + HOUR, "reached"),
    )
    assert furthest_call(scores("A", "B", "C"), made).to_pylist() == ["reached", "declined", None]


def test_a_call_before_discharge_or_after_30_days_does_not_count() -> None:
    made = calls(
        ("A", LEFT - HOUR, "reached"),
        ("B", LEFT + timedelta(days=30), "reached"),
        ("C", LEFT, "called"),
    )
    assert furthest_call(scores("A", "B", "C"), made).to_pylist() == [None, None, "called"]


# --- performance --------------------------------------------------------------------------------------------


def matured(n: int, *, month: int = 3, effect: float = 1.0, called: bool = True, seed: int = 0) -> pa.Table:
    """`n` scores of one month with calibrated risks; with `effect` < 1 reaching somebody helps."""
    random = np.random.default_rng(seed)
    p = random.beta(2, 7, n)
    within = p > np.quantile(p, 0.6)
    arms = np.where(within & called, np.array(CALL_OUTCOMES)[random.integers(0, 3, n)], None)
    happens = random.random(n) < p * np.where(arms == "reached", effect, 1.0)
    days = random.integers(1, 28, n)
    return pa.table(
        {
            "encounter_id": [f"E-{month}-{i}" for i in range(n)],
            "patient_id": [f"P-{i}" for i in range(n)],
            "discharged_at": pa.array(
                [datetime(2026, month, d, 12, tzinfo=UTC) for d in days.tolist()], TIMESTAMP
            ),
            "model_version": pa.array([1] * n, pa.int64()),
            "readmission_probability": pa.array(p, pa.float64()),
            "call_outcome": pa.array(arms.tolist(), pa.string()),
            "within_capacity": pa.array(within, pa.bool_()),
            "readmitted_within_30_days": pa.array(happens, pa.bool_()),
        }
    )


def measured(table: pa.Table, auroc: float = 0.68) -> dict[tuple[str, str], Any]:
    found = performance(table, {1: auroc}, load_thresholds(), ZONE)
    assert len({m.period_start for m in found}) <= 1
    return {(m.measure, m.subject): m for m in found}


def test_measures_are_those_of_the_arm_and_the_arms_add_up() -> None:
    table = matured(4000)
    found = measured(table)
    everybody = evaluate(
        table["readmitted_within_30_days"].to_numpy(), table["readmission_probability"].to_numpy()
    )
    assert found["auroc", "all"].value == pytest.approx(everybody.auroc)
    assert found["brier", "all"].value == pytest.approx(everybody.brier)
    assert found["auroc", "all"].lower < everybody.auroc < found["auroc", "all"].upper
    assert {subject for _, subject in found} == set(ARMS)
    for partition in PARTITIONS:
        assert sum(found["auroc", arm].n for arm in partition) == 4000
        assert sum(found["auroc", arm].events for arm in partition) == everybody.events


def test_calls_that_work_raise_no_alarm_although_the_scores_look_wrong() -> None:
    found = measured(matured(12_000, effect=0.2, seed=1))
    assert found["observed_expected", "reached"].upper < 0.5
    assert found["observed_expected", "all"].upper < 1
    judged = {key for key, m in found.items() if m.state != "not_judged"}
    assert {subject for _, subject in judged} == {"not_called"}
    assert {found[key].state for key in judged} == {"good"}
    assert len(judged) >= 2


def test_scores_that_fail_those_who_were_not_called_alarm() -> None:
    table = matured(12_000)
    inflated = pa.array(np.minimum(1, table["readmission_probability"].to_numpy() * 1.8), pa.float64())
    position = table.column_names.index("readmission_probability")
    found = measured(table.set_column(position, "readmission_probability", inflated))
    assert found["observed_expected", "not_called"].state == "alarm"
    assert found["observed_expected", "all"].state == "not_judged"


def test_without_calls_everybody_is_judged_against_training() -> None:
    fine, fallen = measured(matured(8000, called=False)), measured(matured(8000, called=False), auroc=0.80)
    assert fine["auroc", "all"].state == "good"
    assert fallen["auroc", "all"].state == "alarm"
    assert fallen["auroc", "not_called"].state == "not_judged"


@pytest.mark.parametrize("outcome", [False, True])
def test_a_month_with_one_outcome_only_is_undefined_and_not_an_error(outcome: bool) -> None:
    table = matured(900, called=False)
    position = table.column_names.index("readmitted_within_30_days")
    found = measured(table.set_column(position, "readmitted_within_30_days", pa.array([outcome] * 900)))
    assert found["auroc", "all"].value is None
    assert found["calibration_slope", "all"].value is None
    assert found["brier", "all"].value is not None
    assert {m.state for m in found.values()} == {"not_judged"}


def test_nobody_has_no_performance() -> None:
    assert measured(matured(900).slice(0, 0)) == {}


def test_months_are_those_of_the_zone_and_versions_are_apart() -> None:
    table = matured(2, called=False)
    # 03:00 UTC on the first of April is still March in New York.
    times = pa.array([datetime(2026, 4, 1, 3, tzinfo=UTC), datetime(2026, 4, 1, 5, tzinfo=UTC)], TIMESTAMP)
    table = table.set_column(table.column_names.index("discharged_at"), "discharged_at", times)
    found = performance(table, {}, load_thresholds(), ZONE)
    assert {(m.period_start.month, m.period_end.day) for m in found} == {(3, 31), (4, 30)}
    versions = pa.array([1, 2], pa.int64())
    table = table.set_column(table.column_names.index("model_version"), "model_version", versions)
    assert {m.model_version for m in performance(table, {}, load_thresholds(), ZONE)} == {1, 2}
