"""What the commands share: options, progress, output, and the way to resources and jobs.

Belongs here: what more than one group of commands uses. Does not belong here: a command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from medscore_assets.settings import Settings

if TYPE_CHECKING:
    from resources.registry import ModelRegistry
    from resources.warehouse import Warehouse

console = Console()
progress_console = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Delete the demo or imported records that are there.")
]
Day = Annotated[
    datetime | None,
    typer.Option("--date", formats=["%Y-%m-%d"], help="The day on which the window opens, at 06:00."),
]


@contextmanager
def working(doing: str, done: str) -> Iterator[None]:
    """A spinner with the time that passed, and one line when it is done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=progress_console, transient=True) as progress:
        task = progress.add_task(doing)
        yield
        elapsed = progress.tasks[task].elapsed or 0.0
    progress_console.print(f"[green]✓[/green] {done} [dim]({elapsed:.1f} s)[/dim]")


@contextmanager
def counting(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for work of `total` steps; what it yields is told how many were done. One line at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=progress_console, transient=True) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda steps: progress.advance(task, steps)
        elapsed = progress.tasks[task].elapsed or 0.0
    progress_console.print(f"[green]✓[/green] {doing}: {total:,} [dim]({elapsed:.1f} s)[/dim]")


def resources(settings: Settings) -> tuple[Warehouse, ModelRegistry]:
    """Warehouse and registry, as the assets get them."""
    from medscore_assets.definitions import default_resources

    found = default_resources(settings)
    return found["warehouse"], found["registry"]


def prepare(settings: Settings) -> None:
    """Databases and schema, made where they are absent."""
    from medscore_assets.database import prepare

    with working("Preparing the database", "Database ready"):
        prepare(settings.databases())


def run_job(
    job: str,
    doing: str,
    done: str,
    *,
    partition: str | None = None,
    until: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Run a Dagster job in this process, recorded like any other run."""
    from medscore_assets.runs import execute

    with working(doing, done):
        execute(job, partition=partition, until=until, config=config)


def print_document(document: dict[str, Any], as_json: bool) -> None:
    """One document, for a program or for a person."""
    if as_json:
        print(json.dumps(document, default=str))
    else:
        console.print_json(data=document, default=str)
