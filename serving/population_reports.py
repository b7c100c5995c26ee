"""Published population reports, as the API and the portal both show them: headers, cells, files.

Belongs here: reading what may be shown, and a file only if it is the one that was made. Does not belong here:
HTTP (`population.py`), pages (`portal/`), how reports are made (`readmission/population/`).

Cells come from the published table alone, where small ones are withheld; the flow of members from the
report's file, where small counts are joined. No other table of the report is read. The functions are
synchronous; routes run them with `lists.reading`.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from medscore_assets.readmission.population import queries
from medscore_assets.readmission.population.files import FOLDER, MANIFEST
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.tables.population import population_reports
from resources.artifacts import sha256
from resources.errors import PermanentError
from resources.warehouse import Warehouse

FLOW = "flow.csv"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class File:
    """One file of a report, as its manifest has it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the flow from all members to the scored discharges; `members` is None where withheld."""

    label: str
    members: int | None
    part: bool
    """Whether it is a part of the step before."""


class Damaged(Exception):
    """A file is not the one that was made. The text names no path."""


def quarter_of(text: str) -> Quarter | None:
    """The quarter that a text such as 2026-Q3 names; None for any other text."""
    try:
        return Quarter.parse(text)
    except PermanentError:
        return None


def headers(warehouse: Warehouse, count: int) -> list[Row]:
    """The rows of `population_reports` of the newest quarters, newest first."""
    query = sa.select(population_reports).order_by(population_reports.c.quarter.desc()).limit(count)
    return list(warehouse.read(query).to_pylist())


def header(warehouse: Warehouse, quarter: Quarter) -> Row | None:
    """The row of `population_reports` of a quarter; None if it was not reported."""
    found = warehouse.read(queries.report(quarter)).to_pylist()
    return dict(found[0]) if found else None


def cells(warehouse: Warehouse, quarter: Quarter, cubes: tuple[str, ...]) -> tuple[Row, list[Row]] | None:
    """The header and the published cells of some cubes, of one moment; None if the quarter was not reported.

    Withheld figures are None and named in `suppressed_measures`.
    """
    with warehouse.transaction() as connection:
        # A version is replaced in one transaction: header and cells are to be of the same one.
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        found = warehouse.read(queries.report(quarter), connection).to_pylist()
        if not found:
            return None
        rows = [
            row
            for cube in cubes
            for row in warehouse.read(queries.published(quarter, cube), connection).to_pylist()
        ]
    for row in rows:
        row["suppressed_measures"] = json.loads(row["suppressed_measures"])
    return dict(found[0]), rows


def files(home: Path, report: Row) -> dict[str, File]:
    """The files of a report by name, as its manifest has them; none if they are not on this machine.

    `report` is the report's header: a manifest of another report gives no files.
    """
    try:
        manifest = json.loads((_folder(home, report) / MANIFEST).read_text(encoding="utf-8"))
        if any(manifest[name] != report[name] for name in ("quarter", "version", "input_fingerprint")):
            return {}
        entries = manifest["files"].items()
        found = [File(str(name), int(each["bytes"]), str(each["sha256"])) for name, each in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {file.name: file for file in found if _is_plain(file.name)}


def content(home: Path, report: Row, file: File) -> bytes:
    """The bytes of a file that `files` gave. Raises `Damaged` if they are not those that were made."""
    try:
        found = (_folder(home, report) / file.name).read_bytes()
    except OSError:
        found = b""
    if sha256(found) != file.sha256:
        raise Damaged("The file is not the one that was made with the report. Make the report again.")
    return found


def flow(home: Path, report: Row) -> list[Step]:
    """The flow of members as it was printed; empty if the report's files are not there, or damaged."""
    file = files(home, report).get(FLOW)
    if file is None:
        return []
    try:
        rows = csv.DictReader(content(home, report, file).decode().splitlines())
        return [
            Step(row["step"], int(row["members"]) if row["members"] else None,
                 row["part_of_the_step_before"] == "true")
            for row in rows
        ]  # fmt: skip
    except (Damaged, KeyError, ValueError):
        return []


def _folder(home: Path, report: Row) -> Path:
    return home / "reports" / FOLDER / str(report["quarter"]) / f"v{report['version']}"


def _is_plain(name: str) -> bool:
    return Path(name).name == name and name not in ("", ".", "..")
