"""The plots of a population report but the funnel (`funnel_figure.py`), drawn for print on A4, also in grey.

Belongs here: one function per plot, from published cells to a matplotlib `Figure`, and a figure as SVG.
Does not belong here: anything computed from more than one cell, captions and alternative texts.

What is withheld is hatched or said to be; nothing rests on colour alone. Texts from data are never read as
mathematics.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from medscore_assets.monitoring.assessment import Interval
from medscore_assets.report import wording
from medscore_assets.report.figure_style import BLUE, FAINT, INK, MUTED, plain, whisker
from medscore_assets.report.population.cells import LONGEST, NONE, WITHHELD, Cell
from medscore_assets.report.population.changes import Change

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.5
"""Inches: the width of the text on the page, so that a figure is printed at its own size."""
SIZE, SMALL = 7.5, 6.8
BAR = "#86b3d1"
_ROW = 0.25
_SIGN = 0.6 * SMALL / 72
"""Inches of a sign in small print, on average."""
_AS_FAR_FROM_BLACK_AS_FROM_WHITE = 0.18
_HATCH = "//////"


@contextmanager
def drawing() -> Iterator[None]:
    """Within this, figures have the one font that is shipped, SVGs fixed names and selectable text.

    These three settings exist only globally; nothing else of the platform writes SVG or changes the font.
    """
    import matplotlib

    fixed: Any = {"font.family": ["DejaVu Sans"], "svg.fonttype": "none", "svg.hashsalt": "medscore"}
    with matplotlib.rc_context(fixed):
        yield


def svg(figure: Figure) -> str:
    """The figure as SVG; the same figure gives the same text, within `drawing`."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.BytesIO()
    metadata = {"Date": None, "Creator": None}
    FigureCanvasSVG(figure).print_svg(file, metadata=metadata)  # type: ignore[no-untyped-call]
    return file.getvalue().decode()


