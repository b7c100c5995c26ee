"""CDS Hooks over HTTP, what became of the cards: criterion C15."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from medscore_assets.tables.serving import cds_feedback
from resources.warehouse import Warehouse
from serving import cds_hooks
from serving.cds_cards import REASON_SYSTEM
from serving.errors import Unavailable
from tests.serving.audit_trail import Trail
from tests.serving.cds.site import FEEDBACK, SENTINEL, body, call, cards, refused, token
from tests.serving.cds_conformance import check_feedback


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def accepted(card: dict[str, Any], *places: int, **changes: Any) -> dict[str, Any]:
    """Feedback on a card some of whose suggestions were taken."""
    taken = [{"id": card["suggestions"][place]["uuid"]} for place in places]
    return {
        "card": card["uuid"],
        "outcome": "accepted",
        "acceptedSuggestions": taken,
        "outcomeTimestamp": now(),
        **changes,
    }


def stored_feedback(warehouse: Warehouse, card: str) -> list[dict[str, Any]]:
    with warehouse.transaction() as connection:
        query = sa.select(cds_feedback).where(cds_feedback.c.card_id == card)
        found = connection.execute(query).mappings()
        return [{**row, "accepted_suggestions": json.loads(row["accepted_suggestions"])} for row in found]


def test_c15_feedback_is_stored_once_however_often_it_is_told(
    ehr: httpx.Client, api_warehouse: Warehouse
) -> None:
    (first,), (second,) = cards(ehr, body()), cards(ehr, body())
    overridden = {
        "card": second["uuid"],
        "outcome": "overridden",
        "outcomeTimestamp": now(),
        "overrideReason": {
            "reason": {"code": "limited-time", "system": REASON_SYSTEM, "display": "x"},
            "userComment": SENTINEL,
        },
    }
    sent = {"feedback": [accepted(first, 0, 1), overridden]}
    check_feedback(sent)
    trail = Trail(api_warehouse)
    for _ in range(2):
        response = call(ehr, sent, FEEDBACK)
        assert (response.status_code, response.content) == (200, b"")
    assert len(trail.events()) == 2

    (row,) = stored_feedback(api_warehouse, first["uuid"])
    assert sorted(row["accepted_suggestions"]) == sorted(s["uuid"] for s in first["suggestions"][:2])
    (row,) = stored_feedback(api_warehouse, second["uuid"])
    assert (row["override_code"], row["commented"]) == ("limited-time", True)
    assert SENTINEL not in str(row)

    again = call(ehr, {"feedback": [accepted(first, 0, outcomeTimestamp="2026-03-01T10:00:00Z")]}, FEEDBACK)
    assert again.status_code == 200
    assert len(stored_feedback(api_warehouse, first["uuid"])) == 2


def test_c15_feedback_about_unknown_cards_is_named_and_the_rest_is_stored(
    ehr: httpx.Client, api_warehouse: Warehouse
) -> None:
    (card,) = cards(ehr, body())
    trail = Trail(api_warehouse)
    unknown = {"card": str(uuid.uuid4()), "outcome": "overridden", "outcomeTimestamp": now()}
    not_offered = {**accepted(card, 0), "acceptedSuggestions": [{"id": str(uuid.uuid4())}]}

    told = refused(call(ehr, {"feedback": [unknown, accepted(card, 0), not_offered]}, FEEDBACK), 422)

    assert [text.split(":")[0] for text in told[1:]] == [
        "feedback[0].card",
        "feedback[2].acceptedSuggestions[0].id",
    ]
    assert len(stored_feedback(api_warehouse, card["uuid"])) == 1
    stored, refusal = trail.events()
    assert (stored["subtype"][1]["code"], stored["outcome"]) == ("feedback", "0")
    assert card["uuid"] in [entity["what"].get("identifier", {}).get("value") for entity in stored["entity"]]
    assert refusal["outcomeDesc"] == "invalid"


def test_c15_feedback_that_cannot_be_audited_is_not_stored(
    ehr: httpx.Client, api_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    (card,) = cards(ehr, body())

    async def no_audit(*_: Any, **__: Any) -> None:
        raise Unavailable()

    monkeypatch.setattr(cds_hooks, "_record", no_audit)
    refused(call(ehr, {"feedback": [accepted(card, 0)]}, FEEDBACK), 503)
    assert stored_feedback(api_warehouse, card["uuid"]) == []


def test_c15_feedback_of_another_issuer_about_a_card_is_about_an_unknown_card(
    ehr: httpx.Client, api_warehouse: Warehouse
) -> None:
    (card,) = cards(ehr, body())
    headers = token(FEEDBACK, iss="https://other.example.org")
    refused(ehr.post(FEEDBACK, json={"feedback": [accepted(card, 0)]}, headers=headers), 422)
    assert stored_feedback(api_warehouse, card["uuid"]) == []


def test_c15_a_reason_that_was_not_offered_is_kept_as_other(
    ehr: httpx.Client, api_warehouse: Warehouse
) -> None:
    (card,) = cards(ehr, body())
    reason = {"reason": {"code": SENTINEL, "system": "urn:local"}}
    sent = {
        "card": card["uuid"],
        "outcome": "overridden",
        "outcomeTimestamp": now(),
        "overrideReason": reason,
    }
    assert call(ehr, {"feedback": [sent]}, FEEDBACK).status_code == 200
    (row,) = stored_feedback(api_warehouse, card["uuid"])
    assert row["override_code"] == "other"


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "ignored"},
        {"outcomeTimestamp": "2026-03-01"},
        {"outcomeTimestamp": "2026-03-01T10:00:00"},
        {"outcomeTimestamp": "2999-03-01T10:00:00Z"},
        {"card": "1"},
        {"outcome": "accepted"},
        {"outcome": "accepted", "acceptedSuggestions": []},
        {"outcome": "accepted", "acceptedSuggestions": [{}]},
        {"overrideReason": {}},
    ],
)
def test_c15_feedback_that_breaks_an_invariant_is_refused(ehr: httpx.Client, changes: dict[str, Any]) -> None:
    item = {"card": str(uuid.uuid4()), "outcome": "overridden", "outcomeTimestamp": now(), **changes}
    told = refused(call(ehr, {"feedback": [item]}, FEEDBACK), 422)
    assert not any("No such card" in text for text in told), "refused for what it is, not for its card"
    refused(call(ehr, {"feedback": []}, FEEDBACK), 422)


def test_c15_feedback_from_a_clock_that_is_a_little_ahead_is_taken(
    ehr: httpx.Client, api_warehouse: Warehouse
) -> None:
    (card,) = cards(ehr, body())
    soon = (datetime.now(UTC) + timedelta(minutes=4)).isoformat()
    assert call(ehr, {"feedback": [accepted(card, 0, outcomeTimestamp=soon)]}, FEEDBACK).status_code == 200
    assert len(stored_feedback(api_warehouse, card["uuid"])) == 1
