"""The model card: complete, with what was measured, and never with a number that somebody typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medscore_assets.monitoring.assessment import Assessment
from medscore_assets.report.evaluation_report import EvaluationReport
from medscore_assets.report.model_card import SCHEMA, load_texts
from resources.errors import PermanentError
from tests.report.conftest import FAMILY

TEXTS = (FAMILY / "model_card.toml").read_text(encoding="utf-8")


def test_the_card_has_chais_elements_in_its_order(report: EvaluationReport) -> None:
    card = json.loads(report.card().to_json())
    assert card["Schema"] == SCHEMA
    found = card["AppliedModelCard"]
    assert list(found) == [
        "BasicInfo",
        "ReleaseInfo",
        "ModelSummary",
        "UsesAndDirections",
        "Warnings",
        "TrustIngredients",
        "KeyMetrics",
        "Resources",
        "Bibliography",
    ]
    assert list(found["TrustIngredients"]) == ["AISystemFacts", "TransparencyInformation"]
    assert list(found["KeyMetrics"]["FairnessEquity"]) == [
        "MetricGoal",
        "Results",
        "Interpretation",
        "TestType",
        "TestingDataDescription",
        "ValidationProcessAndJustification",
    ]


def test_the_card_holds_what_was_measured(report: EvaluationReport, assessment: Assessment) -> None:
    found = json.loads(report.card().to_json())["AppliedModelCard"]
    assert found["ReleaseInfo"]["ReleaseVersion"] == "7"
    results = found["KeyMetrics"]["UsefulnessUsabilityEfficacy"]["Results"]["MetricResult"]
    auroc = assessment.performance["readmission"].measures["auroc"]
    measured = {"estimate": auroc.estimate, "lower": auroc.lower, "upper": auroc.upper}
    assert results[0]["Label"] == "AUROC"
    assert json.loads(results[0]["ValueJson"]) == measured
    assert "Treatment paradox" in found["Warnings"]["KnownRisksAndLimitations"]
    assert "Not examined: sex." in found["KeyMetrics"]["FairnessEquity"]["Interpretation"]


def test_small_groups_are_not_in_the_card(report: EvaluationReport) -> None:
    results = report.card().key_metrics.fairness_equity.results.metric_result
    labels = " ".join(result.label for result in results)
    assert "insurance: Medicare" in labels
    assert "Medicaid" not in labels


@pytest.mark.parametrize(
    ("old", "replacement", "named"),
    [
        ('HowToUse = """', 'HowToUs = """', "UsesAndDirections.HowToUse: Field required"),
        (
            'FundingSource = "No funding is declared with the software."',
            'FundingSource = " "',
            "TrustIngredients.TransparencyInformation.FundingSource",
        ),
        (
            "[card.ReleaseInfo]",
            '[card.ReleaseInfo]\nReleaseVersion = "12"',
            "ReleaseInfo.ReleaseVersion is measured",
        ),
        ("[card.Warnings]\n", '[card.Warnings]\nSmallPrint = "x"\n', "Warnings.SmallPrint"),
    ],
)
def test_an_element_that_is_absent_empty_typed_or_unknown_is_named(
    report: EvaluationReport, tmp_path: Path, old: str, replacement: str, named: str
) -> None:
    assert old in TEXTS
    file = tmp_path / "model_card.toml"
    file.write_text(TEXTS.replace(old, replacement), encoding="utf-8")
    changed = EvaluationReport(**{name: getattr(report, name) for name in report.__slots__})
    object.__setattr__(changed, "texts", load_texts(file))
    with pytest.raises(PermanentError, match=named):
        changed.card()


def test_a_file_without_its_words_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model_card.toml"
    file.write_text(TEXTS.replace('act_on = "Call"\n', ""), encoding="utf-8")
    with pytest.raises(PermanentError, match=r"words\.act_on: Field required"):
        load_texts(file)
