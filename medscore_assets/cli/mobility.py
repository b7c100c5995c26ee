"""`medscore import` of step counts, `lake` and `mobility`: records that come in, questions, costs.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from medscore_assets.cli.common import Json, console, print_document, progress_console, working
from medscore_assets.cli.records import demo, importing
from medscore_assets.settings import Settings
from resources.errors import PermanentError

if TYPE_CHECKING:
    import pyarrow as pa

    from medscore_assets.mobility.costs import Claim, Estimate
    from medscore_assets.mobility.importers.records import Progress as Advance
    from medscore_assets.mobility.importers.records import Report
    from medscore_assets.mobility.lake_sql import Answer
    from resources.lake import Lake

lake = typer.Typer(no_args_is_help=True, help="The lake of step records.")
mobility = typer.Typer(no_args_is_help=True, help="Mobility forecasts.")
Zone = Annotated[
    str, typer.Option("--zone", help="The zone in which the device was worn, such as Europe/Berlin.")
]
Patient = Annotated[str, typer.Option("--patient", help="Whose records these are: the patient's id.")]


def open_lake(settings: Settings) -> Lake:
    """The lake that the settings name."""
    from medscore_assets.lake_access import open_lake as opened

    return opened(settings)


@demo.command("steps")
def demo_steps(
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 1000,
    days: Annotated[int, typer.Option(min=1, help="How many days, counted back from the last.")] = 400,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The last day; the default is yesterday."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same records.")] = 20260101,
    folder: Annotated[
        str | None, typer.Option("--lake", help="The folder to write to; the default is the settings' lake.")
    ] = None,
) -> None:
    """Fill the lake with generated step records, faults included, and clinical tables that name nobody."""
    from medscore_assets.demo.steps import StepPlan, write
    from resources.lake import Lake

    settings = Settings()
    last = until.date() if until else datetime.now(settings.zone).date() - timedelta(days=1)
    plan = StepPlan(patients, last - timedelta(days=days - 1), last, seed)
    target = Lake(folder) if folder else open_lake(settings)
    with working("Generating step records", f"Step records from {plan.first_day} to {plan.last_day}"):
        written = write(plan, target)
    console.print(f"{written:,} records of {patients:,} patients in {target.url}", highlight=False)


@importing.command("fitabase")
def import_fitabase(
    file: Annotated[Path, typer.Argument(help="minuteStepsWide_merged.csv or .csv.gz")],
    zone: Zone,
    patient: Annotated[
        str | None, typer.Option("--patient", help="Take only this Id; all people by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import minutes of steps from Fitabase into the lake. The same file again changes nothing."""
    from medscore_assets.mobility.importers.fitabase import read
    from medscore_assets.mobility.importers.records import known_zone

    place = known_zone(zone)
    _import(
        file, lambda report, advance: read(file, place, report, patient=patient, progress=advance), as_json
    )


@importing.command("apple-health")
def import_apple_health(
    file: Annotated[Path, typer.Argument(help="export.zip, or the export.xml in it")],
    patient: Patient,
    zone: Zone,
    as_json: Json = False,
) -> None:
    """Import a patient's step counts from an export of Apple Health into the lake."""
    from medscore_assets.mobility.importers.apple_health import read
    from medscore_assets.mobility.importers.records import known_zone

    place = known_zone(zone)
    _import(
        file, lambda report, advance: read(file, place, report, patient=patient, progress=advance), as_json
    )


