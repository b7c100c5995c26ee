"""Calls to patients on a list, from a file of the team that made them.

Belongs here: what a valid line is, and how calls enter the warehouse.
Does not belong here: what calls mean for outcomes (`outcomes.py`), the command (`cli/records.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from medscore_assets.readmission.outcomes import CALL_OUTCOMES
from medscore_assets.tables import care_management_scores, outreach_calls
from resources.errors import ContractViolation, PermanentError
from resources.warehouse import Warehouse

COLUMNS = ("encounter_id", "called_at", "outcome")
SHOWN = 5
"""How many of the faults of a file are told."""

AT_ONCE = 5000
EARLIEST_YEAR = 1900

Call = dict[str, Any]


def read_calls(file: Path, now: datetime) -> list[Call]:
    """The calls of a CSV file with the columns `encounter_id`, `called_at`, `outcome`, in any order.

    `called_at` is in ISO 8601 with its offset and not after `now`. Raises `ContractViolation` with lines
    and columns, never values, if any line is not valid or repeats a call: a file is taken whole or not.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            places = _places(next(reader, []), file)
            calls, faults, seen = [], [], set()
            for row in reader:
                found = list(_faults(row, places, now))
                call = {} if found else _call(row, places)
                if call and (key := (call["encounter_id"], call["called_at"])) in seen:
                    found = ["called_at: this call stands in the file twice"]
                elif call:
                    seen.add(key)
                    calls.append(call)
                faults += [f"line {reader.line_num}, {fault}" for fault in found]
    except OSError as error:
        raise PermanentError(
            f"the calls cannot be read: {error.strerror}", where=str(file), mend="Name a readable file."
        ) from error
    except (csv.Error, UnicodeDecodeError):
        # Not chained: the texts quote what does not fit.
        raise PermanentError(
            "the file is not CSV in UTF-8", where=str(file), mend="Export it as CSV in UTF-8."
        ) from None
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise ContractViolation(
            f"{'; '.join(faults[:SHOWN])}{more}",
            where=str(file),
            mend="Correct these lines; nothing of the file was taken.",
        )
    return calls


def _places(heading: Sequence[str], file: Path) -> dict[str, int]:
    if sorted(heading) != sorted(COLUMNS):
        raise ContractViolation(
            "the first line does not name exactly the columns " + ", ".join(COLUMNS),
            where=str(file),
            mend="Give these columns, separated by commas.",
        )
    return {name: heading.index(name) for name in COLUMNS}


def _faults(row: Sequence[str], places: dict[str, int], now: datetime) -> Iterator[str]:
    if len(row) != len(COLUMNS):
        yield f"there are {len(row)} columns and not {len(COLUMNS)}"
        return
    encounter, called_at, outcome = (row[places[name]] for name in COLUMNS)
    if not encounter or encounter != encounter.strip() or "\0" in encounter:
        yield "encounter_id: empty, or with space around it"
    moment = _moment(called_at)
    if moment is None or moment.tzinfo is None or moment.year < EARLIEST_YEAR:
        yield "called_at: not a time with its offset, such as 2026-03-02T10:15:00-05:00"
    elif moment > now:
        yield "called_at: in the future"
    if outcome not in CALL_OUTCOMES:
        yield f"outcome: none of {', '.join(CALL_OUTCOMES)}"


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _call(row: Sequence[str], places: dict[str, int]) -> Call:
    moment = datetime.fromisoformat(row[places["called_at"]]).astimezone(UTC)
    return {
        "encounter_id": row[places["encounter_id"]],
        "called_at": moment,
        "outcome": row[places["outcome"]],
    }


def write_calls(warehouse: Warehouse, calls: Sequence[Call], source: str) -> dict[str, int]:
    """Enter calls, or correct those that are there; the same calls again write nothing.

    Returns how many were `given`, how many rows were `written`, and how many of the given concern an
    encounter that is `not_on_a_list`: they are kept, and count once it is.
    """
    written = unlisted = 0
    with warehouse.transaction() as connection:
        warehouse.lock(connection, outreach_calls.name)
        for begun in range(0, len(calls), AT_ONCE):
            some = calls[begun : begun + AT_ONCE]
            put = insert(outreach_calls).values([call | {"source": source} for call in some])
            put = put.on_conflict_do_update(
                index_elements=[outreach_calls.c.encounter_id, outreach_calls.c.called_at],
                set_={"outcome": put.excluded.outcome, "source": put.excluded.source},
                where=outreach_calls.c.outcome != put.excluded.outcome,
            )
            written += connection.execute(put, execution_options={"preserve_rowcount": True}).rowcount
            encounters = {call["encounter_id"] for call in some}
            listed = set(
                connection.scalars(
                    sa.select(care_management_scores.c.encounter_id).where(
                        care_management_scores.c.encounter_id.in_(encounters)
                    )
                )
            )
            unlisted += sum(call["encounter_id"] not in listed for call in some)
    return {"given": len(calls), "written": written, "not_on_a_list": unlisted}
