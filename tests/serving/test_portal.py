"""The portal's pages over HTTP, without a browser: what they show, store, refuse and audit."""

# ruff: noqa: F811
from __future__ import annotations

import re
import uuid
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.fields import Category, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.policy import DISCLAIMER
from medscore_assets.readmission.published import PublishedList
from serving.journal import JournalUnavailable
from serving.lists import Morning
from serving.portal.list_view import late_words
from serving.portal.patient_form import INPUTS, read_form
from tests.serving.conftest import wait_until
from tests.serving.portal_site import (  # noqa: F401  fixtures
    BEFORE,
    DAY,
    LIST,
    ODD,
    SCRIPT,
    TYPED,
    Read,
    Site,
    lists_database,
    open_site,
)

PAGES = ("/portal", LIST, f"{LIST}?print=1", f"{LIST}?show=all", "/portal/patient", "/portal/nowhere")


@pytest.fixture(autouse=True)
def _no_calls(request: pytest.FixtureRequest) -> None:
    if "open_site" in request.fixturenames:
        request.getfixturevalue("open_site").forget_calls()


def mark(site: Site, said: str, **headers: str) -> httpx.Response:
    csrf = Read(site.client.get(LIST)).csrf
    return site.client.post(f"{LIST}/calls?tier=high", data={"csrf": csrf, "mark": said}, headers=headers)


def test_a_list_shows_every_patient_of_the_day_and_no_text_becomes_a_script(open_site: Site) -> None:
    page = open_site.client.get(f"{LIST}?show=all")
    read = Read(page)
    assert [int(r["data-rank"] or 0) for r in read.rows()] == [p["rank"] for p in open_site.patients()]
    assert {r["data-encounter"] for r in read.rows()} >= set(ODD)
    assert SCRIPT in read.text
    assert SCRIPT not in page.text
    assert all(a.get("src") for a in read.all("script"))
    assert DISCLAIMER in read.text
    for said in (
        "readmission 1",
        "65 scored",
        "1 in quarantine",
        "policy 2026.1",
        "Very high",
        "A list is missing.",
    ):
        assert said in read.text
    within = Read(open_site.client.get("/portal"))
    assert len(within.rows()) == 60


def test_every_page_forbids_what_it_does_not_need(open_site: Site) -> None:
    for address in PAGES:
        page = open_site.client.get(address)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "no-store"
        read = Read(page)
        for tag, attributes in read.elements:
            assert tag != "style"
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
            for name in ("href", "src", "action"):
                assert (attributes.get(name) or "/").startswith(("/", "#"))
        for found in (*read.all("script"), *read.all("link")):
            static = open_site.client.get(found.get("src") or found.get("href") or "")
            assert static.status_code == 200
            assert "immutable" in static.headers["cache-control"]


def test_filters_work_without_a_script_and_keep_the_text_out_of_addresses(open_site: Site) -> None:
    all_rows = Read(open_site.client.get(LIST)).rows()
    page = open_site.client.post(LIST, data={"text": "script", "sort": "hospital"})
    shown = [r["data-encounter"] for r in Read(page).rows() if "hidden" not in r]
    assert shown == [SCRIPT]
    assert "?text" not in page.text
    hospitals = [r["data-hospital"] for r in Read(page).rows()]
    assert hospitals == sorted(hospitals)  # type: ignore[type-var]
    high = Read(open_site.client.get(f"{LIST}?tier=high&state=none&text=script"))
    kept = {r["data-rank"] for r in high.rows() if "hidden" not in r}
    assert kept == {r["data-rank"] for r in all_rows if r["data-tier"] == "high"}
    assert len(Read(open_site.client.get(f"{LIST}?tier=extreme&sort=x")).rows()) == len(all_rows)


def test_a_call_is_one_post_and_a_double_click_is_one_call(open_site: Site) -> None:
    # Twice within a minute, unless the minute turns between them.
    wait_until(lambda: datetime.now(UTC).second < 57)
    for _ in range(2):
        answer = mark(open_site, f"reached {SCRIPT}")
        assert answer.status_code == 303
    rank = next(p["rank"] for p in open_site.patients() if p["encounter_id"] == SCRIPT)
    assert answer.headers["location"] == f"{LIST}?tier=high#rank-{rank}"
    assert open_site.calls() == [(SCRIPT, "reached", "portal")]
    page = Read(open_site.client.get(LIST))
    (row,) = (r for r in page.rows() if r["data-encounter"] == SCRIPT)
    assert row["data-state"] == "reached"
    (undo,) = (b["value"] for b in page.all("button", name="mark") if (b["value"] or "").startswith("undo"))
    assert "call-taken-back" not in open_site.audited()[-1]
    assert mark(open_site, undo or "").status_code == 303
    assert open_site.calls() == []
    assert "call-taken-back" in open_site.audited()[-1]


