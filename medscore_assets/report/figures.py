"""The plots of an evaluation, one look for all model families.

Belongs here: one function per plot, from an `Assessment` to a matplotlib `Figure`.
Does not belong here: anything measured, the common look (`figure_style.py`), pages (`evaluation_page.py`).

Every line has a colour and a dash of its own and a label beside it, so that a grey print says the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from medscore_assets.monitoring.assessment import Assessment, Interval, Subgroup
from medscore_assets.monitoring.decisions import TREAT_ALL, TREAT_NONE
from medscore_assets.report import wording
from medscore_assets.report.figure_style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SIZE,
    SMALL,
    VERMILION,
    Labels,
    blank_figure,
    plain,
    upper_end,
    whisker,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = npt.NDArray[np.float64]

HIGHEST_THRESHOLD = 0.5
"""The end of the decision curve: nobody waits for a higher risk."""


class _Line(NamedTuple):
    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    width: float


_MODEL = _Line(BLUE, "-", 2.2)
_CHAMPION = _Line(VERMILION, (0, (6, 2)), 1.7)
_OTHERS = (
    _Line(GREEN, (0, (4, 1.5, 1, 1.5)), 1.5),
    _Line(PURPLE, (0, (1.2, 1.2)), 1.7),
    _Line(ORANGE, (0, (3, 2)), 1.5),
)
_ALL = _Line(MUTED, (0, (2, 2)), 1.2)
_NONE = _Line(INK, "-", 0.9)


def all_figures(
    assessment: Assessment, *, labels: Labels | None = None, champion: str | None = None
) -> dict[str, Figure]:
    """Every figure by the name of its file, without the ending."""
    labels = labels or Labels()
    return {
        "calibration": calibration(assessment, labels),
        "decision_curve": decision_curve(assessment, labels, champion),
        "risk_distribution": risk_distribution(assessment, labels),
        "tiers_and_workload": tiers_and_workload(assessment, labels),
        "subgroups": subgroups(assessment, labels),
    }


def calibration(assessment: Assessment, labels: Labels) -> Figure:
    """Observed against predicted risk, with the share of cases at each risk below."""
    from matplotlib.ticker import PercentFormatter

    figure = blank_figure(5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    figure.subplots_adjust(left=0.13, right=0.97, top=0.98, bottom=0.1, hspace=0.08)
    curve = assessment.calibration[assessment.model]
    end = upper_end(curve.grid, curve.upper, curve.bin_predicted, curve.bin_upper)
    upper.plot([0, end], [0, end], color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
    _along_the_diagonal(upper, end)
    upper.fill_between(curve.grid, curve.lower, curve.upper, color=BLUE, alpha=0.18, linewidth=0)
    upper.plot(curve.grid, curve.smooth, color=BLUE, linewidth=2.2)
    errors = np.vstack([curve.bin_observed - curve.bin_lower, curve.bin_upper - curve.bin_observed]).clip(
        min=0
    )
    upper.errorbar(
        curve.bin_predicted, curve.bin_observed, yerr=errors, fmt="o", color=INK, markersize=4.5,
        markerfacecolor="white", markeredgewidth=1.3, elinewidth=1, zorder=3,
    )  # fmt: skip
    key = f"line: smoothed, with its 95 % interval\ncircles: tenths of the {labels.cases}, with theirs"
    upper.text(0.03 * end, 0.97 * end, key, va="top", color=INK, fontsize=SMALL, linespacing=1.5)
    upper.set(xlim=(0, end), ylim=(0, end))
    upper.set_ylabel(f"Observed rate of {labels.outcome}", fontsize=SIZE, color=INK)
    _risk_strip(lower, assessment, labels)
    for axes in (upper, lower):
        plain(axes)
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    lower.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    lower.set_xlabel("Predicted risk", fontsize=SIZE, color=INK)
    return figure


def _risk_strip(axes: Axes, assessment: Assessment, labels: Labels) -> None:
    distribution = assessment.risk_distribution
    rate = assessment.events / assessment.n if assessment.n else 0.0
    share = rate * np.nan_to_num(distribution.with_outcome)
    share = share + (1 - rate) * np.nan_to_num(distribution.without_outcome)
    axes.bar(distribution.edges[:-1], share, np.diff(distribution.edges), align="edge", color=MUTED)
    axes.set_yticks([])
    axes.set_ylabel(f"Share of\n{labels.cases}", fontsize=SMALL, color=INK)


def _along_the_diagonal(axes: Axes, end: float) -> None:
    axes.text(
        0.83 * end, 0.80 * end, "perfect calibration", rotation=45, rotation_mode="anchor",
        transform_rotates_text=True, ha="center", va="top", fontsize=SMALL, color=MUTED,
    )  # fmt: skip


def decision_curve(assessment: Assessment, labels: Labels, champion: str | None) -> Figure:
    """Net benefit by threshold of every model, of acting on all and of acting on nobody."""
    from matplotlib.ticker import PercentFormatter

    figure = blank_figure(4.3)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.13, right=0.97, top=0.97, bottom=0.13)
    curve = assessment.decision_curve
    shown = curve.thresholds <= HIGHEST_THRESHOLD
    thresholds = curve.thresholds[shown]
    named = {
        TREAT_ALL: f"{labels.acting} everybody",
        TREAT_NONE: f"{labels.acting} nobody",
        **{name: labels.shown(name) for name in assessment.performance},
    }
    drawn = []
    top = 0.01
    for name, line in _lines(curve.net_benefit, assessment.model, champion):
        values = curve.net_benefit[name][shown]
        top = max(top, float(np.nan_to_num(values).max(initial=0)))
        drawn += axes.plot(
            thresholds, values, color=line.colour, linestyle=line.dash, linewidth=line.width,
            label=named.get(name, name),
        )  # fmt: skip
    for threshold in assessment.thresholds:
        axes.axvline(threshold, color=FAINT, linewidth=0.9, zorder=0)
    axes.set(xlim=(0, HIGHEST_THRESHOLD), ylim=(-0.15 * top, 1.08 * top))
    # Net benefit only falls, so that the corner is free; the judged model stands first.
    axes.legend(
        handles=drawn[::-1],
        loc="upper right",
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handlelength=3.2,
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_xlabel("Threshold: risk from which one acts", fontsize=SIZE, color=INK)
    axes.set_ylabel("Net benefit", fontsize=SIZE, color=INK)
    plain(axes)
    return figure


def _lines(names: Mapping[str, Numbers], model: str, champion: str | None) -> list[tuple[str, _Line]]:
    """The lines from the back to the front; the judged model is drawn last."""
    special = {TREAT_NONE: _NONE, TREAT_ALL: _ALL}
    others = [name for name in names if name not in (model, champion, *special)]
    drawn = [(name, special[name]) for name in special if name in names]
    drawn += [(name, _OTHERS[n % len(_OTHERS)]) for n, name in enumerate(others)]
    if champion in names and champion is not None:
        drawn.append((champion, _CHAMPION))
    if model in names:
        drawn.append((model, _MODEL))
    return drawn


def risk_distribution(assessment: Assessment, labels: Labels) -> Figure:
    """Predicted risks of the cases with the outcome (upward) and without it (downward)."""
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    figure = blank_figure(3.5)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.13, right=0.97, top=0.97, bottom=0.16)
    found = assessment.risk_distribution
    widths = np.diff(found.edges)
    above, below = np.nan_to_num(found.with_outcome), np.nan_to_num(found.without_outcome)
    axes.bar(found.edges[:-1], above, widths, align="edge", color=VERMILION, edgecolor="white", linewidth=0.4)
    axes.bar(found.edges[:-1], -below, widths, align="edge", color=BLUE, edgecolor="white", linewidth=0.4)
    axes.axhline(0, color=INK, linewidth=0.9)
    end = float(found.edges[1:][(above + below) > 0].max(initial=float(found.edges[1])))
    top = 1.15 * max(float(above.max(initial=0)), float(below.max(initial=0)), 0.01)
    axes.set(xlim=(float(found.edges[0]), end), ylim=(-top, top))
    place = float(found.edges[0]) + 0.97 * (end - float(found.edges[0]))
    named = ((f"with {labels.outcome}", 1, VERMILION), (f"without {labels.outcome}", -1, BLUE))
    for label, side, colour in named:
        axes.text(place, 0.8 * side * top, label, ha="right", va="center", color=colour, fontsize=SIZE)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value) * 100:g} %"))
    axes.set_xlabel("Predicted risk", fontsize=SIZE, color=INK)
    axes.set_ylabel("Share of each group", fontsize=SIZE, color=INK)
    plain(axes)
    return figure


def tiers_and_workload(assessment: Assessment, labels: Labels) -> Figure:
    """What each tier stands for, and what acting from each threshold on costs and finds."""
    from matplotlib.ticker import PercentFormatter

    heights = (max(len(assessment.tiers), 1), max(len(wording.by_threshold(assessment.workload)), 1))
    figure = blank_figure(1.9 + 0.42 * sum(heights))
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    edge = 0.5 / figure.get_figheight()
    figure.subplots_adjust(left=0.17, right=0.95, top=1 - 0.6 * edge, bottom=edge, hspace=0.6)
    _tiers(upper, assessment, labels)
    _workload(lower, assessment, labels)
    for axes in (upper, lower):
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        plain(axes)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


def _tiers(axes: Axes, assessment: Assessment, labels: Labels) -> None:
    tiers = assessment.tiers
    shown = wording.shown_tiers(tiers)
    visible = [tier for tier, is_shown in zip(tiers, shown, strict=True) if is_shown]
    ends = [v for t in visible for v in (t.observed.upper, t.mean_predicted) if wording.is_defined(v)]
    end = 1.05 * max([*ends, 0.05])
    names = []
    for row, (tier, is_shown) in enumerate(zip(tiers, shown, strict=True)):
        axes.axhline(row, color=FAINT, linewidth=0.7, zorder=0)
        share = f"\n{wording.percent(tier.share)}" if is_shown else ""
        names.append(f"{labels.shown(tier.tier)}{share}")
        if not is_shown:
            _not_shown(axes, row, end)
            continue
        whisker(axes, tier.observed, row + 0.14, INK)
        if wording.is_defined(tier.mean_predicted):
            axes.plot([tier.mean_predicted], [row - 0.14], "D", color=BLUE, markersize=4.5, zorder=4)
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes.set(xlim=(0, end), ylim=(len(names) - 0.4, -0.6))
    axes.set_xlabel(
        "Diamond: mean predicted risk. Circle: observed rate, with interval", fontsize=SMALL, color=INK
    )


def _not_shown(axes: Axes, row: float, end: float) -> None:
    axes.text(
        0.012 * end, row, "not shown: small numbers", va="center", fontsize=SMALL, color=MUTED,
        backgroundcolor="white",
    )  # fmt: skip


def _workload(axes: Axes, assessment: Assessment, labels: Labels) -> None:
    rows = wording.by_threshold(assessment.workload)
    for row, flagged in enumerate(rows):
        rate = flagged.flag_rate.estimate
        if wording.is_small(flagged.flagged):
            _not_shown(axes, row, 1)
            continue
        found = wording.percent(flagged.sensitivity.estimate, 0)
        each = wording.number(flagged.number_needed_to_evaluate.estimate, 1)
        text = f"finds {found}, {each} {labels.actions} each"
        width = rate if wording.is_defined(rate) else 0.0
        axes.barh(row, width, height=0.55, color=BLUE, alpha=0.75)
        inside = width > 0.55
        axes.text(
            width - 0.012 if inside else width + 0.012, row, text, va="center", fontsize=SMALL,
            ha="right" if inside else "left", color="white" if inside else INK,
        )  # fmt: skip
    names = [f"above {wording.threshold(flagged.threshold)}" for flagged in rows]
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    axes.set_xlabel(
        f"Share of {labels.cases} above; {labels.events} found, {labels.actions} for each",
        fontsize=SMALL,
        color=INK,
    )


def subgroups(
    assessment: Assessment, labels: Labels, measures: tuple[str, str] = ("auroc", "calibration_in_the_large")
) -> Figure:
    """Two measures of every subgroup with their intervals; the line is the value of all cases."""
    groups = [
        group
        for group, shown in zip(
            assessment.subgroups, wording.shown_subgroups(assessment.subgroups), strict=True
        )
        if shown
    ]
    rows, places = _forest_rows(groups, labels)
    figure = blank_figure(1.0 + 0.235 * max(len(rows), 3))
    panels = figure.subplots(1, 2, sharey=True)
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.36, right=0.97, top=1 - 0.12 / height, bottom=0.55 / height, wspace=0.16)
    overall = assessment.performance[assessment.model].measures
    for axes, name in zip(panels, measures, strict=True):
        for group, place in zip(groups, places, strict=True):
            whisker(axes, group.performance.measures.get(name, Interval(None)), place, INK)
        estimate = overall[name].estimate if name in overall else None
        if wording.is_defined(estimate):
            axes.axvline(estimate, color=BLUE, linewidth=1.3, linestyle=(0, (5, 2)), zorder=1)
        if name == measures[1]:
            axes.axvline(0, color=MUTED, linewidth=0.8, zorder=0)
        axes.set_xlabel(wording.measure(name).label, fontsize=SIZE, color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        plain(axes)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=4)
    for place, (text, is_heading) in enumerate(rows):
        panels[0].text(
            -0.05, place, text, transform=panels[0].get_yaxis_transform(), ha="right", va="center",
            fontsize=SMALL, color=INK, fontweight="bold" if is_heading else "normal",
        )  # fmt: skip
    return figure


def _forest_rows(groups: Sequence[Subgroup], labels: Labels) -> tuple[list[tuple[str, bool]], list[int]]:
    """The texts of the rows, a heading per attribute, and the row of each group."""
    rows: list[tuple[str, bool]] = []
    places: list[int] = []
    attribute = None
    for group in groups:
        if group.attribute != attribute:
            attribute = group.attribute
            rows.append((labels.shown(attribute), True))
        places.append(len(rows))
        rows.append((f"{labels.shown(group.value)} ({wording.thousands(group.performance.n)})", False))
    return rows, places