def page_figure(height: float) -> Figure:
    """An empty figure of the page's width and so many inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), facecolor="white")


def margins(
    figure: Figure, left: float, right: float, top: float, bottom: float, wspace: float = 0.12
) -> None:
    """Sets the margins in inches."""
    height = figure.get_figheight()
    figure.subplots_adjust(
        left=left / WIDTH,
        right=1 - right / WIDTH,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=wspace,
    )


def panels_of(figure: Figure, widths: Sequence[int]) -> list[Axes]:
    """Panels beside each other that share their rows."""
    found = figure.subplots(1, len(widths), sharey=True, width_ratios=widths, squeeze=False)
    return [*found[0]]


def regions(cells: Sequence[tuple[str, Cell]], total: Cell) -> Figure:
    """Mean risk of each region as a ranked bar and, where known, observed by expected as a point."""
    ratios = total.value("observed_to_expected") is not None
    figure = page_figure(0.62 + _ROW * len(cells))
    panels = panels_of(figure, (5, 4) if ratios else (1,))
    margins(figure, 1.55, 0.12, 0.06, 0.5)
    risk_bars(panels[0], [cell for _, cell in cells], total)
    if ratios:
        ratio_points(panels[1], [cell for _, cell in cells], total)
    rows(panels[0], [name for name, _ in cells])
    return figure


def risk_bars(axes: Axes, cells: Sequence[Cell], total: Cell) -> None:
    """Mean predicted risk from zero, with its interval and its value."""
    found = [cell.interval("mean_risk") for cell in cells]
    end = 1.27 * max([0.01, *(v for i in found for v in (i.estimate, i.upper) if v is not None)])
    for row, (cell, risk) in enumerate(zip(cells, found, strict=True)):
        if risk.estimate is None:
            missing(axes, row, cell, "mean_risk", 0.01 * end)
            continue
        axes.barh(row, risk.estimate, height=0.66, color=BAR, edgecolor=INK, linewidth=0.4)
        _whisker_line(axes, risk, row)
        axes.text(
            end, row, wording.percent(risk.estimate), ha="right", va="center", fontsize=SMALL, color=INK
        )
    everybody(axes, total.value("mean_risk"))
    axes.set_xlim(0, end)
    percent_axis(axes, "Mean predicted risk of readmission (%)")


def ratio_points(axes: Axes, cells: Sequence[Cell], total: Cell) -> None:
    """Observed by expected with its interval; the line is the ratio of all members together."""
    found = [cell.interval("observed_to_expected") for cell in cells]
    values = [v for i in found for v in (i.estimate, i.lower, i.upper) if v is not None] or [1.0]
    low, high = min(0.95, *values), max(1.05, *values)
    space = 0.06 * (high - low)
    axes.set_xlim(low - space, high + space)
    axes.axvline(1, color=MUTED, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
    everybody(axes, total.value("observed_to_expected"))
    for row, (cell, ratio) in enumerate(zip(cells, found, strict=True)):
        if ratio.estimate is None:
            missing(axes, row, cell, "observed_to_expected", low)
        else:
            whisker(axes, ratio, row, INK)
    axes.set_xlabel("Observed by expected (ratio)", fontsize=SIZE, color=INK)
    bare(axes)


def heat_map(
    row_names: Sequence[str], column_names: Sequence[str], cells: Mapping[tuple[int, int], Cell]
) -> Figure:
    """Mean risk by two dimensions: numbers in the fields, withheld fields hatched."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    head, top, turned = _head(column_names)
    figure = page_figure(0.1 + top + 0.25 * len(row_names))
    axes = figure.subplots()
    margins(figure, 1.55, 0.75, top, 0.06)
    values = [v for cell in cells.values() if (v := cell.value("mean_risk")) is not None] or [0.0, 0.1]
    scale = Normalize(min(values), max(max(values), min(values) + 0.01))
    # From near white to dark: as light as it is in colour, so it prints in grey.
    colours = LinearSegmentedColormap.from_list("risk", ["#f3f7fa", "#9cc3dd", "#3f7fae", "#12395c"])
    for row, column in np.ndindex(len(row_names), len(column_names)):
        _field(axes, row, column, cells.get((row, column)), lambda value: colours(scale(value)))
    axes.set_xlim(-0.5, len(column_names) - 0.5)
    axes.set_ylim(len(row_names) - 0.5, -0.5)
    axes.set_xticks(range(len(head)), head, parse_math=False, rotation=35 if turned else 0,
                    ha="left" if turned else "center",
                    rotation_mode="anchor" if turned else "default")  # fmt: skip
    axes.set_yticks(range(len(row_names)), row_names, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=SMALL, colors=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    beside = figure.add_axes(
        (1 - 0.6 / WIDTH, axes.get_position().y0, 0.1 / WIDTH, axes.get_position().height)
    )
    bar = figure.colorbar(ScalarMappable(scale, colours), cax=beside)
    bar.set_label("Mean predicted risk (%)", fontsize=SMALL, color=INK)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=SMALL - 0.6, length=2, colors=INK)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value * 100:g}")
    bar.ax.locator_params(axis="y", nbins=5)
    return figure


def _head(names: Sequence[str]) -> tuple[list[str], float, bool]:
    """Column names as they are written, the inches that they need, and whether they are turned."""
    broken = [_two_lines(name) for name in names]
    longest = max(len(line) for name in broken for line in name.split("\n")) * _SIGN
    if longest <= 0.95 * (WIDTH - 2.3) / len(names):
        return broken, 0.42 if any("\n" in name for name in broken) else 0.25, False
    return [*names], 0.2 + 0.57 * max(len(name) for name in names) * _SIGN, True


def _two_lines(name: str) -> str:
    """The name broken at the blank next to its middle, if it is long and has one."""
    blanks = [n for n, sign in enumerate(name) if sign == " "]
    if len(name) <= 12 or not blanks:
        return name
    middle = min(blanks, key=lambda n: (abs(n - len(name) / 2), n))
    return f"{name[:middle]}\n{name[middle + 1 :]}"


def _field(axes: Axes, row: int, column: int, cell: Cell | None, colour: Any) -> None:
    from matplotlib.patches import Rectangle

    value = cell.value("mean_risk") if cell else None
    hidden = cell is not None and value is None and "mean_risk" in cell.withheld
    face = colour(value) if value is not None else "white"
    place = (column - 0.5, row - 0.5)
    field = Rectangle(place, 1, 1, facecolor=face, edgecolor="white", linewidth=1.2)
    axes.add_patch(field)
    if hidden:
        inner = Rectangle((place[0] + 0.03, place[1] + 0.05), 0.94, 0.9, facecolor="white",
                          edgecolor="#8c8c8c", linewidth=0, hatch=_HATCH, hatch_linewidth=0.5)  # fmt: skip
        axes.add_patch(inner)
        return
    dark = value is not None and _luminance(face[:3]) < _AS_FAR_FROM_BLACK_AS_FROM_WHITE
    text = NONE if value is None else wording.number(value * 100, 1)
    axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color="white" if dark else INK)