@importing.command("fitbit")
def import_fitbit(
    file: Annotated[Path, typer.Argument(help="The zip archive, or the folder with its files steps-*.json")],
    patient: Patient,
    zone: Zone,
    utc: Annotated[
        bool, typer.Option("--utc", help="The times in the files are UTC, and not of the zone's wall clock.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import a patient's step counts from an export of a Fitbit account into the lake."""
    from medscore_assets.mobility.importers.fitbit import read
    from medscore_assets.mobility.importers.records import known_zone

    place = known_zone(zone)
    _import(
        file,
        lambda report, advance: read(file, place, report, patient=patient, utc=utc, progress=advance),
        as_json,
    )


def _import(file: Path, read: Callable[[Report, Advance], Iterator[pa.RecordBatch]], as_json: bool) -> None:
    """Read a source with a bar, write it into the lake, and print what became of its rows."""
    from medscore_assets.mobility.importers.loading import load
    from medscore_assets.mobility.importers.records import Report

    lake, report = open_lake(Settings()), Report()
    with _bar(f"Reading {file.name}") as advance:
        loaded = load(lake, read(report, advance), report, source=str(file), arrival=datetime.now(UTC))
    done = f"{report.records:,} records, {report.steps:,} steps, on {len(loaded.written):,} days written"
    progress_console.print(f"[green]✓[/green] {done}")
    print_document(report.as_dict() | loaded.as_dict(), as_json)


@contextmanager
def _bar(doing: str) -> Iterator[Advance]:
    """A bar of bytes read, with the time that passed."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress_console, transient=True) as progress:
        task = progress.add_task(escape(doing), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@lake.command("sql")
def lake_sql(
    question: Annotated[str, typer.Argument(help="One SELECT.")],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    as_json: Json = False,
    limit: Annotated[int, typer.Option(min=0, help="Rows at most; 0 for all.")] = 1_000,
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="The first day that the views hold."),
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="The last day that the views hold.")
    ] = None,
) -> None:
    """Ask the lake in SQL, read-only.

    Views: daily_steps, patient_features, forecasts, raw_steps, patients, diagnoses, therapies and
    side_effects. Those with days have a column day, of which the files are chosen. Times are in UTC.
    """
    from medscore_assets.mobility.lake_sql import ask

    if as_csv and as_json:
        raise PermanentError("--csv and --json exclude each other", where="lake sql", mend="Give one.")
    with working("Asking the lake", "The lake has answered"):
        answer = ask(
            open_lake(Settings()),
            question,
            limit=limit or None,
            first=first.date() if first else None,
            last=last.date() if last else None,
        )
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerows([answer.columns, *answer.rows])
    elif as_json:
        _print_json(answer, limit)
    else:
        _print_rows(answer)
    if answer.cut:
        progress_console.print(f"[yellow]There are more rows than {limit:,}.[/yellow] All of them: --limit 0")


def _print_json(answer: Answer, limit: int) -> None:
    import orjson

    document = {
        "columns": answer.columns,
        "rows": answer.rows,
        "cut": answer.cut,
        "limit": limit or None,
    }
    print(orjson.dumps(document, default=str).decode())


def _print_rows(answer: Answer) -> None:
    table = Table(box=SIMPLE_HEAD)
    for name in answer.columns:
        table.add_column(escape(name), overflow="fold")
    for row in answer.rows:
        table.add_row(*("[dim]null[/dim]" if value is None else escape(str(value)) for value in row))
    console.print(table)
    console.print(f"{len(answer.rows):,} row{'' if len(answer.rows) == 1 else 's'}")


@mobility.command("cost")
def cost(
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 100_000,
    days: Annotated[
        int | None, typer.Option(min=1, help="Days of history; by default the source document's.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="Your unit prices, in the form of mobility/prices.toml.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Take bytes per row from the lake that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Estimate a month's storage and compute, beside the source document's own bill."""
    from medscore_assets.mobility.costs import (
        PRICES_FILE,
        document_bill,
        estimate,
        load_prices,
        load_rates,
        measured_sizes,
        with_sizes,
    )

    rates, paid = load_rates(), load_prices(prices or PRICES_FILE)
    sizes = measured_sizes(open_lake(Settings()), rates) if measure else {}
    if measure and not sizes:
        raise PermanentError(
            "the lake is empty", where=Settings().lake_url, mend="Import or generate step records first."
        )
    found = estimate(patients, days or round(rates.history_days), with_sizes(rates, sizes), paid.unit)
    claims = load_prices().document
    if as_json:
        document: dict[str, Any] = found.as_dict() | {
            "prices": paid.source,
            "measured_on": rates.measured_on,
            "measured_bytes_per_row": sizes,
            "source_document": document_bill(claims),
        }
        print_document(document, as_json=True)
        return
    _print_estimate(found)
    console.print(f"Prices: {paid.source}. Rates: {rates.measured_on}.", highlight=False)
    _print_claims(claims)


def _print_estimate(found: Estimate) -> None:
    table = Table(
        "a month", "how it comes about", box=SIMPLE_HEAD, title=f"{found.patients:,} patients, a month"
    )
    table.add_column("$", justify="right")
    for line in found.monthly:
        table.add_row(line.item, line.arithmetic, _dollars(line.usd))
    table.add_section()
    table.add_row("[bold]Total[/bold]", "", f"[bold]{found.total:,.2f}[/bold]")
    table.add_section()
    for line in (*found.once, found.always_on):
        table.add_row(line.item, line.arithmetic, _dollars(line.usd))
    console.print(table)


def _dollars(usd: float) -> str:
    return f"{usd:,.2f}" if usd >= 0.005 else "< 0.01"


def _print_claims(claims: list[Claim]) -> None:
    table = Table(
        "a month", "its own quantities and unit prices", box=SIMPLE_HEAD, title="The source document's plan"
    )
    table.add_column("it claims $", justify="right")
    table.add_column("they come to $", justify="right")
    for c in claims:
        table.add_row(
            c.item,
            f"{c.arithmetic}\n[dim]{escape(c.says)}[/dim]",
            f"{c.claimed:,.2f}",
            f"{c.adds_up_to:,.2f}",
        )
    table.add_section()
    claimed, adds_up = sum(c.claimed for c in claims), sum(c.adds_up_to for c in claims)
    table.add_row("[bold]Total[/bold]", "", f"{claimed:,.2f}", f"[bold]{adds_up:,.2f}[/bold]")
    console.print(table)
