"""Eligibility, the 30-day label, its maturity, and the split: who is in which part."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.cohort import (
    CLAIMS_LAG,
    EXCLUSIONS,
    FOLLOW_UP,
    PARTS,
    TrainingCohort,
    check_context,
    eligibility,
    training_cohort,
    unplanned_readmission,
)
from resources.errors import PermanentError
from tests.readmission.records import (
    TIMESTAMP,
    ZONE,
    admission,
    admissions_table,
    discharge,
    events_table,
    local,
)

DAY = local("2026-03-02").astimezone(UTC)
SIX = local("2026-03-03", 6)
AFTER = timedelta(microseconds=1)


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


# --- the label ---------------------------------------------------------------------------------------


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


# --- the training cohort -----------------------------------------------------------------------------

FIRST_DAY = datetime(2024, 1, 1, 12, tzinfo=UTC)
LAST_DAY = FIRST_DAY + timedelta(days=399)
NOW = LAST_DAY + timedelta(days=60)


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


def test_the_list_and_the_training_set_agree_on_who_is_covered_at_discharge() -> None:
    at = local("2024-02-01", 22)
    row = discharge(9000, at, covered_until=date(2024, 2, 1))
    assert reasons(row, as_of=at) == [""]
    rows, stays = history()
    cohort = cohort_of([*rows, row], stays, as_of=NOW.astimezone(ZONE))
    assert cohort.flow["excluded_not_covered"] == 0


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


# --- the split ---------------------------------------------------------------------------------------


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


def test_discharge_before_admission_breaks_the_context() -> None:
    checked = check_context(events_table([discharge(1, DAY), discharge(2, DAY, admitted_at=SIX)]))
    assert checked.valid.tolist() == [True, False]
    assert checked.counts() == {"discharged_at: before_admission": 1}
