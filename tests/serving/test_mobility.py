"""One patient's expected steps by API and page: stored and on demand, what is missing, who may see it."""

# ruff: noqa: F811
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, expect

from medscore_assets import tables
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.forecasts import HORIZONS, PATIENT_FEATURES, Serving, publish_day
from resources.errors import TransientError
from resources.lake import Lake
from resources.registry import ModelRegistry
from serving import mobility_lake, mobility_models
from serving.errors import Unavailable
from serving.mobility_forecasts import DISCLAIMER, Mobility
from serving.mobility_models import MobilityModels
from serving.portal.mobility_chart import BASE, HISTORY_DAYS, TOP, chart_of
from tests.mobility.simulated import BEGUN, simulated_steps
from tests.serving.mobility_site import (
    BACK,
    DAYS,
    NEWEST,
    ODD,
    PEOPLE,
    PUBLISHED,
    SILENT,
    STEADY,
    train,
    write_lake,
)
from tests.serving.portal_site import (  # noqa: F401  fixtures
    SCRIPT,
    Read,
    Site,
    closed_site,
    lists_database,
)
from tests.serving.test_portal_browser import _FAULTS, NARROW, WIDE, _watched, chromium  # noqa: F401


@pytest.fixture(scope="module")
def site(closed_site: Site, api_registry: ModelRegistry) -> Site:
    """A lake of 60 days, models and routes for both horizons, forecasts of the day before the last."""
    settings = closed_site.app.state.service.settings
    lake = Lake(settings.lake_url)
    steps = simulated_steps(PEOPLE, DAYS, seed=5, wears=0.9)
    steps[0] = np.where(np.arange(DAYS) % 9 == 4, np.nan, 4000 + 100.0 * (np.arange(DAYS) % 7))
    steps[:3, -2:] = 5000.0
    # The rows of features here are of days with steps.
    steps[2, -2] = np.nan
    ids = [STEADY, ODD, BACK, *(f"P-{n:03d}" for n in range(3, PEOPLE))]
    write_lake(lake, steps, ids)
    for horizon in HORIZONS:
        train(closed_site, api_registry, steps, ids, horizon)
    serving = Serving.present(closed_site.warehouse, api_registry)
    publish_day(lake, closed_site.warehouse, serving, PUBLISHED, zone=settings.zone)
    return closed_site


def ask(site: Site, address: str, role: str = "coordinator", **headers: str) -> httpx.Response:
    return site.client.get(address, headers={"Authorization": f"Bearer {site.keys[role]}", **headers})


def api(patient: str, day: date | None = None, horizon: int = 1) -> str:
    said = f"&day={day}" if day else ""
    return f"/v1/mobility/forecast/{quote(patient, safe='')}?horizon={horizon}{said}"


def test_stored_and_on_demand_are_equal_to_the_last_bit(site: Site, api_registry: ModelRegistry) -> None:
    service = site.app.state.service
    lake, mobility = Lake(service.settings.lake_url), site.app.state.mobility
    patients = lake.read_day(PATIENT_FEATURES, NEWEST, ["patient_id"])["patient_id"].to_pylist()
    assert len(patients) > 30
    computed = {who: mobility.forecasts(who, NEWEST) for who in patients}
    table, days = tables.mobility_forecasts, tables.mobility_forecast_days
    publish_day(
        lake,
        site.warehouse,
        Serving.present(site.warehouse, api_registry),
        NEWEST,
        zone=service.settings.zone,
    )
    try:
        for who in patients:
            stored = mobility.forecasts(who, NEWEST)
            assert [told.computed for told in (*computed[who], *stored)] == [True, True, False, False]
            for mine, theirs in zip(computed[who], stored, strict=True):
                one, other = dict(mine.row), dict(theirs.row)
                assert json.loads(one.pop("reasons")) == json.loads(other.pop("reasons"))
                assert one.pop("made_at") != other.pop("made_at")
                assert one == other
        assert {mine.row["model_name"] is None for told in computed.values() for mine in told} == {False}
    finally:
        with site.warehouse.transaction() as connection:
            for each in (table, days):
                connection.execute(sa.delete(each).where(each.c.forecast_day == NEWEST))


def test_a_stored_forecast_is_told_with_its_interval_reasons_and_route_by_one_statement(site: Site) -> None:
    statements: list[str] = []
    engine = site.app.state.service.warehouse.engine

    def seen(*arguments: Any) -> None:
        statements.append(arguments[2])

    sa.event.listen(engine, "before_cursor_execute", seen)
    try:
        for horizon in HORIZONS:
            told = ask(site, api(STEADY, PUBLISHED, horizon)).json()
            assert (told["computed"], told["stale"], told["age_days"]) == (False, False, 0)
            assert told["forecast_day"] == str(PUBLISHED)
            assert told["target_day"] == str(PUBLISHED + timedelta(days=horizon - 1))
            assert (told["model_name"], told["serves"]) == (f"mobility-global-{horizon}d", "global")
            assert told["route_reason"] == f"global was best for {told['route']} at {horizon}."
            why = told["explanation"]
            added = sum(reason["steps"] for reason in why["reasons"])
            total = why["baseline_steps"] + added + why["other_steps"] + why["raised_steps"]
            assert total == why["forecast_steps"] == round(told["expected_steps"])
            assert all(" because " in reason["text"] for reason in why["reasons"])
            interval = told["interval"]
            assert 0 <= interval["lower"] <= told["expected_steps"] <= interval["upper"]
            assert (interval["level"], told["disclaimer"]) == (0.9, DISCLAIMER)
    finally:
        sa.event.remove(engine, "before_cursor_execute", seen)
    assert len([s for s in statements if "mobility" in s]) == len(HORIZONS)


