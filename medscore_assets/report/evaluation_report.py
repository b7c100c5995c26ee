"""Everything that an evaluation report is made of, as plain values, and the card that follows from it.

Belongs here: the input of the page, and which measured values fill which element of the model card.
Does not belong here: layout (`evaluation_page.py`), measuring, reading manifests and registries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from medscore_assets.monitoring.assessment import Assessment, Interval, Subgroup
from medscore_assets.monitoring.evaluation import EVERYBODY
from medscore_assets.monitoring.promotion import Verdict
from medscore_assets.monitoring.resampling import net_benefit_name
from medscore_assets.report import findings, wording
from medscore_assets.report.model_card import Absent, CardTexts, ModelCard
from medscore_assets.report.tripod import Item


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """One version of one model, measured and judged."""

    assessment: Assessment
    verdict: Verdict
    model: str
    """The model's name in the registry."""
    version: str
    manifest: Mapping[str, Any]
    """The version's manifest as JSON values."""
    policy: Mapping[str, Any]
    """Version, hash and rules of the policy under which tiers were given, as JSON values."""
    parts: Mapping[str, int]
    """Cases per part: fitted on, chosen on, measured on."""
    flow: Mapping[str, int]
    """The cohort's flow: the first count is all records, the others add up to it. May be empty."""
    limitations: Sequence[str]
    texts: CardTexts
    tripod: Sequence[Item]
    run_id: str
    created_at: datetime
    """With a zone; shown in UTC."""
    gate: Mapping[str, Any] = field(default_factory=dict)
    """Version, hash and rules of the promotion gate, as JSON values."""
    champion: str | None = None
    """The name under which the assessment holds the champion, if there is one."""
    champion_version: str | None = None

    @property
    def measures(self) -> Mapping[str, Interval]:
        """The judged model's measures on all held-out cases."""
        return self.assessment.performance[self.assessment.model].measures

    def shown(self, name: str) -> str:
        """An identifier as this family's people read it."""
        return self.texts.names.get(name, wording.words(name))

    @property
    def verdict_sentence(self) -> str:
        """The gate's verdict, without its reasons."""
        found = "admits" if self.verdict.promote else "refuses"
        return f"The promotion gate {found} this version as champion."

    @property
    def checks(self) -> list[str]:
        """What the gate found: every rule over all cases, of those by subgroup the broken ones."""
        checks = self.verdict.checked
        return [self._readable(c.sentence) for c in checks if c.subject == EVERYBODY or not c.passed]

    @property
    def reasons(self) -> list[str]:
        """Why the gate refuses; empty if it does not."""
        return [self._readable(reason) for reason in self.verdict.reasons]

    def _readable(self, sentence: str) -> str:
        """A sentence of the gate with its identifiers as this family's people read them."""
        return re.sub(r"\b[a-z]+(?:_[a-z0-9]+)+\b", lambda found: self.shown(found[0]), sentence)

    @property
    def benefits(self) -> list[findings.Benefit]:
        """Net benefit at every threshold on which a report makes a statement."""
        return [findings.benefit(self.assessment, t, self.champion) for t in findings.STATED_THRESHOLDS]

    @property
    def testing_data(self) -> str:
        """On what was measured."""
        found, words = self.assessment, self.texts.words
        rate = wording.percent(found.events / found.n) if found.n else wording.NOT_DEFINED
        return (
            f"{wording.thousands(found.n)} {words.cases} of {wording.thousands(found.patients)} patients "
            f"that no fit and no choice has seen; "
            f"{wording.thousands(found.events)} ({rate}) had a {words.event}."
        )

    @property
    def interval_method(self) -> str:
        """How intervals were made."""
        return (
            f"Intervals are 95 %, from {wording.thousands(self.assessment.resamples)} draws of whole "
            f"patients with replacement (seed {self.assessment.seed}); "
            "differences are paired on the same draws."
        )

    @property
    def absent(self) -> list[Absent]:
        """The attributes that should have been examined and are not in the data."""
        examined = {group.attribute for group in self.assessment.subgroups}
        return [a for a in self.texts.absent if a.attribute not in examined]

    def visible_subgroups(self) -> list[Subgroup]:
        """The subgroups whose numbers may be shown."""
        groups = self.assessment.subgroups
        return [g for g, shown in zip(groups, wording.shown_subgroups(groups), strict=True) if shown]

    def card(self) -> ModelCard:
        """The model card. Raises `PermanentError` naming an element that neither texts nor measures give."""
        found = self.assessment
        cautions = [f"{c.title}: {c.text}" for c in self.texts.cautions]
        stage = "admitted as champion" if self.verdict.promote else "challenger, refused as champion"
        useful = ["auroc", "auprc", *map(net_benefit_name, findings.STATED_THRESHOLDS)]
        safe = ["calibration_slope", "calibration_in_the_large", "brier", "eavg", "emax"]
        workload = [findings.workload_sentence(f, self.texts) for f in wording.by_threshold(found.workload)]
        calibration = self.measures.get("calibration_slope", Interval(None))
        return self.texts.completed(
            {
                "BasicInfo": {"ModelName": self.model},
                "ReleaseInfo": {
                    "ReleaseStage": stage,
                    "ReleaseDate": self.created_at.date().isoformat(),
                    "ReleaseVersion": self.version,
                },
                "Warnings": {"KnownRisksAndLimitations": "\n".join([*self.limitations, *cautions])},
                "TrustIngredients": {
                    "AISystemFacts": {"DevelopmentDataCharacterization": self._development_data()}
                },
                "KeyMetrics": {
                    "UsefulnessUsabilityEfficacy": self._metric(
                        [(wording.measure(n).label, self.measures[n]) for n in useful if n in self.measures],
                        " ".join([findings.benefit_verdict(self.benefits, self.texts), *workload]),
                    ),
                    "FairnessEquity": self._metric(self._fairness_results(), self._fairness()),
                    "SafetyReliability": self._metric(
                        [(wording.measure(n).label, self.measures[n]) for n in safe if n in self.measures],
                        " ".join(
                            [
                                findings.calibration_sentence(self.measures, self.texts),
                                "Calibration slope: " + findings.slope_sentence(calibration),
                                self.verdict_sentence,
                                *self.reasons,
                            ]
                        ),
                    ),
                },
            }
        )

    def _metric(self, results: Sequence[tuple[str, Interval]], interpretation: str) -> dict[str, Any]:
        shown = [{"Label": label, "ValueJson": _as_json(found)} for label, found in results]
        return {
            "Results": {"MetricResult": shown},
            "Interpretation": interpretation,
            "TestingDataDescription": self.testing_data,
        }

    def _fairness_results(self) -> list[tuple[str, Interval]]:
        results = [
            (
                f"{wording.measure(name).label}, {self.shown(g.attribute)}: {self.shown(g.value)}",
                g.performance.measures[name],
            )
            for g in self.visible_subgroups()
            for name in ("auroc", "calibration_in_the_large")
            if name in g.performance.measures
        ]
        return results or [("AUROC by subgroup", Interval(None))]

    def _fairness(self) -> str:
        absent = " ".join(f"Not examined: {a.attribute}. {a.reason}" for a in self.absent)
        return f"{subgroup_sentence(self)} {absent}".strip()

    def _development_data(self) -> str:
        parts = ", ".join(f"{self.shown(n)} {wording.thousands(c)}" for n, c in self.parts.items())
        return (
            f"{self.texts.words.cases.capitalize()} per part: {parts or 'not recorded'}. {self.testing_data}"
        )