def test_a_script_gets_the_cell_and_a_sentence(open_site: Site) -> None:
    told = mark(open_site, f"called {SCRIPT}", accept="application/json").json()
    assert (told["state"], told["settled"]) == ("called", False)
    assert "no answer" in told["said"]
    assert SCRIPT not in told["html"]
    refused = mark(open_site, "called E-nowhere", accept="application/json")
    assert (refused.status_code, list(refused.json())) == (404, ["said"])


@pytest.mark.parametrize(
    "said", ["married E-1", "reached", "undo yesterday E-1", "undo 2026-03-02T10:00:00 E-1", ""]
)
def test_what_no_button_says_is_refused(open_site: Site, said: str) -> None:
    assert mark(open_site, said).status_code in (404, 422)
    assert open_site.calls() == []


def test_a_form_of_another_site_changes_nothing(open_site: Site) -> None:
    data = {"mark": f"reached {SCRIPT}"}
    good = data | {"csrf": Read(open_site.client.get(LIST)).csrf}
    for form, headers in (
        (data, {}),
        (data | {"csrf": "0" * 64}, {}),
        (good, {"origin": "https://elsewhere.example"}),
        (good, {"origin": "null"}),
        (good, {"sec-fetch-site": "cross-site"}),
        (good, {"sec-fetch-site": "same-site", "origin": open_site.url}),
    ):
        refused = open_site.client.post(f"{LIST}/calls", data=form, headers=headers)
        assert refused.status_code == 403
        assert "Load it again" in refused.text
    assert open_site.calls() == []
    assert open_site.client.post(f"{LIST}/calls", json=good).status_code == 400
    ours = {"origin": "https://portal.example", "x-forwarded-host": "portal.example"}
    assert open_site.client.post(f"{LIST}/calls", data=good, headers=ours).status_code == 303


def test_the_form_is_the_contract(open_site: Site) -> None:
    read = Read(open_site.client.get("/portal/patient"))
    for feature in READMISSION.features:
        if isinstance(feature, Whole):
            (found,) = read.all("input", id=feature.name)
            assert (found["data-min"], found["data-max"]) == (str(feature.minimum), str(feature.maximum))
            assert f"{feature.unit}, {feature.minimum} to {feature.maximum}" in read.text
        elif isinstance(feature, Category):
            assert read.all("select", id=feature.name)
            for value in feature.categories:
                assert read.all("option", value=value)
        else:
            assert [i["value"] for i in read.all("input", name=feature.name)] == ["yes", "no"]
        assert feature.description.rstrip(".") in read.text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("patient_age", "121", "Enter a whole number from 0 to 120."),
        ("patient_age", "65.5", "Enter a whole number from 0 to 120."),
        ("patient_age", "true", "Enter a whole number from 0 to 120."),
        ("patient_age", "\u0666\u0665", "Enter a whole number from 0 to 120."),
        ("patient_age", "-1", "Enter a whole number from 0 to 120."),
        ("patient_age", "9" * 40, "Enter a whole number from 0 to 120."),
        ("patient_age", " ", "Not filled in. Enter a whole number from 0 to 120."),
        ("insurance_type", "Medicare", "Choose one."),
        ("has_follow_up_scheduled", "true", "Choose one of the two."),
    ],
)
def test_a_field_that_is_not_valid_is_told_in_words_beside_it(name: str, text: str, said: str) -> None:
    read = read_form(TYPED | {name: text})
    assert read.problems == {name: said}
    assert name not in read.features
    assert len(read.features) == len(INPUTS) - 1


def test_the_form_shows_the_score_of_the_api_and_stores_nothing(open_site: Site) -> None:
    read = Read(open_site.client.get("/portal/patient"))
    events = len(open_site.audited())
    names = {"encounter_id": "E-seen", "patient_id": "P-seen"}
    page = open_site.client.post("/portal/patient", data=TYPED | names | {"csrf": read.csrf, "do": "show"})
    assert page.status_code == 200
    [seen] = open_site.audited()[events:]
    # Whose risk was looked at, and from where.
    assert all(name in seen for name in ("E-seen", "P-seen", "127.0.0.1"))
    assert stored(open_site) == []
    features = read_form(TYPED).features
    api = open_site.client.post("/v1/readmission/predict", json=features).json()
    policy = open_site.app.state.service.policy()
    shown = Read(page).text
    assert policy.percent(api["readmission_probability"]) in shown
    for action in api["recommended_actions"]:
        assert action in shown
    for factor in api["explanation"]:
        assert f"{factor['contribution']:+.2f}".replace("-", "\u2212") in shown
    assert DISCLAIMER in shown
    bad = open_site.client.post("/portal/patient", data=TYPED | {"csrf": read.csrf, "patient_age": "200"})
    assert bad.status_code == 422
    assert Read(bad).all("input", id="patient_age")[0]["aria-invalid"] == "true"
    assert "Enter a whole number from 0 to 120." in Read(bad).text


