"""Reads published morning lists back, for the command line and everything else that shows them.

Belongs here: finding a list and its patients, the scores of one encounter over time, and how a stored
probability is told. Does not belong here: making lists, drawing them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from medscore_assets.readmission.policy import Policy, Tier, plain_percent
from medscore_assets.tables import care_management_scores, outreach_lists
from resources.errors import PermanentError
from resources.warehouse import Warehouse


@dataclass(frozen=True, slots=True)
class PublishedList:
    """The header of one list (a row of `outreach_lists`) and its first patients, in rank order."""

    header: dict[str, Any]
    patients: list[dict[str, Any]]

    def percent(self, probability: float, policy: Policy) -> str:
        """A probability of this list for people. `policy` is the one in force; the list may have another.

        The edges of another policy are not known here, so its probabilities are simply rounded.
        """
        same = self.header["policy_hash"] == policy.hash
        return policy.percent(probability) if same else plain_percent(probability)


@dataclass(frozen=True, slots=True)
class StoredScore:
    """One score of an encounter. `features_changed` is against the score before it; False for the first."""

    score_date: date
    scored_at: datetime
    model_name: str
    model_version: int
    policy_version: str
    readmission_probability: float
    risk_tier: Tier
    features_sha256: str
    features_changed: bool


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


def score_history(warehouse: Warehouse, encounter_id: str) -> list[StoredScore]:
    """Every stored score of an encounter in the order of `scored_at`; empty where there is none.

    Two scores that differ with the same features differ by model or policy.
    """
    scores = care_management_scores.c
    query = (
        sa.select(
            scores.score_date,
            scores.scored_at,
            scores.model_name,
            scores.model_version,
            scores.policy_version,
            scores.readmission_probability,
            scores.risk_tier,
            scores.features_sha256,
        )
        .where(scores.encounter_id == encounter_id)
        .order_by(scores.scored_at, scores.score_date)
    )
    return in_sequence(warehouse.read(query).to_pylist())


def in_sequence(rows: Sequence[dict[str, Any]]) -> list[StoredScore]:
    """Scores of one encounter, oldest first, each with whether its features are not those before."""
    hashes = [row["features_sha256"] for row in rows]
    changed = [False, *(before != after for before, after in itertools.pairwise(hashes))]
    return [StoredScore(**row, features_changed=c) for row, c in zip(rows, changed, strict=False)]
