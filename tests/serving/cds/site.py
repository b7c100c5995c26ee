"""CDS Hooks as an EHR speaks it: its access to the service, its tokens, its calls, and what they leave.

Belongs here: what more than one file of tests here uses. Does not belong here: the running application
(`conftest.py`), the rules of the specification (`cds_conformance.py`), FHIR resources (`fhir_bundles.py`).
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from resources.warehouse import Warehouse
from serving.cds_cards import SERVICE_ID
from serving.examples import FEATURES
from serving.scores import stored_score
from tests.serving.cds_conformance import OUTCOME, check_request, check_response
from tests.serving.fhir_bundles import ENCOUNTER, PATIENT, prefetch_of

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


def write_files(folder: Path) -> Path:
    """The access file and the issuers' key."""
    public = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "ehr.pem").write_bytes(public)
    file = folder / "access.toml"
    file.write_text(ACCESS)
    return file


def token(path: str, **changes: Any) -> dict[str, str]:
    """A header that opens one call of a path."""
    now = int(time.time())
    claims = {"iss": EHR, "aud": PUBLIC + path, "exp": now + 60, "iat": now, "jti": str(uuid.uuid4())}
    pem = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    signed = jwt.encode({**claims, **changes}, pem, algorithm="ES384")
    return {"Authorization": f"Bearer {signed}"}


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


def score(warehouse: Warehouse, score_id: str) -> dict[str, Any]:
    """A stored score that is there."""
    found = stored_score(warehouse, score_id)
    assert found is not None
    return found
