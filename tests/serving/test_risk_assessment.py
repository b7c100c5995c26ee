"""A stored score as FHIR has it: percent, bindings, invariants, and the way back to the score."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fhirpathpy
import httpx
import pytest
import sqlalchemy as sa
from fhirpathpy.models import models
from hypothesis import given
from hypothesis import strategies as st

from medscore_assets.readmission.policy import DISCLAIMER, TIERS
from medscore_assets.tables.readmission import discharge_events
from medscore_assets.tables.serving import audit_events
from resources.errors import PermanentError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving.examples import REQUEST
from serving.fhir_routes import ModelCards
from serving.risk_assessment import RISK, percent, risk_assessment
from tests.serving.cds_conformance import empty_members

# Of FHIR R4: the code system of the required binding, the example binding, and the invariants.
STATUSES = {
    "registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown"
}  # fmt: skip
RISKS = {"negligible", "low", "moderate", "high", "certain"}
RAS_1 = (
    "prediction.all(probability is decimal implies (probability as decimal) <= 100)",
    "prediction.probability.where($this is Range).all((low.empty() or (low.code = '%')) and "
    "(high.empty() or (high.code = '%')))",
)
ELEMENTS = {
    "resourceType", "id", "meta", "identifier", "basedOn", "parent", "status", "method", "code", "subject",
    "encounter", "occurrenceDateTime", "occurrencePeriod", "condition", "performer", "reasonCode",
    "reasonReference", "basis", "prediction", "mitigation", "note",
}  # fmt: skip
PREDICTION = {
    "outcome", "probabilityDecimal", "probabilityRange", "qualitativeRisk", "relativeRisk", "whenPeriod",
    "whenRange", "rationale",
}  # fmt: skip
SCORED_AT = datetime(2026, 3, 2, 14, 15, 3, 120000, tzinfo=UTC)


def row(**changes: Any) -> dict[str, Any]:
    """A stored score."""
    age = {"feature": "patient_age", "value": 78, "direction": "raises", "text": "aged 78 years"}
    factors = [
        {**age, "contribution": 0.2},
        {"feature": "x", "value": 1, "contribution": 0.0, "direction": "neutral", "text": "nothing"},
    ]
    return {
        "score_id": "7f1d2c52-6a0f-4b8e-9a53-2f1f6f0d8c11",
        "patient_id": "P-1",
        "encounter_id": "E-1",
        "readmission_probability": 0.4213,
        "risk_tier": "high",
        "explanation": {"baseline": -1.7, "factors": factors},
        "recommended_actions": ["Follow-up call", "Review"],
        "disclaimer": DISCLAIMER,
        "model_name": "readmission",
        "model_version": 7,
        "policy_version": "2026.1",
        "scored_at": SCORED_AT,
        **changes,
    }


def check(resource: dict[str, Any]) -> None:
    """The bindings and invariants of FHIR R4 that schemas do not enforce."""
    assert set(resource) <= ELEMENTS
    assert resource["status"] in STATUSES
    assert resource["subject"]
    assert empty_members(resource) == []
    for expression in RAS_1:
        assert fhirpathpy.evaluate(resource, expression, model=models["r4"]) == [True]
    for prediction in resource["prediction"]:
        assert set(prediction) <= PREDICTION
        assert 0 <= prediction["probabilityDecimal"] <= 100
        codes = [c["code"] for c in prediction["qualitativeRisk"]["coding"] if c["system"] == RISK]
        assert len(codes) == 1
        assert set(codes) <= RISKS
    json.dumps(resource, allow_nan=False)


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(0.4213, 42.13), (0, 0), (1, 100), (0.123456, 12.35), (0.00001, 0.0), (0.07, 7)],
)
def test_fhir_tells_a_probability_in_percent(probability: float, shown: float) -> None:
    assert percent(probability) == shown


@given(st.floats(0, 1), st.sampled_from(TIERS), st.booleans(), st.booleans())
def test_every_score_is_a_valid_risk_assessment(
    probability: float, tier: str, named: bool, explained: bool
) -> None:
    changes: dict[str, Any] = {"readmission_probability": probability, "risk_tier": tier}
    if not named:
        changes |= {"patient_id": None, "encounter_id": None}
    if not explained:
        changes["explanation"] = {"baseline": 0.0, "factors": []}
    resource = risk_assessment(row(**changes), SCORED_AT if named else None)
    check(resource)
    assert ("whenPeriod" in resource["prediction"][0]) == named
    assert ("rationale" in resource["prediction"][0]) == explained


@pytest.mark.parametrize(
    ("tier", "code", "display"),
    [
        ("low", "low", "Low"),
        ("moderate", "moderate", "Moderate"),
        ("high", "high", "High"),
        ("very_high", "high", "Very high"),
    ],
)
def test_fhir_knows_no_very_high_so_our_own_coding_tells_it(tier: str, code: str, display: str) -> None:
    qualitative = risk_assessment(row(risk_tier=tier), None)["prediction"][0]["qualitativeRisk"]
    fhir, ours = qualitative["coding"]
    assert (fhir["system"], fhir["code"]) == (RISK, code)
    assert (ours["code"], ours["display"], qualitative["text"]) == (tier, display, display)


def test_the_resource_tells_who_what_when_and_why() -> None:
    left = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
    resource = risk_assessment(row(), left)
    prediction = resource["prediction"][0]

    assert resource["identifier"][0]["value"] == resource["id"] == row()["score_id"]
    assert resource["subject"] == {"reference": "Patient/P-1"}
    assert resource["encounter"] == {"reference": "Encounter/E-1"}
    assert resource["basis"] == [{"reference": "Patient/P-1"}, {"reference": "Encounter/E-1"}]
    assert resource["occurrenceDateTime"] == "2026-03-02T14:15:03.120Z"
    assert (resource["method"]["coding"][0]["code"], resource["method"]["coding"][0]["version"]) == (
        "readmission",
        "7",
    )
    assert prediction["whenPeriod"] == {
        "start": "2026-03-02T09:00:00.000Z",
        "end": "2026-04-01T09:00:00.000Z",
    }
    assert prediction["rationale"] == "aged 78 years"
    assert resource["mitigation"] == "Follow-up call; Review"
    assert resource["note"] == [{"text": DISCLAIMER}]


@pytest.mark.parametrize("name", ["P 1", "P/1", "MRN#17", "Ärztin", "P" * 65])
def test_a_name_that_is_no_fhir_id_is_told_as_an_identifier(name: str) -> None:
    resource = risk_assessment(row(patient_id=name, encounter_id=name), None)
    patient, stay = ({"type": kind, "identifier": {"value": name}} for kind in ("Patient", "Encounter"))

    check(resource)
    assert (resource["subject"], resource["encounter"]) == (patient, stay)
    assert resource["basis"] == [patient, stay]


def test_a_stored_score_is_read_as_fhir_and_the_reading_is_audited(
    api: httpx.Client, api_warehouse: Warehouse
) -> None:
    stay = f"E-{uuid.uuid4()}"
    given_score = api.post("/v1/readmission/predict", json={**REQUEST, "encounter_id": stay}).json()
    left = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
    with api_warehouse.transaction() as connection:
        for patient, hours in ((REQUEST["patient_id"], 1), (REQUEST["patient_id"], 0), ("P-another", -9)):
            event = {"source": "test", "encounter_id": stay, "patient_id": patient}
            event["discharged_at"] = left - timedelta(hours=hours)
            connection.execute(sa.insert(discharge_events).values(**event))

    response = api.get(f"/v1/readmission/scores/{given_score['score_id']}/risk-assessment")

    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/fhir+json"
    assert response.headers["cache-control"] == "no-store"
    resource = response.json()
    check(resource)
    assert resource["identifier"][0]["value"] == given_score["score_id"]
    prediction = resource["prediction"][0]
    assert prediction["probabilityDecimal"] == percent(given_score["readmission_probability"])
    assert prediction["qualitativeRisk"]["coding"][1]["code"] == given_score["risk_tier"]
    assert resource["mitigation"] == "; ".join(given_score["recommended_actions"])
    assert prediction["whenPeriod"]["start"] == "2026-03-02T09:00:00.000Z"
    with api_warehouse.transaction() as connection:
        newest = sa.select(audit_events.c.event).order_by(audit_events.c.sequence.desc()).limit(1)
        event = connection.execute(newest).scalar_one()
    assert given_score["score_id"] in event
    assert json.loads(event)["action"] == "R"


@pytest.mark.parametrize(("score_id", "status"), [("00000000-0000-4000-8000-000000000000", 404), ("1", 422)])
def test_a_score_that_is_not_there_is_refused(api: httpx.Client, score_id: str, status: int) -> None:
    assert api.get(f"/v1/readmission/scores/{score_id}/risk-assessment").status_code == status


def test_the_model_card_of_the_champion_is_fetched_once(
    versions: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evaluation.html").write_text("<p>page</p>")
    (tmp_path / "model_card.json").write_text("{}")
    asked: list[Any] = []
    attached = versions.attached
    monkeypatch.setattr(versions, "attached", lambda *args: (asked.append(args), attached(*args))[1])
    cards = ModelCards(versions)
    for _ in range(3):
        # Whoever asks in vain does not make the registry search each time.
        with pytest.raises(PermanentError):
            cards.file(2, "evaluation.html")
    assert len(asked) == 1
    versions.attach("readmission", 2, tmp_path, "evaluation")
    cards = ModelCards(versions)
    assert cards.file(2, "evaluation.html") == b"<p>page</p>"
    assert cards.file(2, "model_card.json") == b"{}"
    assert len(asked) == 2


def test_a_model_without_an_evaluation_has_no_page(api: httpx.Client) -> None:
    assert api.get("/model-card").status_code in (404, 503)
