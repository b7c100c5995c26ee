"""The evaluation report as one HTML page that a person would read.

Belongs here: what stands in which section, as texts, for `templates/evaluation.html`.
Does not belong here: sentences that depend on values (`findings.py`), the look (the template), files
(`files.py`). The page is whole in itself: no script, and nothing is fetched.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from medscore_assets.monitoring.assessment import Difference, Interval
from medscore_assets.monitoring.evaluation import EVERYBODY
from medscore_assets.report import findings, wording
from medscore_assets.report.evaluation_report import EvaluationReport, subgroup_sentence
from medscore_assets.report.model_card import ModelCard

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class Table:
    """A table as texts. In `left` columns words stand, in all others numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)


@dataclass(frozen=True, slots=True)
class CardEntry:
    """One element of the card on the page; `text` is None where it holds other elements."""

    anchor: str
    name: str
    depth: int
    text: str | None


def render(report: EvaluationReport, card: ModelCard, figures: Mapping[str, bytes]) -> str:
    """The page; `figures` holds the PNG of each figure by its name. The same input gives the same text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("evaluation.html")
    page = template.render(
        report=report,
        words=report.texts.words,
        created=report.created_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        images={name: _data_uri(image) for name, image in figures.items()},
        card_entries=list(_card_entries(card)),
        **_numbers(report),
        **_tables(report),
    )
    # A number and its unit stay on one line.
    return re.sub(r"(?<=\d) %", "\u00a0%", page)


def _data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _numbers(report: EvaluationReport) -> dict[str, Any]:
    """The three numbers that matter, and the sentences beside them."""
    auroc, slope = (report.measures.get(n, Interval(None)) for n in ("auroc", "calibration_slope"))
    texts, benefits = report.texts, report.benefits
    return {
        "auroc": wording.interval(auroc),
        "slope": wording.interval(slope),
        "slope_sentence": findings.slope_sentence(slope),
        "calibration_sentence": findings.calibration_sentence(report.measures, texts),
        "benefit_verdict": findings.benefit_verdict(benefits, texts),
        "benefit_above": all(b.above_all for b in benefits),
        "benefit_values": [(wording.threshold(b.threshold), wording.interval(b.model, 4)) for b in benefits],
        "benefit_sentences": [findings.benefit_sentence(b, texts) for b in benefits],
        "workload_sentences": [
            findings.workload_sentence(f, texts) for f in wording.by_threshold(report.assessment.workload)
        ],
        "subgroup_sentence": subgroup_sentence(report),
        "cautions": [(_anchor("caution", c.title), c.title, c.text) for c in texts.cautions],
    }


def _tables(report: EvaluationReport) -> dict[str, Any]:
    others = [name for name in report.assessment.performance if name != report.assessment.model]
    return {
        "calibration_table": _calibration(report),
        "benefit_table": _benefits(report),
        "tier_table": _tiers(report),
        "workload_table": _workload(report),
        "subgroup_table": _subgroups(report),
        "performance_table": _performance(report),
        "difference_tables": [(report.shown(name), _differences(report, name)) for name in others],
        "subgroup_differences": _subgroup_differences(report),
        "flow_table": _flow(report),
        "parts_table": _parts(report),
        "tripod_rows": [_tripod(item.where) for item in report.tripod],
        "provenance": _provenance(report),
    }


def _calibration(report: EvaluationReport) -> Table:
    names = ("calibration_slope", "calibration_intercept", "calibration_in_the_large", "observed_expected",
             "eavg", "e90", "emax", "mean_predicted", "mean_observed")  # fmt: skip
    rows = []
    for name in names:
        if name in report.measures:
            shown = wording.measure(name)
            rows.append((shown.label, wording.interval(report.measures[name], shown.digits), shown.meaning))
    return Table(("Measure", "Value (95 % interval)", "What it says"), rows, (0, 2))


def _benefits(report: EvaluationReport) -> Table:
    rows = []
    for found in report.benefits:
        at = wording.threshold(found.threshold)
        rows.append((at, report.shown(report.assessment.model), wording.interval(found.model, 4), ""))
        for rival in found.rivals:
            between = "" if rival.difference is None else wording.interval(rival.difference, 4, sign=True)
            name = findings.rival_name(rival.name, report.texts)
            rows.append((at, name, wording.number(rival.net_benefit, 4), between))
    return Table(("From", "Rule", "Net benefit", "This model less it"), rows, (0, 1))


def _tiers(report: EvaluationReport) -> Table:
    tiers = report.assessment.tiers
    rows = []
    for tier, shown in zip(tiers, wording.shown_tiers(tiers), strict=True):
        name = report.shown(tier.tier)
        if not shown:
            rows.append((name, wording.NOT_SHOWN, "", "", ""))
            continue
        rows.append(
            (
                name,
                wording.thousands(tier.n),
                wording.percent(tier.share),
                wording.percent(tier.mean_predicted),
                wording.interval(tier.observed, 1, as_percent=True),
            )
        )
    head = ("Tier", report.texts.words.cases.capitalize(), "Share", "Mean predicted", "Observed rate")
    return Table(head, rows)


def _workload(report: EvaluationReport) -> Table:
    words = report.texts.words
    rows: list[tuple[str, ...]] = []
    for found in wording.by_threshold(report.assessment.workload):
        name = findings.flagged_from(found, report.texts.names)
        if wording.is_small(found.flagged):
            rows.append((name, wording.HIDDEN, "", "", "", ""))
            continue
        shares = (found.flag_rate, found.sensitivity, found.specificity, found.positive_predictive_value)
        rows.append(
            (
                name,
                *(wording.interval(share, 1, as_percent=True) for share in shares),
                wording.interval(found.number_needed_to_evaluate, 1),
            )
        )
    head = (f"{words.act_on} all", f"Of all {words.cases}", "Sensitivity", "Specificity",
            "Positive predictive value", f"{words.actions.capitalize()} per {words.event}")  # fmt: skip
    return Table(head, rows)


def _subgroups(report: EvaluationReport) -> Table:
    groups = report.assessment.subgroups
    names = ("auroc", "calibration_slope", "calibration_in_the_large")
    rows: list[tuple[str, ...]] = []
    for group, shown in zip(groups, wording.shown_subgroups(groups), strict=True):
        name = f"{report.shown(group.attribute)}: {report.shown(group.value)}"
        if not shown:
            rows.append((name, wording.NOT_SHOWN, "", "", "", "", ""))
            continue
        found = group.performance
        measured = [found.measures.get(n, Interval(None)) for n in names]
        rows.append(
            (
                name,
                wording.thousands(found.n),
                wording.thousands(found.events),
                *(wording.interval(m) for m in measured),
                wording.interval(group.flag_rate, 1, as_percent=True),
            )
        )
    at = wording.threshold(report.assessment.thresholds[0]) if report.assessment.thresholds else "threshold"
    words = report.texts.words
    head = ("Group", words.cases.capitalize(), words.events.capitalize(),
            *(wording.measure(n).label for n in names), f"Above {at}")  # fmt: skip
    return Table(head, rows)


def _performance(report: EvaluationReport) -> Table:
    performance = report.assessment.performance
    rows = []
    for name in report.measures:
        shown = wording.measure(name)
        found = (p.measures.get(name, Interval(None)) for p in performance.values())
        rows.append((shown.label, *(wording.interval(f, shown.digits) for f in found)))
    return Table(("Measure", *(report.shown(name) for name in performance)), rows)


def _differences(report: EvaluationReport, other: str) -> Table:
    """Over all cases, with whether the difference speaks for the model."""
    rows = [
        (wording.measure(found.measure).label, _difference(found), findings.difference_words(found))
        for found in report.assessment.differences.get(other, ())
        if found.subject == EVERYBODY
    ]
    return Table(("Measure", "This model less the other", "Which is"), rows, (0, 2))


def _difference(found: Difference) -> str:
    return wording.interval(found.difference, wording.measure(found.measure).digits, sign=True)


def _subgroup_differences(report: EvaluationReport) -> Table:
    """Against the champion, by group; only where the group's numbers may be shown."""
    found = {(d.subject, d.measure): d for d in report.assessment.differences.get(report.champion or "", ())}
    measures = list(dict.fromkeys(measure for subject, measure in found if subject != EVERYBODY))
    rows = []
    for group in report.visible_subgroups():
        subject = f"{group.attribute} = {group.value}"
        of_group = [found.get((subject, measure)) for measure in measures]
        if any(of_group):
            name = f"{report.shown(group.attribute)}: {report.shown(group.value)}"
            rows.append((name, *("" if d is None else _difference(d) for d in of_group)))
    return Table(("Group", *(wording.measure(m).label for m in measures)), rows)


