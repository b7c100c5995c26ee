"""The board and the model monitor in a real browser: sizes, languages, refreshes, a lost connection."""

# ruff: noqa: F811
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from medscore_assets.wait_times.assignment import promote, rollback
from medscore_assets.wait_times.bands import ALL_POSTED
from medscore_assets.wait_times.closing import close, reopen
from tests.serving.board_site import (  # noqa: F401  fixtures
    BOOST,
    BUSY,
    DEFAULT,
    EMPTY,
    LONG,
    Boards,
    boards,
    site,
)
from tests.serving.test_portal_browser import chromium  # noqa: F401  fixture

pytestmark = pytest.mark.slow

_FAULTS = Path(__file__).with_name("page_faults.js").read_text(encoding="utf-8")
# Asked of the page in one step: between two, a refresh may replace what was found.
_SIZES = (
    "[...document.querySelectorAll('.side.on .figure')].map((e) => parseFloat(getComputedStyle(e).fontSize))"
)

_COVERED = """(() => {
  const code = document.querySelector(".code").getBoundingClientRect();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), covered = [];
  while (texts.nextNode()) {
    const range = document.createRange();
    range.selectNodeContents(texts.currentNode);
    for (const r of range.getClientRects())
      if (r.width > 1 && r.right > code.left && r.bottom > code.top && r.top < code.bottom)
        covered.push(texts.currentNode.textContent);
  }
  return covered;
})()"""

SIZES = ((1920, 1080), (3840, 2160), (1280, 720), (1280, 900))
PHONE = (390, 844)
KEY_SHARE = 0.11
"""Of the screen's height: three inches on a screen of 55 inches."""
DIGIT_HEIGHT = 0.716
"""Of the size of a sans-serif's letters."""


def watched(chromium: Browser, site: httpx.Client, **options: Any) -> Iterator[Page]:
    """A page whose complaints fail the test."""
    context = chromium.new_context(base_url=str(site.base_url).rstrip("/"), **options)
    page = context.new_page()
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    # A connection that a test took away is one of the browser's complaints.
    assert [text for text in complaints if "net::ERR" not in text] == []


@pytest.fixture
def page(chromium: Browser, site: httpx.Client) -> Iterator[Page]:
    """A television's page, whose clock the test moves."""
    for page in watched(chromium, site, viewport={"width": 1920, "height": 1080}, reduced_motion="reduce"):
        page.clock.install()
        yield page


def side(page: Page, language: str) -> Any:
    return page.locator(f".side[lang={language}]")


def renewed(page: Page) -> Any:
    return page.expect_response(lambda answer: "/times" in answer.url)


def fit(page: Page) -> bool:
    return bool(
        page.evaluate(
            "document.documentElement.scrollWidth <= innerWidth"
            " && document.documentElement.scrollHeight <= innerHeight"
        )
    )


def test_a_screen_shows_one_language_at_a_time_whole_and_large_enough(page: Page) -> None:
    for (width, height), facility in zip(SIZES, (BUSY, LONG, LONG, BUSY), strict=True):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"/board/{facility}")
        expect(side(page, "en")).to_be_visible()
        expect(side(page, "fr")).to_be_hidden()
        assert fit(page)
        assert page.evaluate(_FAULTS) == []
        sizes = page.evaluate(_SIZES)
        lines = page.evaluate(
            "[...document.querySelectorAll('.side.on :is(.figure, .within, .how)')]"
            ".filter((e) => e.checkVisibility()).map((e) => e.scrollWidth <= e.parentElement.clientWidth + 1)"
        )
        # Of a screen that is less wide, the height of its widest 16 to 9.
        of = min(height, width * 9 / 16)
        if facility == BUSY:
            assert sizes[0] * DIGIT_HEIGHT >= KEY_SHARE * of
        assert min(sizes) >= KEY_SHARE * of
        assert all(lines)
        page.clock.run_for(10_000)
        expect(side(page, "en")).to_be_visible()
        page.clock.run_for(2_500)
        expect(side(page, "fr")).to_be_visible()
        expect(side(page, "en")).to_be_hidden()
        assert fit(page)
        assert page.evaluate(_FAULTS) == []


def test_a_code_for_phones_and_closed_bands_leave_the_screen_whole(
    chromium: Browser, boards: Boards, tmp_path: Path
) -> None:
    place, why = (boards.warehouse, BUSY, ALL_POSTED), {"by": "Test", "reason": "a test of the board"}
    public = boards.closed(tmp_path, "https://waits.hospital.example", wait_times_public=True)
    close(*place, "exceptional", **why)
    try:
        with public as client:
            for page in watched(chromium, client, viewport={"width": 1920, "height": 1080}):
                for facility in (BUSY, LONG, EMPTY):
                    page.goto(f"/board/{facility}?lang=fr")
                    code = page.locator(".code svg").bounding_box()
                    assert code["width"] == code["height"] > 0.15 * 1080
                    assert fit(page)
                    assert page.evaluate(_COVERED) == []
                    assert page.evaluate(_FAULTS) == []
                page.goto(f"/board/{BUSY}?lang=fr")
                expect(page.locator(".main-band .figure")).to_have_text(
                    "non disponible, demandez à l’accueil"
                )
                page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
                expect(page.locator(".code")).to_be_hidden()
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    finally:
        reopen(*place, **why)