def _luminance(colour: Any) -> float:
    """Relative luminance of a colour, by which contrast is measured."""
    return float(np.dot(np.power(colour, 2.2), (0.2126, 0.7152, 0.0722)))


def age_and_sex(groups: Sequence[str], sexes: Sequence[str], cells: Mapping[tuple[int, int], Cell]) -> Figure:
    """Mean risk by age, a sign per sex, side by side within each group of ages."""
    figure = page_figure(0.8 + 0.31 * len(groups))
    axes = figure.subplots()
    margins(figure, 1.55, 0.12, 0.28, 0.5)
    values = [v for c in cells.values() for v in _ends(c.interval("mean_risk"))]
    end = 1.08 * max([0.01, *values])
    shapes = ("o", "s", "^", "D", "v")
    step = 0.75 / max(len(sexes), 1)
    for column, sex in enumerate(sexes):
        shape, fill = shapes[column % len(shapes)], (INK, "white", BLUE)[column % 3]
        axes.plot([], [], shape, color=INK, markerfacecolor=fill, markersize=4.5, label=sex)
        for row in range(len(groups)):
            place = row + (column - (len(sexes) - 1) / 2) * step
            cell = cells.get((row, column))
            risk = cell.interval("mean_risk") if cell else Interval(None)
            if risk.estimate is not None:
                _whisker_line(axes, risk, place)
                axes.plot([risk.estimate], [place], shape, color=INK, markerfacecolor=fill, markersize=4.5)
    for row in range(1, len(groups)):
        axes.axhline(row - 0.5, color=FAINT, linewidth=0.6, zorder=0)
    legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(sexes), frameon=False,
                         fontsize=SMALL, borderaxespad=0.2, handletextpad=0.2)  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.set_xlim(0, end)
    percent_axis(axes, "Mean predicted risk of readmission (%), with 95 % interval")
    rows(axes, [f"{group}{_withheld(row, sexes, cells)}" for row, group in enumerate(groups)])
    return figure


def _withheld(row: int, sexes: Sequence[str], cells: Mapping[tuple[int, int], Cell]) -> str:
    """A second line under the name of a group of ages: for whom the risk is withheld."""
    hidden = [
        sex
        for column, sex in enumerate(sexes)
        if (cell := cells.get((row, column))) and "mean_risk" in cell.withheld
    ]
    named = f"\n{', '.join(hidden)} {WITHHELD}" if hidden else ""
    return named if len(named) <= LONGEST else f"\n{len(hidden)} of {len(sexes)} {WITHHELD}"


def bars(cells: Sequence[tuple[str, Cell]], total: Cell) -> Figure:
    """Mean risk of each member of one dimension."""
    figure = page_figure(0.6 + _ROW * len(cells))
    axes = figure.subplots()
    margins(figure, 1.55, 0.12, 0.06, 0.5)
    risk_bars(axes, [cell for _, cell in cells], total)
    rows(axes, [name for name, _ in cells])
    return figure


def expected(cells: Sequence[tuple[str, Cell]]) -> Figure:
    """Expected readmissions as ranked bars."""
    figure = page_figure(0.6 + _ROW * len(cells))
    axes = figure.subplots()
    margins(figure, 1.55, 0.12, 0.06, 0.5)
    end = 1.2 * max([1.0, *(cell.value("expected_readmissions") or 0 for _, cell in cells)])
    for row, (_, cell) in enumerate(cells):
        value = cell.value("expected_readmissions")
        if value is None:
            missing(axes, row, cell, "expected_readmissions", 0.01 * end)
            continue
        axes.barh(row, value, height=0.66, color=BAR, edgecolor=INK, linewidth=0.4)
        text = cell.number("expected_readmissions", 0)
        axes.text(value + 0.01 * end, row, text, va="center", fontsize=SMALL, color=INK)
    axes.set_xlim(0, end)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("Expected readmissions within 30 days (number of members)", fontsize=SIZE, color=INK)
    bare(axes)
    rows(axes, [name for name, _ in cells])
    return figure


