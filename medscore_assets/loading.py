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

_REPLACED = (
    tables.discharge_events,
    tables.inpatient_admissions,
    tables.readmission_outcomes,
    tables.demo_ground_truth,
    tables.encounter_quarantine,
    tables.readmission_training_set,
    tables.outreach_lists,
    tables.outreach_exclusions,
    tables.outreach_calls,
    tables.care_management_scores,
    tables.readmission_score_outcomes,
)
"""The records and what was made of them. Journals stay: they say what happened, and refuse to forget it."""


@dataclass(frozen=True, slots=True)
class Records:
    """The source tables of one load; None where the source has no such table."""

    source: str
    events: pa.Table
    admissions: pa.Table | None = None
    outcomes: pa.Table | None = None
    truth: pa.Table | None = None


def sources(warehouse: Warehouse, connection: sa.Connection | None = None) -> list[str]:
    """The names of the feeds that have rows in any source table."""
    fed = (tables.discharge_events, tables.inpatient_admissions, tables.readmission_outcomes)
    names = sa.union(*(sa.select(table.c.source) for table in fed))
    return [str(name) for name in warehouse.read(names, connection)["source"].to_pylist()]


def load(warehouse: Warehouse, records: Records, *, replace: bool) -> dict[str, int]:
    """Writes all tables of a load, or none. Returns the rows written per table.

    Two sources are never mixed: a model of demo and real patients together would mean nothing. Raises
    `PermanentError` when the warehouse holds another source, or this one already and not `replace`.
    """
    written: dict[str, int] = {}
    with warehouse.transaction() as connection:
        warehouse.lock(connection, "load of source records")
        present = sources(warehouse, connection)
        replaceable = set(present) <= set(REPLACEABLE)
        if present and not (replace and replaceable):
            raise PermanentError(
                f"the warehouse already holds records of {', '.join(sorted(present))}",
                where=tables.discharge_events.name,
                mend="Use another MEDSCORE_HOME or MEDSCORE_DATABASE_URL"
                + (", or --replace, which deletes those records and their lists." if replaceable else "."),
            )
        if present:
            names = ", ".join(table.name for table in _REPLACED)
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
