"""Rows and entries for tests of the journal."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from medscore_assets.readmission.policy import DISCLAIMER
from serving.access import Caller
from serving.examples import FEATURES
from serving.journal import AuditEntry

CALLER = Caller("ehr:ann", "ann", frozenset({"coordinator"}), "https://ehr.example.org")


def score_row(**changes: Any) -> dict[str, Any]:
    """A row of `readmission_scores` that the database takes."""
    row = {
        "score_id": str(uuid.uuid4()),
        "source": "api",
        "client": CALLER.client,
        "encounter_id": "e1",
        "patient_id": "p1",
        **FEATURES,
        "features_sha256": "f" * 64,
        "readmission_probability": 0.1 + 0.2,
        "risk_tier": "moderate",
        "explanation": {"baseline": -1.75, "factors": [{"feature": "patient_age", "contribution": 1e-17}]},
        "recommended_actions": ["Call within 48 h – “today”"],
        "disclaimer": DISCLAIMER,
        "model_name": "readmission",
        "model_version": 3,
        "contract_hash": "c",
        "policy_version": "1",
        "policy_hash": "p",
        "scored_at": datetime.now(UTC),
    }
    return {**row, **changes}


def entry(**changes: Any) -> AuditEntry:
    """An audit entry of a score."""
    told: dict[str, Any] = {
        "kind": "score",
        "outcome": "success",
        "caller": CALLER,
        "route": "/v1/readmission/predict",
        "request_id": str(uuid.uuid4()),
        "encounter_id": "e1",
        "patient_id": "p1",
        "entity": None,
        "status": 200,
        "occurred_at": datetime.now(UTC),
    }
    return AuditEntry(**{**told, **changes})
