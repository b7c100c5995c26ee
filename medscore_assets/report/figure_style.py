"""The look of all plots: palette, sizes, axes, and the PNG of a figure.

Belongs here: what every plot shares. Does not belong here: any single plot (`figures.py`), and matplotlib's
global state: everything is set on the objects, so that runs in several threads do not meet.

The colours are those of Okabe and Ito, darkened where they carry text, and told apart by people with any
colour vision.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from medscore_assets.monitoring.assessment import Interval
from medscore_assets.report import wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = npt.NDArray[np.float64]

DPI = 200
"""Twice as fine as a page shows it."""

WIDTH = 5.8
"""Inches of every figure."""

INK, MUTED, FAINT = "#1a1a1a", "#5c5c5c", "#d4d4d4"
BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#007A5A", "#A6518A", "#B37400"
SIZE, SMALL = 9.5, 8.5


class Labels(NamedTuple):
    """The words of a family in its figures, and how its names are shown."""

    cases: str = "cases"
    outcome: str = "the outcome"
    events: str = "outcomes"
    actions: str = "actions"
    acting: str = "acting on"
    names: Mapping[str, str] = {}

    def shown(self, name: str) -> str:
        """A name for people."""
        return self.names.get(name, wording.words(name))


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return file.getvalue()


def whisker(axes: Axes, found: Interval, row: float, colour: str) -> None:
    """An estimate as a circle and its interval as a line; nothing where it is undefined."""
    if not wording.is_defined(found.estimate):
        return
    if found.lower is not None and found.upper is not None:
        axes.plot([found.lower, found.upper], [row, row], color=colour, linewidth=1.3, zorder=2)
    axes.plot(
        [found.estimate], [row], "o", color=colour, markersize=4.5, markerfacecolor="white",
        markeredgewidth=1.3, zorder=3,
    )  # fmt: skip


def blank_figure(height: float) -> Figure:
    """An empty figure of the common width and so many inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")


def plain(axes: Axes) -> None:
    """Axes without a frame, in the common sizes and colours."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
        axes.spines[side].set_linewidth(0.8)
    axes.tick_params(colors=INK, labelsize=SMALL, color=MUTED, length=3)


def upper_end(*values: Numbers) -> float:
    """The end of both axes: the largest value seen, rounded up to a tenth, at most 1."""
    largest = max(float(np.nanmax(v)) if np.isfinite(v).any() else 0.0 for v in values)
    return min(max(float(np.ceil(largest * 10 - 1e-9) / 10), 0.1), 1.0)
