"""The plots: drawn without global state, the same bytes each time, and without hidden groups."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from medscore_assets.monitoring.assessment import Assessment
from medscore_assets.report.figure_style import DPI, WIDTH, Labels
from medscore_assets.report.figures import all_figures, decision_curve, subgroups, tiers_and_workload


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_every_figure_is_a_png_twice_as_fine_as_shown(written: list[Path]) -> None:
    images = [path for path in written if path.suffix == ".png"]
    assert len(images) == 5
    for image in images:
        with Image.open(image) as opened:
            assert opened.format == "PNG"
            assert opened.width == round(WIDTH * DPI)
            assert not {"Software", "Creation Time"} & set(opened.info), image.name


def test_nothing_drawn_leaves_its_figure(assessment: Assessment) -> None:
    for name, figure in all_figures(assessment, champion="champion").items():
        box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
        assert min(box.x0, box.y0) >= 0, name
        assert box.x1 <= figure.get_figwidth(), name
        assert box.y1 <= figure.get_figheight(), name


def test_the_decision_curve_names_every_line_and_ends_at_half(assessment: Assessment) -> None:
    figure = decision_curve(assessment, Labels(acting="calling"), "champion")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {
        "readmission",
        "champion",
        "logistic regression",
        "lace like",
        "calling everybody",
        "calling nobody",
    }
    assert figure.axes[0].get_xlim() == (0, 0.5)
    drawn = next(line for line in figure.axes[0].lines if line.get_label() == "readmission")
    np.testing.assert_array_equal(
        drawn.get_ydata(), assessment.decision_curve.net_benefit["readmission"][:50]
    )


def test_hidden_groups_and_tiers_are_not_drawn(assessment: Assessment) -> None:
    shown = texts(subgroups(assessment, Labels()))
    assert "medicare (" in shown
    assert "dual eligible" not in shown
    assert "medicaid" not in shown
    tiers = texts(tiers_and_workload(assessment, Labels()))
    rare = next(t for t in assessment.tiers if t.tier == "very_high")
    assert 0 < rare.n < 11
    assert "not shown: small numbers" in tiers
    assert f"{rare.share * 100:.1f} %" not in tiers


@pytest.mark.slow
def test_neither_loading_nor_drawing_imports_pyplot() -> None:
    program = (
        "import sys\n"
        "import medscore_assets.report.files, medscore_assets.report.figures\n"
        "assert 'matplotlib' not in sys.modules and 'jinja2' not in sys.modules\n"
        "from medscore_assets.report.figure_style import blank_figure, png\n"
        "png(blank_figure(1))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
