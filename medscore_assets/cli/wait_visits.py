"""`medscore demo visits`, `import` of visits, facilities and posted waits, and `waits posted`.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from medscore_assets.cli.common import (
    Json,
    Replace,
    console,
    prepare,
    print_document,
    progress_console,
    resources,
    working,
)
from medscore_assets.cli.records import demo, importing
from medscore_assets.cli.wait_closing import waits
from medscore_assets.settings import Settings

__all__ = ["waits"]

if TYPE_CHECKING:
    from medscore_assets.wait_times.importers.posted_waits import PostedWaits
    from medscore_assets.wait_times.importers.records import Report
    from medscore_assets.wait_times.posted_experiment import Comparison
    from medscore_assets.wait_times.visit_loading import Loaded
    from resources.warehouse import Warehouse

Zone = Annotated[
    str | None,
    typer.Option("--zone", help="The zone of the times, such as America/Toronto; by default the settings'."),
]
Unit = Annotated[Literal["hours", "minutes"], typer.Option("--unit", help="The unit of the posted waits.")]


@demo.command("visits")
def demo_visits(
    facilities: Annotated[int, typer.Option(min=1, help="How many emergency departments.")] = 6,
    days: Annotated[int, typer.Option(min=1, help="How many days, counted back from the last.")] = 60,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The last day; the default is today.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same visits.")] = 20260101,
    zone: Zone = None,
    replace: Replace = False,
) -> None:
    """Fill the warehouse with visits to made-up emergency departments, faults included.

    Of today, and of any last day, only what is recorded by now.
    """
    from medscore_assets.demo.emergency import known_at, simulate
    from medscore_assets.wait_times.importers.records import known_zone
    from medscore_assets.wait_times.visit_loading import load_demo_visits

    settings = Settings()
    place = known_zone(zone or settings.timezone, "--zone")
    last = until.date() if until else datetime.now(place).date()
    prepare(settings)
    warehouse, _ = resources(settings)
    with working("Generating visits", f"Visits of {days:,} days until {last}"):
        made = simulate(facilities, last - timedelta(days=days - 1), days, seed, place.key)
        known = known_at(made.visits, datetime.now(UTC))
    with working("Loading them", "Visits loaded"):
        loaded = load_demo_visits(warehouse, made.facilities, known, replace=replace)
    console.print(f"{loaded.added:,} versions of visits to {facilities:,} departments", highlight=False)


@importing.command("ed-facilities")
def import_facilities(
    file: Annotated[Path, typer.Argument(help="CSV: facility_id, zone; name, name_fr, region if you like.")],
    as_json: Json = False,
) -> None:
    """Make emergency departments known, or change their names and zones."""
    from medscore_assets.wait_times.importers.visits_csv import read_facilities
    from medscore_assets.wait_times.visit_loading import load_facilities

    settings = Settings()
    facilities = read_facilities(file)
    prepare(settings)
    warehouse, _ = resources(settings)
    print_document({"facilities": load_facilities(warehouse, facilities)}, as_json)


@importing.command("ed-visits")
def import_visits(
    files: Annotated[list[Path], typer.Argument(help="CSV with the columns of ed_visits, or HL7 v2 ADT.")],
    mapping: Annotated[
        Path | None, typer.Option(help="Where your HL7 messages say what, in the form of hl7_adt.toml.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import visits to emergency departments. The same file again changes nothing.

    What is refused is counted by field and reason, with the line of the first; no value is printed or kept.
    """
    from medscore_assets.wait_times.importers.records import Report
    from medscore_assets.wait_times.visit_loading import Loaded

    settings = Settings()
    prepare(settings)
    warehouse, _ = resources(settings)
    report, loaded = Report(), Loaded()
    for file in files:
        with working(f"Importing {escape(file.name)}", f"{escape(file.name)} imported"):
            loaded += _imported(warehouse, file, mapping, report)
    print_document(report.as_dict() | loaded.as_dict(), as_json)
    if report.refused_rows:
        progress_console.print(f"[yellow]{report.refused_rows:,} rows were refused.[/yellow]")


