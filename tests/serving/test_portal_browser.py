"""The portal in a real browser: keyboard, script, paper, narrow and enlarged, assistive tools."""

# ruff: noqa: F811
from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from serving.portal.list_view import OUTCOMES
from tests.serving.portal_site import (  # noqa: F401  fixtures
    LIST,
    SCRIPT,
    TYPED,
    Site,
    closed_site,
    lists_database,
    open_site,
)
from tests.serving.test_portal import stored

pytestmark = pytest.mark.slow

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
ENLARGED = {"width": 640, "height": 450}
"""What 200 % zoom leaves of `WIDE`."""

_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (e) => window.violations.push(e.violatedDirective));
"""

_FAULTS = Path(__file__).with_name("page_faults.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless browser; skips where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, open_site: Site) -> Iterator[Page]:
    """A page on the open site; fails the test for anything that the browser complains of."""
    open_site.forget_calls()
    yield from _watched(chromium, open_site)


def _watched(chromium: Browser, site: Site, **options: Any) -> Iterator[Page]:
    context = chromium.new_context(base_url=site.url, viewport=WIDE, reduced_motion="reduce", **options)  # type: ignore[arg-type]
    context.add_init_script(_WATCH)
    page = context.new_page()
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    if options.get("java_script_enabled", True):
        complaints += page.evaluate("window.violations")
    context.close()
    assert complaints == []


def row(page: Page, encounter: str) -> Any:
    return page.locator(f'tr[data-encounter="{encounter}"]')


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.innerText || document.activeElement.id"))


def fill_in(page: Page, **changes: str) -> None:
    for name, text in (TYPED | changes).items():
        field = page.locator(f"[name={name}]")
        if field.count() > 1:
            page.check(f"[name={name}][value={text}]")
        elif field.evaluate("e => e.tagName") == "SELECT":
            field.select_option(text)
        else:
            field.fill(text)


def test_a_call_is_marked_and_taken_back_by_keyboard_alone(page: Page, open_site: Site) -> None:
    page.goto("/portal")
    first = page.locator("tr[data-rank='1']")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to content"
    page.keyboard.press("/")
    assert focused(page) == "text"
    for _ in range(20):
        page.keyboard.press("Tab")
        if focused(page).startswith("Reached"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(first.locator(".outcome")).to_contain_text("Reached")
    assert focused(page).startswith("Undo")
    assert page.locator("#progress").inner_text().startswith("1 of 60 called, 1 reached")
    expect(page.locator("#said")).to_have_text("Rank 1: reached. 1 of 60 called.")
    assert [c[1:] for c in open_site.calls()] == [("reached", "portal")]
    page.keyboard.press("Enter")
    expect(first.locator("button")).to_have_count(len(OUTCOMES))
    assert page.locator("#progress").inner_text().startswith("0 of 60 called")
    assert open_site.calls() == []


def test_a_call_that_could_not_be_stored_is_said_and_not_shown_as_made(page: Page) -> None:
    page.goto("/portal")
    page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('gone')); }")
    page.locator("tr[data-rank='2'] button").first.click()
    expect(page.locator("#failure")).to_contain_text("Rank 2 was not marked")
    expect(page.locator("tr[data-rank='2'] .outcome")).to_have_count(0)
    assert page.locator("tr[data-rank='2'] button").first.get_attribute("aria-disabled") is None


def test_filters_and_order_answer_at_once_and_addresses_name_nobody(page: Page) -> None:
    page.goto("/portal")
    shown = page.locator("tbody tr:visible")
    page.fill("#text", "script")
    expect(shown).to_have_count(1)
    expect(page.locator("#count")).to_have_text("1 of 60 shown")
    assert "script" not in page.url
    page.fill("#text", "no such patient")
    expect(page.locator("#nobody")).to_be_visible()
    page.fill("#text", "")
    page.select_option("#tier", "high")
    page.select_option("#sort", "hospital")
    expect(page.locator("tbody tr:visible .tier:not(.high)")).to_have_count(0)
    hospitals = shown.evaluate_all("rows => rows.map((row) => row.dataset.hospital)")
    assert hospitals == sorted(hospitals)
    assert page.url.endswith(f"{LIST}?tier=high&sort=hospital")
    count = shown.count()
    page.reload()
    expect(shown).to_have_count(count)
    row(page, SCRIPT).locator("button").first.dispatch_event("click")
    expect(row(page, SCRIPT)).to_have_attribute("data-state", "reached")
    page.select_option("#tier", "")
    page.select_option("#state", "none")
    expect(shown).to_have_count(59)


def test_the_risk_follows_the_fields(page: Page, open_site: Site) -> None:
    before = len(stored(open_site))
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if r.method == "POST" else None)
    page.goto("/portal/patient")
    fill_in(page)
    expect(page.locator(".result .percent")).to_be_visible()
    expect(page.locator("#said")).to_have_text(
        re.compile(r"^(Low|Moderate|High|Very high) risk, \d+\.\d %\.$")
    )
    expect(page.locator(".factors tbody tr")).to_have_count(len(TYPED))
    first = page.locator(".result .percent").inner_text()
    sent = len(asked)
    field = page.locator("#num_prior_admissions_12m")
    field.fill("")
    field.press_sequentially("12")
    expect(page.locator(".result .percent")).not_to_have_text(first)
    expect(page.locator(".result .steps")).to_contain_text("Follow-up call within 48 hours")
    # One question for two keys, and none while the field was empty.
    assert len(asked) == sent + 1
    page.fill("#patient_age", "200")
    page.keyboard.press("Tab")
    expect(page.locator("#patient_age-problem")).to_have_text("Enter a whole number from 0 to 120.")
    expect(page.locator(".result")).to_have_count(0)
    assert len(stored(open_site)) == before
    page.fill("#patient_age", "78")
    page.click("summary")
    page.fill("#encounter_id", "E-77")
    page.click("button[value=save]")
    page.wait_for_url("**/portal/scores/*")
    assert stored(open_site)[-1]["encounter_id"] == "E-77"


def test_nothing_needs_a_script(chromium: Browser, open_site: Site) -> None:
    open_site.forget_calls()
    for page in _watched(chromium, open_site, java_script_enabled=False):
        page.goto(LIST)
        page.fill("#text", "script")
        page.click("#apply")
        expect(page.locator("tbody tr:visible")).to_have_count(1)
        row(page, SCRIPT).get_by_role("button", name="Declined").click()
        expect(row(page, SCRIPT)).to_have_attribute("data-state", "declined")
        row(page, SCRIPT).get_by_role("button", name="Undo").click()
        expect(row(page, SCRIPT)).to_have_attribute("data-state", "none")
        page.goto("/portal/patient")
        fill_in(page)
        page.click("button[value=show]")
        expect(page.locator(".result .percent")).to_be_visible()


def test_signing_in_leads_to_the_list_and_out_again(chromium: Browser, closed_site: Site) -> None:
    for page in _watched(chromium, closed_site):
        page.goto("/portal")
        page.fill("#key", closed_site.keys["care-manager"])
        page.keyboard.press("Enter")
        expect(page.locator("tbody tr:visible")).to_have_count(60)
        assert page.evaluate("document.cookie") == ""
        page.locator("tr[data-rank='1'] button").first.click()
        expect(page.locator("tr[data-rank='1'] .outcome")).to_contain_text("Reached")
        page.click("text=Sign out")
        expect(page.locator("#key")).to_be_visible()


def test_paper_shows_patients_in_black_and_the_disclaimer_on_each_page(page: Page) -> None:
    page.goto(LIST)
    page.emulate_media(media="print")
    for gone in (".top", ".filters", ".days", ".buttons >> nth=0"):
        expect(page.locator(gone)).to_be_hidden()
    # Chromium repeats a footer group on every page.
    assert page.locator("tfoot").evaluate("e => getComputedStyle(e).display") == "table-footer-group"
    expect(page.locator("tbody tr").first).to_have_css("break-inside", "avoid")
    for shown in (".percent", ".tier", ".id", ".why li"):
        expect(page.locator(shown).first).to_have_css("color", "rgb(0, 0, 0)")
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.emulate_media(media="null")
    page.goto(f"{LIST}?print=1&tier=high")
    expect(page.locator(".filters")).to_be_hidden()
    expect(page.locator("tbody tr:visible .tier:not(.high)")).to_have_count(0)
    assert page.locator("#now").is_visible()


@pytest.mark.parametrize("address", ["/portal", "/portal/patient", f"{LIST}?print=1"])
def test_pages_fit_and_tell_assistive_tools_what_they_are(page: Page, address: str) -> None:
    for size in (WIDE, ENLARGED, NARROW):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.goto(address)
        if address.endswith("patient"):
            fill_in(page)
            page.locator(".result .percent").wait_for()
        elif address == "/portal" and not page.locator(".outcome").count():
            page.locator("tr[data-rank='1'] button").first.click()
            page.locator("tr[data-rank='1'] .outcome").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(_FAULTS) == []
