"""`medscore population`: making and showing the quarterly report.

Belongs here: arguments, progress and output of these commands. Does not belong here: any work.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from medscore_assets.cli.common import Json, console, counting, prepare, resources, run_job
from medscore_assets.settings import Settings
from resources.errors import PermanentError

if TYPE_CHECKING:
    from medscore_assets.readmission.population.files import ReportFiles
    from medscore_assets.readmission.population.quarters import Quarter

population = typer.Typer(no_args_is_help=True, help="The quarterly population report.")

EndedQuarter = Annotated[
    str | None, typer.Option("--quarter", help="Such as 2026-Q3; the default is the last one that ended.")
]
ReportedQuarter = Annotated[
    str | None,
    typer.Option("--quarter", help="Such as 2026-Q3; the default is the newest that has a report."),
]
SHOWN = {
    "members": "members",
    "index_discharges_scored": "discharges",
    "mean_risk": "risk",
    "high_risk": "high",
    "expected_readmissions": "expected",
    "observed_readmissions": "observed",
    "observed_to_expected": "O/E",
}
"""The measures that fit on a screen, and their headings."""


@population.command("report")
def population_report(quarter: EndedQuarter = None, as_json: Json = False) -> None:
    """Score the members of a quarter and make its report: CSV, Parquet and PDF."""
    from medscore_assets.partitions import partition_of_quarter, require_closed_quarter
    from medscore_assets.readmission.population.quarters import Quarter

    chosen = require_closed_quarter(Quarter.parse(quarter) if quarter else None)
    settings = Settings()
    prepare(settings)
    run_job(
        "population_report",
        f"Scoring the members of {chosen} and writing the report",
        f"Report of {chosen} made",
        partition=partition_of_quarter(chosen),
    )
    _print_report(settings, chosen, as_json)


@population.command("show")
def population_show(
    quarter: ReportedQuarter = None,
    cube: Annotated[str, typer.Option(help="What the members are split by.")] = "region",
    as_json: Json = False,
) -> None:
    """Show one cube of a quarter as it may be shown; the default is the newest report."""
    from medscore_assets.readmission.population.dimensions import CUBES, DIMENSIONS
    from medscore_assets.readmission.population.files import newest_quarter, published_cells, require_header
    from medscore_assets.readmission.population.quarters import Quarter

    if cube not in CUBES:
        raise PermanentError(
            "there is no such cube", where="--cube", mend=f"Choose one of: {', '.join(CUBES)}."
        )
    warehouse, _ = resources(Settings())
    chosen = Quarter.parse(quarter) if quarter else newest_quarter(warehouse)
    header = require_header(warehouse, None, chosen)
    cells = published_cells(warehouse, chosen, cube)
    if as_json:
        found = json.loads(cells.to_json(orient="records"))
        print(json.dumps({"report": header, "cells": found}, default=str))
        return
    split = [d for d in DIMENSIONS if d in CUBES[cube]]
    table = Table(box=SIMPLE_HEAD)
    for name in split:
        table.add_column(name.replace("_", " "))
    for heading in SHOWN.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in cells.to_dict("records"):
        table.add_row(*(cell[d] for d in split), *(_figure(cell, name) for name in SHOWN))
    console.print(table)
    console.print(
        f"{chosen} version {header['version']}, as of {header['as_of']:%Y-%m-%d}. Risk, expected and "
        "observed are of scored index discharges. A - stands for a figure of 1 to 10 people, or one that "
        "would give such a figure away.",
        highlight=False,
    )


@population.command("export")
def population_export(
    quarter: EndedQuarter = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="A folder or s3://bucket/prefix; the default is where Spark looks for it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the members of a quarter as Parquet, without their identifiers, for Spark or EMR."""
    from medscore_assets.partitions import require_closed_quarter
    from medscore_assets.readmission.population.export import export_members
    from medscore_assets.readmission.population.publish import require_snapshot
    from medscore_assets.readmission.population.quarters import Quarter
    from medscore_assets.spark.exchange import Exchange

    chosen = require_closed_quarter(Quarter.parse(quarter) if quarter else None)
    settings = Settings()
    warehouse, _ = resources(settings)
    exchange = Exchange(to or settings.population_exchange_url, settings.home / "spark")
    rows = require_snapshot(warehouse, None, chosen)["rows"]
    with counting(f"Members of {chosen}", rows) as progress:
        folder, made = export_members(warehouse, chosen, exchange, progress)
    if as_json:
        print(json.dumps({"folder": exchange.url(folder), "export": made.model_dump(mode="json")}))
        return
    console.print(f"{made.rows:,} members in {len(made.files)} files:", highlight=False)
    console.print(exchange.url(folder), soft_wrap=True, highlight=False)


def _figure(cell: Mapping[Any, Any], name: str) -> str:
    import pandas as pd

    value = cell[name]
    if name in cell["suppressed_measures"]:
        return "-"
    if pd.isna(value):
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if name == "expected_readmissions" else f"{value:.3f}"


def _print_report(settings: Settings, quarter: Quarter, as_json: bool) -> None:
    from medscore_assets.definitions import default_resources
    from medscore_assets.readmission.population.files import made_files, three_findings

    found = default_resources(settings)
    files = made_files(found["warehouse"], quarter, found["reports_folder"])
    three = three_findings(found["warehouse"], quarter)
    flow = _flow(files)
    if as_json:
        told = {
            "report": files.header,
            "folder": str(files.folder),
            "files": files.files,
            "flow": flow,
            "findings": three,
        }
        print(json.dumps(told, default=str))
        return
    for finding in three:
        console.print(f"[bold]{finding['title']}.[/bold] {finding['text']}", highlight=False)
    console.print(_table_of(flow))
    h = files.header
    console.print(
        f"{quarter} version {h['version']}, as of {h['as_of']:%Y-%m-%d}, {h['model_name']} model version "
        f"{h['model_version']}, policy {h['policy_version']}. {len(files.files) + 1} files in:",
        highlight=False,
    )
    console.print(str(files.folder), soft_wrap=True, highlight=False)


def _flow(files: ReportFiles) -> list[dict[str, str]]:
    """The flow as the report has it, small counts joined with others."""
    with (files.folder / "flow.csv").open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def _table_of(flow: list[dict[str, str]]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("From all members to those in the report")
    table.add_column("members", justify="right")
    for line in flow:
        indent = "    " if line["part_of_the_step_before"] == "true" else ""
        members = line["members"]
        table.add_row(indent + line["step"], f"{int(members):,}" if members else "withheld")
    return table
