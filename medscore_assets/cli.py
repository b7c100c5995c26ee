"""`medscore`: what people and scripts type.

Belongs here: arguments, progress, and how results and errors are printed. Does not belong here: any
work; a command calls one function of the package.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from medscore_assets.settings import Settings, without_password
from resources.errors import MedscoreError, PermanentError

if TYPE_CHECKING:
    from resources.registry import ModelRegistry, RegisteredVersion
    from resources.warehouse import Warehouse

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="MedScore: clinical predictions as Dagster assets."
)
db = typer.Typer(no_args_is_help=True, help="The warehouse's schema.")
demo = typer.Typer(no_args_is_help=True, help="Demo records.")
importing = typer.Typer(no_args_is_help=True, help="Public data sets.")
training = typer.Typer(no_args_is_help=True, help="Models.")
outreach = typer.Typer(no_args_is_help=True, help="The morning outreach list.")
models = typer.Typer(no_args_is_help=True, help="Registered models.")
for name, group in {
    "db": db,
    "demo": demo,
    "import": importing,
    "train": training,
    "outreach": outreach,
    "models": models,
}.items():
    app.add_typer(group, name=name)

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


def _resources(settings: Settings) -> tuple[Warehouse, ModelRegistry]:
    from medscore_assets.definitions import default_resources

    found = default_resources(settings)
    return found["warehouse"], found["registry"]


def _prepare(settings: Settings) -> None:
    from medscore_assets.database import prepare

    with working("Preparing the database", "Database ready"):
        prepare(settings.databases())


@db.command("upgrade")
def db_upgrade() -> None:
    """Create the databases if they are absent and bring the warehouse's schema up to date."""
    _prepare(Settings())


@demo.command("load")
def demo_load(
    replace: Replace = False,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Last day with discharges; the default is today."),
    ] = None,
    days: Annotated[int, typer.Option(min=60, help="How many days, counted back from the last.")] = 550,
    per_day: Annotated[int, typer.Option(min=1, help="Discharges a day on average.")] = 120,
    seed: Annotated[int, typer.Option(help="The same seed gives the same records.")] = 20260101,
) -> None:
    """Fill the source tables with generated discharges that name nobody."""
    settings = Settings()
    _prepare(settings)
    _load_demo(
        settings,
        until=until.date() if until else None,
        days=days,
        per_day=per_day,
        seed=seed,
        replace=replace,
    )


def _load_demo(
    settings: Settings, *, until: date | None, days: int, per_day: int, seed: int, replace: bool
) -> None:
    from medscore_assets.demo.discharges import DemoPlan, generate
    from medscore_assets.loading import Records, load

    warehouse, _ = _resources(settings)
    last = until or datetime.now(settings.zone).date()
    plan = DemoPlan(
        first_day=last - timedelta(days=days - 1),
        last_day=last,
        discharges_per_day=per_day,
        seed=seed,
        timezone=settings.timezone,
        known_until=None if until else datetime.now(UTC),
    )
    with working("Generating demo discharges", f"Demo discharges from {plan.first_day} to {plan.last_day}"):
        data = generate(plan)
    records = Records("demo", data.events, data.admissions, truth=data.truth)
    with working("Loading them", f"{len(data.events):,} discharge events loaded"):
        load(warehouse, records, replace=replace)


