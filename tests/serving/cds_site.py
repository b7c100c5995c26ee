"""Helpers and fixtures of the tests of CDS Hooks: an application with tokens, calls, and what they leave.

Belongs here: what more than one of `test_cds_*.py` uses. Does not belong here: the rules of the
specification (`cds_conformance.py`) and FHIR resources (`fhir_bundles.py`).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI

from medscore_assets.settings import Settings
from medscore_assets.tables.serving import audit_events
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving.app import create_app
from serving.cds_cards import SERVICE_ID
from serving.cors import CdsCors
from serving.examples import FEATURES
from serving.scores import stored_score
from tests.serving.cds_conformance import (
    OUTCOME,
    check_request,
    check_response,
)
from tests.serving.conftest import running
from tests.serving.fhir_bundles import (
    ENCOUNTER,
    PATIENT,
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
