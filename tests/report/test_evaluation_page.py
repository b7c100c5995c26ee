"""The page that a person reads: everything is on it, nothing is on it that should not be."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medscore_assets.monitoring.assessment import Assessment, HeldOut, Interval
from medscore_assets.monitoring.evaluation import assess
from medscore_assets.monitoring.promotion import Verdict
from medscore_assets.monitoring.resampling import net_benefit_name
from medscore_assets.report import wording
from medscore_assets.report.evaluation_page import render
from medscore_assets.report.evaluation_report import EvaluationReport
from medscore_assets.report.files import write_report
from tests.report.conftest import NO_IMAGES, simulated

SECTIONS = (
    "summary", "calibration", "usefulness", "workload", "tiers", "use", "subgroups", "absent", "comparison",
    "flow", "methods", "limitations", "caution-treatment-paradox", "model-card", "tripod", "provenance",
)  # fmt: skip


def text_of(page: str) -> str:
    """What a person reads: no tags, no style, single spaces."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body))).replace("\u00a0", " ")


def page_of(report: EvaluationReport) -> str:
    return render(report, report.card(), NO_IMAGES)


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)
    assert found is not None
    return text_of(found[0])


@pytest.fixture(scope="module")
def page(report: EvaluationReport) -> str:
    return page_of(report)


def test_every_section_is_on_the_page_and_every_link_leads_to_one(page: str) -> None:
    anchors = set(re.findall(r' id="([^"]+)"', page))
    assert set(SECTIONS) <= anchors
    assert set(re.findall(r'href="#([^"]+)"', page)) <= anchors
    assert len(re.findall(r' id="', page)) == len(anchors)


def test_the_page_fetches_nothing_and_runs_nothing(written: list[Path]) -> None:
    text = written[0].read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href|action|poster|data)="([^"]*)"', text)
    assert all(s.startswith(("#", "data:image/png;base64,")) for s in sources)
    assert sum(s.startswith("data:") for s in sources) == 5
    assert not re.search(r"<script|<link|<iframe|@import|url\(", text, re.IGNORECASE)


def test_values_and_intervals_are_those_of_the_assessment(page: str, assessment: Assessment) -> None:
    summary, comparison = section(page, "summary"), section(page, "comparison")
    for name in ("auroc", "calibration_slope"):
        found = assessment.performance["readmission"].measures[name]
        assert f"{found.estimate:.3f} ({found.lower:.3f} to {found.upper:.3f})" in summary
    for model in ("champion", "logistic_regression", "lace_like"):
        found = assessment.performance[model].measures["brier"]
        assert f"{found.estimate:.4f} ({found.lower:.4f} to {found.upper:.4f})" in comparison
    medicare = next(g for g in assessment.subgroups if g.value == "medicare").performance
    auroc = medicare.measures["auroc"]
    row = f"{medicare.n:,} {medicare.events} {auroc.estimate:.3f} ({auroc.lower:.3f} to {auroc.upper:.3f})"
    assert f"insurance: Medicare {row}" in section(page, "subgroups")


def test_a_version_that_is_admitted_or_refused_says_so_first(page: str, report: EvaluationReport) -> None:
    assert "admits this version as champion." in section(page, "summary")
    assert "The slope is 1." in section(page, "comparison")
    refused = page_of(
        replace(report, verdict=Verdict(False, ("The slope is 0.7.", "Worse than lace_like."), ()))
    )
    sentence = (
        "The promotion gate refuses this version as champion. The slope is 0.7. Worse than LACE-like points."
    )
    assert section(refused, "summary").strip().startswith(sentence)
    assert "challenger, refused as champion" in section(refused, "model-card")


def test_what_the_gate_says_is_escaped(report: EvaluationReport) -> None:
    page = page_of(replace(report, verdict=Verdict(False, ("<script>alert(1)</script>",), ())))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_net_benefit_above_all_rivals_is_stated(page: str) -> None:
    stated = (
        "Net benefit is above logistic regression, LACE-like points, calling everybody and calling nobody"
    )
    assert f"{stated} at 10 % and 20 %." in section(page, "summary")


def test_net_benefit_that_is_not_above_a_baseline_is_stated_plainly(
    report: EvaluationReport, assessment: Assessment
) -> None:
    curve = assessment.decision_curve
    better = {**curve.net_benefit, "lace_like": curve.net_benefit["readmission"] + 0.01}
    worse = replace(assessment, decision_curve=replace(curve, net_benefit=better))
    page = page_of(replace(report, assessment=worse))
    stated = "Net benefit is NOT above LACE-like points at 10 % and 20 %."
    assert stated in section(page, "summary")
    assert re.search(r"It is not above LACE-like points \(0\.\d+\); it is above", section(page, "usefulness"))