def stored(site: Site) -> list[dict[str, Any]]:
    """The scores that the form stored."""
    table = tables.serving.readmission_scores
    return site.warehouse.read(
        sa.select(table.c.score_id, table.c.encounter_id, table.c.readmission_probability).where(
            table.c.source == "portal"
        )
    ).to_pylist()


def test_a_saved_score_is_stored_once_and_found_under_its_address(open_site: Site) -> None:
    read = Read(open_site.client.get("/portal/patient"))
    (form,) = (i["value"] for i in read.all("input", name="form"))
    data = TYPED | {"csrf": read.csrf, "form": form or "", "do": "save", "encounter_id": SCRIPT}
    events = len(open_site.audited())
    first, second = (open_site.client.post("/portal/patient", data=data) for _ in range(2))
    assert first.status_code == second.status_code == 303
    assert first.headers["location"] == second.headers["location"]
    (row,) = stored(open_site)
    assert (first.headers["location"], row["encounter_id"]) == (f"/portal/scores/{row['score_id']}", SCRIPT)
    page = open_site.client.get(first.headers["location"])
    assert SCRIPT in Read(page).text
    assert SCRIPT not in page.text
    assert len(open_site.audited()) == events + 3
    assert open_site.client.get(f"/portal/scores/{uuid.uuid4()}").status_code == 404
    assert open_site.client.get("/portal/scores/7").status_code == 404
    bad = open_site.client.post("/portal/patient", data=data | {"patient_id": "a\x07b"})
    assert (bad.status_code, len(stored(open_site))) == (422, 1)


def test_what_is_not_there_is_told_in_words(open_site: Site) -> None:
    nowhere = open_site.client.get("/portal/lists/2020-01-01")
    assert nowhere.status_code == 404
    assert f"{DAY}, {BEFORE}" in Read(nowhere).text
    for address in (
        "/portal/lists/yesterday",
        "/portal/nowhere",
        "/portal/static/../web.py",
        "/portal/static/x",
    ):
        assert open_site.client.get(address).status_code == 404
    chosen = open_site.client.get("/portal/lists", params={"day": BEFORE})
    assert chosen.headers["location"] == f"/portal/lists/{BEFORE}"
    assert open_site.client.get("/portal/lists", params={"day": "//elsewhere.example"}).status_code == 404
    assert open_site.client.get("/portal/login").headers["location"] == "/portal"


def test_nothing_is_shown_or_changed_that_cannot_be_audited(
    open_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    csrf = Read(open_site.client.get(LIST)).csrf
    calls, listed = open_site.calls(), {"encounter_id": SCRIPT, "outcome": "reached"}

    async def down(*_: Any) -> None:
        raise JournalUnavailable()

    monkeypatch.setattr(open_site.app.state.service.journal, "record", down)
    for answer in (
        open_site.client.get(LIST),
        open_site.client.get(f"{LIST}?print=1"),
        open_site.client.post(f"{LIST}/calls", data={"csrf": csrf, "mark": f"reached {SCRIPT}"}),
        open_site.client.post("/portal/patient", data=TYPED | {"csrf": csrf, "do": "show"}),
        open_site.client.post("/portal/patient", data=TYPED | {"csrf": csrf, "do": "save"}),
        open_site.client.post("/portal/patient", data=TYPED | {"csrf": csrf, "patient_age": "x"}),
        open_site.client.get("/portal/nowhere"),
    ):
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        read = Read(answer)
        assert "Try again" in read.text
        assert not read.rows()
        assert "%" not in read.text
    assert open_site.client.post(f"/v1/outreach/{DAY}/calls", json=listed).status_code == 503
    assert open_site.calls() == calls


def test_a_list_that_is_due_and_missing_is_told_with_what_is_shown_instead() -> None:
    header = {"score_date": date(2026, 3, 1), "published_at": datetime(2026, 3, 2, 11, 4, tzinfo=UTC)}
    shown, zone = Morning(PublishedList(header, []), {}), ZoneInfo("America/New_York")
    days = [date(2026, 3, 1), date(2026, 2, 28)]
    told = late_words(date(2026, 3, 2), days, shown, zone) or ""
    assert re.search(r"of Monday, 2 March was due on Tuesday, 3 March at 07:00", told)
    assert re.search(r"of Sunday, 1 March, made Mon 2 Mar, 06:04", told)
    assert late_words(date(2026, 3, 1), days, shown, zone) is None
    assert late_words(None, days, shown, zone) is None
    # Somebody who looks at an old list on purpose is not told that it is old.
    assert late_words(date(2026, 3, 5), [date(2026, 3, 4), date(2026, 3, 1)], shown, zone) is None
