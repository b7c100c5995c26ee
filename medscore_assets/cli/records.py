"""`medscore db`, `demo` and `import`: the schema, and the records that come in.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated

import typer

from medscore_assets.cli.common import (
    Json,
    Replace,
    counting,
    prepare,
    print_document,
    resources,
    working,
)
from medscore_assets.settings import Settings

db = typer.Typer(no_args_is_help=True, help="The warehouse's schema.")
demo = typer.Typer(no_args_is_help=True, help="Demo records.")
importing = typer.Typer(no_args_is_help=True, help="Public data sets, and calls to patients.")


@db.command("upgrade")
def db_upgrade() -> None:
    """Create the databases if they are absent and bring the warehouse's schema up to date."""
    prepare(Settings())


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
    prepare(settings)
    load_demo(
        settings,
        until=until.date() if until else None,
        days=days,
        per_day=per_day,
        seed=seed,
        replace=replace,
    )


def load_demo(
    settings: Settings, *, until: date | None, days: int, per_day: int, seed: int, replace: bool
) -> None:
    """Generate demo discharges up to a day and load them."""
    from medscore_assets.demo.discharges import DemoPlan, generate
    from medscore_assets.loading import Records, load

    warehouse, _ = resources(settings)
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


@demo.command("members")
def demo_members(
    quarter: Annotated[str, typer.Option(help="The quarter, such as 2026-Q3.")],
    count: Annotated[int, typer.Option(min=1, help="How many members.")] = 4_200_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same members.")] = 20260101,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="The day before which outcomes are known; the default is the day after the quarter.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put these members in the place of the quarter's demo members.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fill a quarter's member_features with generated members that name nobody."""
    from medscore_assets.demo.members import SOURCE, dirt_counts, members
    from medscore_assets.member_loading import load_members
    from medscore_assets.readmission.population.quarters import Quarter

    chosen = Quarter.parse(quarter)
    settings = Settings()
    prepare(settings)
    warehouse, _ = resources(settings)
    day = as_of.date() if as_of else chosen.last_day + timedelta(days=1)
    with counting(f"Loading the members of {chosen}", count) as advance:
        rows = load_members(
            warehouse,
            chosen,
            members(count, chosen, seed, as_of=day),
            source=SOURCE,
            as_of=datetime.combine(day, time(), settings.zone),
            replace=replace,
            progress=advance,
        )
    faults = dirt_counts(count, chosen, seed)
    print_document({"quarter": chosen.key, "as_of": day, "members": rows, "faults": faults}, as_json)


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
    prepare(settings)
    warehouse, _ = resources(settings)
    with working(f"Reading {file.name}", f"{file.name} read"):
        data = read(file, ids_mapping, timezone=settings.timezone)
    records = Records("uci-diabetes", data.events, outcomes=data.outcomes)
    with working("Loading the encounters", f"{len(data.events):,} encounters loaded"):
        written = load(warehouse, records, replace=replace)
    print_document({"written": written, "report": data.report}, as_json)


@importing.command("calls")
def import_calls(
    file: Annotated[Path, typer.Argument(help="CSV with encounter_id, called_at, outcome")],
    source: Annotated[str, typer.Option(help="Whose calls these are.")] = "file",
    as_json: Json = False,
) -> None:
    """Enter calls to patients on a list: called (nobody answered), declined or reached.

    The file is taken whole or, if a line is not valid, not at all. The same file again changes nothing.
    """
    from medscore_assets.readmission.calls import read_calls, write_calls

    settings = Settings()
    prepare(settings)
    warehouse, _ = resources(settings)
    calls = read_calls(file, now=datetime.now(UTC))
    with working("Entering the calls", f"{len(calls):,} calls entered"):
        written = write_calls(warehouse, calls, source)
    print_document(written, as_json)