def subgroup_sentence(report: EvaluationReport) -> str:
    """Between which values AUROC lies over the subgroups, and where risks are shown to be off."""
    groups = report.visible_subgroups()
    hidden = len(report.assessment.subgroups) - len(groups)
    aurocs = [g.performance.measures.get("auroc", Interval(None)).estimate for g in groups]
    defined = [a for a in aurocs if wording.is_defined(a)]
    if defined:
        low, high = wording.number(min(defined)), wording.number(max(defined))
        spoken = f"Over {len(groups)} subgroups AUROC lies between {low} and {high}."
    else:
        spoken = f"AUROC by subgroup is {wording.NOT_DEFINED}."
    off = []
    for group in groups:
        found = group.performance.measures.get("calibration_in_the_large", Interval(None))
        if wording.is_defined(found.lower) and wording.is_defined(found.upper):
            side = "risks too low" if found.lower > 0 else "risks too high" if found.upper < 0 else ""
            if side:
                off.append(f"{report.shown(group.attribute)} {report.shown(group.value)} ({side})")
    spoken += (
        f" The interval of observed less predicted leaves out zero in {len(off)} of them "
        f"(about one in twenty would by chance alone): {', '.join(off)}."
        if off
        else " In none of them do the risks differ from the observed rate by more than chance."
    )
    return f"{spoken} {hidden} of small numbers are not shown." if hidden else spoken


def _as_json(found: Interval) -> str:
    values = {"estimate": found.estimate, "lower": found.lower, "upper": found.upper}
    return json.dumps({name: float(v) if wording.is_defined(v) else None for name, v in values.items()})