def _flow(report: EvaluationReport) -> Table:
    flow = list(report.flow.items())
    if not flow:
        return Table(("Step", "Count"), ())
    (whole, total), steps = flow[0], flow[1:]
    shown = [wording.thousands(total), *wording.counts([count for _, count in steps])]
    names = [whole, *(name for name, _ in steps)]
    return Table(("Step", "Count"), [(report.shown(n), s) for n, s in zip(names, shown, strict=True)])


def _parts(report: EvaluationReport) -> Table:
    rows = [(report.shown(name), wording.thousands(count)) for name, count in report.parts.items()]
    return Table(("Part", report.texts.words.cases.capitalize()), rows)


def _tripod(pointers: Sequence[str]) -> list[tuple[str, str]]:
    """Per pointer its text and the link behind it, empty where it is not on the page."""
    return [
        (
            pointer.removeprefix("file:").replace("manifest:", "manifest: "),
            pointer if pointer[0] == "#" else "",
        )
        for pointer in pointers
    ]


def _provenance(report: EvaluationReport) -> list[tuple[str, str]]:
    facts: dict[str, Any] = {
        "model": report.model,
        "version": report.version,
        "dagster run": report.run_id,
        "champion compared with": report.champion_version or ("yes" if report.champion else "none"),
        "resamples": report.assessment.resamples,
        "seed of the resamples": report.assessment.seed,
        "policy": report.policy,
        "gate": report.gate,
        # The measures stand in the sections above, with intervals.
        "manifest": {name: value for name, value in report.manifest.items() if name != "metrics"},
    }
    return list(_flattened(facts, ""))


def _flattened(found: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        here = f"{path}{name}"
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{here}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if not any(isinstance(entry, Mapping) for entry in value):
                yield here, ", ".join(map(str, value)) or "none"
        else:
            yield here, "none" if value is None else str(value)


def _card_entries(card: ModelCard) -> Iterator[CardEntry]:
    for path, text in card.entries():
        name = path[-1]
        anchor = _anchor("card", *(path[-2:] if name in _REPEATED else path[-1:]))
        yield CardEntry(anchor, _spaced(name), len(path), text)


_REPEATED = frozenset(
    {"MetricGoal", "Results", "Interpretation", "TestType", "TestingDataDescription",
     "ValidationProcessAndJustification"}
)  # fmt: skip
"""Elements that each kind of measures has; their anchors begin with the kind."""


def _spaced(name: str) -> str:
    """`HowToUse` as `How To Use`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)


def _anchor(kind: str, *names: str) -> str:
    return "-".join([kind, *(re.sub(r"\W+", "-", _spaced(n)).strip("-").lower() for n in names)])
