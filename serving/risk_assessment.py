"""A stored score as a FHIR R4 RiskAssessment.

Belongs here: the mapping of one row of `readmission_scores`, and the bindings that FHIR requires of it.
Does not belong here: HTTP (`fhir_routes.py`) and reading the row (`scores.py`).

FHIR tells probabilities in percent and knows no "very high": such a risk is `high`, and a second coding says
which tier of ours it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from medscore_assets.fhir_references import reference_to
from medscore_assets.readmission.cohort import FOLLOW_UP
from medscore_assets.readmission.policy import Tier

MEDIA_TYPE = "application/fhir+json"

SYSTEM = "urn:medscore"
"""The beginning of the names of our own code and identifier systems."""

RISK = "http://terminology.hl7.org/CodeSystem/risk-probability"
OUTCOME = "Unplanned hospital readmission within 30 days of discharge"

_QUALITATIVE: dict[Tier, tuple[str, str, str]] = {
    "low": ("low", "Low likelihood", "Low"),
    "moderate": ("moderate", "Moderate likelihood", "Moderate"),
    "high": ("high", "High likelihood", "High"),
    "very_high": ("high", "High likelihood", "Very high"),
}
"""Per tier FHIR's code and display, and our own display."""

_REASONS = 5


def risk_assessment(row: Mapping[str, Any], discharged_at: datetime | None) -> dict[str, Any]:
    """The resource of a stored score; absent elements are left out, none is empty.

    `discharged_at`, a time with a zone, opens the 30 days, if it is known. A score that was stored without a
    patient has no subject to refer to; the element that FHIR requires then says so.
    """
    patient, encounter = row["patient_id"], row["encounter_id"]
    subject = reference_to("Patient", patient) if patient else {"display": "Patient not named by the client"}
    basis = [
        reference_to(kind, name) for kind, name in (("Patient", patient), ("Encounter", encounter)) if name
    ]
    return {
        "resourceType": "RiskAssessment",
        "id": row["score_id"],
        "identifier": [{"system": f"{SYSTEM}:score", "value": row["score_id"]}],
        "status": "final",
        "method": {
            "coding": [
                {
                    "system": f"{SYSTEM}:model",
                    "version": str(row["model_version"]),
                    "code": row["model_name"],
                    "display": f"{row['model_name']} version {row['model_version']}",
                }
            ]
        },
        "code": {
            "coding": [{"system": f"{SYSTEM}:risk", "code": "readmission-30d"}],
            "text": "30-day unplanned readmission risk",
        },
        "subject": subject,
        **({"encounter": reference_to("Encounter", encounter)} if encounter else {}),
        "occurrenceDateTime": _instant(row["scored_at"]),
        "performer": {
            "type": "Device",
            "identifier": {"system": f"{SYSTEM}:service", "value": "medscore"},
            "display": "MedScore",
        },
        **({"basis": basis} if basis else {}),
        "prediction": [_prediction(row, discharged_at)],
        "mitigation": "; ".join(row["recommended_actions"]),
        "note": [{"text": row["disclaimer"]}],
    }


def _prediction(row: Mapping[str, Any], discharged_at: datetime | None) -> dict[str, Any]:
    tier: Tier = row["risk_tier"]
    code, display, ours = _QUALITATIVE[tier]
    told: dict[str, Any] = {
        "outcome": {"coding": [{"system": f"{SYSTEM}:outcome", "code": "readmission-30d"}], "text": OUTCOME},
        "probabilityDecimal": percent(row["readmission_probability"]),
        "qualitativeRisk": {
            "coding": [
                {"system": RISK, "code": code, "display": display},
                {
                    "system": f"{SYSTEM}:risk-tier",
                    "version": row["policy_version"],
                    "code": tier,
                    "display": ours,
                },
            ],
            "text": ours,
        },
    }
    if discharged_at is not None:
        period = {"start": _instant(discharged_at), "end": _instant(discharged_at + FOLLOW_UP)}
        told["whenPeriod"] = period
    if reasons := [f["text"] for f in row["explanation"]["factors"] if f["contribution"]][:_REASONS]:
        told["rationale"] = "; ".join(reasons)
    return told


def percent(probability: float) -> float:
    """A probability as FHIR tells it: 0.4213 is 42.13."""
    return round(100 * probability, 2)


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
