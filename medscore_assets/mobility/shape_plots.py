"""The global explanation of a mobility model: the shape functions of its strongest features, as plots.

Belongs here: one figure of a model's terms. Does not belong here: the common look
(`report/figure_style.py`), reasons of single forecasts (`reasons.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medscore_assets.mobility.model import MobilityModel
from medscore_assets.report.figure_style import BLUE, FAINT, INK, MUTED, SMALL, WIDTH, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from medscore_assets.mobility.terms import Term

SHOWN, COLUMNS = 12, 3
"""Features in the figure, strongest first, and how many stand side by side."""

ROW_INCHES = 1.5
DPI = 110


def write_shapes(model: MobilityModel, folder: Path) -> Path:
    """Write the figure as `shapes.png`; the file."""
    file = folder / "shapes.png"
    file.write_bytes(png(shapes(model)))
    return file


def shapes(model: MobilityModel) -> Figure:
    """What each of the strongest features adds to a forecast, in steps, over its values.

    Grey bars under a curve are the training rows by value. A dot at the left is a missing value.
    """
    from matplotlib.figure import Figure

    importances = model.terms.importances
    strongest = np.argsort(-importances, kind="stable")[:SHOWN]
    rows = -(-len(strongest) // COLUMNS)
    figure = Figure(figsize=(WIDTH * 1.6, rows * ROW_INCHES + 0.6), dpi=DPI)
    # Fixed margins: a layout that is searched for takes most of the time of a training of small cohorts.
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.09, top=0.9, wspace=0.3, hspace=0.65)
    figure.suptitle(f"{model.name}: steps that each feature adds", fontsize=SMALL + 1, color=INK)
    for place, number in enumerate(strongest.tolist()):
        term = model.terms.terms[number]
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        _draw(axes, term, model.encoding.vocabulary.get(term.feature))
        name = f"{term.feature} ({importances[number]:,.0f} on average)"
        axes.set_title(name, fontsize=SMALL - 1.5, color=INK)
        axes.tick_params(labelsize=SMALL - 2.5, colors=MUTED)
        axes.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure


def _draw(axes: Axes, term: Term, texts: tuple[str, ...] | None) -> None:
    if term.cuts is None:
        scores = term.scores[1:-1]
        names = list(texts or map(str, range(len(scores))))
        axes.bar(range(len(scores)), scores, color=BLUE, width=0.6)
        axes.set_xticks(range(len(scores)), names)
        return
    scores = term.scores[1:]
    if not len(term.cuts):
        axes.axhline(float(scores[0]), color=BLUE, linewidth=1.4)
        return
    reach = max(float(term.cuts[-1] - term.cuts[0]) * 0.03, 0.5)
    edges = np.concatenate([[term.cuts[0] - reach], term.cuts, [term.cuts[-1] + reach]])
    axes.stairs(scores, edges, baseline=None, color=BLUE, linewidth=1.4)
    if term.weights[0] > 0:
        axes.plot(edges[0] - 2 * reach, term.scores[0], "o", color=BLUE, markersize=3)
    axes.locator_params(nbins=4)
    low, high = axes.get_ylim()
    density = term.weights[1 : len(scores) + 1] / np.diff(edges)
    tallest = max(float(density.max()), 1e-12)
    axes.stairs(
        low + density / tallest * 0.25 * (high - low), edges, baseline=low, fill=True, color=FAINT, zorder=0
    )
    axes.set_ylim(low, high)
