"""CDS Hooks over HTTP: criteria C1 to C18 of the specification, with tokens, on a real service."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI

from medscore_assets.demo.discharges import day_of_discharges
from medscore_assets.readmission.cohort import EXCLUSIONS
from medscore_assets.readmission.policy import DISCLAIMER, load_policy
from medscore_assets.readmission.scoring import ReadmissionModel
from medscore_assets.readmission.single import score_each
from medscore_assets.settings import Settings
from medscore_assets.tables.serving import audit_events, cds_feedback
from resources.errors import PermanentError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving.app import create_app
from serving.cds_cards import EXTENSION, REASON_SYSTEM, SERVICE_ID, services
from serving.cds_hooks import Rules
from serving.cds_schema import DEFAULT_FILE, HOOKS, load_presentation
from serving.cors import CdsCors
from serving.examples import FEATURES
from serving.fhir_codes import load_codes
from serving.fhir_mapping import NOT_INPATIENT, TEMPLATES
from serving.scores import stored_score
from tests.serving.cds_conformance import (
    DISCOVERY,
    OUTCOME,
    broken,
    check_feedback,
    check_request,
    check_response,
    empty_members,
)
from tests.serving.conftest import running
from tests.serving.fhir_bundles import (
    ENCOUNTER,
    HL7,
    PATIENT,
    bundle,
    coded,
    condition,
    features_of,
    prefetch_of,
)

PUBLIC = "https://medscore.example.org"
EHR = "https://ehr.example.org"
SANDBOX = "https://sandbox.cds-hooks.org"
SERVICES = "/cds-services"
CALL = f"{SERVICES}/{SERVICE_ID}"
FEEDBACK = f"{CALL}/feedback"
SENTINEL = "SENTINEL-7f3a"
KEY = ec.generate_private_key(ec.SECP384R1())

ACCESS = f"""
public_url = "{PUBLIC}"
cors_origins = ["{SANDBOX}"]

[issuers.ehr]
issuer = "{EHR}"
algorithms = ["ES384"]
keys_file = "ehr.pem"
one_time = true
default_roles = ["coordinator"]

[issuers.other]
issuer = "https://other.example.org"
algorithms = ["ES384"]
keys_file = "ehr.pem"
one_time = true
default_roles = ["coordinator"]

[issuers.statistics]
issuer = "https://statistics.example.org"
algorithms = ["ES384"]
keys_file = "ehr.pem"
one_time = true
default_roles = ["analyst"]
"""


def token(path: str, **changes: Any) -> dict[str, str]:
    """A header that opens one call of a path."""
    now = int(time.time())
    claims = {"iss": EHR, "aud": PUBLIC + path, "exp": now + 60, "iat": now, "jti": str(uuid.uuid4())}
    pem = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    signed = jwt.encode({**claims, **changes}, pem, algorithm="ES384")
    return {"Authorization": f"Bearer {signed}"}


@pytest.fixture(scope="module")
def closed_app(
    api_settings: Settings, api_registry: ModelRegistry, tmp_path_factory: pytest.TempPathFactory
) -> FastAPI:
    """The application as a hospital runs it: tokens only, a public address, one page of another origin."""
    folder = tmp_path_factory.mktemp("cds")
    public = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "ehr.pem").write_bytes(public)
    (folder / "access.toml").write_text(ACCESS)
    settings = Settings(
        home=api_settings.home,
        database_url=api_settings.database_url,
        api_rate=1_000_000,
        access_file=folder / "access.toml",
    )
    app = create_app(settings, registry=api_registry)
    if not any(m.cls is CdsCors for m in app.user_middleware):
        app.add_middleware(CdsCors, origins=[SANDBOX])
    return app


@pytest.fixture(scope="module")
def ehr(closed_app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the running application."""
    with running(closed_app) as client:
        yield client


def body(hook: str = "encounter-discharge", **changes: Any) -> dict[str, Any]:
    """A call of the service for the documented example."""
    made = {
        "hook": hook,
        "hookInstance": str(uuid.uuid4()),
        "fhirServer": "https://fhir.example.org/r4",
        "fhirAuthorization": {
            "access_token": f"{SENTINEL}-token",
            "token_type": "Bearer",
            "expires_in": 300,
            "scope": "patient/*.read",
            "subject": "medscore",
            "patient": PATIENT,
        },
        "context": {"userId": "Practitioner/p1", "patientId": PATIENT, "encounterId": ENCOUNTER},
        "prefetch": prefetch_of(FEATURES),
        **changes,
    }
    return {name: value for name, value in made.items() if value is not ...}


