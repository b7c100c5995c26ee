"""The funnel plot of hospitals: observed by expected against expected readmissions.

Belongs here: the plot, and labels that do not meet. Does not belong here: limits and judgement (`funnel.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medscore_assets.report import wording
from medscore_assets.report.figure_style import FAINT, INK, MUTED, plain
from medscore_assets.report.population.cells import cut
from medscore_assets.report.population.figures import SIZE, SMALL, margins, page_figure
from medscore_assets.report.population.funnel import ALARM, WARNING, Funnel, Numbers, Placed, limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

Mask = npt.NDArray[np.bool_]

MOST_LABELS = 14
"""Of the outliers, the least probable; all of them are in the table beside and in the CSV."""
_LABEL = 14
_LOWEST_SHOWN = wording.SMALLEST_COUNT


def funnel_plot(found: Funnel) -> Figure:
    """Every hospital as a point, the limits as lines, the outliers with other signs and their names."""
    figure = page_figure(4.7)
    axes = figure.subplots()
    margins(figure, 0.55, 0.12, 0.08, 0.48)
    _frame(axes, found)
    _limits(axes, found)
    high, low = found.above(), found.below()
    beyond = {placed.name for placed in (*high, *low)}
    inside = [placed for placed in found.hospitals if placed.name not in beyond]
    _points(axes, inside, "o", "white", 3.2)
    _points(axes, high, "^", INK, 5)
    _points(axes, low, "v", INK, 5)
    named = sorted((*high, *low), key=lambda placed: (placed.tail, placed.name))[:MOST_LABELS]
    _labels(figure, axes, named, found.hospitals)
    return figure


def _frame(axes: Axes, found: Funnel) -> None:
    from matplotlib.ticker import LogLocator

    ratios, expected = _coordinates(found.hospitals)
    axes.set_xscale("log")
    axes.set_xlim(0.8 * float(expected.min()), 1.35 * float(expected.max()))
    top = max(1.15 * float(ratios.max()), 1.6 * found.target)
    axes.set_ylim(min(0.9 * float(ratios.min()), 0.5 * found.target), top)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set_xlabel("Expected readmissions of the hospital (number, logarithmic)", fontsize=SIZE, color=INK)
    axes.set_ylabel("Observed by expected readmissions (ratio)", fontsize=SIZE, color=INK)
    plain(axes)
    axes.tick_params(labelsize=SMALL, length=2.5)


def _coordinates(hospitals: Sequence[Placed]) -> tuple[Numbers, Numbers]:
    return np.array([h.ratio for h in hospitals]), np.array([h.expected for h in hospitals])


def _limits(axes: Axes, found: Funnel) -> None:
    left, right = axes.get_xlim()
    axes.axhline(found.target, color=INK, linewidth=0.9)
    if abs(found.target - 1) > 0.005:
        axes.axhline(1, color=MUTED, linewidth=0.7, linestyle=(0, (1, 2)))
    for level, dash in ((WARNING, (0, (4, 2))), (ALARM, "-")):
        for expected, ratio in limits(found.target, level, right):
            axes.plot(expected, ratio, color=MUTED, linewidth=0.9, linestyle=dash, zorder=1)
    # Where a count would be of 1 to 10 people; those hospitals are withheld, so that this part is empty.
    grid = np.geomspace(left, right, 200)
    small = (_LOWEST_SHOWN - 0.5) / grid
    axes.fill_between(grid, 0.5 / grid, small, facecolor="none", edgecolor=FAINT, hatch="....", linewidth=0,
                      zorder=0)  # fmt: skip


def _points(axes: Axes, hospitals: Sequence[Placed], shape: str, fill: str, size: float) -> None:
    if hospitals:
        ratios, expected = _coordinates(hospitals)
        axes.plot(expected, ratios, shape, color=INK, markerfacecolor=fill, markersize=size,
                  markeredgewidth=0.6, clip_on=False, zorder=2 if fill == "white" else 3)  # fmt: skip


def _labels(figure: Figure, axes: Axes, named: Sequence[Placed], every: Sequence[Placed]) -> None:
    """Names the outliers, each where it meets no other label, no triangle and the fewest points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    ratios, expected = _coordinates(every)
    points = axes.transData.transform(np.column_stack([expected, ratios]))
    taken: list[Bbox] = []
    outliers = np.array([placed.outside(ALARM) for placed in every])
    for placed in named:
        label = _placed_label(axes, placed, renderer, points, outliers, taken)
        if label is not None:
            taken.append(label.get_window_extent(renderer))


_OFFSETS = tuple(
    (side * reach, rise)
    for reach in (6, 16, 30, 48)
    for rise in (0, 8, -8, 16, -16, 26, -26, 38, -38)
    for side in (1, -1)
)
"""Places of a label around its point in typographic points, the nearest first."""


def _placed_label(
    axes: Axes,
    placed: Placed,
    renderer: object,
    points: Numbers,
    outliers: Mask,
    taken: Sequence[Bbox],
) -> Annotation | None:
    frame = axes.get_window_extent()
    best: tuple[int, int] | None = None
    for n, (x, y) in enumerate(_OFFSETS):
        trial = _annotate(axes, placed, x, y)
        box = trial.get_window_extent(renderer).padded(1)  # type: ignore[arg-type]
        trial.remove()
        outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
        if outside or any(box.overlaps(other) for other in taken) or _inside(box, points[outliers]):
            continue
        covered = _inside(box, points)
        if best is None or covered < best[0]:
            best = (covered, n)
        if covered == 0:
            break
    return _annotate(axes, placed, *_OFFSETS[best[1]]) if best else None


def _inside(box: Bbox, points: Numbers) -> int:
    if not len(points):
        return 0
    x, y = points[:, 0], points[:, 1]
    near = 3
    return int(((x > box.x0 - near) & (x < box.x1 + near) & (y > box.y0 - near) & (y < box.y1 + near)).sum())


def _annotate(axes: Axes, placed: Placed, x: float, y: float) -> Annotation:
    far = abs(x) > 6 or y != 0
    return axes.annotate(
        cut(placed.name, _LABEL), (placed.expected, placed.ratio), (x, y), textcoords="offset points",
        ha="left" if x > 0 else "right", va="center", fontsize=SMALL - 0.6, color=INK, parse_math=False,
        zorder=4, arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": MUTED, "shrinkA": 0, "shrinkB": 2}
        if far else None,
    )  # fmt: skip
