"""An application with the real access, journal and error handlers; issuers, their keys and tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import Depends, FastAPI
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from medscore_assets.audit import Occurrence
from medscore_assets.settings import Settings
from resources.warehouse import Warehouse
from serving import errors
from serving.access import Caller, access_for, requires
from serving.journal import Journal
from tests.conftest import copied_database
from tests.serving.audit_trail import Trail
from tests.serving.conftest import running

BASE = "https://medscore.example.org"
USERS = "https://login.example.org"
EHR = "https://ehr.example.org"
AUDIENCE = "medscore-api"
CARE = "/care"
CDS = "/cds-services/readmission"
BY = Occurrence("access-change", "success", datetime.now(UTC))

EC_KEY = ec.generate_private_key(ec.SECP384R1())
OTHER_KEY = ec.generate_private_key(ec.SECP384R1())
P256_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(key: Any, key_id: str) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig"}


def pem(key: Any) -> bytes:
    return bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


@contextmanager
def key_server(keys: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """A real server of key sets, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/jwks")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": keys}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


FILE = f"""
public_url = "{BASE}"
api_keys = true

[issuers.login]
issuer = "{USERS}"
algorithms = ["ES384", "RS384"]
keys_file = "users.json"
audience = "{AUDIENCE}"
roles_claim = "realm_access.roles"
roles = {{ "ms-care" = ["care-manager"], "ms-analyst" = ["analyst"], "ms-steward" = ["steward"] }}
tenant_claim = "hospital"
tenants = ["north", "south"]
purpose_claim = "purpose"

[issuers.ehr]
issuer = "{EHR}"
algorithms = ["ES384"]
keys_file = "ehr.pem"
one_time = true
default_roles = ["coordinator"]
"""


def write_files(folder: Path) -> Path:
    """The access file and the issuers' keys."""
    (folder / "users.json").write_text(json.dumps({"keys": [jwk(EC_KEY, "ec-1"), jwk(RSA_KEY, "rsa-1")]}))
    (folder / "ehr.pem").write_bytes(pem(EC_KEY))
    file = folder / "access.toml"
    file.write_text(FILE)
    return file


@pytest.fixture(scope="module")
def database(postgres: str, migrated_template: str) -> Iterator[str]:
    """One database for all tests here; each looks at what it added (`trail`)."""
    with copied_database(postgres, migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def warehouse(database: str) -> Iterator[Warehouse]:
    opened = Warehouse(database)
    yield opened
    opened.close()


@pytest.fixture
def access_file(tmp_path: Path) -> Path:
    """An access file of one's own, to be changed."""
    return write_files(tmp_path)


@pytest.fixture
def closed(database: str, access_file: Path) -> Settings:
    return Settings(home=access_file.parent, database_url=database, access_file=access_file)


@contextmanager
def serving(settings: Settings, warehouse: Warehouse, host: str = "127.0.0.1") -> Iterator[httpx.Client]:
    """A small application behind the real access, journal and error handlers."""
    journal = Journal(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await journal.start()
        yield
        await journal.stop()

    app = FastAPI(lifespan=lifespan)
    app.state.service = SimpleNamespace(access=access_for(settings, host, warehouse), journal=journal)
    errors.install(app)

    def told(caller: Caller) -> dict[str, Any]:
        return {"client": caller.client, "subject": caller.subject, "roles": sorted(caller.roles)}

    @app.get(CARE)
    async def care(caller: Annotated[Caller, Depends(requires("care-manager"))]) -> dict[str, Any]:
        return told(caller)

    @app.post(CDS)
    async def cds(caller: Annotated[Caller, Depends(requires("coordinator"))]) -> dict[str, Any]:
        return told(caller)

    with running(app, ready=False) as client:
        yield client


@pytest.fixture(scope="module")
def api(
    database: str, warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("access")
    settings = Settings(home=folder, database_url=database, access_file=write_files(folder))
    with serving(settings, warehouse) as client:
        yield client


def user_claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "iss": USERS,
        "aud": AUDIENCE,
        "sub": "ann",
        "iat": now,
        "exp": now + 600,
        "realm_access": {"roles": ["ms-care", "offline"]},
        "hospital": "north",
    }
    return {k: v for k, v in {**claims, **changes}.items() if v is not None}


def ehr_claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {"iss": EHR, "aud": BASE + CDS, "iat": now, "exp": now + 300, "jti": str(uuid.uuid4())}
    return {k: v for k, v in {**claims, **changes}.items() if v is not None}


def token(
    claims: dict[str, Any],
    key: Any = EC_KEY,
    algorithm: str = "ES384",
    key_id: str | None = "ec-1",
    **header: Any,
) -> str:
    return jwt.encode(claims, key, algorithm, headers={**({"kid": key_id} if key_id else {}), **header})


def forged(header: dict[str, Any], claims: Any, secret: bytes | None) -> str:
    """A token that PyJWT would not make: unsigned, or signed by HMAC with a public key."""

    def part(content: bytes) -> bytes:
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    signed = b".".join(part(json.dumps(each).encode()) for each in (header, claims))
    signature = hmac.new(secret, signed, hashlib.sha256).digest() if secret else b""
    return b".".join((signed, part(signature))).decode()


def get(api: httpx.Client, bearer: str | None) -> Any:
    return api.get(CARE, headers={"Authorization": f"Bearer {bearer}"} if bearer is not None else {})


def post(api: httpx.Client, bearer: str) -> Any:
    return api.post(CDS, headers={"Authorization": f"Bearer {bearer}"})


def require_bare_401(response: Any) -> None:
    assert response.status_code == 401
    assert response.content == b""
    assert response.headers["www-authenticate"] == "Bearer"
    assert set(response.headers) <= {"www-authenticate", "cache-control", "content-length", "date", "server"}


@pytest.fixture
def trail(warehouse: Warehouse) -> Trail:
    return Trail(warehouse)
