"""CDS Hooks over HTTP, what is answered: criteria C7 to C14 and C18, and the scores behind the cards."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from medscore_assets.demo.discharges import day_of_discharges
from medscore_assets.readmission.cohort import EXCLUSIONS
from medscore_assets.readmission.policy import DISCLAIMER, load_policy
from medscore_assets.readmission.scoring import ReadmissionModel
from medscore_assets.readmission.single import score_each
from resources.errors import PermanentError
from resources.warehouse import Warehouse
from serving.cds_cards import EXTENSION, REASON_SYSTEM
from serving.cds_schema import DEFAULT_FILE, load_presentation
from serving.examples import FEATURES
from serving.fhir_mapping import NOT_INPATIENT
from tests.serving.audit_trail import Trail
from tests.serving.cds.site import CALL, PUBLIC, SENTINEL, body, call, cards, refused, score
from tests.serving.cds_conformance import broken, check_response, empty_members
from tests.serving.fhir_bundles import ENCOUNTER, HL7, PATIENT, coded, features_of, prefetch_of


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
    ehr: httpx.Client, trail: Trail
) -> None:
    sent = body()
    sent["prefetch"]["patient"]["birthDate"] = f"1948-{SENTINEL}"
    told = refused(call(ehr, sent), 412)
    assert told[1].startswith("patient_age: needs Patient.birthDate")

    (event,) = trail.events()
    assert event["outcome"] == "4"
    assert PATIENT in json.dumps(event)
    assert SENTINEL not in json.dumps(event)


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
    ehr: httpx.Client, trail: Trail
) -> None:
    sent = body()
    exp = coded(f"{HL7}discharge-disposition", "exp")
    sent["prefetch"]["encounter"]["hospitalization"]["dischargeDisposition"] = exp
    (card,) = cards(ehr, sent)

    assert "not scored" in card["summary"]
    assert "%" not in json.dumps(card)
    assert DISCLAIMER in card["detail"]
    assert "uuid" not in card
    assert len(trail.events()) == 1
    assert set(load_presentation().not_scored) == {*EXCLUSIONS, NOT_INPATIENT}


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
