"""Examples for OpenAPI and for readers: one invented patient.

Belongs here: bodies that the routes really take and give; a test holds them to it.
Does not belong here: anything that decides.
"""

from __future__ import annotations

from typing import Any

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import DISCLAIMER

FEATURES: dict[str, Any] = {
    "patient_age": 78,
    "length_of_stay_days": 6,
    "num_prior_admissions_12m": 3,
    "num_chronic_conditions": 5,
    "primary_diagnosis_group": "cardiac",
    "discharge_disposition": "home",
    "insurance_type": "medicare",
    "emergency_admission": True,
    "num_medications_at_discharge": 11,
    "has_follow_up_scheduled": False,
}

REQUEST: dict[str, Any] = {
    **FEATURES,
    "encounter_id": "E-1001",
    "patient_id": "P-2002",
    "data_as_of": "2026-03-02T09:15:00-05:00",
}

RESPONSE: dict[str, Any] = {
    "readmission_probability": 0.4213,
    "risk_tier": "high",
    "recommended_actions": [
        "Follow-up call within 48 hours of discharge",
        "Schedule follow-up appointment within 7 days of discharge",
        "Medication reconciliation review recommended",
        "Consider referral to care management program",
        "Evaluate need for home health services",
    ],
    "disclaimer": DISCLAIMER,
    "score_id": "7f1d2c52-6a0f-4b8e-9a53-2f1f6f0d8c11",
    "scored_at": "2026-03-02T14:15:03.120000+00:00",
    "data_as_of": "2026-03-02T14:15:00+00:00",
    "encounter_id": "E-1001",
    "patient_id": "P-2002",
    "model_name": "readmission",
    "model_version": "7",
    "contract_hash": READMISSION.hash,
    "policy_version": "2026.1",
    "policy_hash": "0" * 64,
    "baseline": -1.731,
    "explanation": [
        {
            "feature": "num_prior_admissions_12m",
            "value": 3,
            "contribution": 0.812345,
            "direction": "raises",
            "text": "3 hospital admissions in the past 12 months (raises the risk)",
        }
    ],
}
