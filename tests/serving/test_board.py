"""The board and the model monitor as the server makes them: what stands on them, and what never does."""

# ruff: noqa: F811
from __future__ import annotations

import dataclasses
import html
import itertools
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from medscore_assets.settings import Settings
from medscore_assets.wait_times.assignment import promote, rollback
from medscore_assets.wait_times.bands import ALL_BANDS, ALL_POSTED
from medscore_assets.wait_times.closing import close, reopen
from medscore_assets.wait_times.display import NOTHING, Displayed, displayed
from medscore_assets.wait_times.showing import FRESH
from medscore_assets.wait_times.tick import EVERY
from serving.app import create_app
from serving.portal import board_view, web
from serving.portal.board_view import board_of, figure
from serving.portal.qr import qr_code
from serving.wait_times_reading import Posted, posted
from serving.wait_times_words import BAND_NAMES, CLOSED, LANGUAGES, NOT_AVAILABLE, range_text
from tests.serving.board_site import (  # noqa: F401  fixtures
    BOOST,
    BUSY,
    DEFAULT,
    EMPTY,
    FLUID,
    SILENT,
    ZONE,
    Boards,
    boards,
    site,
)
from tests.serving.conftest import running
from tests.serving.portal_site import Read, make_key

DIGIT = re.compile(r"\d")


def text_of(answer: httpx.Response) -> str:
    """What is read of a page, its non-breaking spaces as plain ones."""
    assert answer.status_code == 200, answer.text
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def current(boards: Boards, facility: str = BUSY) -> Posted:
    return posted(boards.warehouse, datetime.now(UTC), default=DEFAULT, facility_ids=[facility])


def test_the_board_tells_the_range_the_time_and_who_is_first_in_both_languages(
    site: httpx.Client, boards: Boards
) -> None:
    answer = site.get(f"/board/{BUSY}")
    text = text_of(answer)
    local = boards.newest.astimezone(ZoneInfo(ZONE))

    assert {part["lang"] for part in Read(answer).all("section")} == set(LANGUAGES)
    for said in ("1 h 30 – 2 h 15", "8 in 10 people are seen within 2 h 15", "Very urgent triage level 2"):
        assert said in text
    for said in ("8 personnes sur 10 sont vues en 2 h 15 ou moins", "Hôpital Busy – Urgence"):
        assert said in text
    assert f"As of {local:%H:%M %Z}" in text
    assert f"À {local.hour} h {local:%M} (H" in text
    for said in ("The sickest people are seen first.", "Tell the nurse if you feel worse."):
        assert said in text
    # Four are being treated, and three of the second level wait.
    assert "People waiting, levels 3 to 5 14" in text
    assert "Being treated fewer than 5" in text
    french = text_of(site.get(f"/board/{BUSY}?lang=fr"))
    assert ("La plupart des gens" in french, "Most people" in french) == (True, False)


@pytest.mark.parametrize("facility", [SILENT, EMPTY])
def test_without_a_current_value_the_board_is_blank_and_says_so(site: httpx.Client, facility: str) -> None:
    for lang in LANGUAGES:
        answer = site.get(f"/board/{facility}/times?lang={lang}")
        read = Read(answer)

        assert NOT_AVAILABLE[lang] in " ".join(read.text.split())
        assert DIGIT.search(read.text) is None
        assert read.all("div", id="sheet")[0]["data-valid-until"] == ""


def test_a_closed_board_says_why_without_minutes_and_opens_with_the_next_refresh(
    site: httpx.Client, boards: Boards
) -> None:
    address, why = f"/board/{BUSY}/times", {"by": "Test", "reason": "a test of the board"}
    before = site.get(address)
    try:
        close(boards.warehouse, BUSY, "ctas_3", "closed", **why)
        text = text_of(site.get(address))
        for line in ("closed, ask at the desk", "fermé, demandez à l’accueil", "1 h 30 – 2 h 15"):
            assert line in text
        for band in {*ALL_BANDS} - {"ctas_3"}:
            close(boards.warehouse, BUSY, band, "closed", **why)
        closed = Read(site.get(address, headers={"If-None-Match": before.headers["etag"]}))
        said = " ".join(closed.text.split())
        for language in LANGUAGES:
            assert CLOSED["closed"][language] in said
        assert DIGIT.search(said.replace("911", "")) is None
        assert closed.all("div", id="sheet")[0]["data-valid-until"] == ""
        assert "sickest" not in said

        told = site.get(f"/wait_time/feed/{BUSY}").json()
        assert (told["status"], told["valid_until"]) == ("closed", None)
        assert {(band["status"], band["closed"], band["displayed"]) for band in told["bands"]} == {
            ("closed", "closed", None)
        }
        assert told["bands"][0]["text"] == dict(CLOSED["closed"])
        places = site.get("/wait_time", params={"facility": BUSY}).json()["places"]
        assert {(place["status"], place["closed"], place["current"]) for place in places} == {
            ("closed", "closed", None)
        }
        monitor = text_of(site.get(f"/portal/waits?facility={BUSY}"))
        assert "Somebody closed it (closed)" in monitor
        assert "Closed by hand" in monitor
    finally:
        for band in ALL_BANDS:
            reopen(boards.warehouse, BUSY, band, **why)
    assert site.get(address).text == before.text


