"""Brings source records into the warehouse: demo data and public data sets.

Belongs here: which tables a load fills, in one transaction, and what it refuses to mix.
Does not belong here: reading files and generating records (`demo/`).
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import sqlalchemy as sa

from medscore_assets import tables
from resources.errors import PermanentError
from resources.warehouse import Warehouse

REPLACEABLE = ("demo", "uci-diabetes")
"""Sources that can be loaded again at any time; `replace` never deletes another one."""


@dataclass(frozen=True, slots=True)
class Records:
    """The source tables of one load; None where the source has no such table."""

    source: str
    events: pa.Table
    admissions: pa.Table | None = None
    outcomes: pa.Table | None = None
    truth: pa.Table | None = None


def sources(warehouse: Warehouse) -> list[str]:
    """The names of the feeds that have events in the warehouse."""
    return warehouse.read(sa.select(tables.discharge_events.c.source).distinct())["source"].to_pylist()


def load(warehouse: Warehouse, records: Records, *, replace: bool) -> dict[str, int]:
    """Writes all tables of a load, or none. Returns the rows written per table.

    Two sources are never mixed: a model of demo and real patients together would mean nothing. Raises
    `PermanentError` when the warehouse holds another source, or this one already and not `replace`.
    """
    present = sources(warehouse)
    if present and not (replace and set(present) <= set(REPLACEABLE)):
        raise PermanentError(
            f"the warehouse already holds records of {', '.join(sorted(present))}",
            where=tables.discharge_events.name,
            mend="Use another MEDSCORE_HOME or MEDSCORE_DATABASE_URL"
            + (
                ", or --replace, which deletes those records and their lists."
                if set(present) <= set(REPLACEABLE)
                else "."
            ),
        )
    written: dict[str, int] = {}
    with warehouse.transaction() as connection:
        if present:
            names = ", ".join(table.name for table in tables.metadata.sorted_tables)
            connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY"))
        for table, rows in (
            (tables.discharge_events, records.events),
            (tables.inpatient_admissions, records.admissions),
            (tables.readmission_outcomes, records.outcomes),
            (tables.demo_ground_truth, records.truth),
        ):
            if rows is not None:
                written[table.name] = warehouse.append(connection, table, rows)
    return written
