"""The page on drift and prospective performance of a model in use.

Belongs here: which measurements stand in which table, and their words. Does not belong here: layout
(`templates/monitoring.html`), measuring and judging (`monitoring/`), any family's rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from medscore_assets.monitoring.assessment import Interval
from medscore_assets.monitoring.measurement import ALL, DRIFT, Measurement, latest_verdicts
from medscore_assets.monitoring.thresholds import (
    ALARM,
    GOOD,
    NOT_JUDGED,
    WARNING,
    Limit,
    Range,
    State,
    Thresholds,
)
from medscore_assets.report import wording

FILE = "monitoring.html"
TEMPLATES = Path(__file__).with_name("templates")

IN_WORDS: dict[State, str] = {
    GOOD: "as it should be",
    WARNING: "look into it",
    ALARM: "act",
    NOT_JUDGED: "not judged",
}

LABELS = {
    "psi": "Stability index (PSI)",
    "missing_rate": "Missing",
    "tier_share": "Share of scores",
    "expected_auroc": "AUROC to be expected",
    "expected_brier": "Brier score to be expected",
    "expected_rate": "Mean risk",
    "expected_auroc_of_arm": "AUROC these risks promise",
}
SHARES = ("missing_rate", "tier_share", "expected_rate")


@dataclass(frozen=True, slots=True)
class Cell:
    """One value as it is shown."""

    text: str
    state: State = NOT_JUDGED

    @property
    def verdict(self) -> str:
        """The state in plain words."""
        return IN_WORDS[self.state]


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One group of one month; `cells` in the order of the page's measures."""

    arm: str
    n: str
    events: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Month:
    """One month of one model version."""

    first: date
    version: int
    rows: tuple[ArmRow, ...]


@dataclass(frozen=True, slots=True)
class DriftRow:
    """One measure of one subject, per window."""

    measure: str
    subject: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class MonitoringPage:
    """What is shown of one model.

    `measurements` are all that are kept of it, `performance` the measures by month in their order,
    `partitions` the arms that add up to all cases, each with its arms, and `notes` what a reader must know
    of performance before reading it.
    """

    model: str
    version: int
    measurements: Sequence[Measurement]
    thresholds: Thresholds
    performance: Sequence[str]
    partitions: Sequence[Sequence[str]]
    notes: Sequence[str]
    caution: str = ""
    """Why drift is not judged; empty where it is."""

    def now(self) -> list[Measurement]:
        """The verdicts on the model in use that count now, the worst first."""
        found = latest_verdicts(m for m in self.measurements if m.model_version == self.version)
        order = {ALARM: 0, WARNING: 1, GOOD: 2, NOT_JUDGED: 3}
        return sorted(found, key=lambda m: (order[m.state], m.measure, m.subject))

    def windows(self) -> list[tuple[date, date]]:
        """The latest windows in which drift was measured, the shortest first."""
        found = [m for m in self.measurements if m.measure in DRIFT and m.model_version == self.version]
        newest = max((m.period_end for m in found), default=None)
        return sorted({(m.period_start, m.period_end) for m in found if m.period_end == newest}, reverse=True)

    def drift(self) -> list[DriftRow]:
        """Every measure and subject of those windows."""
        windows = self.windows()
        found = {
            (m.measure, m.subject, m.period_start): m
            for m in self.measurements
            if m.measure in DRIFT
            and m.model_version == self.version
            and (m.period_start, m.period_end) in windows
        }
        order = {measure: place for place, measure in enumerate(DRIFT)}
        subjects = sorted({key[:2] for key in found}, key=lambda key: (order[key[0]], key[1]))
        return [
            DriftRow(
                label(measure),
                wording.words(subject),
                tuple(
                    _cell(found[measure, subject, first])
                    if (measure, subject, first) in found
                    else Cell(wording.NOT_DEFINED)
                    for first, _ in windows
                ),
            )
            for measure, subject in subjects
        ]

    def months(self) -> list[Month]:
        """Performance, the latest month first."""
        found: dict[tuple[date, int], dict[str, dict[str, Measurement]]] = {}
        for m in self.measurements:
            if m.measure in self.performance:
                of_month = found.setdefault((m.period_start, m.model_version), {})
                of_month.setdefault(m.subject, {})[m.measure] = m
        return [
            Month(first, version, tuple(self._arms(found[first, version])))
            for first, version in sorted(found, reverse=True)
        ]

    def _arms(self, arms: dict[str, dict[str, Measurement]]) -> Iterator[ArmRow]:
        """All cases, and then the arms; numbers that are few, or would tell of few, stay hidden."""
        yield self._arm(ALL, arms.get(ALL, {}), hidden=_few(arms.get(ALL, {})))
        for partition in self.partitions:
            there = [arm for arm in partition if arm in arms]
            sizes = [_sizes(arms[arm])[0] for arm in there]
            masks = wording.hidden([_few(arms[arm]) for arm in there], sizes)
            for arm, hidden in zip(there, masks, strict=True):
                yield self._arm(arm, arms[arm], hidden=hidden)

    def _arm(self, arm: str, measures: dict[str, Measurement], *, hidden: bool) -> ArmRow:
        if hidden:
            dots = (Cell(wording.NOT_SHOWN),) * len(self.performance)
            return ArmRow(wording.words(arm), wording.NOT_SHOWN, wording.NOT_SHOWN, dots)
        n, events = _sizes(measures)
        cells = (
            _cell(measures[name]) if name in measures else Cell(wording.NOT_DEFINED)
            for name in self.performance
        )
        return ArmRow(wording.words(arm), wording.thousands(n), wording.thousands(events), tuple(cells))

    def limits(self) -> list[tuple[str, str, str]]:
        """Name, warning and alarm of every threshold."""
        return [
            (wording.words(name), _limit(rule.warning), _limit(rule.alarm))
            for name in type(self.thresholds).model_fields
            if isinstance(rule := getattr(self.thresholds, name), Limit | Range)
        ]

    def html(self) -> str:
        """The page; the same measurements give the same bytes."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template(FILE).render(page=self, label=label, value=_cell, words=wording.words)

    def write(self, folder: Path) -> Path:
        """Write the page into a folder, which is made if need be, in one step; its path."""
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{FILE}.{os.getpid()}"
        unfinished.write_text(self.html(), encoding="utf-8")
        unfinished.replace(folder / FILE)
        return folder / FILE


def label(measure: str) -> str:
    """A measure's name for people."""
    return LABELS.get(measure) or wording.measure(measure).label


