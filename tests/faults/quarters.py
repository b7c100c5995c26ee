"""A quarter's report in another process, and what it leaves in tables and files.

Belongs here: what the process does and tells, and digests of what is published. Does not belong here: the
kills. It is forked from a process that has imported `tests.faults.worker`.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.population.files import make_files
from medscore_assets.readmission.population.publish import publish_summary
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.errors import PermanentError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from tests.faults.worker import TellingWarehouse
from tests.readmission.population.members import QUARTER

PUBLISHED = (
    tables.population_reports,
    tables.population_exclusions,
    tables.population_risk_summary,
    tables.population_risk_published,
)


class WithoutCards(ModelRegistry):
    """A registry whose models nobody has evaluated: the report is made without a model card."""

    def __init__(self) -> None:
        super().__init__("", "", Path())

    def attached(self, name: str, version: int, path: str, target: Path) -> Path:
        raise PermanentError("there is no card", where="test", mend="None is needed.")


def summarise(warehouse: Warehouse, model: ReadmissionModel, **options: Any) -> None:
    """Score and publish the quarter."""
    publish_summary(warehouse, QUARTER, model, 1, load_policy(), **options)


def write_files(warehouse: Warehouse, folder: Path) -> Path:
    """Make the files of the quarter's newest version."""
    return make_files(
        warehouse, WithoutCards(), QUARTER, load_policy(), ZoneInfo("America/New_York"), folder
    ).folder


def report(url: str, model_files: Path, folder: Path, parent: Connection) -> None:
    """Make the quarter's summary and files; tell the parent when it reads, writes and has committed."""
    warehouse = TellingWarehouse(url, parent)
    model = ReadmissionModel.load(model_files, READMISSION)
    summarise(warehouse, model, progress=lambda rows: parent.send("reads"))
    parent.send("commits")
    write_files(warehouse, folder)
    parent.send("ends")


def digests(warehouse: Warehouse) -> dict[str, str]:
    """Of every published table, without the time of computing."""
    with warehouse.transaction() as connection:
        return {
            table.name: connection.scalar(
                sa.text(
                    "SELECT md5(coalesce(string_agg(row, E'\\n' ORDER BY row), '')) FROM "
                    f"(SELECT (to_jsonb(t) - 'computed_at')::text AS row FROM {table.name} AS t) AS rows"
                )
            )
            for table in PUBLISHED
        }


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its path, hidden ones too."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
