"""The monitoring page: what it says, what it hides, and that it is the same for the same measurements."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from medscore_assets.monitoring.measurement import Measurement
from medscore_assets.monitoring.thresholds import load_thresholds
from medscore_assets.report.monitoring_page import MonitoringPage, verdict_table

MARCH, APRIL = (date(2026, 3, 1), date(2026, 3, 31)), (date(2026, 4, 1), date(2026, 4, 28))
PSI = Measurement("demo", 2, "psi", "patient_age", *APRIL, 4000, None, 0.31, None, None, "alarm")
AUROC = Measurement("demo", 2, "auroc", "all", *MARCH, 900, 120, 0.71, 0.66, 0.76, "good")


def arm(name: str, n: int, events: int) -> Measurement:
    return replace(AUROC, subject=name, n=n, events=events, value=0.6543, lower=None, upper=None)


def page(*measurements: Measurement, caution: str = "") -> MonitoringPage:
    return MonitoringPage(
        model="demo",
        version=2,
        measurements=measurements,
        thresholds=load_thresholds(),
        performance=("auroc",),
        partitions=(("left", "right", "middle"),),
        notes=("Beware of <this>.",),
        caution=caution,
    )


def test_the_page_says_what_is_wrong_in_words_and_beware() -> None:
    html = page(AUROC, PSI, caution="Train one.").html()
    for text in ("Out of bounds", "patient age", "0.310", "act", "0.710", "(0.660 to 0.760)", "Train one."):
        assert text in html
    assert "Beware of &lt;this&gt;." in html


def test_the_page_without_anything_says_so() -> None:
    html = page().html()
    for text in (
        "Nothing can be judged yet",
        "No list was published yet",
        "No score has a known outcome yet",
    ):
        assert text in html


@pytest.mark.parametrize(("n", "events"), [(10, 5), (400, 10), (400, 390), (400, 1)])
def test_a_group_that_could_point_to_persons_is_hidden_and_cannot_be_derived(n: int, events: int) -> None:
    arms = (arm("left", n, events), arm("right", 450, 80), arm("middle", 480, 90))
    (month,) = page(AUROC, *arms).months()
    shown = {row.arm: (row.n, row.cells[0].text) for row in month.rows}
    assert shown["left"] == ("not shown", "not shown")
    assert shown["right"] == ("not shown", "not shown")
    assert shown["middle"] == ("480", "0.654")


def test_the_newest_month_stands_first_and_other_versions_are_named() -> None:
    older = replace(AUROC, model_version=1, period_start=date(2026, 2, 1), period_end=date(2026, 2, 28))
    html = page(older, AUROC).html()
    assert html.index("March 2026, version 2") < html.index("February 2026, version 1")


def test_writing_twice_gives_one_file_of_the_same_bytes(tmp_path: Path) -> None:
    file = page(AUROC, PSI).write(tmp_path / "reports")
    before = file.read_bytes()
    assert page(AUROC, PSI).write(tmp_path / "reports").read_bytes() == before
    assert [f.name for f in file.parent.iterdir()] == ["monitoring.html"]


def test_the_table_of_verdicts_holds_what_is_wrong_only() -> None:
    assert verdict_table([AUROC]) == "Nothing that could be judged is out of bounds."
    assert "patient age | 2026-04-01 to 2026-04-28 | 4,000 | 0.310 | act" in verdict_table([AUROC, PSI])
