"""Requests full of texts that nobody may find again: everywhere a client may set one, on every route.

Belongs here: what is sent, and finding it in a text. Does not belong here: where it is looked for
(`test_sentinels.py`).
"""

from __future__ import annotations

import json
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import local
from typing import Any

import httpx
import jwt

from benchmarks.loopback import Server
from benchmarks.site import PREDICT, Site
from serving.app import create_app
from serving.limits import MAX_DEPTH
from tests.serving.conftest import features
from tests.serving.fhir_bundles import prefetch_of

MARK = "XENTINEL"
STAY, PATIENT = f"{MARK}-stay-1", f"{MARK}-patient-1"
NAMES = (STAY, PATIENT)
PORTAL = (
    "/board/{facility}",
    "/board/{facility}/times",
    "/monitor/waits",
    "/portal",
    "/portal/login",
    "/portal/logout",
    "/portal/lists",
    "/portal/lists/{day}",
    "/portal/lists/{day}/calls",
    "/portal/mobility",
    "/portal/mobility/{patient_id:path}",
    "/portal/patient",
    "/portal/population",
    "/portal/population/{quarter}",
    "/portal/scores/{score_id}",
    "/portal/static/{name}",
    "/portal/waits",
    f"/portal/{MARK}-path",
)
_FOUND = re.compile(rf"(?i){MARK}[\w-]*")


def marks(text: str, allowed: tuple[str, ...] = ()) -> set[str]:
    """The sentinels in a text, but for some."""
    return {found.lower() for found in _FOUND.findall(text)} - {name.lower() for name in allowed}


@dataclass
class Hospital:
    """The running service, and who may ask it."""

    site: Site
    server: Server
    keys: dict[str, str]
    clients: local = field(default_factory=local)
    answers: list[tuple[str, httpx.Response]] = field(default_factory=list)

    def ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        """One request with sentinels in every header that a client may set."""
        headers = {
            "X-Request-Id": f"{MARK}-request-id",
            "User-Agent": f"{MARK}-agent",
            "Referer": f"https://{MARK}-referer.example.org/{MARK}",
            "X-Forwarded-For": f"{MARK}-forwarded",
            "Accept-Language": f"{MARK}-language",
            "Cookie": f"medscore_session={MARK}-cookie; other={MARK}-cookie",
            **sent.pop("headers", {}),
        }
        # One for each thread: what a site sets in an answer must not be sent with another's request.
        if not hasattr(self.clients, "own"):
            self.clients.own = httpx.Client(timeout=30)
        self.clients.own.cookies.clear()
        address = f"http://127.0.0.1:{self.server.port}{path}"
        answer = self.clients.own.request(method, address, headers=headers, **sent)
        self.answers.append((f"{method} {path}", answer))
        return answer


def tokens(hospital: Hospital) -> dict[str, str]:
    """Authorization headers that are taken, and those that are not."""
    now = int(time.time())
    claims = {
        "iss": "https://ehr.example.org",
        "aud": f"https://medscore.example.org/cds-services/{MARK}",
        "sub": f"{MARK}-subject",
        "iat": now,
        "exp": now + 60,
        "jti": f"{MARK}-{uuid.uuid4()}",
        "patient": f"{MARK}-claim",
    }
    foreign = {**claims, "iss": f"https://{MARK}-issuer.example.org"}
    key = hospital.site.key
    return {
        "care manager": f"Bearer {hospital.keys['care-manager']}",
        "without the role": f"Bearer {hospital.keys['analyst']}",
        "none": "",
        "no token": f"Bearer {MARK}-token",
        "another scheme": f"Basic {MARK}",
        "a false key": f"Bearer {hospital.keys['analyst'][:-8]}{MARK}",
        "a foreign issuer": f"Bearer {jwt.encode(foreign, key, algorithm='ES384')}",
        "another audience": f"Bearer {jwt.encode(claims, key, algorithm='ES384')}",
        "a claimed key": "Bearer "
        + jwt.encode(
            claims, key, algorithm="ES384", headers={"kid": f"{MARK}-kid", "jku": f"https://{MARK}"}
        ),
    }


