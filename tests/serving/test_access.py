"""Who is let in: roles, API keys, the open mode, the access file; and what is recorded of refusals."""

# ruff: noqa: F811
# What is asked for is a fixture that is imported.

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from jwt.algorithms import ECAlgorithm

from medscore_assets.access_keys import create, revoke
from medscore_assets.audit import verify
from medscore_assets.settings import Settings
from medscore_assets.tables.serving import replayed_tokens
from resources.errors import PermanentError
from resources.warehouse import Warehouse
from serving import access
from serving.access import LOCAL, ROLES, Access, access_for, is_loopback, requires
from tests.serving.access_site import (  # noqa: F401
    AUDIENCE,
    BASE,
    BY,
    EC_KEY,
    EHR,
    FILE,
    P256_KEY,
    USERS,
    Trail,
    access_file,
    api,
    closed,
    database,
    ehr_claims,
    get,
    jwk,
    post,
    require_bare_401,
    serving,
    token,
    trail,
    user_claims,
    warehouse,
)


def test_a_role_that_does_not_suffice_gets_403_and_is_recorded_with_its_caller(
    api: httpx.Client, trail: Trail
) -> None:
    analyst = user_claims(realm_access={"roles": ["ms-analyst"]}, purpose="HRESCH")

    answer = get(api, token(analyst))

    assert answer.status_code == 403
    [event] = trail.events()
    assert event["outcomeDesc"] == "role"
    assert event["agent"][2]["who"]["identifier"] == {"system": USERS, "value": "ann"}
    assert event["agent"][2]["role"] == [{"text": "analyst"}]
    assert event["agent"][2]["purposeOfUse"][0]["coding"][0]["code"] == "HRESCH"
    assert get(api, token(user_claims(realm_access={"roles": ["unheard-of"]}))).status_code == 403


def test_neither_logs_nor_database_hold_a_token(
    api: httpx.Client, warehouse: Warehouse, caplog: pytest.LogCaptureFixture, trail: Trail
) -> None:
    caplog.set_level(logging.DEBUG)
    sent = [token(user_claims()), token(user_claims(aud="another")), token(ehr_claims())]
    for bearer in sent:
        get(api, bearer)
        post(api, bearer)

    kept = caplog.text + json.dumps(trail.events())
    kept += json.dumps(warehouse.read(sa.select(replayed_tokens)).to_pylist(), default=str)
    assert not any(part in kept for bearer in sent for part in bearer.split(".")[1:])
    assert verify(warehouse).intact


@pytest.fixture
def key(warehouse: Warehouse) -> str:
    return create(warehouse, "lab", ["care-manager"], 30, BY, datetime.now(UTC)).key


def test_an_api_key_gives_its_caller(api: httpx.Client, key: str) -> None:
    for _ in range(2):
        answer = get(api, key)
        assert answer.json() == {"client": "key:lab", "subject": key.split("_")[1], "roles": ["care-manager"]}


def test_a_revoked_key_is_refused_soon(
    api: httpx.Client, key: str, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert access.KEY_FOR_S <= 30
    monkeypatch.setattr(access, "KEY_FOR_S", 0.0)
    assert get(api, key).status_code == 200

    assert revoke(warehouse, key.split("_")[1], BY, datetime.now(UTC))

    require_bare_401(get(api, key))


def test_an_expired_unknown_or_changed_key_is_refused(
    api: httpx.Client, key: str, warehouse: Warehouse
) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=2)
    expired = create(warehouse, "lab", ["care-manager"], 1, replace(BY, recorded=long_ago), long_ago).key
    changed = key[:-1] + ("A" if key[-1] != "A" else "B")
    for bad in (expired, changed, f"msk_{'0' * 16}_{key.split('_', 2)[2]}", key + "A", "msk_", "msk_a_b"):
        require_bare_401(get(api, bad))


def test_keys_are_refused_where_the_file_does_not_allow_them(
    closed: Settings, access_file: Path, warehouse: Warehouse, key: str
) -> None:
    access_file.write_text(FILE.replace("api_keys = true", ""))
    with serving(closed, warehouse) as api:
        require_bare_401(get(api, key))


