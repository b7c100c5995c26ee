"""What clinicians did with cards: checked against the cards, and stored once.

Belongs here: which feedback is about a card that was given, and its row. Does not belong here: its form
(`cds_schema.py`) and HTTP (`cds_hooks.py`).

A comment is free text, so it may name the patient: only that there was one is kept. So is a coded reason
that this service did not offer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from medscore_assets.tables.serving import cds_feedback, readmission_scores
from resources.warehouse import Warehouse
from serving.cds_cards import REASON_SYSTEM, suggestion_id
from serving.cds_schema import FeedbackItem, Presentation
from serving.errors import Problem

OTHER_REASON = "other"
"""Stands for a coded reason that this service did not offer."""


def checked(
    warehouse: Warehouse, items: Sequence[FeedbackItem], client: str
) -> tuple[list[FeedbackItem], list[Problem]]:
    """What is about cards of this client's issuer, and the problems of every item that is not.

    Such an item's card or one of its suggestions was never given.
    """
    with warehouse.transaction() as connection:
        cards = _cards(connection, {str(item.card) for item in items}, client)
    problems = [list(_problems(number, item, cards)) for number, item in enumerate(items)]
    good = [item for item, found in zip(items, problems, strict=True) if not found]
    return good, [problem for found in problems for problem in found]


def store(warehouse: Warehouse, items: Sequence[FeedbackItem], presentation: Presentation) -> None:
    """Stores items, at least one, that were `checked`; told twice they are stored once."""
    rows = [_row(item, presentation) for item in items]
    with warehouse.transaction() as connection:
        connection.execute(insert(cds_feedback).on_conflict_do_nothing(), rows)


def _cards(connection: sa.Connection, ids: set[str], client: str) -> dict[str, list[str]]:
    """The actions of each card that exists and went to this client's issuer."""
    table = readmission_scores.c
    query = sa.select(table.score_id, table.client, table.recommended_actions).where(
        table.score_id.in_(ids), table.source == "cds_hooks"
    )
    return {
        # The warehouse gives JSON as text.
        row.score_id: orjson.loads(row.recommended_actions)
        for row in connection.execute(query)
        if _issuer(row.client) == _issuer(client)
    }


def _issuer(client: str) -> str:
    # One hospital may call under one subject and send feedback under another.
    return client.partition(":")[0] if not client.startswith("key:") else client


def _problems(number: int, item: FeedbackItem, cards: dict[str, list[str]]) -> Iterable[Problem]:
    actions = cards.get(str(item.card))
    if actions is None:
        yield Problem(f"feedback[{number}].card", "not_found", "No such card was given to this client.")
        return
    offered = {suggestion_id(str(item.card), action) for action in actions}
    for place, accepted in enumerate(item.acceptedSuggestions):
        if str(accepted.id) not in offered:
            location = f"feedback[{number}].acceptedSuggestions[{place}].id"
            yield Problem(location, "not_found", "The card had no such suggestion.")


def _row(item: FeedbackItem, presentation: Presentation) -> dict[str, Any]:
    override = item.overrideReason if item.outcome == "overridden" else None
    code = None
    if override and override.reason:
        offered = override.reason.system == REASON_SYSTEM
        known = offered and override.reason.code in presentation.override_reasons
        code = override.reason.code if known else OTHER_REASON
    accepted = item.acceptedSuggestions if item.outcome == "accepted" else []
    return {
        "card_id": str(item.card),
        "outcome": item.outcome,
        "outcome_at": item.outcomeTimestamp.astimezone(UTC),
        "accepted_suggestions": sorted({str(a.id) for a in accepted}),
        "override_code": code,
        "commented": override is not None and override.userComment is not None,
        "received_at": datetime.now(UTC),
    }
