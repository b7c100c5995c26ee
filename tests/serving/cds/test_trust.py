"""CDS Hooks over HTTP, who may ask: criteria C16 and C17, and the audit of each answer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from resources.warehouse import Warehouse
from tests.serving.audit_trail import Trail
from tests.serving.cds.site import (
    CALL,
    EHR,
    FEEDBACK,
    PUBLIC,
    SANDBOX,
    SENTINEL,
    SERVICES,
    body,
    call,
    cards,
    refused,
    score,
    token,
)


@pytest.mark.parametrize("path", [CALL, FEEDBACK])
@pytest.mark.parametrize(
    "changes",
    [
        {"aud": PUBLIC},
        {"aud": f"{PUBLIC}{SERVICES}"},
        {"iss": "https://unknown.example.org"},
        {"exp": 1_700_000_000, "iat": 1_699_999_000},
        {"jti": None},
    ],
)
def test_c16_every_post_needs_a_token_for_exactly_its_address(
    ehr: httpx.Client, path: str, changes: dict[str, Any]
) -> None:
    for headers in (token(path, **changes), {}):
        response = ehr.post(path, json=body(), headers=headers)
        assert (response.status_code, response.content) == (401, b"")


def test_c16_a_token_opens_one_call_and_one_path(ehr: httpx.Client) -> None:
    headers = token(CALL)
    assert ehr.post(CALL, json=body(), headers=headers).status_code == 200
    assert ehr.post(CALL, json=body(), headers=headers).status_code == 401
    assert ehr.post(FEEDBACK, json={"feedback": []}, headers=token(CALL)).status_code == 401


def test_c16_a_role_without_patients_gets_no_card(ehr: httpx.Client) -> None:
    headers = token(CALL, iss="https://statistics.example.org")
    refused(ehr.post(CALL, json=body(), headers=headers), 403)


def test_c16_the_clients_own_token_is_kept_nowhere(
    ehr: httpx.Client, api_warehouse: Warehouse, trail: Trail
) -> None:
    (card,) = cards(ehr, body())
    assert f"{SENTINEL}-token" not in json.dumps(card)
    assert f"{SENTINEL}-token" not in str(score(api_warehouse, card["uuid"]))
    assert SENTINEL not in json.dumps(trail.events())


def test_c17_only_pages_of_listed_origins_may_call(ehr: httpx.Client) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = ehr.options(CALL, headers={"Origin": SANDBOX, **asks})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, SANDBOX)
    other = ehr.options(CALL, headers={"Origin": "https://evil.example.org", **asks})
    assert "access-control-allow-origin" not in other.headers
    predict = ehr.get("/v1/readmission/scores/1", headers={"Origin": SANDBOX})
    assert "access-control-allow-origin" not in predict.headers
    assert ehr.get(SERVICES, headers={"Origin": SANDBOX}).headers["access-control-allow-origin"] == SANDBOX


def test_c17_no_address_of_a_request_is_ever_called(ehr: httpx.Client) -> None:
    # Nobody listens there; a service that tried would fail or wait.
    sent = body(fhirServer="http://127.0.0.1:1/r4")
    del sent["prefetch"]["coverages"]
    assert any("fetches nothing" in text for text in refused(call(ehr, sent), 412))


def test_each_answer_is_audited_once_with_the_score_that_it_shows(ehr: httpx.Client, trail: Trail) -> None:
    (card,) = cards(ehr, body())
    (event,) = trail.events()
    assert card["uuid"] in json.dumps(event)
    # Who saw it, and not only through which record system.
    assert event["agent"][2]["who"]["identifier"] == {"system": EHR, "value": "Practitioner/p1"}
    ehr.get(SERVICES)
    assert len(trail.events()) == 1