def _imported(warehouse: Warehouse, file: Path, mapping: Path | None, report: Report) -> Loaded:
    from medscore_assets.wait_times.importers import hl7_adt, visits_csv
    from medscore_assets.wait_times.store import facility_zones
    from medscore_assets.wait_times.visit_loading import load_changes, load_versions

    zones = {facility: ZoneInfo(zone) for facility, zone in facility_zones(warehouse).items()}
    now = datetime.now(UTC)
    if hl7_adt.is_hl7(file):
        places = hl7_adt.load_mapping(mapping or hl7_adt.MAPPING_FILE)
        changes = hl7_adt.read_messages(file, places, zones, report, now=now)
        return load_changes(warehouse, changes, hl7_adt.SOURCE)
    return load_versions(
        warehouse,
        visits_csv.read_visits(file, zones, report, now=now),
        as_happened=not visits_csv.has_recording_times(file),
    )


@importing.command("posted-waits")
def import_posted_waits(
    file: Annotated[Path, typer.Argument(help="CSV: Time, and one column of posted waits per department.")],
    zone: Zone = None,
    unit: Unit = "hours",
    as_json: Json = False,
) -> None:
    """Read a series of posted waits, and say what is in it. `medscore waits posted` compares models on it."""
    import pyarrow.compute as pc

    posted, report = _posted(file, zone, unit)
    times = pc.min_max(posted.series["seen_at"]).as_py()
    print_document(
        report.as_dict()
        | {
            "values": posted.series.num_rows,
            "facilities": pc.unique(posted.series["facility_id"]).to_pylist(),
            "from": times["min"],
            "until": times["max"],
        },
        as_json,
    )


@waits.command("posted")
def waits_posted(
    file: Annotated[Path, typer.Argument(help="CSV: Time, and one column of posted waits per department.")],
    zone: Zone = None,
    unit: Unit = "hours",
    as_json: Json = False,
) -> None:
    """Compare models that forecast posted waits with carrying them forward, on the later half of a series."""
    from medscore_assets.wait_times.posted_experiment import posted_wait_experiment

    posted, report = _posted(file, zone, unit)
    with working("Comparing models", "Models compared"):
        found = posted_wait_experiment(posted)
    if as_json:
        print_document(report.as_dict() | found.as_dict(), as_json=True)
        return
    _print_comparison(found)


def _posted(file: Path, zone: str | None, unit: str) -> tuple[PostedWaits, Report]:
    from medscore_assets.wait_times.importers.posted_waits import read_posted_waits
    from medscore_assets.wait_times.importers.records import Report, known_zone

    report = Report()
    place = known_zone(zone or Settings().timezone, "--zone")
    posted = read_posted_waits(file, place, report, unit=unit)
    if report.refused:
        progress_console.print(f"[yellow]{report.refused_rows:,} values were refused.[/yellow]")
    return posted, report


def _print_comparison(found: Comparison) -> None:
    ahead = sorted({score.minutes_ahead for score in found.scores})
    for facility, start in found.tested_from.items():
        until = found.tested_until[facility]
        title = f"{escape(facility)}: MAE in minutes, {start:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC"
        table = Table("model", box=SIMPLE_HEAD, title=title)
        for minutes in ahead:
            table.add_column(f"{minutes} min ahead", justify="right")
        rows: dict[str, list[Any]] = {}
        for score in found.scores:
            if score.facility_id == facility:
                rows.setdefault(score.model, []).append(f"{score.mae:.1f} ({score.against_baseline:+.0%})")
        for model, cells in rows.items():
            table.add_row(model, *cells)
        console.print(table)
    console.print(
        "In brackets: by how much the error is smaller than that of carry_forward.", highlight=False
    )
