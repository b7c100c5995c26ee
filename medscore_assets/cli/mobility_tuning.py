"""`medscore mobility tune`: the search for better settings, with its display.

Belongs here: arguments, progress and output of this command. Does not belong here: any work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from medscore_assets.cli.common import Json, console, print_document, progress_console, working
from medscore_assets.cli.mobility_runs import mobility
from medscore_assets.lake_access import open_lake
from medscore_assets.settings import Settings
from resources.errors import PermanentError

if TYPE_CHECKING:
    from medscore_assets.mobility.tuning import Found, Plan, Watch

__all__ = ["mobility"]

SHOWN = 10
"""Trials in the table; all of them are in the JSON document."""


@mobility.command("tune")
def tune(
    cohort: Annotated[str, typer.Option(help="MS, PD, RA, other, or global.")] = "global",
    horizon: Annotated[int, typer.Option(help="Days ahead: 1 or 7.")] = 1,
    trials: Annotated[int, typer.Option(min=1, help="How many settings are tried.")] = 24,
    first_rounds: Annotated[int, typer.Option(min=1, help="Rounds after which the worse ones stop.")] = 50,
    most_rounds: Annotated[int, typer.Option(min=1, help="Rounds that the best ones get.")] = 800,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Trials side by side; the default is this machine's cores.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed tries the same settings.")] = 0,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The TOML file that gets the best settings, for medscore mobility train --config. The "
            "default is MEDSCORE_MOBILITY_TRAINING_FILE, else mobility-training.toml under MEDSCORE_HOME."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where the search is kept; on a cluster a folder that all nodes share. Nobody else may be "
            "able to write to it. The default is tuning under MEDSCORE_HOME."
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew where a search was stopped or finished.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search for better settings of a model. Ctrl-C stops; the same command goes on where it stood.

    On this machine, or on the Ray cluster that MEDSCORE_RAY_ADDRESS names. Needs Ray: make .venv/tools.
    """
    import os

    from medscore_assets.mobility.training_config import save
    from medscore_assets.mobility.training_rows import read_training_set
    from medscore_assets.mobility.tuning import search

    settings = Settings()
    plan = _plan(cohort, horizon, trials, first_rounds, most_rounds, at_once or os.cpu_count() or 1, seed)
    with working("Reading the training rows", "Training rows read"):
        data, _ = read_training_set(open_lake(settings), horizon)
    with _display(plan) as watch:
        found = search(
            plan,
            data,
            folder or settings.home / "tuning",
            address=settings.ray_address,
            watch=watch,
            fresh=fresh,
        )
    if not found.complete:
        _print(found, None, as_json)
        raise PermanentError(
            "the search was stopped before its end", where=plan.model, mend="The same command goes on."
        )
    file = config or settings.mobility_training_file or settings.home / "mobility-training.toml"
    save(file, plan.model, found.settings)
    _print(found, file, as_json)


def _plan(
    cohort: str, horizon: int, trials: int, first_rounds: int, most_rounds: int, at_once: int, seed: int
) -> Plan:
    from medscore_assets.mobility.cohorts import COHORTS, GLOBAL_MODEL
    from medscore_assets.mobility.training_config import HORIZONS
    from medscore_assets.mobility.tuning import Plan

    if cohort not in (*COHORTS, GLOBAL_MODEL):
        raise PermanentError(
            f"there is no cohort {cohort}", where="--cohort", mend=f"Choose {', '.join(COHORTS)} or global."
        )
    if horizon not in HORIZONS:
        raise PermanentError(f"no model looks {horizon} days ahead", where="--horizon", mend="Choose 1 or 7.")
    try:
        return Plan(cohort, horizon, trials, first_rounds, most_rounds, at_once=at_once, seed=seed)
    except ValueError as error:
        raise PermanentError(
            str(error), where="--most-rounds", mend="Give at least as many as --first-rounds."
        ) from error


@contextmanager
def _display(plan: Plan) -> Iterator[Watch]:
    """A bar of trials that ended, with the lowest error so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress_console, transient=True) as progress:
        task = progress.add_task("Starting Ray", total=plan.trials)
        best = float("inf")
        ended: set[str] = set()

        def watch(trial: str, rounds: int, error: float, over: bool) -> None:
            nonlocal best
            best = min(best, error)
            if over:
                ended.add(trial)
            progress.update(
                task,
                description=f"Trials of {plan.model}, best error {best:,.0f} steps",
                completed=len(ended),
            )

        yield watch


def _print(found: Found, file: Path | None, as_json: bool) -> None:
    if as_json:
        document = {
            "model": found.plan.model,
            "complete": found.complete,
            "config": str(file) if file else None,
            "settings": asdict(found.settings),
            "trials": [asdict(trial) for trial in found.trials],
        }
        print_document(document, as_json=True)
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("bins", "learning rate", "leaves", "rounds", "best at", "error (steps)", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in found.trials[:SHOWN]:
        table.add_row(
            str(trial.max_bins),
            f"{trial.learning_rate:.4f}",
            str(trial.max_leaves),
            str(trial.rounds),
            str(trial.best_rounds),
            "failed" if trial.error is None else f"{trial.error:,.1f}",
            f"{trial.seconds:.0f}",
        )
    console.print(table)
    if file is not None:
        console.print(f"The best settings of {found.plan.model} are in {file}", soft_wrap=True)
        console.print(f"Train with them: medscore mobility train --config {file}", soft_wrap=True)
