"""Reads a published morning list back, for the command line and everything else that shows it.

Belongs here: finding a list and its patients. Does not belong here: making lists, drawing them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa

from medscore_assets.tables import care_management_scores, outreach_lists
from resources.errors import PermanentError
from resources.warehouse import Warehouse


@dataclass(frozen=True, slots=True)
class PublishedList:
    """The header of one list (a row of `outreach_lists`) and its first patients, in rank order."""

    header: dict[str, Any]
    patients: list[dict[str, Any]]


def published_list(warehouse: Warehouse, day: date | None, top: int) -> PublishedList:
    """The list of `day`, or the newest one. Raises `PermanentError` when there is none."""
    headers = sa.select(outreach_lists).order_by(outreach_lists.c.score_date.desc()).limit(1)
    if day is not None:
        headers = headers.where(outreach_lists.c.score_date == day)
    found = warehouse.read(headers).to_pylist()
    if not found:
        option = f" --date {day}" if day else ""
        raise PermanentError(
            f"there is no list{f' of {day}' if day else ' yet'}",
            where=outreach_lists.name,
            mend=f"Run: medscore outreach make{option}",
        )
    scores = care_management_scores
    patients = (
        sa.select(scores)
        .where(scores.c.score_date == found[0]["score_date"], scores.c.rank <= top)
        .order_by(scores.c.rank)
    )
    return PublishedList(found[0], warehouse.read(patients).to_pylist())
