"""Tokens: which are taken, and that every other one gets a bare 401 and is recorded."""

# ruff: noqa: F811
# What is asked for is a fixture that is imported.

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from medscore_assets.settings import Settings
from medscore_assets.tables.serving import replayed_tokens
from resources.warehouse import Warehouse
from serving import jwks
from tests.serving.access_site import (  # noqa: F401
    AUDIENCE,
    BASE,
    CARE,
    CDS,
    EC_KEY,
    EHR,
    FILE,
    OTHER_KEY,
    P256_KEY,
    RSA_KEY,
    USERS,
    Trail,
    access_file,
    api,
    closed,
    database,
    ehr_claims,
    forged,
    get,
    jwk,
    key_server,
    pem,
    post,
    require_bare_401,
    serving,
    token,
    trail,
    user_claims,
    warehouse,
)


@pytest.mark.parametrize(
    ("key", "algorithm", "key_id"), [(EC_KEY, "ES384", "ec-1"), (RSA_KEY, "RS384", "rsa-1")]
)
def test_a_good_token_gives_its_caller(api: httpx.Client, key: Any, algorithm: str, key_id: str) -> None:
    good = token(user_claims(), key, algorithm, key_id)
    for _ in range(2):
        answer = get(api, good)
        assert answer.status_code == 200
        assert answer.json() == {"client": "login:ann", "subject": "ann", "roles": ["care-manager"]}


def test_a_one_time_token_for_the_called_address_is_taken_once(
    api: httpx.Client, warehouse: Warehouse, trail: Trail
) -> None:
    claims = ehr_claims(aud=["https://other.example.org", BASE + CDS])
    good = token(claims)

    assert post(api, good).json() == {"client": "ehr", "subject": "", "roles": ["coordinator"]}
    require_bare_401(post(api, good))

    assert trail.reasons() == ["replayed"]
    found = warehouse.read(sa.select(replayed_tokens).where(replayed_tokens.c.token_id == claims["jti"]))
    stored = found.to_pylist()
    assert [row["issuer"] for row in stored] == [EHR]
    # As long as clocks that differ would let it pass.
    assert stored[0]["expires_at"] >= datetime.now(UTC) + timedelta(seconds=300)


def test_of_a_token_sent_many_times_at_one_moment_one_is_taken(
    closed: Settings, warehouse: Warehouse, trail: Trail
) -> None:
    good = token(ehr_claims())
    with (
        serving(closed, warehouse) as one,
        serving(closed, warehouse) as other,
        ThreadPoolExecutor(8) as pool,
    ):
        statuses = list(pool.map(lambda client: post(client, good).status_code, [one, other] * 8))

    assert sorted(statuses) == [200] + [401] * 15
    assert trail.reasons() == ["replayed"] * 15


def user_now(**offsets: int) -> dict[str, Any]:
    now = int(time.time())
    return user_claims(**{name: now + offset for name, offset in offsets.items()})


def nested_claims() -> str:
    head, _, signature = token(user_claims()).split(".")
    return f"{head}.{base64.urlsafe_b64encode(b'[' * 3_000).decode()}.{signature}"


