"""Who gets into the portal: signing in and out, sessions, proxies, roles."""

# ruff: noqa: F811
from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from medscore_assets import access_keys
from medscore_assets.audit import Occurrence
from serving.portal import sessions
from tests.serving.portal_site import (  # noqa: F401  fixtures
    LIST,
    Read,
    Site,
    closed_site,
    lists_database,
    make_key,
)


@pytest.fixture
def browser(closed_site: Site) -> Iterator[httpx.Client]:
    """A client with cookies of its own, not signed in."""
    with httpx.Client(base_url=closed_site.url, timeout=30) as client:
        yield client


def sign_in(client: httpx.Client, key: str) -> httpx.Response:
    return client.post("/portal/login", data={"key": key})


def test_nobody_comes_in_without_signing_in(closed_site: Site, browser: httpx.Client) -> None:
    for address in ("/portal", LIST, "/portal/patient", f"/portal/scores/{uuid.uuid4()}"):
        events = len(closed_site.audited())
        sent = browser.get(address)
        assert (sent.status_code, sent.headers["location"]) == (303, "/portal/login")
        assert len(closed_site.audited()) == events + 1
    script = browser.post(f"{LIST}/calls", data={"mark": "x"}, headers={"accept": "application/json"})
    assert (script.status_code, script.json()["login"]) == (401, "/portal/login")
    for key in ("", "msk_0123456789abcdef_" + "A" * 43, "\u00e9", closed_site.keys["analyst"] + "x"):
        refused = sign_in(browser, key)
        assert refused.status_code == 401
        assert "not valid" in refused.text
        assert "set-cookie" not in refused.headers


def test_a_session_holds_no_key_and_ends_with_it(closed_site: Site, browser: httpx.Client) -> None:
    now = datetime.now(UTC)
    key = make_key(closed_site.warehouse, "care-manager", now)
    cookie = sign_in(browser, key).headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/portal"))
    assert key not in cookie
    assert key.split("_", 2)[2] not in repr(vars(closed_site.app.state.portal_sessions))
    read = Read(browser.get("/portal"))
    assert "desk care-manager" in read.text
    assert browser.post("/portal/logout", data={"csrf": "x"}).status_code == 403
    token = browser.cookies[sessions.COOKIE]
    assert browser.post("/portal/logout", data={"csrf": read.csrf}).status_code == 303
    browser.cookies.set(sessions.COOKIE, token, path="/portal")
    assert browser.get("/portal").status_code == 303

    sign_in(browser, key)
    access_keys.revoke(closed_site.warehouse, key.split("_")[1], Occurrence("login", "success", now), now)
    # As it will be some seconds later, when the key is looked at again.
    closed_site.app.state.service.access._remembered.clear()
    assert browser.get("/portal").status_code == 303


def test_a_cookie_is_for_tls_only_unless_this_machine_is_asked(closed_site: Site) -> None:
    key = closed_site.keys["care-manager"]
    for headers, secure in (
        ({"host": "127.0.0.1:8000"}, False),
        ({"host": "portal.example"}, True),
        # A proxy that ends TLS and does not pass the browser's Host on.
        ({"host": "127.0.0.1:8000", "x-forwarded-proto": "https"}, True),
    ):
        answer = closed_site.client.post("/portal/login", data={"key": key}, headers=headers)
        assert ("Secure" in answer.headers["set-cookie"]) is secure
        closed_site.client.cookies.clear()


def test_sessions_end_by_themselves() -> None:
    some = sessions.Sessions()
    token = some.begin("msk_x", now=0.0)
    assert some.key(token, now=sessions.IDLE_S - 1) == "msk_x"
    assert some.key("other", now=0.0) is None
    for _ in range(11):
        assert some.key(token, now=sessions.IDLE_S - 1 + _ * sessions.IDLE_S * 0.99)
    idle = some.begin("msk_y", now=0.0)
    assert some.key(idle, now=sessions.IDLE_S) is None
    assert some.key(token, now=sessions.LONGEST_S) is None


def test_each_role_sees_its_pages_and_others_are_told_in_words(closed_site: Site) -> None:
    def ask(role: str, address: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {closed_site.keys[role]}"}
        return closed_site.client.get(address, headers=headers)

    for role in ("analyst", "steward"):
        assert ask(role, "/portal").headers["location"] == "/portal/population"
        for address in (LIST, "/portal/patient"):
            events = len(closed_site.audited())
            refused = ask(role, address)
            assert refused.status_code == 403
            assert "Not for your role" in refused.text
            assert len(closed_site.audited()) == events + 1
    assert ask("coordinator", "/portal").headers["location"] == "/portal/patient"
    assert ask("coordinator", LIST).status_code == 403
    assert "Morning list" not in Read(ask("coordinator", "/portal/patient")).text
    manager = ask("care-manager", "/portal")
    assert "One patient" in Read(manager).text
    assert "no access control" not in manager.text
