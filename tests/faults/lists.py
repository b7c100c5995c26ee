"""A day that is corrected again and again, and what its lists look like from inside the database.

Belongs here: rows of source tables that change a list in every way, and digests of lists made in SQL.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.partitions import window
from resources.warehouse import Warehouse
from tests.readmission.records import admission, clean_day, discharge, local
from tests.readmission.test_outreach import DAY, add

ROWS = 240
PUBLISHED = (
    tables.outreach_lists,
    tables.care_management_scores,
    tables.outreach_exclusions,
    tables.encounter_quarantine,
)
LEFT_OUT = ["scored_at", "published_at", "event_id"]
"""Columns of which something else is compared."""

Digests = dict[str, tuple[int, str]]
"""Per table the number of its rows and a digest of them."""


def first_rows(warehouse: Warehouse) -> None:
    """The day as it first comes in: clean, excluded and quarantined rows, and one readmission."""
    rows = clean_day(DAY, ROWS)
    rows[10] |= {"discharge_status": "hospice"}
    rows[11] |= {"insurance_type": "PAYER"}
    readmitted = rows[12]
    add(warehouse, rows, [admission("A-1", readmitted["patient_id"], local(DAY, 23, 30))])


def correct(warehouse: Warehouse, times: int) -> None:
    """The correction number `times`, from 1: every table of the list changes, and most ranks."""
    rows = clean_day(DAY, ROWS)
    arrived = window(DAY).end + timedelta(minutes=times)

    def corrected(number: int, **changes: Any) -> dict[str, Any]:
        return rows[number] | {"ingested_at": arrived} | changes

    add(
        warehouse,
        [
            corrected(20 + times, patient_age=97, num_prior_admissions_12m=times % 6),
            corrected(60 + times, discharge_status="expired"),
            corrected(100 + times, patient_age=None),
            # What the correction before this one broke.
            corrected(99 + times),
            discharge(5000 + times, local(DAY, 9, times), ingested_at=arrived),
        ],
    )


def digests(warehouse: Warehouse, since: datetime | None = None) -> Digests:
    """What is published, in one statement and so at one moment.

    Every column counts but the times of scoring and publishing; of those only whether they lie after
    `since`, if that is given. Events count by their place in the order of arrival: a server that was
    killed leaves gaps in their numbers.
    """
    published = " UNION ALL ".join(
        f"SELECT '{table.name}' AS name, concat_ws(' ', to_jsonb(t) - ARRAY{LEFT_OUT}, "
        f"{_time(table)} >= :since, {_event(table)}) AS row FROM {table.name} AS t"
        for table in PUBLISHED
    )
    query = sa.text(
        "SELECT name, count(*) AS rows, md5(string_agg(row, E'\n' ORDER BY row)) AS digest "
        f"FROM ({published}) AS published GROUP BY name"
    ).bindparams(sa.bindparam("since", since, sa.DateTime(timezone=True)))
    return {r["name"]: (r["rows"], r["digest"]) for r in warehouse.read(query).to_pylist()}


def _time(table: sa.Table) -> str:
    """When a row was made, if the table tells."""
    return next((name for name in ("scored_at", "published_at") if name in table.c), "NULL::timestamptz")


def _event(table: sa.Table) -> str:
    """The place of a row's event in the order of arrival, if the table names it."""
    place = "(SELECT count(*) FROM discharge_events AS e WHERE e.event_id <= t.event_id)"
    return place if "event_id" in table.c else "NULL"
