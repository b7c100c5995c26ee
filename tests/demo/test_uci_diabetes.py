"""The importer of the public records: what it makes of them, and what it says about broken files."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.discharges import EVENTS_SCHEMA
from medscore_assets.demo.uci_diabetes import (
    DISPOSITIONS,
    HOSPITAL,
    STATUSES,
    UciData,
    read,
    read_code_tables,
    read_records,
)
from resources.errors import PermanentError

ENCOUNTER = {
    "encounter_id": "1000",
    "patient_nbr": "77",
    "gender": "Female",
    "age": "[70-80)",
    "admission_type_id": "1",
    "discharge_disposition_id": "1",
    "admission_source_id": "7",
    "time_in_hospital": "3",
    "payer_code": "MC",
    "num_medications": "12",
    "number_inpatient": "2",
    "diag_1": "428",
    "number_diagnoses": "9",
    "max_glu_serum": "None",
    "readmitted": "NO",
}

CODE_TABLES = """admission_type_id,description
1,Emergency
2,Urgent
3,Elective
4,Newborn
,
discharge_disposition_id,description
{dispositions}
,
admission_source_id,description
1, Physician Referral
7, Emergency Room
11,Normal Delivery
"""
DISPOSITION_NAMES = dict.fromkeys(range(1, 31), "Other") | {
    11: "Expired",
    13: "Hospice / home",
    14: "Hospice / medical facility",
    19: '"Expired at home. Medicaid only, hospice."',
    20: "Expired",
    21: "Expired",
}
MAPPING = CODE_TABLES.format(
    dispositions="\n".join(f"{code},{name}" for code, name in DISPOSITION_NAMES.items())
)

Import = Callable[..., UciData]


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "IDs_mapping.csv"
    path.write_text(MAPPING)
    return path


@pytest.fixture
def importing(tmp_path: Path, mapping: Path) -> Import:
    """Imports encounters that differ from `ENCOUNTER` as told, numbered from 1000 on."""

    def run(*changes: dict[str, str], **options: Any) -> UciData:
        path = tmp_path / "records.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ENCOUNTER))
            writer.writeheader()
            for number, change in enumerate(changes):
                writer.writerow(ENCOUNTER | {"encounter_id": str(1000 + number)} | change)
        return read(path, mapping, **options)

    return run


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


# --- files that are not what they should be


def refusal(path: Path, mapping: Path) -> str:
    with pytest.raises(PermanentError) as refused:
        read(path, mapping)
    assert refused.value.mend
    return str(refused.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


HEADER = ",".join(ENCOUNTER)
ROW = ",".join(ENCOUNTER.values())


def test_missing_columns_are_named(tmp_path: Path, mapping: Path) -> None:
    header = HEADER.replace("diag_1", "diagnosis").replace("age", "years")
    path = write(tmp_path / "r.csv", f"{header}\n{ROW}")
    message = refusal(path, mapping)
    assert "the header lacks the columns age, diag_1" in message
    assert f"{path}, line 1" in message


def test_a_row_with_too_many_fields_is_named_by_its_line(tmp_path: Path, mapping: Path) -> None:
    path = write(tmp_path / "r.csv", "\n".join([HEADER, ROW, ROW + ",SENTINEL"]))
    message = refusal(path, mapping)
    assert f"{path}, line 3" in message
    assert "SENTINEL" not in message


def test_a_row_with_too_few_fields_is_kept_as_missing(tmp_path: Path, mapping: Path) -> None:
    path = write(tmp_path / "r.csv", "\n".join([HEADER, ROW, "1001,78,Male,[50-60)"]))
    data = read(path, mapping)
    assert len(data.events) == 2
    assert data.report["not_mapped"]["diag_1: missing"] == {"rows": 1, "first_line": 3}
    assert READMISSION.encode(data.events).valid.tolist() == [True, False]


@pytest.mark.parametrize("text", ["", HEADER + "\n"])
def test_a_file_without_encounters_is_refused(tmp_path: Path, mapping: Path, text: str) -> None:
    assert str(tmp_path / "r.csv") in refusal(write(tmp_path / "r.csv", text), mapping)


def test_files_in_the_wrong_order_are_refused(tmp_path: Path, mapping: Path) -> None:
    records = write(tmp_path / "r.csv", HEADER + "\n" + ROW)
    assert "IDs_mapping.csv second" in refusal(mapping, records)
    assert "before the first table" in refusal(records, records)
    assert "the header lacks the columns" in refusal(mapping, mapping)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path, mapping: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.csv.gz", mapping)
    assert "no such file" in refusal(write(tmp_path / "r.csv", HEADER + "\n" + ROW), tmp_path / "absent.csv")
    assert "cannot be read" in refusal(tmp_path, mapping)


def test_a_damaged_archive_is_refused(tmp_path: Path, mapping: Path) -> None:
    sound = gzip.compress((HEADER + "\n" + (ROW + "\n") * 2000).encode())
    (tmp_path / "cut.csv.gz").write_bytes(sound[: len(sound) // 2])
    (tmp_path / "plain.csv.gz").write_text(HEADER + "\n" + ROW)
    for name in ("cut.csv.gz", "plain.csv.gz"):
        assert "cannot be read as CSV text" in refusal(tmp_path / name, mapping)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path, mapping: Path) -> None:
    (tmp_path / "r.csv").write_bytes(HEADER.encode() + b"\n\xff\xfe" + ROW.encode())
    assert "cannot be read as CSV text" in refusal(tmp_path / "r.csv", mapping)


def test_an_archive_and_a_byte_order_mark_make_no_difference(tmp_path: Path, mapping: Path) -> None:
    plain = write(tmp_path / "r.csv", HEADER + "\n" + ROW)
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    assert read(plain, mapping).events == read(tmp_path / "r.csv.gz", mapping).events


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("admission_source_id", "source_id", "a code is no number"),
        ("discharge_disposition_id,description\n", "", "lacks the tables discharge_disposition_id"),
        ("11,Expired", "11,Discharged to home", "code 11 does not mean 'expired'"),
        ("13,Hospice / home", "13,Other", "code 13 does not mean 'hospice'"),
        ("20,Expired\n", "", "code 20 does not mean 'expired'"),
        ("3,Elective", "three,Elective", "a code is no number"),
    ],
)
def test_a_code_table_that_is_not_the_one_expected_is_refused(
    tmp_path: Path, mapping: Path, old: str, new: str, message: str
) -> None:
    assert old in MAPPING
    mapping.write_text(MAPPING.replace(old, new))
    assert message in refusal(write(tmp_path / "r.csv", HEADER + "\n" + ROW), mapping)


def test_a_column_without_a_single_usable_value_is_refused(importing: Import) -> None:
    with pytest.raises(PermanentError, match="no row has a usable value in age "):
        importing({"age": "74"}, {"age": "?"})


def test_a_calendar_that_ends_before_it_begins_is_refused(importing: Import) -> None:
    with pytest.raises(PermanentError, match="ends before it begins"):
        importing({}, first_day=date(2024, 1, 2), last_day=date(2024, 1, 1))


# --- the real records


@pytest.fixture(scope="module")
def real(shared_data: Path) -> UciData:
    return read(shared_data / "diabetic_data.csv.gz", shared_data / "IDs_mapping.csv")


def test_the_real_records_are_all_there(real: UciData) -> None:
    assert len(real.events) == len(real.outcomes) == real.report["encounters"] == 71_059
    assert real.report["patients"] == 50_068
    assert real.report["readmitted_within_30_days"] == 7_900
    assert real.report["discharge_status"] == {
        "routine": 64_173,
        "unknown": 3_243,
        "transferred": 1_520,
        "expired": 1_155,
        "hospice": 535,
        "left_against_advice": 433,
    }


def test_prevalence_without_the_dead_and_the_dying_is_as_published(real: UciData) -> None:
    joined = real.events.select(["encounter_id", "discharge_status"]).join(real.outcomes, "encounter_id")
    gone = pc.is_in(joined["discharge_status"], pa.array(["expired", "hospice"]))
    alive = joined.filter(pc.invert(gone))
    assert len(alive) == 69_369
    prevalence = pc.mean(alive["readmitted_within_30_days"].cast("int8")).as_py()
    assert prevalence == pytest.approx(0.113, abs=0.0005)


def test_only_what_the_source_lacks_is_refused(real: UciData) -> None:
    assert READMISSION.encode(real.events).counts() == {"primary_diagnosis_group: missing": 17}
    assert READMISSION.check_context(real.events).counts() == {"service_line: missing": 6}
    assert {what: found["rows"] for what, found in real.report["not_mapped"].items()} == {
        "diag_1: missing": 17,
        "admission_type_id: newborn code at another age": 6,
    }


def test_the_text_none_stays_text_and_a_question_mark_is_missing(shared_data: Path) -> None:
    rows = read_records(shared_data / "diabetic_data.csv.gz")
    assert rows["max_glu_serum"].isna().sum() == 0
    assert rows["max_glu_serum"].eq("None").sum() > 60_000
    assert rows["weight"].isna().mean() > 0.96
    assert rows["payer_code"].isna().sum() == 27_982


def test_the_real_code_tables_are_read(shared_data: Path) -> None:
    codes = read_code_tables(shared_data / "IDs_mapping.csv")
    assert {name: len(found) for name, found in codes.items()} == {
        "admission_type_id": 8,
        "discharge_disposition_id": 30,
        "admission_source_id": 25,
    }


def test_the_real_records_fill_every_day_of_the_calendar(real: UciData) -> None:
    days = Counter(
        t.astimezone(ZoneInfo("America/New_York")).date() for t in real.events["discharged_at"].to_pylist()
    )
    assert (min(days), max(days), len(days)) == (date(2024, 1, 1), date(2025, 12, 31), 731)
    assert max(days.values()) - min(days.values()) <= 1