def verdict_table(now: Iterable[Measurement]) -> str:
    """The verdicts as a Markdown table, alarms and warnings only; a sentence if there are none."""
    wrong = [m for m in now if m.state in (WARNING, ALARM)]
    if not wrong:
        return "Nothing that could be judged is out of bounds."
    lines = [
        f"| {label(m.measure)} | {wording.words(m.subject)} | {m.period_start} to {m.period_end} "
        f"| {m.n:,} | {_cell(m).text} | {IN_WORDS[m.state]} |"
        for m in sorted(wrong, key=lambda m: (m.state != ALARM, m.measure, m.subject))
    ]
    return "\n".join(["| measure | of | days | n | value | verdict |", "|---|---|---|---|---|---|", *lines])


def _cell(m: Measurement) -> Cell:
    if m.value is None:
        return Cell(wording.NOT_DEFINED, m.state)
    digits = wording.measure(m.measure).digits if m.measure in wording.MEASURES else 3
    if m.measure in SHARES:
        return Cell(wording.percent(m.value), m.state)
    if m.lower is None:
        return Cell(wording.number(m.value, digits), m.state)
    return Cell(wording.interval(Interval(m.value, m.lower, m.upper), digits), m.state)


def _sizes(measures: dict[str, Measurement]) -> tuple[int, int]:
    first = next(iter(measures.values()), None)
    return (first.n, first.events or 0) if first else (0, 0)


def _few(measures: dict[str, Measurement]) -> bool:
    n, events = _sizes(measures)
    return any(map(wording.is_small, (n, events, n - events)))


def _limit(value: float | list[float]) -> str:
    if isinstance(value, list):
        return f"outside of {value[0]:g} to {value[1]:g}"
    return f"above {value:g}"
