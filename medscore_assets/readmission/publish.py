"""One morning list from the warehouse to the warehouse, in one transaction.

Belongs here: the order of reads and writes that makes a list atomic, repeatable and safe to race.
Does not belong here: what a list holds (`outreach.py`) and Dagster (`assets.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission import queries
from medscore_assets.readmission.outreach import DayNotPublished, OutreachList, Window, build_list
from medscore_assets.readmission.policy import Policy
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from resources.registry import ModelRegistry
from resources.warehouse import Part, Warehouse


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that scores, and its version in the registry."""

    model: ReadmissionModel
    version: int


def load_champion(registry: ModelRegistry) -> Champion:
    """The registry's champion, intact and of this contract; raises what its two steps do."""
    stored = registry.champion(MODEL)
    return Champion(ReadmissionModel.load(stored.directory, READMISSION), stored.version)


def publish_list(
    warehouse: Warehouse,
    window: Window,
    champion: Callable[[], Champion],
    policy: Policy,
    *,
    explain: bool = True,
) -> OutreachList:
    """Score one window and replace its list.

    `champion` is asked when the window has been read, so that it can be loaded meanwhile; what it raises
    comes before anything is written.

    A lock per day is taken before the first read, so that of two runs at once the later one sees what
    the earlier one wrote. A row that comes out the same stays as it is, with its `scored_at`. Raises
    `DayNotPublished` when the day is too dirty: the old list then stands, and the quarantine holds what
    the refused run found.
    """
    with warehouse.transaction() as connection:
        warehouse.lock(connection, day_lock(window.score_date))
        events = warehouse.read(queries.events_of(window), connection)
        admissions = warehouse.read(queries.admissions_after(window), connection)
        scorer = champion()
        try:
            made = build_list(
                events,
                admissions,
                window=window,
                model=scorer.model,
                model_version=scorer.version,
                policy=policy,
                scored_at=datetime.now(UTC),
                explain=explain,
            )
        except DayNotPublished as error:
            # Under the same lock, and committed: raised again below, when the transaction is over.
            refused = error
            part = _of_day(tables.encounter_quarantine, error.quarantine, window.score_date)
            warehouse.replace_each(connection, [part])
        else:
            _write(warehouse, connection, made, _header(made, window, scorer, policy))
            return made
    raise refused


def day_lock(score_date: date) -> str:
    """The name of the lock that whoever changes the list of a day holds."""
    return f"{tables.care_management_scores.name}/{score_date}"


def _header(made: OutreachList, window: Window, champion: Champion, policy: Policy) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "score_date": window.score_date,
                "window_start": window.start,
                "window_end": window.end,
                **made.counts,
                "admissions": made.admissions,
                "model_name": champion.model.name,
                "model_version": champion.version,
                "contract_hash": READMISSION.hash,
                "policy_version": policy.version,
                "policy_hash": policy.hash,
                "published_at": datetime.now(UTC),
            }
        ]
    )


def _write(warehouse: Warehouse, connection: sa.Connection, made: OutreachList, header: pa.Table) -> None:
    day = header["score_date"][0].as_py()
    scores = _of_day(tables.care_management_scores, made.scores, day, keep_if_unchanged=("scored_at",))
    warehouse.replace_each(
        connection,
        [
            _of_day(tables.outreach_lists, header, day),
            scores,
            _of_day(tables.outreach_exclusions, made.exclusions, day),
            _of_day(tables.encounter_quarantine, made.quarantine, day),
        ],
    )


def _of_day(table: sa.Table, rows: pa.Table, day: date, **options: Any) -> Part:
    return Part(table, rows, table.c.score_date == day, **options)