def test_a_difference_that_may_be_chance_is_named(report: EvaluationReport, assessment: Assessment) -> None:
    name = net_benefit_name(0.1)
    unsure = tuple(
        replace(d, difference=Interval(0.001, -0.001, 0.003)) if d.measure == name else d
        for d in assessment.differences["lace_like"]
    )
    differences = {**assessment.differences, "lace_like": unsure}
    page = page_of(replace(report, assessment=replace(assessment, differences=differences)))
    assert re.search(
        r"The interval of the difference to [^.]*LACE-like points[^.]* includes zero",
        section(page, "usefulness"),
    )


def test_the_workload_is_told_per_hundred_and_per_readmission(page: str, assessment: Assessment) -> None:
    flagged = next(f for f in assessment.workload if f.threshold == 0.2)
    share, each = flagged.flag_rate.estimate, flagged.number_needed_to_evaluate.estimate
    assert share is not None
    said = f"{share * 100:.1f} of 100 discharges, {each:.1f} calls per readmission"
    assert f"Call everybody above 20 % (moderate or more): {said}" in section(page, "usefulness")


def test_small_groups_are_on_the_page_without_their_counts(page: str, assessment: Assessment) -> None:
    small = next(g for g in assessment.subgroups if g.value == "dual_eligible")
    neighbour = next(g for g in assessment.subgroups if g.value == "medicaid")
    assert small.performance.n < wording.SMALLEST_COUNT
    shown = section(page, "subgroups")
    assert "insurance: Medicare and Medicaid not shown insurance" in shown
    # All others together would tell the small group's size.
    assert not re.search(rf"(?<![\d,.]){neighbour.performance.n:,}(?![\d,.])", shown)
    assert "Medicaid not shown insurance: Medicare" in shown
    flow = section(page, "flow")
    assert "died in hospital fewer than 11" in flow
    assert "known to have died by discharge 0" in flow
    assert "invalid not shown" in flow


def test_what_the_data_do_not_hold_is_said_unless_they_do(
    page: str, report: EvaluationReport, assessment: Assessment
) -> None:
    assert "Sex. It is not in the readmission contract" in section(page, "subgroups")
    by_sex = tuple(
        replace(g, attribute="sex") for g in assessment.subgroups if g.attribute == "emergency_admission"
    )
    known = page_of(replace(report, assessment=replace(assessment, subgroups=by_sex)))
    assert "Sex. It is not" not in section(known, "subgroups")


def test_undefined_measures_read_not_defined(report: EvaluationReport, tmp_path: Path) -> None:
    cases = simulated(40)
    nobody_came_back = HeldOut(
        labels=np.zeros(40, dtype=bool),
        patients=np.arange(40),
        probabilities=cases.probabilities,
        groups=cases.groups,
        tiers=cases.tiers,
        tier_edges=cases.tier_edges,
    )
    undefined = replace(report, assessment=assess(nobody_came_back, resamples=5), flow={})
    text = text_of(write_report(tmp_path, undefined)[0].read_text(encoding="utf-8"))
    assert f"AUROC {wording.NOT_DEFINED}" in text
    assert f"Calibration slope {wording.NOT_DEFINED}" in text
    assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE)
    assert "None (" not in text


def test_without_a_champion_there_is_none(report: EvaluationReport, assessment: Assessment) -> None:
    performance = {n: p for n, p in assessment.performance.items() if n != "champion"}
    differences = {n: d for n, d in assessment.differences.items() if n != "champion"}
    alone = replace(assessment, performance=performance, differences=differences)
    page = page_of(replace(report, assessment=alone, champion=None, champion_version=None))
    assert "There is no champion to compare with." in section(page, "comparison")


def test_the_same_report_gives_the_same_bytes(
    report: EvaluationReport, written: list[Path], tmp_path: Path
) -> None:
    again = write_report(tmp_path, report)
    assert [p.name for p in again] == [
        "evaluation.html",
        "model_card.json",
        "tripod_ai.csv",
        "calibration.png",
        "decision_curve.png",
        "risk_distribution.png",
        "tiers_and_workload.png",
        "subgroups.png",
    ]
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in written]