def test_times_that_are_two_ticks_old_are_gone(boards: Boards) -> None:
    late = boards.newest + FRESH
    there = posted(boards.warehouse, late, default=DEFAULT, facility_ids=[BUSY])
    gone = posted(boards.warehouse, late.replace(second=1), default=DEFAULT, facility_ids=[BUSY])

    assert board_of(there, BUSY, ("en",)).valid_until == late
    assert board_of(there, BUSY, ("en",)).sides[0].headline is not None
    assert board_of(gone, BUSY, ("en",)).valid_until is None
    assert board_of(gone, BUSY, ("en",)).sides[0].headline is None


def test_a_promotion_is_on_the_board_with_the_next_refresh_and_rolls_back(
    site: httpx.Client, boards: Boards
) -> None:
    address = f"/board/{BUSY}/times"
    first = site.get(address)
    kept = {"If-None-Match": first.headers["etag"]}
    same = site.get(address, headers=kept)
    decided = {"by": "Test", "reason": "a test of the board", "default": DEFAULT}

    assert (same.status_code, same.content) == (304, b"")
    assert "max-age=15" in first.headers["cache-control"]
    promote(boards.warehouse, BUSY, ALL_POSTED, BOOST, evidence=None, force=True, **decided)
    other = site.get(address, headers=kept)
    assert "30 min – 45 min" in text_of(other)
    rollback(boards.warehouse, BUSY, ALL_POSTED, **decided)
    assert site.get(address, headers=kept).status_code == 304


def test_who_may_look_is_as_the_settings_say(boards: Boards, tmp_path: Path) -> None:
    with boards.closed(tmp_path, wait_times_public=True) as client:
        assert client.get(f"/board/{BUSY}").status_code == 200
        assert client.get(f"/board/{BUSY}/times").headers["cache-control"].startswith("public")
        unknown = client.get("/board/nowhere")
        assert unknown.status_code == 404
        assert "no board" in unknown.text
        assert client.get("/portal/waits").headers["location"] == "/portal/login"
    with boards.closed(tmp_path) as client:
        assert client.get(f"/board/{BUSY}/times").headers["location"] == "/portal/login"
        assert client.get(f"/portal/board/{BUSY}").headers["location"] == "/portal/login"
        assert client.get("/board/nowhere").status_code == 404
        now = datetime.now(UTC)
        keys = {
            role: {"Authorization": f"Bearer {make_key(boards.warehouse, role, now)}"}
            for role in ("coordinator", "analyst")
        }
        shown = client.get(f"/board/{BUSY}/times", headers=keys["coordinator"])
        assert shown.headers["cache-control"].startswith("private")
        refused = client.get("/portal/waits", headers=keys["coordinator"])
        assert refused.status_code == 403
        assert "analysts and stewards" in refused.text
        assert client.get("/portal/waits", headers=keys["analyst"]).status_code == 200


def test_a_code_for_phones_is_there_where_they_reach_the_page(boards: Boards, tmp_path: Path) -> None:
    address = "https://waits.hospital.example"

    def page(**options: Any) -> str:
        with boards.closed(tmp_path, **options) as client:
            key = make_key(boards.warehouse, "coordinator", datetime.now(UTC))
            return client.get(f"/board/{BUSY}?lang=fr", headers={"Authorization": f"Bearer {key}"}).text

    shown = page(address=address, wait_times_public=True)
    assert qr_code(f"{address}/board/{BUSY}") in shown
    assert qr_code(f"{address}/board/{BUSY}") != qr_code(f"{address}/board/{EMPTY}")
    assert "style=" not in shown
    for without in ({"address": address}, {"wait_times_public": True}):
        assert "<svg" not in page(**without)