def test_without_a_database_nobody_is_refused_or_let_in_unrecorded(tmp_path: Path, access_file: Path) -> None:
    nowhere = Settings(
        home=tmp_path, database_url="postgresql://nobody@127.0.0.1:9/none", access_file=access_file
    )
    with serving(nowhere, Warehouse(lambda: nowhere.databases().warehouse)) as api:
        for bearer in (None, token(ehr_claims()), f"msk_{'0' * 16}_{'a' * 43}"):
            answer = post(api, bearer or "x")
            assert answer.status_code == 503
            assert answer.headers["retry-after"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"])
def test_without_an_access_file_everybody_on_this_machine_is_local(tmp_path: Path, host: str) -> None:
    opened = access_for(Settings(home=tmp_path), host)

    assert opened.open
    assert "open on loopback" in opened.says
    assert LOCAL.roles == frozenset(ROLES)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.5", "medscore.example.org", "127.0.0.1.evil.org", ""]
)
def test_it_refuses_to_be_open_on_another_address(tmp_path: Path, host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(PermanentError, match="open to everybody"):
        access_for(Settings(home=tmp_path), host)


def test_the_address_of_the_settings_counts_where_none_is_given(database: str, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="open to everybody"):
        Access(Settings(home=tmp_path, database_url=database, api_host="0.0.0.0"))


def test_an_access_file_that_gives_nobody_access_is_as_open_as_none(
    closed: Settings, access_file: Path
) -> None:
    access_file.write_text('cors_origins = ["https://sandbox.example.org"]')
    with pytest.raises(PermanentError, match="open to everybody"):
        access_for(closed, "0.0.0.0")
    access_file.write_text("api_keys = true")
    assert not access_for(closed, "0.0.0.0").open


def test_open_requests_are_local(closed: Settings, warehouse: Warehouse) -> None:
    with serving(closed.model_copy(update={"access_file": None}), warehouse) as api:
        assert get(api, None).json()["client"] == "local"


@pytest.mark.parametrize(
    ("old", "put", "told"),
    [
        ('"ES384", "RS384"', '"HS256"', "algorithms"),
        ('"ES384", "RS384"', '"none"', "algorithms"),
        ('algorithms = ["ES384", "RS384"]', "algorithms = []", "algorithms"),
        ('keys_file = "users.json"', "", "give its keys"),
        ('keys_file = "users.json"', 'keys_url = "http://login.example.org/jwks"', "https://"),
        ('keys_file = "users.json"', 'keys_url = "file:///etc/passwd"', "https://"),
        ('keys_file = "users.json"', 'keys_file = "absent.json"', "cannot be read"),
        (f'audience = "{AUDIENCE}"', "", "audience"),
        (f'public_url = "{BASE}"', "", "public_url"),
        ('["care-manager"]', '["king"]', "roles"),
        ("one_time = true", "one_time = true\nsecret = 1", "secret"),
        ("one_time = true", 'one_time = "yes"', "one_time"),
        (f'issuer = "{EHR}"', f'issuer = "{USERS}"', "same name"),
        ("[issuers.ehr]", "[issuers.key]", "cannot be called"),
        ('default_roles = ["coordinator"]', "", "nobody a role"),
        ("api_keys = true", "api_keys = [", "not valid TOML"),
    ],
)
def test_a_wrong_access_file_is_refused_at_the_start(
    closed: Settings, access_file: Path, old: str, put: str, told: str
) -> None:
    assert old in FILE
    access_file.write_text(FILE.replace(old, put))
    with pytest.raises(PermanentError, match=told):
        access_for(closed, "127.0.0.1")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"keys": [1]}',
        b'{"keys": []}',
        json.dumps({"keys": [jwk(P256_KEY, "p256")]}).encode(),
        json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "s"}]}).encode(),
        json.dumps({"keys": [ECAlgorithm.to_jwk(EC_KEY, as_dict=True)]}).encode(),
        json.dumps({"keys": [{**jwk(EC_KEY, "e"), "use": "enc"}]}).encode(),
        EC_KEY.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        b"-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----",
    ],
)
def test_a_file_without_a_usable_public_key_is_refused_at_the_start(
    closed: Settings, access_file: Path, content: bytes
) -> None:
    access_file.with_name("users.json").write_bytes(content)
    with pytest.raises(PermanentError, match="an issuer's keys"):
        access_for(closed, "127.0.0.1")


def test_a_role_that_does_not_exist_cannot_be_required() -> None:
    for wrong in ((), ("king",)):
        with pytest.raises(ValueError, match="roles are"):
            requires(*wrong)
