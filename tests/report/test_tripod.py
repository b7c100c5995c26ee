"""TRIPOD+AI: every item is there, and every pointer leads somewhere."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from medscore_assets.report import files
from medscore_assets.report.evaluation_report import EvaluationReport
from medscore_assets.report.files import write_report
from medscore_assets.report.tripod import ITEMS, Item, load_items, to_csv, unresolved
from resources.errors import PermanentError
from tests.report.conftest import FAMILY, MANIFEST, NO_IMAGES

ANSWERS = (FAMILY / "tripod_ai.toml").read_text(encoding="utf-8")
PAGE = '<p id="flow">Flow</p><p>id="methods"</p>'


def item(*where: str) -> Item:
    return Item(item="5b", topic="Dates", status="answered", where=list(where))


def test_the_checklist_has_27_items_in_52_parts(report: EvaluationReport) -> None:
    assert len(ITEMS) == 52
    assert sorted({int(name.rstrip("abcdefg")) for name in ITEMS}) == list(range(1, 28))
    assert tuple(i.item for i in report.tripod) == ITEMS


def test_every_pointer_of_the_written_report_resolves(report: EvaluationReport, written: list[Path]) -> None:
    page = written[0].read_text(encoding="utf-8")
    assert unresolved(report.tripod, page, report.manifest) == []
    assert sum(len(i.where) for i in report.tripod) > 60


@pytest.mark.parametrize(
    "pointer", ["#flow", "file:medscore_assets/report/tripod.py", "manifest:recalibration.slope"]
)
def test_a_pointer_to_what_is_there_resolves(pointer: str) -> None:
    assert unresolved([item(pointer)], PAGE, MANIFEST) == []


@pytest.mark.parametrize(
    "pointer",
    [
        "#flo",
        "#methods",
        "file:medscore_assets/report/absent.py",
        "file:medscore_assets/report",
        "manifest:recalibration.slop",
        "manifest:recalibration.slope.deeper",
        "manifest:absent",
    ],
)
def test_a_pointer_to_nothing_is_found(pointer: str) -> None:
    assert unresolved([item("#flow", pointer)], PAGE, MANIFEST) == [f"item 5b: {pointer}"]


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second, and no pointer leads to a picture."""
    monkeypatch.setattr(files, "figure_images", lambda _: NO_IMAGES)


@pytest.mark.usefixtures("without_figures")
def test_a_report_with_a_broken_pointer_is_not_written(report: EvaluationReport, tmp_path: Path) -> None:
    broken = replace(report, tripod=[*report.tripod[1:], item("#nowhere")])
    with pytest.raises(PermanentError, match="item 5b: #nowhere"):
        write_report(tmp_path / "report", broken)
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("without_figures")
def test_a_manifest_that_lost_an_entry_is_found(report: EvaluationReport, tmp_path: Path) -> None:
    manifest = {name: value for name, value in MANIFEST.items() if name != "data_fingerprint"}
    with pytest.raises(PermanentError, match="item 18e: manifest:data_fingerprint"):
        write_report(tmp_path, replace(report, manifest=manifest))


@pytest.mark.parametrize(
    ("old", "replacement", "named"),
    [
        ('item = "12c"', 'item = "12x"', "not those of the checklist: .*12c"),
        ('where = ["#top"]', "", "item 1 is answered and does not say where"),
        ('note = "The study is not registered."', "", "item 18d is not done and does not say why"),
        ('where = ["#top"]', 'where = ["see above"]', "items.0.where.0"),
        ('status = "not done"', 'status = "fine"', "status"),
    ],
)
def test_an_answer_that_says_nothing_is_refused(
    tmp_path: Path, old: str, replacement: str, named: str
) -> None:
    assert old in ANSWERS
    file = tmp_path / "tripod_ai.toml"
    file.write_text(ANSWERS.replace(old, replacement), encoding="utf-8")
    with pytest.raises(PermanentError, match=named):
        load_items(file)


def test_the_csv_has_one_row_per_item(report: EvaluationReport) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(report.tripod))))
    assert [row["item"] for row in rows] == list(ITEMS)
    assert list(rows[0]) == ["item", "topic", "status", "where_answered", "note"]
    assert rows[0]["where_answered"] == "#top"
