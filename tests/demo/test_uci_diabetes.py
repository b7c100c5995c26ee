"""The importer of the public records: what it makes of codes, values and the calendar."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.discharges import EVENTS_SCHEMA
from medscore_assets.demo.uci_diabetes import DISPOSITIONS, HOSPITAL, STATUSES
from tests.demo.uci_files import Import


def test_one_encounter_becomes_one_discharge_and_one_outcome(importing: Import) -> None:
    data = importing({"readmitted": "<30"}, first_day=date(2024, 3, 9), last_day=date(2024, 3, 9))
    zone = ZoneInfo("America/New_York")
    discharged = datetime(2024, 3, 9, 8, tzinfo=zone)
    [event] = data.events.to_pylist()
    assert event == {
        "source": "uci-diabetes",
        "encounter_id": "1000",
        "patient_id": "77",
        "hospital_id": HOSPITAL,
        "admitted_at": datetime(2024, 3, 6, 8, tzinfo=zone),
        "discharged_at": discharged,
        "discharge_status": "routine",
        "service_line": "acute",
        "deceased_at": None,
        "covered_until": None,
        "patient_age": 75,
        "length_of_stay_days": 3,
        "num_prior_admissions_12m": 2,
        "num_chronic_conditions": 9,
        "primary_diagnosis_group": "cardiac",
        "discharge_disposition": "home",
        "insurance_type": "medicare",
        "emergency_admission": True,
        "num_medications_at_discharge": 12,
        "has_follow_up_scheduled": False,
        "ingested_at": discharged + timedelta(minutes=30),
    }
    assert data.outcomes.to_pylist() == [
        {
            "encounter_id": "1000",
            "readmitted_within_30_days": True,
            "source": "uci-diabetes",
            "recorded_at": discharged.astimezone(UTC) + timedelta(days=30),
        }
    ]
    assert data.report["not_mapped"] == {}


@pytest.mark.parametrize(
    ("column", "code", "field", "expected"),
    [
        *[("age", f"[{low}-{low + 10})", "patient_age", low + 5) for low in range(0, 100, 10)],
        *[("diag_1", code, "primary_diagnosis_group", "cardiac") for code in ("390", "459.9", "785")],
        *[("diag_1", code, "primary_diagnosis_group", "respiratory") for code in ("460", "519", "786.5")],
        *[("diag_1", code, "primary_diagnosis_group", "digestive") for code in ("520", "579", "787")],
        *[("diag_1", code, "primary_diagnosis_group", "musculoskeletal") for code in ("710", "739")],
        *[("diag_1", code, "primary_diagnosis_group", "neurological") for code in ("320", "389")],
        *[("diag_1", code, "primary_diagnosis_group", "endocrine") for code in ("240", "250.83", "279")],
        *[
            ("diag_1", code, "primary_diagnosis_group", "other")
            for code in ("8", "239", "784", "740", "V57", "E909")
        ],
        ("payer_code", "MC", "insurance_type", "medicare"),
        ("payer_code", "MD", "insurance_type", "medicaid"),
        ("payer_code", "?", "insurance_type", "unknown"),
        ("payer_code", "SP", "insurance_type", "commercial"),
        ("payer_code", "None", "insurance_type", "commercial"),
        ("admission_type_id", "1", "emergency_admission", True),
        ("admission_type_id", "2", "emergency_admission", False),
        ("diag_1", "296", "service_line", "psychiatric"),
        ("diag_1", "650", "service_line", "obstetric"),
        ("diag_1", "V57", "service_line", "rehabilitation"),
        ("diag_1", "V58", "service_line", "cancer_treatment"),
        ("discharge_disposition_id", "28", "service_line", "acute"),
    ],
)
def test_codes_become_the_contracts_values(
    importing: Import, column: str, code: str, field: str, expected: object
) -> None:
    assert importing({column: code}).events[field].to_pylist() == [expected]


@pytest.mark.parametrize("code", range(1, 31))
def test_every_disposition_says_where_to_and_how_the_stay_ended(importing: Import, code: int) -> None:
    [event] = importing({"discharge_disposition_id": str(code)}).events.to_pylist()
    assert event["discharge_disposition"] == DISPOSITIONS.get(code, "other")
    assert event["discharge_status"] == STATUSES.get(code, "routine")
    assert (event["deceased_at"] == event["discharged_at"]) == (code in (11, 19, 20, 21))
    # Whoever died, is dying or lies in another acute bed must never look like a routine discharge.
    if code in (2, 7, 9, 10, 11, 12, 13, 14, 18, 19, 20, 21, 25, 26, 27, 29):
        assert event["discharge_status"] != "routine"


def test_a_newborn_is_one_by_code_and_age(importing: Import) -> None:
    data = importing(
        {"admission_type_id": "4", "age": "[0-10)"},
        {"admission_source_id": "11", "age": "[0-10)"},
        {"admission_type_id": "4", "age": "[80-90)"},
    )
    assert data.events["service_line"].to_pylist() == ["newborn", "newborn", None]
    assert data.report["not_mapped"] == {
        "admission_type_id: newborn code at another age": {"rows": 1, "first_line": 4}
    }


@pytest.mark.parametrize(
    ("column", "value", "lost", "why"),
    [
        ("age", "[70-90)", ["patient_age"], "not a ten-year band"),
        ("age", "75", ["patient_age"], "not a ten-year band"),
        ("age", "?", ["patient_age"], "missing"),
        ("time_in_hospital", "three", ["length_of_stay_days", "admitted_at"], "not a whole number"),
        ("time_in_hospital", "", ["length_of_stay_days", "admitted_at"], "missing"),
        ("num_medications", "12.5", ["num_medications_at_discharge"], "not a whole number"),
        ("num_medications", "9" * 30, ["num_medications_at_discharge"], "not a whole number"),
        ("diag_1", "?", ["primary_diagnosis_group"], "missing"),
        ("diag_1", "heart failure", ["primary_diagnosis_group"], "not an ICD-9 code"),
        ("discharge_disposition_id", "99", ["discharge_status", "discharge_disposition"], "unlisted code"),
        ("discharge_disposition_id", "?", ["discharge_status", "discharge_disposition"], "missing"),
        ("admission_type_id", "x", ["emergency_admission", "service_line"], "unlisted code"),
        ("admission_source_id", "99", ["service_line"], "unlisted code"),
        ("patient_nbr", "?", ["patient_id"], "missing"),
        ("encounter_id", "?", ["encounter_id"], "missing"),
    ],
)
def test_what_cannot_be_mapped_is_left_missing_counted_and_refused_by_the_contract(
    importing: Import, column: str, value: str, lost: list[str], why: str
) -> None:
    data = importing({}, {}, {column: value}, {})
    assert len(data.events) == 4
    assert data.report["not_mapped"] == {f"{column}: {why}": {"rows": 1, "first_line": 4}}
    [bad] = [row for row in data.events.to_pylist() if any(row[name] is None for name in lost)]
    optional = ["deceased_at", "covered_until"]
    assert sorted(name for name, v in bad.items() if v is None) == sorted([*lost, *optional])
    valid = READMISSION.check_context(data.events).valid & READMISSION.encode(data.events).valid
    assert valid.sum() == 3


def test_a_count_beyond_the_bounds_stays_for_the_contract_to_refuse(importing: Import) -> None:
    data = importing({}, {"num_medications": "400"}, {"number_inpatient": "-2"})
    assert data.events["num_medications_at_discharge"].to_pylist() == [12, 400, 12]
    assert READMISSION.encode(data.events).valid.tolist() == [True, False, False]
    assert data.report["not_mapped"] == {
        "num_medications: out of bounds": {"rows": 1, "first_line": 3},
        "number_inpatient: out of bounds": {"rows": 1, "first_line": 4},
    }


@pytest.mark.parametrize("value", ["?", "<60"])
def test_an_outcome_that_is_not_known_is_not_made_up(importing: Import, value: str) -> None:
    data = importing({}, {"readmitted": value}, {"readmitted": ">30"})
    assert data.outcomes["encounter_id"].to_pylist() == ["1000", "1002"]
    assert data.outcomes["readmitted_within_30_days"].to_pylist() == [False, False]
    assert len(data.events) == 3
    assert sum(found["rows"] for found in data.report["not_mapped"].values()) == 1


def test_a_repeated_encounter_is_sent_twice_and_has_one_outcome(importing: Import) -> None:
    data = importing({}, {"encounter_id": "1000", "readmitted": "<30"}, {})
    assert data.events["encounter_id"].to_pylist() == ["1000", "1000", "1002"]
    assert data.outcomes.to_pydict()["readmitted_within_30_days"] == [True, False]
    assert data.report["not_mapped"] == {"encounter_id: repeated": {"rows": 1, "first_line": 2}}


def test_encounters_are_laid_on_the_calendar_in_the_order_of_their_numbers(importing: Import) -> None:
    numbers = ["900", "20", "1000", "3", "500", "100", "7", "abc"]
    data = importing(
        *[{"encounter_id": n} for n in numbers], first_day=date(2024, 2, 28), last_day=date(2024, 3, 2)
    )
    assert data.events["encounter_id"].to_pylist() == ["3", "7", "20", "100", "500", "900", "1000", "abc"]
    local = [t.astimezone(ZoneInfo("America/New_York")) for t in data.events["discharged_at"].to_pylist()]
    assert local == sorted(local)
    assert [f"{t:%m-%d}" for t in local] == ["02-28"] * 2 + ["02-29"] * 2 + ["03-01"] * 2 + ["03-02"] * 2
    assert all(8 <= t.hour < 20 for t in local)
    assert data.report["calendar"]["real_dates"] is False


def test_a_zone_moves_the_clock_and_not_the_calendar(importing: Import) -> None:
    tokyo = importing({}, {}, timezone="Asia/Tokyo").events["discharged_at"].to_pylist()
    assert [t.astimezone(ZoneInfo("Asia/Tokyo")).hour for t in tokyo] == [8, 14]


def test_patients_overlap_on_the_calendar_and_nothing_breaks(importing: Import) -> None:
    long = {"time_in_hospital": "14"}
    data = importing(long, long, first_day=date(2024, 1, 1), last_day=date(2024, 1, 2))
    first, second = data.events.to_pylist()
    assert second["admitted_at"] < first["discharged_at"]
    assert READMISSION.check_context(data.events).valid.all()


def test_the_same_files_give_the_same_tables(importing: Import) -> None:
    rows = [{"encounter_id": str(n), "readmitted": "<30"} for n in (5, 3, 9)]
    one, other = importing(*rows), importing(*rows)
    assert one.events == other.events
    assert one.outcomes == other.outcomes


def test_the_tables_have_the_warehouses_columns(importing: Import) -> None:
    data = importing({})
    assert data.events.schema == EVENTS_SCHEMA
    assert data.outcomes.column_names == [c.name for c in tables.readmission_outcomes.columns]


def test_the_report_is_fit_for_json_and_holds_no_value_of_a_patient(importing: Import) -> None:
    data = importing({}, {"diag_1": "SENTINEL", "age": "SENTINEL", "patient_nbr": "SENTINEL"})
    assert "SENTINEL" not in json.dumps(data.report)
