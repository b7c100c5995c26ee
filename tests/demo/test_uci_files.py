"""The importer of the public records: what it says about files that are not what they should be."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import pytest

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.uci_diabetes import read
from resources.errors import PermanentError
from tests.demo.uci_files import HEADER, MAPPING, ROW, Import


def refusal(path: Path, mapping: Path) -> str:
    with pytest.raises(PermanentError) as refused:
        read(path, mapping)
    assert refused.value.mend
    return str(refused.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


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