NEGATIVES: dict[str, tuple[str, Callable[[], str | None]]] = {
    "no token": ("no-token", lambda: None),
    "not a token": ("malformed", lambda: "abc"),
    "garbage with points": ("malformed", lambda: "a.b.c"),
    "nested without end": ("malformed", lambda: base64.urlsafe_b64encode(b"[" * 3_000).decode() + ".e30.e30"),
    "claims nested without end": ("malformed", nested_claims),
    "claims that are no object": ("malformed", lambda: forged({"alg": "ES384"}, ["iss"], b"x")),
    "lone surrogate": ("issuer", lambda: forged({"alg": "ES384"}, {"iss": "\ud800"}, b"x")),
    "too long": ("too-long", lambda: token(user_claims(extra="x" * 9_000))),
    "unsigned": ("algorithm", lambda: forged({"alg": "none", "kid": "ec-1"}, user_claims(), None)),
    "unsigned, oddly written": (
        "algorithm",
        lambda: forged({"alg": "nOnE", "kid": "ec-1"}, user_claims(), None),
    ),
    "signature left out": ("signature", lambda: token(user_claims()).rpartition(".")[0] + "."),
    "HMAC with the public key": (
        "algorithm",
        lambda: forged({"alg": "HS256", "kid": "ec-1", "typ": "JWT"}, user_claims(), pem(EC_KEY)),
    ),
    "HMAC as ES384": (
        "signature",
        lambda: forged({"alg": "ES384", "kid": "ec-1", "typ": "JWT"}, user_claims(), pem(EC_KEY)),
    ),
    "ES256": ("algorithm", lambda: token(user_claims(), P256_KEY, "ES256")),
    "RS256": ("algorithm", lambda: token(user_claims(), RSA_KEY, "RS256", "rsa-1")),
    "RSA key for ES384": ("key", lambda: token(user_claims(), EC_KEY, "ES384", "rsa-1")),
    "wrong key id": ("key", lambda: token(user_claims(), key_id="ec-2")),
    "no key id with more than one issuer's key": (
        "signature",
        lambda: token(user_claims(), OTHER_KEY, key_id=None),
    ),
    "another's key": ("signature", lambda: token(user_claims(), OTHER_KEY)),
    "wrong audience": ("audience", lambda: token(user_claims(aud="another-api"))),
    "audience is the beginning": ("audience", lambda: token(user_claims(aud=AUDIENCE[:-1]))),
    "no audience": ("claim-missing", lambda: token(user_claims(aud=None))),
    "expired": ("expired", lambda: token(user_now(iat=-600, exp=-61))),
    "no expiry": ("claim-missing", lambda: token(user_claims(exp=None))),
    "expiry as text": ("malformed", lambda: token(user_claims(exp=str(int(time.time()) + 60)))),
    "no end": ("lifetime", lambda: token(user_claims(exp=10**12))),
    "infinite": ("malformed", lambda: token(user_claims(exp=float("inf")))),
    "lives too long": ("lifetime", lambda: token(user_now(iat=0, exp=3_601))),
    "ends before it begins": ("lifetime", lambda: token(user_now(iat=30, exp=20))),
    "not yet valid": ("not-yet-valid", lambda: token(user_now(nbf=90))),
    "issued in the future": ("not-yet-valid", lambda: token(user_now(iat=90, exp=300))),
    "no time of issue": ("claim-missing", lambda: token(user_claims(iat=None))),
    "unknown issuer": ("issuer", lambda: token(user_claims(iss="https://evil.example.org"))),
    "no issuer": ("issuer", lambda: token(user_claims(iss=None))),
    "issuer is a list": (
        "issuer",
        lambda: token({**user_claims(iss=None), "hospital": "north"}, iss=[USERS]),
    ),
    "no subject": ("claim-missing", lambda: token(user_claims(sub=None))),
    "subject that no log should hold": ("claim-missing", lambda: token(user_claims(sub="a\nb"))),
    "another hospital": ("tenant", lambda: token(user_claims(hospital="west"))),
    "no hospital": ("tenant", lambda: token(user_claims(hospital=None))),
    "one hospital too many": ("tenant", lambda: token(user_claims(hospital=["north", "west"]))),
    "an extension that must be understood": ("malformed", lambda: token(user_claims(), crit=["x"], x=1)),
    "listed nowhere": ("key-url", lambda: token(user_claims(), jku="https://login.example.org/jwks")),
}


@pytest.mark.parametrize("name", NEGATIVES)
def test_a_bad_token_gets_a_bare_401_and_its_reason_is_recorded(
    api: httpx.Client, trail: Trail, name: str
) -> None:
    reason, make = NEGATIVES[name]
    bad = make()

    require_bare_401(get(api, bad))

    [event] = trail.events()
    assert event["outcomeDesc"] == reason
    assert event["outcome"] == "4"
    assert event["agent"][0]["who"] == {"display": "unknown"}
    assert not bad or bad not in json.dumps(event)


def test_every_changed_character_of_a_token_is_noticed(api: httpx.Client) -> None:
    head, payload, signature = token(user_claims()).split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["realm_access"] = {"roles": ["ms-steward"]}
    swapped = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()

    require_bare_401(get(api, f"{head}.{swapped}.{signature}"))
    for part in (0, len(signature) // 2):
        changed = signature[:part] + ("A" if signature[part] != "A" else "B") + signature[part + 1 :]
        require_bare_401(get(api, f"{head}.{payload}.{changed}"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": BASE + CARE}, "audience"),
        ({"aud": BASE + CDS + "/"}, "audience"),
        ({"aud": "http://127.0.0.1:8000" + CDS}, "audience"),
        ({"aud": AUDIENCE}, "audience"),
        ({"jti": None}, "claim-missing"),
        ({"jti": ""}, "claim-missing"),
        ({"jti": "x" * 257}, "claim-missing"),
        ({"exp": int(time.time()) + 3_000}, "lifetime"),
    ],
)
def test_a_one_time_token_must_name_the_called_address_and_itself(
    api: httpx.Client, trail: Trail, changes: dict[str, Any], reason: str
) -> None:
    require_bare_401(post(api, token(ehr_claims(**changes))))

    assert trail.reasons() == [reason]


def test_clocks_may_differ_by_a_minute(api: httpx.Client) -> None:
    assert get(api, token(user_now(iat=-600, exp=-50))).status_code == 200
    assert get(api, token(user_now(iat=50, nbf=50, exp=600))).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \xff\xfe"},
    ],
)
def test_another_scheme_is_refused(api: httpx.Client, headers: dict[str, str]) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    require_bare_401(api.get(CARE, headers=raw))