def test_the_newest_day_is_given_with_its_age(site: Site) -> None:
    newest = ask(site, api(STEADY)).json()
    age = (datetime.now(site.app.state.service.settings.zone).date() - NEWEST).days
    assert (newest["forecast_day"], newest["computed"]) == (str(NEWEST), True)
    assert (newest["stale"], newest["age_days"]) == (True, age)
    assert f"{age} days old" in " ".join(newest["notes"])
    later = ask(site, api(STEADY, NEWEST + timedelta(days=1))).json()
    assert (later["forecast_day"], later["age_days"]) == (str(NEWEST), 1)
    assert "1 day old" in " ".join(later["notes"])


def test_what_is_missing_is_said_and_nothing_is_repeated(site: Site) -> None:
    assert ask(site, api("P-unheard-of")).status_code == 404
    for who, day in ((SILENT, None), (STEADY, BEGUN - timedelta(days=1))):
        refused = ask(site, api(who, day))
        assert refused.status_code == 412
        (problem,) = refused.json()["error"]["problems"]
        assert problem["location"] in ("daily_steps", "patient_features")
        assert who not in refused.text
    tomorrow = datetime.now(ZoneInfo("UTC")).date() + timedelta(days=3)
    for wrong in (
        api(STEADY, tomorrow),
        api(STEADY).replace("=1", "=2"),
        api("P\x01x"),
        api(STEADY) + "&day=x",
    ):
        refused = ask(site, wrong)
        assert refused.status_code == 422
        assert STEADY not in refused.text


def test_each_answer_is_audited_and_other_roles_are_refused(site: Site) -> None:
    page = f"/portal/mobility/{STEADY}?day={PUBLISHED}"
    for address in (api(STEADY, PUBLISHED), api(STEADY, NEWEST), page):
        for role, status in {"coordinator": 200, "care-manager": 200, "analyst": 403, "steward": 403}.items():
            before = len(site.audited())
            assert ask(site, address, role).status_code == status, (address, role)
            (event,) = site.audited()[before:]
            assert (f"Patient/{STEADY}" in event) is (status == 200)
            assert ("mobility" in event) is True
    assert site.client.get(api(STEADY)).status_code == 401
    assert site.client.get(page).headers["location"] == "/portal/login"
    documented = site.app.openapi()["paths"]["/v1/mobility/forecast/{patient_id}"]["get"]["responses"]
    assert {"200", "401", "403", "404", "412", "422", "503"} <= set(documented)


class _Away:
    """A registry that cannot be reached."""

    def __getattr__(self, name: str) -> Any:
        def fails(*arguments: Any) -> Any:
            raise TransientError("the model registry cannot be reached", where="the test", mend="Wait.")

        return fails


def test_models_go_on_while_the_registry_is_away_and_nothing_is_computed_without_any(
    site: Site, api_registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobility_models, "FOLLOWED_S", 0.0)
    models = MobilityModels(site.warehouse, api_registry)
    first = models.current()
    models._registry = _Away()  # type: ignore[assignment]
    models.look()
    assert models.current() is first
    fresh = Mobility(site.app.state.service.settings, site.warehouse, _Away())  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        fresh.forecasts(BACK, NEWEST)
    # What is stored needs no model, and says its age.
    for day, age in ((PUBLISHED, 0), (NEWEST, 1)):
        assert [(t.computed, t.age_days) for t in fresh.forecasts(STEADY, day)] == [(False, age)] * 2