def change(found: Sequence[Change], names: tuple[str, str]) -> Figure:
    """Change of mean risk with its interval and, where known in both, observed by expected then and since."""
    ratios = any(None not in (each.ratio_before, each.ratio) for each in found)
    figure = page_figure(0.85 + 0.21 * len(found))
    panels = panels_of(figure, (1, 1) if ratios else (1,))
    margins(figure, 1.55, 0.12, 0.28, 0.5)
    left = panels[0]
    left.axvline(0, color=MUTED, linewidth=0.8, zorder=0)
    widest = max([0.002, *(abs(v) for each in found for v in _ends(each.risk))])
    left.set_xlim(-1.12 * widest, 1.12 * widest)
    for row, each in enumerate(found):
        if each.risk.estimate is None:
            left.text(0, row, each.why, va="center", ha="center", fontsize=SMALL, color=MUTED,
                      backgroundcolor="white")  # fmt: skip
        else:
            whisker(left, each.risk, row, INK)
    left.xaxis.set_major_formatter(lambda value, _: wording.signed(value * 100, 1))
    left.locator_params(axis="x", nbins=7)
    left.set_xlabel("Change of mean predicted risk (percentage points)", fontsize=SIZE, color=INK)
    bare(left)
    if ratios:
        _then_and_since(panels[1], found, names)
    rows(left, [each.name for each in found])
    for label, each in zip(left.get_yticklabels(), found, strict=True):
        label.set_fontweight("bold" if each.heading else "normal")
    return figure


def _then_and_since(axes: Axes, found: Sequence[Change], names: tuple[str, str]) -> None:
    axes.axvline(1, color=MUTED, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
    for row, each in enumerate(found):
        if each.ratio_before is None or each.ratio is None:
            why = each.why or ("" if each.heading else NONE)
            axes.text(1, row, why, va="center", ha="center", fontsize=SMALL, color=MUTED,
                      backgroundcolor="white")  # fmt: skip
            continue
        axes.plot([each.ratio_before, each.ratio], [row, row], color=MUTED, linewidth=1.1, zorder=1)
        axes.plot([each.ratio_before], [row], "o", color=INK, markerfacecolor="white", markersize=4.5)
        axes.plot([each.ratio], [row], "o", color=INK, markersize=4.5)
    axes.plot([], [], "o", color=INK, markerfacecolor="white", markersize=4.5, label=names[0])
    axes.plot([], [], "o", color=INK, markersize=4.5, label=names[1])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=SMALL,
                borderaxespad=0.2, handletextpad=0.2)  # fmt: skip
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("Observed by expected (ratio)", fontsize=SIZE, color=INK)
    bare(axes)


def _ends(found: Interval) -> list[float]:
    return [v for v in (found.estimate, found.lower, found.upper) if v is not None]


def _whisker_line(axes: Axes, found: Interval, row: float) -> None:
    if found.lower is not None and found.upper is not None:
        axes.plot([found.lower, found.upper], [row, row], color=INK, linewidth=1.1, solid_capstyle="butt")
        axes.plot([found.lower, found.upper], [row, row], "|", color=INK, markersize=4, markeredgewidth=1)


def everybody(axes: Axes, value: float | None) -> None:
    """The value of all members together as a dashed line."""
    if value is not None:
        axes.axvline(value, color=INK, linewidth=0.9, linestyle=(0, (5, 2)), zorder=0.5)


def missing(axes: Axes, row: float, cell: Cell, measure: str, place: float) -> None:
    """Says why there is no bar or point."""
    text = "withheld: small numbers" if cell.missing(measure) == WITHHELD else "no cases"
    axes.text(place, row, text, va="center", fontsize=SMALL - 0.4, color=MUTED,
              bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip


def rows(axes: Axes, names: Sequence[str]) -> None:
    """Names of the rows from the top down."""
    axes.set_yticks(range(len(names)), names, fontsize=SMALL, parse_math=False)
    axes.set_ylim(len(names) - 0.45, -0.55)


def percent_axis(axes: Axes, label: str) -> None:
    """The lower axis in percent."""
    axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:g}")
    axes.set_xlabel(label, fontsize=SIZE, color=INK)
    bare(axes)


def bare(axes: Axes) -> None:
    """Axes in the common look, with no line at the names."""
    plain(axes)
    axes.tick_params(labelsize=SMALL, length=2.5)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