def test_two_authorizations_are_one_too_many(api: httpx.Client) -> None:
    good = f"Bearer {token(user_claims())}"
    require_bare_401(api.get(CARE, headers=[("Authorization", good), ("Authorization", good)]))


def write_login(file: Path, **changes: Any) -> None:
    """The access file with other keys for people's issuer."""
    keys = "\n".join(f"{name} = {json.dumps(value)}" for name, value in changes.items())
    file.write_text(FILE.replace('keys_file = "users.json"', keys))


def test_keys_are_fetched_once_and_again_only_for_an_unknown_id(
    closed: Settings, access_file: Path, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [jwk(EC_KEY, "ec-1")]
    with key_server(keys) as (address, asked):
        write_login(access_file, keys_url=f"{address}/jwks")
        with serving(closed, warehouse) as api:
            for _ in range(3):
                assert get(api, token(user_claims())).status_code == 200
            assert asked == ["/jwks"]
            # Whoever makes up ids must not make us fetch.
            for _ in range(3):
                require_bare_401(get(api, token(user_claims(), OTHER_KEY, key_id="made-up")))
            assert asked == ["/jwks"]

            keys[:] = [jwk(OTHER_KEY, "ec-2")]
            monkeypatch.setattr(jwks, "AGAIN_S", 0.0)
            assert get(api, token(user_claims(sub="bob"), OTHER_KEY, key_id="ec-2")).status_code == 200
            assert asked == ["/jwks"] * 2
            require_bare_401(get(api, token(user_claims(sub="eve"), key_id="ec-1")))


def test_while_the_issuer_does_not_answer_its_old_keys_serve_without_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [json.dumps({"keys": [jwk(EC_KEY, "ec-1")]}).encode()]
    asked = []

    def content(location: object) -> bytes:
        asked.append(location)
        if not answers:
            raise OSError
        return answers.pop()

    monkeypatch.setattr(jwks, "_content", content)
    for name in ("FRESH_S", "STALE_S", "AGAIN_S"):
        monkeypatch.setattr(jwks, name, 0.0)

    async def ask() -> list[int]:
        source, waited = jwks.KeySource("https://login.example.org/jwks"), []
        for _ in range(3):
            assert await source.key("ES384", "ec-1") is not None
            waited.append(len(asked))
        # Until they are too old.
        monkeypatch.setattr(jwks, "USABLE_S", 0.0)
        assert await source.key("ES384", "ec-1") is None
        return waited

    # The second request finds out; the next one is answered before the issuer is asked again.
    assert asyncio.run(ask()) == [1, 2, 2]


def test_a_listed_key_url_is_followed_and_an_unlisted_one_receives_no_request(
    closed: Settings, access_file: Path, warehouse: Warehouse, trail: Trail
) -> None:
    with (
        key_server([jwk(EC_KEY, "ec-1")]) as (listed, asked),
        key_server([jwk(OTHER_KEY, "ec-1")]) as (evil, hit),
    ):
        write_login(access_file, key_urls=[f"{listed}/jwks"])
        with serving(closed, warehouse) as api:
            assert get(api, token(user_claims(), jku=f"{listed}/jwks")).status_code == 200
            for url in (f"{evil}/jwks", f"{listed}/jwks?x", f"{listed}/other", 7, [f"{listed}/jwks"]):
                require_bare_401(get(api, token(user_claims(), OTHER_KEY, jku=url)))
            require_bare_401(get(api, token(user_claims(sub="without"))))

    assert hit == []
    assert asked == ["/jwks"]
    assert trail.reasons() == ["key-url"] * 5 + ["key"]


def test_a_key_server_that_redirects_or_is_gone_means_401(
    closed: Settings, access_file: Path, warehouse: Warehouse, trail: Trail
) -> None:
    with key_server([jwk(EC_KEY, "ec-1")]) as (address, asked):
        write_login(access_file, keys_url=f"{address}/moved")
        with serving(closed, warehouse) as api:
            require_bare_401(get(api, token(user_claims())))
    with serving(closed, warehouse) as api:
        require_bare_401(get(api, token(user_claims())))

    assert asked == ["/moved"]
    assert trail.reasons() == ["key", "key"]