def test_a_damaged_file_is_said_without_its_contents_and_is_read_again_once_it_is_whole(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobility_lake, "LOOKED_AT_S", 0.0)
    folder = Path(Lake(site.app.state.service.settings.lake_url).url)
    features = folder / PATIENT_FEATURES.folder(NEWEST) / "part.parquet"
    lost = PUBLISHED - timedelta(days=2)
    daily = folder / DAILY_STEPS.folder(lost) / "part.parquet"
    kept = {file: file.read_bytes() for file in (features, daily)}
    try:
        for file, content in kept.items():
            # Another file, as a writer would put it there: what is open stays whole.
            file.unlink()
            file.write_bytes(content[: len(content) // 2])
        refused = ask(site, api(BACK, NEWEST))
        assert refused.status_code == 503
        assert str(folder) not in refused.text
        stored = ask(site, api(STEADY, NEWEST)).json()
        assert (stored["computed"], stored["stale"]) == (False, True)
        page = ask(site, f"/portal/mobility/{STEADY}?day={PUBLISHED}")
        assert page.status_code == 200
        assert f"1 day cannot be read at present, as if without data: {lost}." in page.text
        assert "worn under 10 hours" in page.text
        assert "steps expected" in page.text
    finally:
        for file, content in kept.items():
            file.unlink()
            file.write_bytes(content)
    assert ask(site, api(BACK, NEWEST)).json()["computed"] is True


def test_the_page_shows_days_forecasts_reasons_and_what_is_known_of_the_data(site: Site) -> None:
    assert ask(site, api(ODD, PUBLISHED)).json()["patient_id"] == ODD
    page = ask(site, f"/portal/mobility/{quote(ODD, safe='')}?day={PUBLISHED}")
    read = Read(page)
    assert SCRIPT not in page.text
    assert SCRIPT in read.text
    drawn = [a for a in read.all("rect") if (a.get("class") or "").startswith(("bar", "gap"))]
    assert len([a for a in drawn if "%" in (a.get("x") or "")]) >= HISTORY_DAYS
    text = re.sub(r"\s+", " ", read.text)
    assert text.count("steps expected") == len(HORIZONS)
    assert "global was best for" in text
    assert "without data: whether the device was off or nobody walked cannot be told apart" in text
    assert "worn under 10 hours" in text
    assert "records that came twice" in text
    assert DISCLAIMER in text
    silent = ask(site, f"/portal/mobility/{SILENT}")
    assert silent.status_code == 200
    assert "There is not enough data for a forecast." in silent.text
    assert ask(site, "/portal/mobility/P-unheard-of").status_code == 404
    empty = ask(site, "/portal/mobility")
    headers = {"Authorization": f"Bearer {site.keys['coordinator']}", "Sec-Fetch-Site": "same-origin"}

    def search(**form: str) -> httpx.Response:
        return site.client.post("/portal/mobility", data=form, headers=headers)

    goes = search(csrf=Read(empty).csrf, patient_id=f" {ODD} ")
    assert goes.headers["location"] == f"/portal/mobility/{quote(ODD, safe='')}"
    assert search(csrf=Read(empty).csrf, patient_id="a\x01b").status_code == 422
    assert search(csrf="", patient_id=ODD).status_code == 403


def test_the_chart_stays_within_its_scale_whatever_the_steps(site: Site) -> None:
    told = site.app.state.mobility.forecasts(STEADY, PUBLISHED)
    day = told[0].forecast_day
    for most in (0, 7, 40_000):
        rows = {
            day - timedelta(days=n): {"steps": most, "wear_minutes": 700, "flags": 0} for n in (1, 2, 90, 91)
        }
        chart = chart_of(rows, told, day)
        assert [bar.kind for bar in chart.bars].count("worn") == 3
        assert all(TOP <= bar.y <= bar.y + bar.height <= BASE + 0.1 for bar in chart.bars)
        assert all(TOP <= band.top <= band.y <= band.bottom <= BASE for band in chart.bands)
        assert [bar.x for bar in chart.bars] == sorted(bar.x for bar in chart.bars)
        assert chart.bars[-1].x < chart.begun <= chart.bands[0].x < chart.bands[1].x < 100
        assert chart.rows[0].at == BASE
        assert chart.rows[-1].at == TOP


def _signed_in(chromium: Browser, site: Site, **options: Any) -> Iterator[Page]:
    for page in _watched(chromium, site, **options):
        page.goto("/portal/mobility")
        page.fill("#key", site.keys["coordinator"])
        page.keyboard.press("Enter")
        page.wait_for_url("**/portal/patient")
        page.goto("/portal/mobility")
        yield page


@pytest.mark.slow
def test_a_patient_is_found_read_and_printed_at_any_width(chromium: Browser, site: Site) -> None:
    for page in _signed_in(chromium, site):
        page.keyboard.press("/")
        page.keyboard.type(STEADY)
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/portal/mobility/{STEADY}")
        expect(page.locator(".expected section")).to_have_count(len(HORIZONS))
        page.goto(f"/portal/mobility/{STEADY}?day={PUBLISHED}")
        assert page.evaluate(_FAULTS) == []
        page.locator(".days-of-steps").scroll_into_view_if_needed()
        box = page.locator(".days-of-steps").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 150)
        expect(page.locator("#readout")).to_contain_text("steps")
        for size in (NARROW, WIDE):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            assert page.evaluate(_FAULTS) == []
        labels = page.locator(".days-of-steps text:visible").evaluate_all(
            "all => all.map((e) => [e.getBoundingClientRect().left, e.getBoundingClientRect().right])"
        )
        assert all(left[1] < right[0] for left, right in pairwise(labels))
        page.emulate_media(media="print")
        for gone in (".top", ".find-patient", ".all-days"):
            expect(page.locator(gone)).to_be_hidden()
        expect(page.locator(".days-of-steps")).to_be_visible()
        page.emulate_media(media="null")