@importing.command("uci-diabetes")
def import_uci_diabetes(
    file: Annotated[Path, typer.Argument(help="diabetic_data.csv or .csv.gz")],
    ids_mapping: Annotated[Path, typer.Argument(help="IDs_mapping.csv")],
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Import the UCI records "Diabetes 130-US hospitals" as discharges and outcomes."""
    from medscore_assets.demo.uci_diabetes import read
    from medscore_assets.loading import Records, load

    settings = Settings()
    _prepare(settings)
    warehouse, _ = _resources(settings)
    with working(f"Reading {file.name}", f"{file.name} read"):
        data = read(file, ids_mapping, timezone=settings.timezone)
    records = Records("uci-diabetes", data.events, outcomes=data.outcomes)
    with working("Loading the encounters", f"{len(data.events):,} encounters loaded"):
        written = load(warehouse, records, replace=replace)
    _print({"written": written, "report": data.report}, as_json)


@training.command("readmission")
def train_readmission(as_json: Json = False) -> None:
    """Build the training set, train and register the readmission model."""
    from medscore_assets.readmission.scoring import MODEL
    from resources.registry import REFUSED_TAG

    settings = Settings()
    _prepare(settings)
    _run("readmission_training", "Training the readmission model", "Model trained and registered")
    _, registry = _resources(settings)
    newest = registry.versions(MODEL)[0]
    _print_models([newest], as_json)
    if reasons := newest.tags.get(REFUSED_TAG):
        raise PermanentError(
            f"the new model is not champion: {reasons}",
            where=f"{newest.name} version {newest.version}",
            mend="Look at its measures in MLflow; more or other records may mend it.",
        )


def _run(job: str, doing: str, done: str, *, partition: str | None = None) -> None:
    from medscore_assets.runs import execute

    with working(doing, done):
        execute(job, partition=partition)


@outreach.command("make")
def outreach_make(day: Day = None, as_json: Json = False) -> None:
    """Make (again) the list of one day; the default is the last window that closed."""
    from medscore_assets.partitions import latest_morning, require_closed

    key = require_closed(day.date().isoformat()) if day else latest_morning()
    settings = Settings()
    _prepare(settings)
    _run(
        "readmission_outreach", f"Scoring the discharges of {key}", f"List of {key} published", partition=key
    )
    if as_json:
        _show_list(settings, date.fromisoformat(key), 1_000_000, as_json)


@outreach.command("show")
def outreach_show(
    day: Day = None,
    top: Annotated[int, typer.Option(min=1, help="How many patients.")] = 20,
    as_json: Json = False,
) -> None:
    """Show a list; the default is the newest one."""
    _show_list(Settings(), day.date() if day else None, top, as_json)


def _show_list(settings: Settings, day: date | None, top: int, as_json: bool) -> None:
    from medscore_assets.readmission.policy import load_policy
    from medscore_assets.readmission.published import published_list

    warehouse, _ = _resources(settings)
    shown = published_list(warehouse, day, top)
    for patient in shown.patients:
        for column in ("top_factors", "recommended_actions"):
            patient[column] = json.loads(patient[column])
    if as_json:
        print(json.dumps({"list": shown.header, "patients": shown.patients}, default=str))
        return
    policy = load_policy(settings.policy_path)
    opened, closed = (shown.header[k].astimezone(settings.zone) for k in ("window_start", "window_end"))
    table = Table(
        title=f"Discharged {opened:%a %d %b %H:%M} to {closed:%a %d %b %Y %H:%M}",
        caption=shown.patients[0]["disclaimer"] if shown.patients else "Nobody to call.",
        show_lines=True,
    )
    table.add_column("#", justify="right")
    table.add_column("encounter\npatient", no_wrap=True)
    table.add_column("30-day risk", no_wrap=True)
    table.add_column("why, and → what to do")
    for p in shown.patients:
        table.add_row(
            str(p["rank"]),
            f"{p['encounter_id']}\n{p['patient_id']}",
            f"{policy.percent(p['readmission_probability'])}\n{p['risk_tier'].replace('_', ' ')}",
            "\n".join([f["text"] for f in p["top_factors"]] + [f"→ {a}" for a in p["recommended_actions"]]),
        )
    console.print(table)
    h = shown.header
    console.print(
        f"{h['scored']} scored, {h['excluded']} not eligible, {h['quarantined']} in quarantine, "
        f"{h['superseded']} superseded of {h['events']} events. {h['model_name'].capitalize()} model "
        f"version {h['model_version']}, policy {h['policy_version']}.",
        highlight=False,
    )
    address = without_password(settings.databases().warehouse)
    console.print(f"Table care_management_scores, score_date {h['score_date']}, in {address}", soft_wrap=True)


@models.command("list")
def models_list(as_json: Json = False) -> None:
    """Every version of every registered model, newest first."""
    from medscore_assets.readmission.scoring import MODEL

    _, registry = _resources(Settings())
    _print_models(registry.versions(MODEL), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is wrong with this installation, and what mends it. Exits with 1 if anything is."""
    from medscore_assets.doctor import examine

    settings = Settings()
    warehouse, registry = _resources(settings)
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
    _prepare(settings)
    warehouse, _ = _resources(settings)
    key = latest_morning()
    present = sources(warehouse)
    (state,) = warehouse.read(window_state(window(key))).to_pylist()
    # Demo records end on the day on which they were made; a later run wants later ones.
    if not present or (present == [SOURCE] and not state["events"]):
        _load_demo(settings, until=None, days=550, per_day=120, seed=20260101, replace=True)
    _run(
        "readmission",
        "Training the model and scoring the newest day",
        f"List of {key} published",
        partition=key,
    )
    _show_list(settings, date.fromisoformat(key), 10, as_json=False)


@app.command()
def up() -> None:
    """Start PostgreSQL, MLflow and Dagster with its daemon; Ctrl-C stops them all."""
    from medscore_assets.processes import run_all

    settings = Settings()
    _prepare(settings)
    raise typer.Exit(run_all(settings))


def _print(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(document, default=str))
    else:
        console.print_json(data=document, default=str)


def _print_models(versions: list[RegisteredVersion], as_json: bool) -> None:
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


if __name__ == "__main__":
    main()
