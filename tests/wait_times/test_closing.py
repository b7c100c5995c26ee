"""Boards that are closed by hand: what they show then, who may open them, and that it is kept for good."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from medscore_assets import audit, tables
from medscore_assets.cli import app
from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.boards import put_displays
from medscore_assets.wait_times.closing import close, closed_places, closures, reopen
from medscore_assets.wait_times.registry import Registry
from medscore_assets.wait_times.showing import Shown, shown
from resources.errors import PermanentError
from resources.warehouse import Warehouse
from tests.wait_times.stored import DEFAULT, NOW, tick
from tests.wait_times.test_assignment import BAND, ED, FLUID, MA60, assign

WHY = {"by": "ann", "reason": "no physician tonight", "now": NOW}
LATER = NOW + timedelta(minutes=1)


@pytest.fixture
def ticked(waits: Warehouse, library: Registry) -> Warehouse:
    tick(waits, NOW, library)
    return waits


def at(warehouse: Warehouse, **options: Any) -> dict[tuple[str, str], Shown]:
    return shown(warehouse, options.pop("moment", NOW), default=DEFAULT, facilities=[ED], **options)


def test_a_closed_board_shows_nothing_until_it_is_opened_and_a_promotion_opens_none(
    ticked: Warehouse,
) -> None:
    close(ticked, ED, BAND, "closed", **WHY)
    answers = at(ticked)
    assert {band: answers[ED, band].closed for band in ALL_BANDS} == dict.fromkeys(ALL_BANDS) | {
        BAND: "closed"
    }
    assert {band for band in ALL_BANDS if answers[ED, band].current} == {*ALL_BANDS} - {BAND}
    with ticked.transaction() as connection:
        put_displays(ticked, connection, NOW, [ED], DEFAULT)
    c = tables.wait_time_displays.c
    kept = ticked.read(sa.select(c.code, c.wait_seconds).where(c.facility_id == ED, c.band == BAND))
    assert kept.to_pylist() == [{"code": "nothing", "wait_seconds": None}]
    assign(ticked, FLUID)
    assert not at(ticked)[ED, BAND].current
    close(ticked, ED, BAND, "redirected", **WHY | {"now": LATER})
    assert at(ticked, moment=LATER)[ED, BAND].closed == "redirected"
    reopen(ticked, ED, BAND, **WHY | {"now": LATER})
    found = at(ticked, moment=LATER)[ED, BAND]
    assert (found.current, found.pair, found.closed) == (True, FLUID, None)
    # What held earlier holds still for who asks about it.
    assert closed_places(ticked, NOW)[ED, BAND].cause == "closed"

    assert [made.cause for made in closures(ticked, ED)] == ["closed", "redirected", None]
    told = str(
        [entry["event"] for entry in audit.events(ticked, audit.Occurrence("audit-read", "success", NOW))]
    )
    for said in ("medscore waits close", "medscore waits reopen", f"{ED}/{BAND}: board"):
        assert said in told
    assert audit.verify(ticked).intact
    with pytest.raises(PermanentError), ticked.transaction() as connection:
        connection.execute(sa.delete(tables.board_closures))


def test_what_cannot_be_closed_or_opened_is_refused(ticked: Warehouse) -> None:
    for options, why in (
        ({"cause": "tired"}, "is no cause"),
        ({"facility_id": "nowhere"}, "no facility nowhere"),
        ({"band": "ctas_1"}, "no band ctas_1"),
        ({"reason": "why not"}, "a reason of at least"),
        ({"by": " "}, "the name of who makes it"),
    ):
        named = {"facility_id": ED, "band": BAND, "cause": "closed"} | WHY | options
        with pytest.raises(PermanentError, match=why):
            close(ticked, **named)
    with pytest.raises(PermanentError, match="is open already"):
        reopen(ticked, ED, BAND, **WHY)
    close(ticked, ED, BAND, "closed", **WHY)
    with pytest.raises(PermanentError, match="closed for this cause already"):
        close(ticked, ED, BAND, "closed", **WHY)
    assert len(closures(ticked)) == 1
    assert at(ticked)[ED, BAND].assigned == MA60


def test_the_commands_close_a_whole_facility_and_open_a_band(
    ticked: Warehouse, clean_environment: pytest.MonkeyPatch
) -> None:
    clean_environment.setenv("MEDSCORE_DATABASE_URL", ticked.engine.url.render_as_string(False))

    def run(*words: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, ["waits", *words, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    said = ("--reason", "no physician tonight", "--by", "ann")
    closed = run("close", "--facility", ED, "--because", "closed", *said)
    assert [made["band"] for made in closed["closed"]] == list(ALL_BANDS)
    run("reopen", "--facility", ED, "--band", BAND, *said)
    again = run("reopen", "--facility", ED, "--band", BAND, *said, code=1)
    assert [refused["what"] for refused in again["refused"]] == ["the board is open already"]
    state = {row["band"]: row["closed"] for row in run("status", "--facility", ED)["shown"]}
    assert state == dict.fromkeys(ALL_BANDS, "closed") | {BAND: None}
    assert [made["cause"] for made in run("closures")] == [None, *["closed"] * 4]
