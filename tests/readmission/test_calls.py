"""Calls from a file: taken whole or not, told by line and column, never by value, and once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from medscore_assets.readmission.calls import read_calls, write_calls
from medscore_assets.tables import outreach_calls
from resources.errors import ContractViolation, PermanentError
from resources.warehouse import Warehouse
from tests.readmission.test_outreach import rows_of

NOW = datetime(2026, 3, 10, tzinfo=UTC)
HEADING = "encounter_id,called_at,outcome\n"


def file_of(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "calls.csv"
    file.write_bytes(text.encode(encoding))
    return file


def test_a_valid_file_is_read_in_any_order_of_columns(tmp_path: Path) -> None:
    lines = (
        "outcome,encounter_id,called_at",
        "reached,E-1,2026-03-02T10:15:00-05:00",
        "called,E-2,2026-03-02T15:15Z",
    )
    text = "\n".join(lines)
    found = read_calls(file_of(tmp_path, text, "utf-8-sig"), NOW)
    assert found == [
        {"encounter_id": "E-1", "called_at": datetime(2026, 3, 2, 15, 15, tzinfo=UTC), "outcome": "reached"},
        {"encounter_id": "E-2", "called_at": datetime(2026, 3, 2, 15, 15, tzinfo=UTC), "outcome": "called"},
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("SENTINEL ,2026-03-02T10:15:00Z,reached", "line 3, encounter_id"),
        (",2026-03-02T10:15:00Z,reached", "line 3, encounter_id"),
        ("SENTINEL,2026-03-02T10:15:00,reached", "line 3, called_at: not a time with its offset"),
        ("SENTINEL,2026-03-02,reached", "line 3, called_at: not a time with its offset"),
        ("E,SENTINEL,reached", "line 3, called_at: not a time with its offset"),
        ("E,0001-01-01T00:00:00+12:00,reached", "line 3, called_at: not a time with its offset"),
        ("E,2026-03-11T00:00:00Z,reached", "line 3, called_at: in the future"),
        ("E,2026-03-02T10:15:00Z,SENTINEL", "line 3, outcome"),
        ("E,2026-03-02T10:15:00Z,REACHED", "line 3, outcome"),
        ("E,2026-03-02T10:15:00Z", "line 3, there are 2 columns"),
        ("SENTINEL,2026-03-02T10:15:00Z,reached,more", "line 3, there are 4 columns"),
        ("E-0,2026-03-01T05:00:00-05:00,reached", "line 3, called_at: this call stands in the file twice"),
    ],
)
def test_a_bad_line_is_told_without_its_values(tmp_path: Path, line: str, told: str) -> None:
    text = f"{HEADING}E-0,2026-03-01T10:00:00Z,called\n{line}\n"
    with pytest.raises(ContractViolation, match="nothing of the file was taken") as refused:
        read_calls(file_of(tmp_path, text), NOW)
    assert told in str(refused.value)
    assert "SENTINEL" not in str(refused.value)


def test_of_many_bad_lines_the_first_are_told(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match="and 15 more"):
        read_calls(file_of(tmp_path, HEADING + "E,never,called\n" * 20), NOW)


@pytest.mark.parametrize("text", ["", "encounter_id,called_at\n", "encounter_id,called_at,outcome,note\n"])
def test_other_columns_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ContractViolation, match="encounter_id, called_at, outcome"):
        read_calls(file_of(tmp_path, text), NOW)


def test_what_is_no_csv_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="not CSV in UTF-8"):
        read_calls(file_of(tmp_path, HEADING + "Jos\u00e9,x,y\n", "latin-1"), NOW)
    with pytest.raises(PermanentError, match="cannot be read"):
        read_calls(tmp_path / "absent.csv", NOW)


def test_the_same_calls_again_write_nothing_and_a_correction_does(warehouse: Warehouse) -> None:
    call = {"encounter_id": "E-1", "called_at": NOW, "outcome": "called"}
    assert write_calls(warehouse, [call], "team") == {"given": 1, "written": 1, "not_on_a_list": 1}
    before = rows_of(warehouse, outreach_calls)
    assert write_calls(warehouse, [call], "team")["written"] == 0
    assert rows_of(warehouse, outreach_calls) == before
    assert write_calls(warehouse, [call | {"outcome": "reached"}], "team")["written"] == 1
    assert [row["outcome"] for row in rows_of(warehouse, outreach_calls)] == ["reached"]
    assert write_calls(warehouse, [], "team") == {"given": 0, "written": 0, "not_on_a_list": 0}