def test_a_choice_of_language_stays(page: Page) -> None:
    page.goto(f"/board/{BUSY}")
    page.get_by_role("link", name="Français").click()
    expect(page.locator("html")).to_have_attribute("lang", "fr")
    page.clock.run_for(13_000)
    expect(side(page, "fr")).to_be_visible()
    assert side(page, "en").count() == 0


def test_a_phone_shows_both_languages_and_nothing_needs_a_script(
    chromium: Browser, site: httpx.Client
) -> None:
    phone = {"width": PHONE[0], "height": PHONE[1]}
    for script in (True, False):
        for page in watched(chromium, site, viewport=phone, java_script_enabled=script):
            page.goto(f"/board/{BUSY}")
            for language in ("en", "fr"):
                expect(side(page, language)).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            if script:
                assert page.evaluate(_FAULTS) == []
            else:
                assert page.locator("noscript meta").count() == 1


def test_a_promotion_comes_without_loading_the_page_again(page: Page, boards: Boards) -> None:
    decided = {"by": "Test", "reason": "a test of the board", "default": DEFAULT}
    with renewed(page):
        page.goto(f"/board/{BUSY}")
    page.evaluate("window.same = true")
    with renewed(page) as answer:
        page.clock.run_for(30_500)
    assert answer.value.status == 304
    promote(boards.warehouse, BUSY, ALL_POSTED, BOOST, evidence=None, force=True, **decided)
    try:
        with renewed(page):
            page.clock.run_for(30_500)
        expect(side(page, "fr").locator(".main-band .figure")).to_have_text("30 min – 45 min")
        expect(page.locator("#said")).to_have_text("30 min à 45 min")
        assert page.evaluate("window.same")
    finally:
        rollback(boards.warehouse, BUSY, ALL_POSTED, **decided)


def test_without_a_connection_it_says_so_and_then_takes_old_times_away(page: Page) -> None:
    with renewed(page):
        page.goto(f"/board/{BUSY}?lang=en")

    def gone(route: Route) -> None:
        route.abort()

    page.route("**/times*", gone)
    figure, lost = page.locator(".main-band .figure"), page.locator("#lost")
    page.clock.run_for(61_000)
    expect(lost).to_be_hidden()
    page.clock.run_for(31_000)
    expect(lost).to_contain_text("No connection. These times are from")
    expect(figure).to_be_visible()
    assert fit(page)
    assert page.evaluate(_FAULTS) == []
    page.clock.fast_forward("31:00")
    expect(page.locator(".blank")).to_contain_text("Please ask at the desk.")
    expect(figure).to_have_count(0)
    assert fit(page)
    expect(lost).to_be_hidden()
    page.unroute("**/times*")
    with renewed(page):
        page.clock.run_for(30_500)
    expect(figure).to_be_visible()
    expect(lost).to_be_hidden()


def test_no_other_page_takes_the_boards_place(page: Page) -> None:
    # As on browsers of televisions, which do not have it.
    page.add_init_script("delete AbortSignal.timeout")
    with renewed(page):
        page.goto(f"/board/{BUSY}?lang=en")
    figure = page.locator(".main-band .figure")
    answers: list[dict[str, Any]] = [
        {"status": 303, "headers": {"Location": "/portal/static/icon.svg"}},
        {"status": 200, "content_type": "text/html", "body": "<h1>Sign in</h1>"},
        {"status": 200, "content_type": "application/json", "body": "{}"},
    ]
    told = iter(answers)
    page.route("**/times*", lambda route: route.fulfill(**next(told)))
    for _ in answers:
        with page.expect_request("**/times*"):
            page.clock.run_for(30_500)
    expect(page.locator("#lost")).to_be_visible()
    page.unroute("**/times*")
    with renewed(page) as last:
        page.clock.run_for(30_500)
    assert last.value.status == 304
    expect(page.locator("#lost")).to_be_hidden()
    expect(figure).to_have_text("1 h 30 – 2 h 15")
    expect(page.get_by_text("Sign in")).to_have_count(0)


def test_the_monitor_fits_is_accessible_and_shows_a_choice_at_once(
    chromium: Browser, site: httpx.Client
) -> None:
    for page in watched(chromium, site, viewport={"width": 1280, "height": 900}, reduced_motion="reduce"):
        for width, address in (
            (1280, f"?facility={BUSY}"),
            (390, f"?facility={BUSY}"),
            (1280, f"?facility={EMPTY}"),
        ):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(f"/portal/waits{address}")
            page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate(_FAULTS) == []
        page.select_option("#facility", BUSY)
        page.wait_for_url(f"**/portal/waits?facility={BUSY}&band=all_posted&days=28")
        assert page.locator("#by-day-drawing").text_content()
        assert page.locator("section[aria-labelledby=by-day] circle.dot").count() > 20
