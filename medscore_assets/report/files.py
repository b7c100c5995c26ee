"""The files of an evaluation report, as they are kept with a model's version.

Belongs here: writing them, and the refusal to write a report that points to nothing.
Does not belong here: what stands in them, and where they are kept (MLflow, Dagster).
"""

from __future__ import annotations

from pathlib import Path

from medscore_assets.report import tripod
from medscore_assets.report.evaluation_page import render
from medscore_assets.report.evaluation_report import EvaluationReport
from medscore_assets.report.figure_style import Labels, png
from medscore_assets.report.figures import all_figures
from resources.errors import PermanentError

PAGE = "evaluation.html"
CARD = "model_card.json"
CHECKLIST = "tripod_ai.csv"


def write_report(folder: Path, report: EvaluationReport) -> list[Path]:
    """Writes page, card, checklist and figures into a folder, which is made if need be.

    The page comes first in what is returned. The same report gives the same bytes. Raises
    `PermanentError` for a text that the card lacks and for a pointer that leads nowhere; nothing is
    written then.
    """
    card = report.card()
    images = figure_images(report)
    page = render(report, card, images)
    if broken := tripod.unresolved(report.tripod, page, report.manifest):
        raise PermanentError(
            f"the TRIPOD+AI table points to what is not there: {'; '.join(broken)}",
            where=CHECKLIST,
            mend="Correct these pointers in the family's tripod_ai.toml.",
        )
    contents = {
        PAGE: page.encode(),
        CARD: card.to_json().encode(),
        CHECKLIST: tripod.to_csv(report.tripod).encode(),
        **{f"{name}.png": image for name, image in images.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def figure_images(report: EvaluationReport) -> dict[str, bytes]:
    """The PNG of every figure by its name, as Dagster's metadata and MLflow show them."""
    words = report.texts.words
    labels = Labels(words.cases, words.outcome, words.events, words.actions, words.acting, report.texts.names)
    figures = all_figures(report.assessment, labels=labels, champion=report.champion)
    return {name: png(figure) for name, figure in figures.items()}
