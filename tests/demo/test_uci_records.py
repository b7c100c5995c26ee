"""The importer of the public records, on the real ones."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.uci_diabetes import UciData, read, read_code_tables, read_records


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