def bodies() -> list[tuple[str, bytes]]:
    """Media types and bodies: valid, nearly valid, not valid, not JSON, too deep, too large."""
    named = features(encounter_id=STAY, patient_id=PATIENT)
    hook = {
        "hook": "encounter-discharge",
        "hookInstance": str(uuid.uuid4()),
        "fhirServer": f"https://{MARK}-server.example.org",
        "fhirAuthorization": {
            "access_token": f"{MARK}-access",
            "token_type": "Bearer",
            "expires_in": 300,
            "scope": f"{MARK}-scope",
            "subject": f"{MARK}-client",
        },
        "context": {"userId": f"Practitioner/{MARK}-user", "patientId": PATIENT, "encounterId": STAY},
        "prefetch": prefetch_of(features(), patient=PATIENT, stay=STAY),
    }
    spoilt = json.loads(json.dumps(hook))
    for value in spoilt["prefetch"].values():
        value["resourceType"] = f"{MARK}-type"
    infer = {
        "inputs": [
            {"name": name, "shape": [1], "datatype": _datatype(value), "data": [value]}
            for name, value in features().items()
        ]
    }
    row = {"outcome": "overridden", "overrideReason": {"userComment": f"{MARK}-comment"}}
    objects: list[Any] = [
        named,
        {**named, "patient_age": f"{MARK}-age"},
        {**named, "patient_age": 10**30},
        {**named, "insurance_type": f"{MARK}-payer"},
        {**named, "encounter_id": f" {MARK}-\u0000stay"},
        {**named, "data_as_of": f"{MARK}-moment"},
        {**named, f"{MARK}-key": f"{MARK}-value"},
        {f"{MARK}-key": f"{MARK}-value"},
        hook,
        spoilt,
        {**hook, "hook": f"{MARK}-hook"},
        {**hook, "prefetch": {f"{MARK}-key": {"text": f"{MARK}-value"}}},
        {"feedback": [{"card": f"{MARK}-card", **row}]},
        {"feedback": [{"card": str(uuid.uuid4()), "outcomeTimestamp": "2026-01-01T00:00:00Z", **row}]},
        infer,
        {**infer, "id": f"{MARK}-id"},
        {"inputs": [{**infer["inputs"][0], "name": f"{MARK}-input", "data": [f"{MARK}-value"]}]},
        {"inputs": infer["inputs"], "outputs": [{"name": f"{MARK}-output"}]},
        {"encounter_id": STAY, "outcome": f"{MARK}-outcome", "called_at": f"{MARK}-moment"},
        [f"{MARK}-list"],
        f"{MARK}-text",
    ]
    texts = [
        f'{{"patient_age": {MARK}}}',
        f'{{"patient_age": NaN, "encounter_id": "{MARK}-nan"}}',
        f"{MARK}-not-json",
        '{"a":' * (MAX_DEPTH + 1) + f'"{MARK}-deep"' + "}" * (MAX_DEPTH + 1),
        json.dumps({"encounter_id": f"{MARK}-" + "x" * 3_000_000}),
    ]
    form = f"csrf={MARK}-csrf&key={MARK}-key&patient_age={MARK}-age&mark=reached%20{MARK}&encounter_id={MARK}"
    return [
        *(("application/json", json.dumps(o).encode()) for o in objects),
        *(("application/json", t.encode()) for t in texts),
        (f"text/{MARK}-type", f"{MARK}-body".encode()),
        ("application/x-www-form-urlencoded", form.encode()),
    ]


def _datatype(value: Any) -> str:
    return "BOOL" if isinstance(value, bool) else "INT64" if isinstance(value, int) else "BYTES"


def ask_everything(hospital: Hospital) -> None:
    """Each route of the document and the portal, as everybody, with every body and in every place."""
    document = create_app(hospital.site.settings).openapi()["paths"]
    routes = [(path, method) for path, methods in document.items() for method in methods]
    routes += [(path, method) for path in PORTAL for method in ("get", "post")]
    allowed = {"care manager", "none"}
    everybody, sent = tokens(hospital), bodies()

    def ask_all(route: tuple[str, str]) -> None:
        path, method = route
        addresses = {
            re.sub(r"\{[^}]+\}", f"{MARK}-path", path),
            re.sub(r"\{(score_id|version)\}", str(uuid.uuid4()), path)
            .replace("{model}", "readmission")
            .replace("{service_id}", "medscore-readmission")
            .replace("{date}", "2026-01-01")
            .replace("{day}", "2026-01-01")
            .replace("{name}", "portal.css"),
        }
        query = f"{MARK}-query={MARK}-query&limit={MARK}&explain={MARK}&day={MARK}&tier={MARK}"
        for who, authorization in everybody.items():
            headers = {"Authorization": authorization} if authorization else {}
            for address in sorted(addresses):
                hospital.ask(method, address, headers=headers)
                hospital.ask(method, f"{address}?{query}", headers=headers)
                for kind, body in sent if method == "post" and who in allowed else ():
                    hospital.ask(method, address, headers={**headers, "Content-Type": kind}, content=body)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(ask_all, routes))
    _ask_as_intended(hospital, everybody["care manager"])


def _ask_as_intended(hospital: Hospital, authorization: str) -> None:
    """Requests that succeed, so that what is only written on success is written."""
    care = {"Authorization": authorization}
    named = features(encounter_id=STAY, patient_id=PATIENT)
    key = {"Idempotency-Key": f"{MARK}-idempotency"}
    given = hospital.ask("POST", PREDICT, json=named, headers={**care, **key})
    assert given.status_code == 200
    assert hospital.ask("POST", PREDICT, json=features(), headers={**care, **key}).status_code == 409
    for path in ("", "/risk-assessment"):
        read = hospital.ask("GET", f"/v1/readmission/scores/{given.json()['score_id']}{path}", headers=care)
        assert read.status_code == 200
    page = httpx.get(f"http://127.0.0.1:{hospital.server.port}/portal/patient", headers=care)
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)
    typed = {k: str(v).lower() for k, v in named.items()} | {"csrf": csrf[1] if csrf else ""}
    for wrong in ({}, {"patient_age": f"{MARK}-age"}, {"do": "save"}):
        hospital.ask("POST", "/portal/patient", data=typed | wrong, headers={**care, "Cookie": ""})
    for day in ("latest", datetime.now(UTC).date()):
        hospital.ask("GET", f"/v1/outreach/{day}", headers=care)


def ask_too_often(hospital: Hospital, limited: Server) -> None:
    limited.wait_ready("/health/ready")
    second = Hospital(hospital.site, limited, hospital.keys)
    body = features(encounter_id=f"{MARK}-limit")
    for path in (PREDICT, "/cds-services/medscore-readmission", "/portal/patient", f"/v2/{MARK}"):
        for _ in range(2):
            second.ask("POST", f"{path}?{MARK}={MARK}", json=body)
    assert {a.status_code for _, a in second.answers} >= {429}
    hospital.answers += second.answers