def cards(client: httpx.Client, sent: dict[str, Any]) -> list[dict[str, Any]]:
    """The cards of a call that is answered, which conform."""
    check_request(sent)
    response = client.post(CALL, json=sent, headers=token(CALL))
    assert response.status_code == 200, response.text
    check_response(response.json())
    return list(response.json()["cards"])


def refused(response: httpx.Response, status: int) -> list[str]:
    """The diagnostics of a refusal, which conforms."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/fhir+json"
    OUTCOME.validate(response.json())
    assert SENTINEL not in response.text
    return [issue["diagnostics"] for issue in response.json()["issue"]]


def call(client: httpx.Client, sent: Any, path: str = CALL) -> httpx.Response:
    return client.post(path, json=sent, headers=token(path))


def events_since(warehouse: Warehouse, sequence: int) -> list[dict[str, Any]]:
    with warehouse.transaction() as connection:
        table = audit_events.c
        found = connection.execute(
            sa.select(table.event).where(table.sequence > sequence).order_by(table.sequence)
        )
        return [json.loads(event) for event in found.scalars()]


def last_event(warehouse: Warehouse) -> int:
    with warehouse.transaction() as connection:
        return connection.execute(sa.select(sa.func.max(audit_events.c.sequence))).scalar() or 0


def score(warehouse: Warehouse, score_id: str) -> dict[str, Any]:
    """A stored score that is there."""
    found = stored_score(warehouse, score_id)
    assert found is not None
    return found


# Discovery


def test_c1_discovery_is_open_and_lists_the_service(ehr: httpx.Client) -> None:
    response = ehr.get(SERVICES)
    assert response.status_code == 200
    DISCOVERY.validate(response.json())
    assert empty_members(response.json()) == []


def test_c2_one_service_is_registered_under_both_hooks(ehr: httpx.Client) -> None:
    listed = ehr.get(SERVICES).json()["services"]
    assert [s["hook"] for s in listed] == list(HOOKS)
    assert {s["id"] for s in listed} == {SERVICE_ID}
    assert all(s["title"] and s["usageRequirements"] for s in listed)


@pytest.mark.parametrize(("version", "has_hook_version"), [("2.0", False), ("3.0.0", True)])
def test_c2_the_version_is_the_configured_one(version: str, has_hook_version: bool) -> None:
    told = services(load_presentation().model_copy(update={"version": version}))
    DISCOVERY.validate(told)
    assert all(s["version"] == version and ("hookVersion" in s) == has_hook_version for s in told["services"])


def test_c3_prefetch_templates_use_only_what_every_client_must_know(ehr: httpx.Client) -> None:
    read = r"[A-Z][A-Za-z]+/\{\{context\.(patientId|encounterId)\}\}"
    parameter = r"(patient=\{\{context\.patientId\}\}|status=[a-z]+|_sort=-?[a-z]+|_count=\d+)"
    for service in ehr.get(SERVICES).json()["services"]:
        assert service["prefetch"] == TEMPLATES
        for template in service["prefetch"].values():
            assert re.fullmatch(rf"{read}|[A-Z][A-Za-z]+\?{parameter}(&{parameter})*", template), template


# Call


@pytest.mark.parametrize(
    "sent",
    [
        body(hook=...),
        body(hookInstance=...),
        body(context=...),
        body(hookInstance="1"),
        body(context={"userId": "Practitioner/p1", "patientId": PATIENT}),
        body(context={"userId": "Practitioner/p1", "encounterId": ENCOUNTER}),
        body(context={"patientId": PATIENT, "encounterId": ENCOUNTER}),
        body(context={"userId": f"Group/{SENTINEL}", "patientId": PATIENT, "encounterId": ENCOUNTER}),
        body(context={"userId": "Practitioner/p1", "patientId": f"{SENTINEL} x", "encounterId": ENCOUNTER}),
        body(context=[]),
        body(prefetch=[SENTINEL]),
        body(fhirServer=...),
        body(fhirServer=f"file:///{SENTINEL}"),
        body(fhirAuthorization={"access_token": SENTINEL}),
        [],
    ],
)  # fmt: skip
def test_c4_a_call_without_what_the_specification_requires_is_refused(ehr: httpx.Client, sent: Any) -> None:
    refused(call(ehr, sent), 422)


def test_c4_authorization_without_a_server_breaks_cds_r_1() -> None:
    assert broken("request", body(fhirServer=...)) == ["cds-r-1"]


def test_c4_an_unknown_service_is_404_and_a_hook_of_another_service_400(ehr: httpx.Client) -> None:
    for path in (f"{SERVICES}/other", f"{SERVICES}/other/feedback"):
        refused(call(ehr, body(), path), 404)
    refused(call(ehr, body(hook="order-select")), 400)
    refused(ehr.post(CALL, content=b"{", headers={**token(CALL), "Content-Type": "application/json"}), 400)


def test_c4_members_that_the_specification_does_not_know_are_passed_over(ehr: httpx.Client) -> None:
    sent = body(extension={"org.example.x": 1}, later="member")
    sent["context"]["later"] = "member"
    assert len(cards(ehr, sent)) == 1


@pytest.mark.parametrize("key", sorted(TEMPLATES))
@pytest.mark.parametrize("failed", [False, True])
def test_c5_a_prefetch_that_is_absent_or_failed_is_412_and_named(
    ehr: httpx.Client, key: str, failed: bool
) -> None:
    sent = body()
    if failed:
        issue = {"severity": "error", "code": "exception", "diagnostics": SENTINEL}
        sent["prefetch"][key] = {"resourceType": "OperationOutcome", "issue": [issue]}
    else:
        del sent["prefetch"][key]
    told = refused(call(ehr, sent), 412)
    assert any(f"prefetch {key}" in text for text in told)


def test_c5_null_is_no_data_and_half_a_search_is_412(ehr: httpx.Client) -> None:
    sent = body()
    sent["prefetch"]["medications"] = None
    (card,) = cards(ehr, sent)
    assert card["uuid"]

    sent["prefetch"]["medications"] = bundle(link=[{"relation": "next", "url": f"https://x/{SENTINEL}"}])
    assert any("first page" in text for text in refused(call(ehr, sent), 412))


def test_c5_resources_of_another_patient_are_refused(ehr: httpx.Client) -> None:
    sent = body()
    sent["prefetch"]["conditions"] = bundle(condition("x", "I50", patient=SENTINEL))
    assert any("prefetch.conditions" in text for text in refused(call(ehr, sent), 422))


def test_c6_an_answer_takes_far_less_than_500_ms(ehr: httpx.Client) -> None:
    times = []
    for _ in range(20):
        sent, headers = body(), token(CALL)
        began = time.perf_counter()
        assert ehr.post(CALL, json=sent, headers=headers).status_code == 200
        times.append(time.perf_counter() - began)
    assert sorted(times)[10] < 0.25


# Response


def test_c7_no_cards_are_the_answer_where_there_is_deliberately_no_guidance(ehr: httpx.Client) -> None:
    context = {"userId": "Practitioner/p1", "patientId": PATIENT}
    assert cards(ehr, body("patient-view", context=context, prefetch=...)) == []

    ambulatory = body("patient-view")
    ambulatory["prefetch"]["encounter"]["class"]["code"] = "AMB"
    assert cards(ehr, ambulatory) == []


def test_c8_nothing_in_an_answer_is_null_or_empty(ehr: httpx.Client) -> None:
    (card,) = cards(ehr, body())
    assert empty_members(card) == []


def test_c9_a_card_says_the_risk_its_reasons_and_the_disclaimer(
    ehr: httpx.Client, api_warehouse: Warehouse
) -> None:
    (card,) = cards(ehr, body())
    stored = score(api_warehouse, card["uuid"])

    assert load_policy().percent(stored["readmission_probability"]) in card["summary"]
    assert stored["risk_tier"].replace("_", " ").capitalize() in card["summary"]
    assert DISCLAIMER in card["detail"]
    for factor in stored["explanation"]["factors"][: load_policy().top_factors]:
        assert factor["text"] in card["detail"]
    for action in stored["recommended_actions"]:
        assert action in card["detail"]
    assert features_of(stored) == FEATURES
    assert (stored["source"], stored["client"]) == ("cds_hooks", "ehr")
    assert (stored["patient_id"], stored["encounter_id"]) == (PATIENT, ENCOUNTER)


def test_c10_every_action_is_a_proposal_that_nobody_applies_by_itself(ehr: httpx.Client) -> None:
    ill = {**FEATURES, "num_prior_admissions_12m": 10, "num_chronic_conditions": 15}
    response = call(ehr, body(prefetch=prefetch_of(ill)))
    assert set(response.json()) == {"cards"}
    (card,) = response.json()["cards"]
    assert card["extension"][EXTENSION]["risk_tier"] in ("high", "very_high")
    proposed = [a["resource"] for s in card["suggestions"] for a in s["actions"]]

    assert [s["label"] for s in card["suggestions"]] == card["extension"][EXTENSION]["recommended_actions"]
    assert card["selectionBehavior"] == "any"
    assert {r["resourceType"] for r in proposed} == {"Appointment", "ServiceRequest", "Task"}
    assert all(r["status"] in ("draft", "proposed") for r in proposed)
    assert all(r.get("intent", "proposal") == "proposal" for r in proposed)
    assert all(f"Patient/{PATIENT}" in json.dumps(r) for r in proposed)
    assert all("actionSelectionBehavior" not in s and "isRecommended" not in s for s in card["suggestions"])


def test_c10_the_standard_protocol_is_no_suggestion(ehr: httpx.Client) -> None:
    low = {
        **FEATURES,
        "patient_age": 30,
        "num_prior_admissions_12m": 0,
        "num_chronic_conditions": 0,
        "num_medications_at_discharge": 1,
        "emergency_admission": False,
        "length_of_stay_days": 1,
    }
    (card,) = cards(ehr, body(prefetch=prefetch_of(low)))
    assert card["extension"][EXTENSION]["risk_tier"] == "low"
    assert load_policy().standard.text in card["detail"]
    assert "suggestions" not in card
    assert "selectionBehavior" not in card


def test_c11_override_reasons_are_codes_of_hl7_with_words(ehr: httpx.Client) -> None:
    (card,) = cards(ehr, body())
    codes = {reason["code"] for reason in card["overrideReasons"]}
    assert {"patient-ineligible", "action-completed", "limited-time", "recipient-does-not-trust"} <= codes
    assert all(reason["system"] == REASON_SYSTEM for reason in card["overrideReasons"])


def test_c12_the_card_links_to_the_model_card_by_an_absolute_address(ehr: httpx.Client) -> None:
    (card,) = cards(ehr, body())
    assert [(link["type"], link["url"]) for link in card["links"]] == [("absolute", f"{PUBLIC}/model-card")]
    assert "/model-card" in ehr.get("/openapi.json").json()["paths"]


def test_c13_the_indicator_follows_from_the_tier_and_is_never_critical(
    ehr: httpx.Client, tmp_path: Path
) -> None:
    presentation = load_presentation()
    assert presentation.indicators == {
        "low": "info", "moderate": "info", "high": "warning", "very_high": "warning"
    }  # fmt: skip
    (card,) = cards(ehr, body())
    assert card["indicator"] == presentation.indicators[card["extension"][EXTENSION]["risk_tier"]]

    text = DEFAULT_FILE.read_text(encoding="utf-8").replace('high = "warning"', 'high = "critical"', 1)
    (tmp_path / "cds.toml").write_text(text, encoding="utf-8")
    with pytest.raises(PermanentError, match=r"indicators\.high"):
        load_presentation(tmp_path / "cds.toml")


def test_c14_every_refusal_is_an_operation_outcome_without_a_value_and_audited(
    ehr: httpx.Client, api_warehouse: Warehouse
) -> None:
    before = last_event(api_warehouse)
    sent = body()
    sent["prefetch"]["patient"]["birthDate"] = f"1948-{SENTINEL}"
    told = refused(call(ehr, sent), 412)
    assert told[1].startswith("patient_age: needs Patient.birthDate")

    (event,) = events_since(api_warehouse, before)
    assert event["outcome"] == "4"
    assert PATIENT in json.dumps(event)
    assert SENTINEL not in json.dumps(event)


# Feedback


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
    before = last_event(api_warehouse)
    for _ in range(2):
        response = call(ehr, sent, FEEDBACK)
        assert (response.status_code, response.content) == (200, b"")
    assert len(events_since(api_warehouse, before)) == 2

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
    unknown = {"card": str(uuid.uuid4()), "outcome": "overridden", "outcomeTimestamp": now()}
    not_offered = {**accepted(card, 0), "acceptedSuggestions": [{"id": str(uuid.uuid4())}]}

    told = refused(call(ehr, {"feedback": [unknown, accepted(card, 0), not_offered]}, FEEDBACK), 422)

    assert [text.split(":")[0] for text in told[1:]] == [
        "feedback[0].card",
        "feedback[2].acceptedSuggestions[0].id",
    ]
    assert len(stored_feedback(api_warehouse, card["uuid"])) == 1


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
        {"card": "1"},
        {"outcome": "accepted"},
        {"outcome": "accepted", "acceptedSuggestions": []},
        {"outcome": "accepted", "acceptedSuggestions": [{}]},
        {"overrideReason": {}},
    ],
)
def test_c15_feedback_that_breaks_an_invariant_is_refused(ehr: httpx.Client, changes: dict[str, Any]) -> None:
    item = {"card": str(uuid.uuid4()), "outcome": "overridden", "outcomeTimestamp": now(), **changes}
    refused(call(ehr, {"feedback": [item]}, FEEDBACK), 422)
    refused(call(ehr, {"feedback": []}, FEEDBACK), 422)


# Trust


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


def test_c16_the_clients_own_token_is_kept_nowhere(ehr: httpx.Client, api_warehouse: Warehouse) -> None:
    before = last_event(api_warehouse)
    (card,) = cards(ehr, body())
    assert f"{SENTINEL}-token" not in json.dumps(card)
    assert f"{SENTINEL}-token" not in str(score(api_warehouse, card["uuid"]))
    assert SENTINEL not in json.dumps(events_since(api_warehouse, before))


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


def test_c18_the_card_tells_from_when_its_data_are(ehr: httpx.Client, api_warehouse: Warehouse) -> None:
    sent = body()
    sent["prefetch"]["coverages"]["meta"] = {"lastUpdated": "2026-03-02T17:30:00Z"}
    (card,) = cards(ehr, sent)
    assert "Data as of 2026-03-02 12:30 EST" in card["detail"]
    assert score(api_warehouse, card["uuid"])["data_as_of"] == datetime(2026, 3, 2, 17, 30, tzinfo=UTC)

    (again,) = cards(ehr, sent)
    assert again["uuid"] != card["uuid"]
    assert "replaces this one" in again["detail"]


def test_c18_an_open_stay_is_said_to_be_open(ehr: httpx.Client) -> None:
    sent = body("patient-view")
    began = datetime.now(UTC) - timedelta(days=4)
    for stay in (sent["prefetch"]["encounter"], sent["prefetch"]["encounters"]["entry"][0]["resource"]):
        stay |= {"status": "in-progress", "period": {"start": began.isoformat()}}
    (card,) = cards(ehr, sent)
    assert "still open" in card["detail"]


def test_who_is_not_eligible_gets_a_card_without_a_number_and_no_score(
    ehr: httpx.Client, api_warehouse: Warehouse
) -> None:
    before = last_event(api_warehouse)
    sent = body()
    exp = coded(f"{HL7}discharge-disposition", "exp")
    sent["prefetch"]["encounter"]["hospitalization"]["dischargeDisposition"] = exp
    (card,) = cards(ehr, sent)

    assert "not scored" in card["summary"]
    assert "%" not in json.dumps(card)
    assert DISCLAIMER in card["detail"]
    assert "uuid" not in card
    assert len(events_since(api_warehouse, before)) == 1
    assert set(load_presentation().not_scored) == {*EXCLUSIONS, NOT_INPATIENT}


def test_each_answer_is_audited_once_with_the_score_that_it_shows(
    ehr: httpx.Client, api_warehouse: Warehouse
) -> None:
    before = last_event(api_warehouse)
    (card,) = cards(ehr, body())
    (event,) = events_since(api_warehouse, before)
    assert card["uuid"] in json.dumps(event)
    ehr.get(SERVICES)
    assert len(events_since(api_warehouse, before)) == 1


@pytest.mark.slow
def test_a_thousand_rows_have_the_same_score_by_fhir_as_by_the_api(
    api: httpx.Client, api_warehouse: Warehouse, model: ReadmissionModel
) -> None:
    """By the API a thousand have what the scorer says (`test_golden.py`); here it is asked for some."""
    rows = [features_of(e) for e in day_of_discharges(1000, date(2026, 2, 3), seed=11).events.to_pylist()]

    scores = score_each(rows, model, 1, load_policy())

    def by_fhir(number: int) -> dict[str, Any]:
        patient, stay = f"P-{number}", f"E-{number}"
        context = {"userId": "Practitioner/p1", "patientId": patient, "encounterId": stay}
        prefetch = prefetch_of(rows[number], patient=patient, stay=stay)
        response = api.post(CALL, json=body(context=context, prefetch=prefetch, fhirAuthorization=...))
        assert response.status_code == 200, response.text
        return dict(response.json())

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(by_fhir, range(len(rows))))

    for number, (by_hook, scored) in enumerate(zip(answers, scores, strict=True)):
        (card,) = by_hook["cards"]
        told = card["extension"][EXTENSION]
        assert told["readmission_probability"] == scored.probability
        assert told["risk_tier"] == scored.tier
        assert told["recommended_actions"] == list(scored.actions)
        if number % 25 == 0:
            check_response(by_hook)
            stored = score(api_warehouse, card["uuid"])
            by_api = api.post("/v1/readmission/predict", json=rows[number]).json()
            same = ("readmission_probability", "risk_tier", "recommended_actions")
            assert {name: told[name] for name in same} == {name: by_api[name] for name in same}
            assert features_of(stored) == rows[number]
            assert stored["explanation"]["factors"] == by_api["explanation"]


@pytest.mark.parametrize(
    ("kind", "element", "invariant"),
    [
        (
            "card",
            {
                "selectionBehavior": "at-most-one",
                "suggestions": [{"label": "a", "isRecommended": True}, {"label": "b", "isRecommended": True}],
            },
            "cds-resp-1",
        ),
        ("action", {"type": "delete", "resource": {"resourceType": "Task"}}, "cds-resp-2"),
        ("link", {"type": "absolute", "appContext": "x"}, "cds-resp-3"),
        ("reason", {"code": "x"}, "cds-resp-4"),
        ("suggestion", {"actions": [{"type": "create"}]}, "cds-resp-5"),
        ("card", {"suggestions": [{"label": "a"}]}, "cds-resp-6"),
        ("suggestion", {"actionSelectionBehavior": "some"}, "cds-resp-7"),
        ("request", {"fhirAuthorization": {"scope": "x"}}, "cds-r-1"),
        ("authorization", {"scope": "patient/*.read"}, "cds-r-2"),
        ("feedback", {"outcome": "ignored"}, "cds-fb-1"),
        ("feedback", {"outcome": "accepted"}, "cds-fb-2"),
        ("override", {"other": 1}, "cds-fb-3"),
    ],
)
def test_each_invariant_of_hl7_can_fail_here(kind: str, element: dict[str, Any], invariant: str) -> None:
    assert broken(kind, element) == [invariant]


def test_a_stay_at_the_end_of_time_is_no_error(ehr: httpx.Client) -> None:
    sent = body()
    ever = {"start": "9999-12-31T10:00:00Z", "end": "9999-12-31T11:00:00Z"}
    for stay in (sent["prefetch"]["encounter"], sent["prefetch"]["encounters"]["entry"][0]["resource"]):
        stay["period"] = ever
    sent["prefetch"]["conditions"]["meta"] = {"lastUpdated": "0001-01-01T00:00:00Z"}
    assert call(ehr, sent).status_code in (200, 412)


def test_the_rules_are_those_of_the_files(ehr: httpx.Client, closed_app: FastAPI) -> None:
    assert ehr.get(SERVICES).status_code == 200
    assert closed_app.state.cds_rules == Rules(load_presentation(), load_codes())