def test_a_screen_without_a_database_says_so_to_patients_and_loads_again() -> None:
    settings = Settings(database_url="postgresql+psycopg://nobody:x@127.0.0.1:1/none")
    app = create_app(settings, champions=SimpleNamespace(start=lambda: None, stop=lambda: None))
    with running(app, ready=False) as client:
        answer = client.get(f"/board/{BUSY}")
    assert answer.status_code == 503
    assert "no-store" in answer.headers["cache-control"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    read = Read(answer)
    assert [meta["content"] for meta in read.all("meta", **{"http-equiv": "refresh"})] == ["30"]
    for text in NOT_AVAILABLE.values():
        assert text in " ".join(read.text.split())
    # Its script takes a page with this mark for a board.
    assert 'id="sheet"' not in answer.text
    assert "/portal/patient" not in answer.text


def test_whoever_signed_in_sees_a_board_that_is_not_public(boards: Boards, tmp_path: Path) -> None:
    with boards.closed(tmp_path) as client:
        key = make_key(boards.warehouse, "coordinator", datetime.now(UTC))
        assert client.post("/portal/login", data={"key": key}).status_code == 303
        led = client.get(f"/board/{BUSY}?lang=fr").headers["location"]
        assert led == f"/portal/board/{BUSY}?lang=fr"
        answer = client.get(led)
        assert "1 h 30 – 2 h 15" in text_of(answer)
        times = Read(answer).all("div", id="board")[0]["data-times"]
        assert times == f"/portal/board/{BUSY}/times?lang=fr"
        renewed = client.get(times)
        assert "1 h 30 – 2 h 15" in text_of(renewed)
        assert renewed.headers["cache-control"].startswith("private")


def test_a_board_is_as_old_as_the_oldest_of_its_times(boards: Boards) -> None:
    there = current(boards)
    place = BUSY, "ctas_3"
    answer = dataclasses.replace(there.places[place].answer, as_of=boards.newest - EVERY)
    older = dict(there.places) | {place: dataclasses.replace(there.places[place], answer=answer)}
    board = board_of(dataclasses.replace(there, places=older), BUSY, ("en",))
    local = (boards.newest - EVERY).astimezone(ZoneInfo(ZONE))
    assert board.valid_until == boards.newest - EVERY + FRESH
    assert f"{local:%H:%M}" in board.sides[0].as_of


@pytest.mark.parametrize(
    ("p50", "p80", "english", "french"),
    [
        (4980.0, 7860.0, "1 h 30 – 2 h 15", "1 h 30 – 2 h 15"),
        (60.0, 700.0, "about 15 min", "environ 15 min"),
        (20_000.0, 30_000.0, "5 h 45 – more than 6 h", "5 h 45 – plus de 6 h"),
        (30_000.0, 40_000.0, "more than 6 h", "plus de 6 h"),
        (float("nan"), None, "not available", "non disponible"),
    ],
)
def test_a_figure_is_the_ranges_text_in_short(
    p50: float, p80: float | None, english: str, french: str
) -> None:
    display = displayed(p50, p80)
    for language, expected in zip(LANGUAGES, (english, french), strict=True):
        short = figure(display, language).replace("\N{NO-BREAK SPACE}", " ")
        assert short == expected
        if display.low_minutes != NOTHING:
            assert short.replace("–", {"en": "to", "fr": "à"}[language]) == range_text(display, language)


def test_the_sentence_on_eight_in_ten_needs_to_be_known_and_holds_above_the_cap(boards: Boards) -> None:
    there = current(boards)
    found = there.places[BUSY, ALL_POSTED]

    def within(display: Displayed, p80: float | None) -> str:
        answer = dataclasses.replace(found.answer, p80_seconds=p80)
        one = dataclasses.replace(found, answer=answer, display=display)
        changed = dataclasses.replace(there, places={**there.places, (BUSY, ALL_POSTED): one})
        headline = board_of(changed, BUSY, ("en",)).sides[0].headline
        assert headline is not None
        return headline.within.replace("\N{NO-BREAK SPACE}", " ")

    assert within(displayed(2000.0), None) == ""
    assert within(displayed(20_000.0, 30_000.0), 30_000.0) == "More than 2 in 10 people wait longer than 6 h"
    assert within(displayed(30_000.0, 40_000.0), 40_000.0).startswith("More than half of the people")
    assert within(displayed(2000.0, 2100.0), 2100.0) == "8 in 10 people are seen within 45 min"


def test_the_clock_is_the_departments_own(boards: Boards) -> None:
    there = current(boards)

    def said(zone: str) -> list[str]:
        facility = dataclasses.replace(there.facilities[BUSY], zone=zone)
        sides = board_of(dataclasses.replace(there, facilities={BUSY: facility}), BUSY, LANGUAGES).sides
        return [side.as_of for side in sides]

    english, french = said("America/Vancouver")
    assert english[-3:] in ("PST", "PDT")
    assert french[-5:] in ("(HNP)", "(HAP)")
    assert said("America/Sao_Paulo")[0].endswith("UTC-0300")


def test_the_boards_labels_are_those_of_the_api() -> None:
    for band, language in itertools.product(ALL_BANDS, LANGUAGES):
        assert BAND_NAMES[band][language].startswith(board_view.words_of(language)[band])
        assert set(board_view.words_of("en")) == set(board_view.words_of("fr"))


def test_the_boards_colours_stand_out() -> None:
    css = web._STATIC["board.css"].decode()
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", css))
    # Every colour of text is one of these, or white by its variable.
    assert set(re.findall(r"(?<![\w-])color: ([^;]+);", css)) <= {
        f"var(--{name})" for name in ("ink", "soft", "warn-ink")
    }
    for front, back in [(f, b) for f in ("ink", "soft") for b in ("ground", "panel")] + [
        ("warn-ink", "warn-ground")
    ]:
        assert contrast(colour[front], colour[back]) >= 7, (front, back)
    assert "animation" not in css


def contrast(one: str, other: str) -> float:
    """As the accessibility guidelines compute it."""

    def luminance(code: str) -> float:
        channels = [int(code[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_monitor_ranks_compares_and_tells_who_is_shown(site: httpx.Client) -> None:
    addresses = {"facility=ed-empty&band=ctas_2": "?facility=ed-empty&band=ctas_2&days=28", "band=other": ""}
    for asked, kept in addresses.items():
        short = site.get(f"/monitor/waits?{asked}")
        assert (short.status_code, short.headers["location"]) == (303, f"/portal/waits{kept}")
    answer = site.get(f"/portal/waits?facility={BUSY}")
    text = text_of(answer)
    ranked = text[text.index("Leaderboard") : text.index("against each challenger")]

    assert ranked.index(str(BOOST)) < ranked.index(str(FLUID)) < ranked.index("literal 1.0.0 baseline")
    assert f"{FLUID} assigned shown now" in ranked
    against = text[text.index("against each challenger") : text.index("Coverage by day")]
    assert re.search(rf"{BOOST} −[\d.]+ \(−[\d.]+ to −[\d.]+\) Better\. May be promoted\.", against)
    assert re.search(r"literal 1\.0\.0 \+.*Not shown to be better\. Its pinball loss is higher", against)
    for heading in ("Coverage by time of day", "Calibration", "What a posted wait is worth", "Drift"):
        assert heading in text
    assert "The feed is alive." in text
    assert "Blank: the feed has fallen silent" in text


def test_the_monitor_tells_who_assigned_what_and_why(site: httpx.Client, boards: Boards) -> None:
    decided = {"by": "Ada", "default": DEFAULT}
    place = (boards.warehouse, BUSY, "ctas_3")
    promote(*place, BOOST, evidence=None, force=True, reason="a trial of the monitor", **decided)
    rollback(*place, reason="the trial is over", **decided)
    text = text_of(site.get(f"/portal/waits?facility={BUSY}&band=ctas_3"))
    made = text[text.index("Assignments here") :]

    assert made.index(f"{FLUID} rolled back Ada the trial is over") < made.index(
        f"{BOOST} promoted Ada a trial of the monitor Forced"
    )


def test_the_monitor_stands_without_outcomes_and_refuses_what_there_is_not(site: httpx.Client) -> None:
    empty = text_of(site.get(f"/portal/waits?facility={EMPTY}&band=ctas_3&days=7"))

    assert "No patient was held against a prediction yet." in empty
    assert "The board shows no time for this band." in empty
    for query in ("facility=nowhere", "band=ctas_1", "days=9"):
        assert site.get(f"/portal/waits?{query}").status_code == 404
