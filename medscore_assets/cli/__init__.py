"""`medscore`: what people and scripts type.

Belongs here: the root of the commands, and how errors are printed. Does not belong here: any work; a
command calls one function of the package.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import date

import typer

from medscore_assets.cli.access import audit, keys
from medscore_assets.cli.alerts import alerts, watch
from medscore_assets.cli.common import Json, console, prepare, progress_console, resources, run_job, working
from medscore_assets.cli.mobility import lake
from medscore_assets.cli.mobility_tuning import mobility
from medscore_assets.cli.models import models, training
from medscore_assets.cli.outreach import missing, outreach, show_list
from medscore_assets.cli.population import population
from medscore_assets.cli.records import db, demo, importing, load_demo
from medscore_assets.cli.serve import serve
from medscore_assets.cli.wait_visits import waits
from medscore_assets.settings import Settings
from resources.errors import MedscoreError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="MedScore: clinical predictions as Dagster assets."
)
for name, group in {
    "db": db,
    "demo": demo,
    "import": importing,
    "lake": lake,
    "mobility": mobility,
    "train": training,
    "outreach": outreach,
    "population": population,
    "models": models,
    "waits": waits,
    "alerts": alerts,
    "audit": audit,
    "keys": keys,
}.items():
    app.add_typer(group, name=name)
app.command()(missing)
app.command()(watch)
app.command()(serve)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is wrong with this installation, and what mends it. Exits with 1 if anything is."""
    from medscore_assets.doctor import examine

    settings = Settings()
    warehouse, registry = resources(settings)
    with working("Looking around", "Looked at everything"):
        findings = list(examine(settings, warehouse, registry))
    if as_json:
        print(json.dumps([f.as_dict() for f in findings]))
    else:
        for f in findings:
            mark = "[green]✓[/green]" if f.well else "[red]✗[/red]"
            console.print(f"{mark} [bold]{f.name}[/bold]: {f.found}" + (f"\n    {f.mend}" if f.mend else ""))
    if not all(f.well for f in findings):
        raise typer.Exit(1)


@app.command()
def run() -> None:
    """Run the main job: demo records if there are no others, a model, the list of the latest day."""
    from medscore_assets.demo.discharges import SOURCE
    from medscore_assets.loading import sources
    from medscore_assets.partitions import latest_morning, window
    from medscore_assets.readmission.queries import window_state

    settings = Settings()
    prepare(settings)
    warehouse, _ = resources(settings)
    key = latest_morning()
    present = sources(warehouse)
    (state,) = warehouse.read(window_state(window(key))).to_pylist()
    # Demo records end on the day on which they were made; a later run wants later ones.
    if not present or (present == [SOURCE] and not state["events"]):
        load_demo(settings, until=None, days=550, per_day=120, seed=20260101, replace=True)
    run_job(
        "readmission",
        "Training the model and scoring the newest day",
        f"List of {key} published",
        partition=key,
    )
    show_list(settings, date.fromisoformat(key), 10, as_json=False)


@app.command()
def up() -> None:
    """Start PostgreSQL, MLflow, Dagster with its daemon, the API and the watch; Ctrl-C stops them all."""
    from medscore_assets.processes import run_all
    from medscore_assets.runs import limit_pools

    settings = Settings()
    prepare(settings)
    with working("Preparing the registry", "Registry ready"):
        # Before two services come to make its tables at once.
        _, registry = resources(settings)
        registry.prepare()
    limit_pools()
    raise typer.Exit(run_all(settings))


def main() -> None:
    """The entry point: one sentence on standard error and exit code 1 for what a person can mend."""
    logging.getLogger("medscore_assets").setLevel(logging.WARNING)
    try:
        app()
    except MedscoreError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": {"what": error.what, "where": error.where, "mend": error.mend}}))
        else:
            progress_console.print(f"[red]Error:[/red] {error}", highlight=False)
        raise SystemExit(1) from None
