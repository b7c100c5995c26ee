"""Published morning lists with the calls made from them, as the API and the portal both show them.

Belongs here: reading a list with its calls, which list is due, and entering or taking back a call.
Does not belong here: HTTP (`outreach.py`), pages (`portal/`), how lists are made (`readmission/`).

The functions are synchronous; routes run them with `reading`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, ParamSpec, TypeVar
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool

from medscore_assets.readmission.calls import write_calls
from medscore_assets.readmission.published import PublishedList, published_list
from medscore_assets.tables.readmission import care_management_scores, outreach_calls, outreach_lists
from resources.errors import TransientError
from resources.warehouse import Warehouse
from serving.errors import Unavailable

MORNING_HOUR, READY_BY_HOUR = 6, 7
"""When a window closes and when its list is due, local time, as in `medscore_assets.partitions`.

That module needs Dagster, which the API does without; a test holds both to be the same.
"""

ENTERED_HERE = "portal"
"""The source of calls that were entered on the page; only these can be taken back there."""

_EVERYBODY = 2**31 - 1

P = ParamSpec("P")
T = TypeVar("T")


async def reading(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs work on the warehouse off the event loop. Raises `Unavailable` where trying again may help."""
    try:
        return await run_in_threadpool(function, *args, **kwargs)
    except TransientError:
        raise Unavailable() from None


@dataclass(frozen=True, slots=True)
class Call:
    """One call about an encounter."""

    outcome: str
    called_at: datetime
    source: str


@dataclass(frozen=True, slots=True)
class Morning:
    """One published list, its patients in rank order, and the calls about them, earliest first.

    `patients` are rows of `care_management_scores` with reasons and actions as objects.
    """

    published: PublishedList
    calls: dict[str, list[Call]]

    @property
    def header(self) -> dict[str, Any]:
        """The row of `outreach_lists`."""
        return self.published.header

    @property
    def patients(self) -> list[dict[str, Any]]:
        """The patients that were read."""
        return self.published.patients

    @property
    def day(self) -> date:
        """The day on which the list's window opens."""
        found: date = self.header["score_date"]
        return found


def list_days(warehouse: Warehouse, count: int) -> list[date]:
    """The days of the newest lists, newest first."""
    query = sa.select(outreach_lists.c.score_date).order_by(outreach_lists.c.score_date.desc()).limit(count)
    days: list[date] = warehouse.read(query)["score_date"].to_pylist()
    return days


def morning_list(
    warehouse: Warehouse, day: date | None, *, after_rank: int = 0, limit: int = _EVERYBODY
) -> Morning | None:
    """The list of `day`, or the newest one, with its patients behind `after_rank`; None if there is none."""
    exists = sa.select(sa.func.max(outreach_lists.c.score_date).label("day"))
    if day is not None:
        exists = exists.where(outreach_lists.c.score_date == day)
    found = warehouse.read(exists)["day"][0].as_py()
    if found is None:
        return None
    published = published_list(warehouse, found, min(after_rank + limit, _EVERYBODY))
    del published.patients[:after_rank]
    for patient in published.patients:
        for column in ("top_factors", "recommended_actions"):
            patient[column] = json.loads(patient[column])
    return Morning(published, calls_of(warehouse, found))


def calls_of(warehouse: Warehouse, day: date, encounter_id: str | None = None) -> dict[str, list[Call]]:
    """The calls about the encounters of a list, or about one of them, earliest first."""
    scores, calls = care_management_scores.c, outreach_calls.c
    listed = sa.select(scores.encounter_id).where(scores.score_date == day)
    if encounter_id is not None:
        listed = listed.where(scores.encounter_id == encounter_id)
    query = (
        sa.select(calls.encounter_id, calls.outcome, calls.called_at, calls.source)
        .where(calls.encounter_id.in_(listed))
        .order_by(calls.called_at)
    )
    found: dict[str, list[Call]] = {}
    for row in warehouse.read(query).to_pylist():
        found.setdefault(row["encounter_id"], []).append(
            Call(row["outcome"], row["called_at"], row["source"])
        )
    return found


def listed_patient(warehouse: Warehouse, day: date, encounter_id: str) -> dict[str, Any] | None:
    """Rank and patient of an encounter on a list, or None if it is not on it."""
    scores = care_management_scores.c
    query = sa.select(scores.rank, scores.encounter_id, scores.patient_id).where(
        scores.score_date == day, scores.encounter_id == encounter_id
    )
    rows = warehouse.read(query).to_pylist()
    return rows[0] if rows else None


def enter_call(
    warehouse: Warehouse, day: date, encounter_id: str, outcome: str, called_at: datetime, source: str
) -> dict[str, Any] | None:
    """Enter a call, or correct the outcome of that one; the same call again writes nothing.

    Returns what `listed_patient` does; nothing is written for an encounter that is not on the list.
    """
    patient = listed_patient(warehouse, day, encounter_id)
    if patient is not None:
        call = {"encounter_id": encounter_id, "called_at": called_at.astimezone(UTC), "outcome": outcome}
        write_calls(warehouse, [call], source)
    return patient


def take_back(
    warehouse: Warehouse, day: date, encounter_id: str, called_at: datetime
) -> dict[str, Any] | None:
    """Remove a call that was entered on the page by mistake. Returns what `listed_patient` does."""
    patient = listed_patient(warehouse, day, encounter_id)
    if patient is not None:
        calls = outreach_calls.c
        with warehouse.transaction() as connection:
            warehouse.lock(connection, outreach_calls.name)
            connection.execute(
                sa.delete(outreach_calls).where(
                    calls.encounter_id == encounter_id,
                    calls.called_at == called_at,
                    calls.source == ENTERED_HERE,
                )
            )
    return patient


def due_day(now: datetime, zone: ZoneInfo, first_day: date) -> date | None:
    """The day of the list that must be there at `now` (with a zone), or None before the first one.

    The list of a window that closed at 06:00 is due at 07:00, local time.
    """
    # In UTC: the hour between closing and due has no change of clocks.
    closed_by = now.astimezone(UTC) - timedelta(hours=READY_BY_HOUR - MORNING_HOUR)
    local = closed_by.astimezone(zone)
    closes_on = local.date() if local.time() >= time(MORNING_HOUR) else local.date() - timedelta(days=1)
    due = closes_on - timedelta(days=1)
    return due if due >= first_day else None
