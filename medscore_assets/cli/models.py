"""`medscore train` and `models`: training, and what the registry holds.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from medscore_assets.cli.common import Json, console, prepare, resources, run_job
from medscore_assets.settings import Settings
from resources.errors import PermanentError

if TYPE_CHECKING:
    from resources.registry import RegisteredVersion

training = typer.Typer(no_args_is_help=True, help="Models.")
models = typer.Typer(no_args_is_help=True, help="Registered models.")


@training.command("readmission")
def train_readmission(as_json: Json = False) -> None:
    """Build the training set, train and register the readmission model."""
    from medscore_assets.readmission.scoring import MODEL
    from resources.registry import REFUSED_TAG

    settings = Settings()
    prepare(settings)
    run_job("readmission_training", "Training the readmission model", "Model trained and registered")
    _, registry = resources(settings)
    newest = registry.versions(MODEL)[0]
    print_models([newest], as_json)
    if reasons := newest.tags.get(REFUSED_TAG):
        raise PermanentError(
            f"the new model is not champion: {reasons}",
            where=f"{newest.name} version {newest.version}",
            mend="Look at its measures in MLflow; more or other records may mend it.",
        )


@models.command("list")
def models_list(as_json: Json = False) -> None:
    """Every version of every registered model, newest first."""
    from medscore_assets.readmission.scoring import MODEL

    _, registry = resources(Settings())
    print_models(registry.versions(MODEL), as_json)


def print_models(versions: list[RegisteredVersion], as_json: bool) -> None:
    """A table of versions, one a line."""
    if as_json:
        print(json.dumps([v.as_dict() for v in versions], default=str))
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("model", "alias", "created", "contract", "AUROC", "slope", "Brier"):
        table.add_column(heading, no_wrap=True)
    for v in versions:
        measures = (v.metrics.get(name) for name in ("auroc", "calibration_slope", "brier"))
        table.add_row(
            f"{v.name} {v.version}",
            ", ".join(v.aliases),
            f"{v.created_at:%Y-%m-%d}",
            v.tags.get("contract_hash", "")[:8],
            *("" if value is None else f"{value:.3f}" for value in measures),
        )
    console.print(table)
