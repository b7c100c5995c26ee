"""The population report by API and page: what may be shown, to whom, as which files, in a real browser."""

# ruff: noqa: F811
from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, expect

from medscore_assets import tables
from medscore_assets.readmission.policy import DISCLAIMER, load_policy
from medscore_assets.readmission.population.dimensions import CUBES
from medscore_assets.readmission.population.files import made_files
from medscore_assets.readmission.population.publish import _as_rows
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.readmission.population.summary import COUNTS, FIGURES, KEY
from medscore_assets.report.population import files as written
from medscore_assets.report.population import write_report
from serving.portal import population_view
from serving.portal.population_view import TABS, View
from tests.report.population_cells import discharges, population_report
from tests.serving.portal_site import (  # noqa: F401  fixtures
    QUOTED,
    SCRIPT,
    Read,
    Site,
    closed_site,
    lists_database,
    open_site,
)
from tests.serving.test_portal_browser import _FAULTS, NARROW, WIDE, _watched, chromium  # noqa: F401

N = 6_000
QUARTER = Quarter(2026, 3)
API, PAGE = f"/v1/population/{QUARTER}", f"/portal/population/{QUARTER}"
SENTINEL = 987_654_321
SENTINELS = (str(SENTINEL), f"{SENTINEL:,}", str(2 * SENTINEL), f"{2 * SENTINEL:,}", "0.98765")
SHOWN_FROM = {"population_reports", "population_risk_published"}


@pytest.fixture(scope="module")
def site(closed_site: Site) -> Site:
    """A quarter with small cells and odd names, reported; sentinels stand in every table that is not shown.

    Typesetting is left out: the PDF is bytes like any other file here.
    """
    found = discharges(N, 30)
    found.loc[:8, "hospital_id"], found.loc[9:900, "hospital_id"] = SCRIPT, QUOTED
    report = population_report(found)
    told, policy = report.header, load_policy()
    header = {
        "quarter": told.quarter,
        "version": told.version,
        "as_of": told.as_of,
        "rows": told.rows,
        "input_fingerprint": told.input_fingerprint,
        "model_name": told.model_name,
        "model_version": int(told.model_version),
        "contract_hash": told.contract_hash,
        "policy_version": policy.version,
        "policy_hash": policy.hash,
        "computed_at": told.as_of,
    }
    key = {"quarter": told.quarter}
    hidden = [
        {**key, **dict.fromkeys(COUNTS, SENTINEL), "members": 2 * SENTINEL, "mean_risk": 0.98765, **cell}
        for cell in report.cells[[*KEY]].to_dict("records")
    ]
    with closed_site.warehouse.transaction() as connection:
        connection.execute(sa.insert(tables.population_reports), header)
        connection.execute(sa.insert(tables.population_risk_summary), hidden)
        connection.execute(
            sa.insert(tables.population_exclusions),
            {**key, "reason": "invalid", "field": "", "members": SENTINEL},
        )
        rows = _as_rows(report.cells, tables.population_risk_published)
        rows = rows.append_column("quarter", pa.array([told.quarter] * len(rows)))
        closed_site.warehouse.append(connection, tables.population_risk_published, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written, "pdf", lambda *arguments: b"%PDF-1.7 of the test")
        write_report(closed_site.app.state.service.settings.home / "reports/population/2026-Q3/v1", report)
    return closed_site


def ask(site: Site, address: str, role: str = "analyst", **headers: str) -> httpx.Response:
    return site.client.get(address, headers={"Authorization": f"Bearer {site.keys[role]}", **headers})


@contextmanager
def tables_read(site: Site) -> Iterator[set[str]]:
    """The tables that the application's warehouse is asked for."""
    found: set[str] = set()

    def seen(*arguments: Any) -> None:
        found.update(re.findall(r"(?:FROM|JOIN|INTO|UPDATE) (\w+)", arguments[2]))

    engine = site.app.state.service.warehouse.engine
    sa.event.listen(engine, "before_cursor_execute", seen)
    try:
        yield found
    finally:
        sa.event.remove(engine, "before_cursor_execute", seen)


def test_only_published_figures_are_given(site: Site) -> None:
    withheld = 0
    with tables_read(site) as read:
        answers = [ask(site, f"{PAGE}?cube={cube}&rows=all") for cube in TABS]
        answers += [ask(site, "/v1/population/quarters"), ask(site, f"{API}/files/flow.csv")]
        for cube in CUBES:
            answers.append(ask(site, f"{API}/cells?cube={cube}"))
            told = answers[-1].json()
            assert (told["disclaimer"], told["split_by"]) == (DISCLAIMER, list(CUBES[cube]))
            for cell in told["cells"]:
                assert not [n for n in cell["suppressed_measures"] if cell[n] is not None]
                withheld += len(cell["suppressed_measures"])
    assert withheld > 100
    assert read & {*tables.metadata.tables} - {"api_keys"} == SHOWN_FROM
    for answer in answers:
        assert answer.status_code == 200
        assert not [s for s in SENTINELS if s in answer.text]
    # The control: the sentinels are where a careless query would find them.
    with site.warehouse.transaction() as connection:
        everything = sa.select(sa.func.min(tables.population_risk_summary.c.index_discharges))
        assert connection.scalar(everything) == SENTINEL
    folder = Path(population_view.__file__).parents[1]
    for module in ("population.py", "population_reports.py", "portal/population_page.py"):
        code = (folder / module).read_text()
        assert not re.search("population_risk_summary|population_exclusions|member_features", code)


def test_cells_are_those_that_were_published_and_filters_are_exact(site: Site) -> None:
    table = tables.population_risk_published
    query = sa.select(table).where(table.c.cube == "region_diagnosis", table.c.region == "Pacific")
    stored = {row["primary_diagnosis_group"]: row for row in site.warehouse.read(query).to_pylist()}
    told = ask(site, f"{API}/cells?cube=region_diagnosis&region=Pacific").json()["cells"]
    assert len(told) == len(stored) > 5
    for cell in told:
        row = stored[cell["primary_diagnosis_group"]]
        assert {name: cell[name] for name in FIGURES} == {name: row[name] for name in FIGURES}
        assert cell["suppressed_measures"] == json.loads(row["suppressed_measures"])
    assert ask(site, f"{API}/cells?cube=region&region=Pac").json()["cells"] == []
    for wrong in ("cube=nothing", "cube=region&sex=male"):
        refused = ask(site, f"{API}/cells?{wrong}")
        assert refused.status_code == 422
        assert "nothing" not in refused.text
        assert "male" not in refused.text


def test_a_version_is_sent_once(site: Site) -> None:
    for address in (f"{API}/cells?cube=sex", f"{API}/files/region.csv"):
        first = ask(site, address)
        again = ask(site, address, **{"If-None-Match": f'"other", {first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert ask(site, address, **{"If-None-Match": '"other"'}).status_code == 200
    assert ask(site, f"{API}/cells?cube=sex&sex=male").headers["etag"] != first.headers["etag"]
    header = tables.population_reports
    tag = ask(site, f"{API}/cells").headers["etag"]
    with site.warehouse.transaction() as connection:
        connection.execute(sa.update(header).values(version=2))
    try:
        assert ask(site, f"{API}/cells", **{"If-None-Match": tag}).status_code == 200
        # The files are of version 1: those of version 2 are not made yet.
        assert ask(site, f"{API}/files/region.csv").status_code == 404
        assert "not made yet" in ask(site, PAGE).text
    finally:
        with site.warehouse.transaction() as connection:
            connection.execute(sa.update(header).values(version=1))


def test_each_answer_is_audited_and_other_roles_are_refused_in_words(site: Site) -> None:
    for address in ("/v1/population/quarters", f"{API}/cells", f"{API}/files/sex.csv", PAGE):
        for role, status in {"analyst": 200, "steward": 200, "coordinator": 403, "care-manager": 403}.items():
            before = len(site.audited())
            answer = ask(site, address, role)
            assert answer.status_code == status, (address, role)
            (event,) = site.audited()[before:]
            assert "Patient/" not in event
            if status == 200 and "quarters" not in address:
                assert "population report 2026-Q3" in event
    assert "for analysts and stewards" in ask(site, PAGE, "care-manager").text
    assert "/portal/population" not in ask(site, "/portal", "care-manager").text
    assert site.client.get(PAGE).headers["location"] == "/portal/login"
    assert site.client.get(f"{API}/cells").status_code == 401
    assert site.client.get("/population").headers["location"] == "/portal/population"
    documented = site.app.openapi()["paths"]["/v1/population/{quarter}/cells"]["get"]["responses"]
    assert {"200", "304", "401", "403", "404", "422"} <= set(documented)


@pytest.mark.parametrize("quarter", ["2025-Q1", "2026-Q5", "latest", "%2e%2e", "2026-Q3%00", "2026-q3"])
def test_an_unknown_quarter_names_those_that_there_are(site: Site, quarter: str) -> None:
    for address in (
        f"/v1/population/{quarter}/cells",
        f"/v1/population/{quarter}/files/sex.csv",
        f"/portal/population?quarter={quarter}",
    ):
        refused = ask(site, address)
        assert refused.status_code == 404
        assert "There are: 2026-Q3." in refused.text


def test_without_any_report_this_is_said_and_how_one_is_made(open_site: Site) -> None:
    assert open_site.client.get("/v1/population/quarters").json() == {"quarters": []}
    for address, status in (("/portal/population", 200), (f"{API}/cells", 404)):
        answer = open_site.client.get(address)
        assert answer.status_code == status
        assert "No quarter was reported yet. To make a report: medscore population report" in answer.text


def test_files_are_given_whole_and_only_those_of_the_manifest(site: Site) -> None:
    (quarter,) = ask(site, "/v1/population/quarters").json()["quarters"]
    names = {file["name"]: file["sha256"] for file in quarter["files"]}
    assert {f"{cube}.csv" for cube in CUBES} < names.keys()
    home = site.app.state.service.settings.home
    assert made_files(site.warehouse, QUARTER, home / "reports").files == names
    for name, digest in names.items():
        for beginning in (API, PAGE):
            given = ask(site, f"{beginning}/files/{name}")
            assert hashlib.sha256(given.content).hexdigest() == digest
            assert given.headers["content-disposition"] == f'attachment; filename="2026-Q3_v1_{name}"'
            assert given.headers["x-content-type-options"] == "nosniff"
    assert ask(site, f"{API}/files/population_2026-Q3.pdf").headers["content-type"] == "application/pdf"
    for name in ("manifest.json", "..%2Fv1%2Fregion.csv", "%2e%2e", "region.csv%00", ".", "region"):
        assert ask(site, f"{API}/files/{name}").status_code == 404, name


def test_a_file_that_is_not_the_one_that_was_made_is_not_given(site: Site) -> None:
    folder = site.app.state.service.settings.home / "reports" / "population" / "2026-Q3" / "v1"
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    try:
        (folder / "sex.csv").write_text("other\n")
        (folder / "flow.csv").unlink()
        for beginning in (API, PAGE):
            refused = ask(site, f"{beginning}/files/sex.csv")
            assert refused.status_code == 500
            assert "not the one that was made" in refused.text
            assert str(folder) not in refused.text
        assert "files, which are not on this machine" in ask(site, PAGE).text
        manifest = json.loads((folder / "manifest.json").read_text())
        secret = site.app.state.service.settings.home / "secret"
        secret.write_text("secret")
        digest = hashlib.sha256(b"secret").hexdigest()
        manifest["files"]["../../../../secret"] = {"sha256": digest, "bytes": 6}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert ask(site, f"{API}/files/..%2F..%2F..%2F..%2Fsecret").status_code == 404
        assert "secret" not in ask(site, "/v1/population/quarters").text
        manifest["input_fingerprint"] = "of another report"
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert ask(site, f"{API}/files/region.csv").status_code == 404
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)


def test_the_page_filters_and_sorts_without_a_script_and_runs_no_text_of_data(site: Site) -> None:
    page = ask(site, f"{PAGE}?cube=hospital&sort=members&order=down")
    read = Read(page)
    assert SCRIPT not in page.text
    assert SCRIPT in read.text
    assert QUOTED in read.text
    assert "withheld" in read.text
    assert read.all("th", **{"aria-sort": "descending"})
    chosen = ask(site, f"{PAGE}?cube=region_diagnosis&region=Pacific&primary_diagnosis_group=cardiac")
    assert "1 of " in Read(chosen).text
    assert "Region by diagnosis: region Pacific, diagnosis group Cardiac" in Read(chosen).text
    assert "No row matches" in ask(site, f"{PAGE}?cube=region&region=nowhere").text
    assert ask(site, f"{PAGE}?cube=nothing&sort=nothing&order=x&rows=x").status_code == 200
    goes = ask(site, "/portal/population?quarter=2026-Q3&cube=sex")
    assert goes.headers["location"] == f"{PAGE}?cube=sex"
    script = ask(site, f"{PAGE}?cube=sex", Accept="application/json").json()
    assert "<table" in script["html"]
    assert "<html" not in script["html"]


def _row(name: str, **figures: Any) -> dict[str, Any]:
    return {"hospital_id": name, "suppressed": False, "suppressed_measures": [], **dict.fromkeys(FIGURES)} | (
        figures
    )


def test_many_hospitals_are_found_by_a_part_of_their_name_and_withheld_ones_come_last() -> None:
    rows = [_row(f"H{n:03d}", members=n, mean_risk=n / 1000) for n in range(250)]
    rows.append(_row("Hidden", suppressed=True, suppressed_measures=["members"]))
    for order in ("up", "down"):
        whole = population_view.table(
            rows, View.of({"cube": "hospital", "sort": "members", "order": order, "rows": "all"})
        )
        assert (whole.lines[-1].key, whole.lines[-1].figures[0].text) == (("Hidden",), "withheld")
        assert whole.lines[0].key == (("H000",) if order == "up" else ("H249",))
    first = population_view.table(rows, View.of({"cube": "hospital"}))
    assert (len(first.lines), first.found, first.filters[0].choices) == (200, 251, [])
    assert population_view.table(rows, View.of({"cube": "hospital", "hospital_id": "h24"})).found == 10


def _signed_in(chromium: Browser, site: Site, **options: Any) -> Iterator[Page]:
    for page in _watched(chromium, site, **options):
        page.goto("/population")
        page.fill("#key", site.keys["analyst"])
        page.keyboard.press("Enter")
        page.wait_for_url("**/portal/population")
        yield page


@pytest.mark.slow
def test_an_analyst_signs_in_filters_sorts_downloads_and_prints(chromium: Browser, site: Site) -> None:
    for page in _signed_in(chromium, site):
        for size in (NARROW, WIDE):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            for cube in ("hospital", "region"):
                page.goto(f"{PAGE}?cube={cube}")
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                assert page.evaluate(_FAULTS) == []
        rows = page.locator(".cells tbody tr")
        page.click("text=Region by diagnosis")
        expect(page.locator("#apply")).to_be_hidden()
        page.select_option("#only-region", "Pacific")
        expect(page.locator(".cells caption")).to_have_text("Region by diagnosis: region Pacific")
        count = rows.count()
        page.click("th.mean_risk a")
        expect(page.locator("th.mean_risk")).to_have_attribute("aria-sort", "descending")
        assert page.evaluate("document.activeElement.textContent") == "Mean 30-day risk"
        shown = page.locator("td.mean_risk .value").all_inner_texts()
        risks = [float(text.split()[0]) for text in shown if "%" in text]
        assert risks == sorted(risks, reverse=True) != []
        page.select_option("#only-region", "")
        expect(rows).not_to_have_count(count)
        expect(page.locator("th.mean_risk")).to_have_attribute("aria-sort", "descending")
        page.reload()
        expect(page.locator("th.mean_risk")).to_have_attribute("aria-sort", "descending")
        with page.expect_download() as download:
            page.click("text=region.csv")
        assert download.value.suggested_filename == "2026-Q3_v1_region.csv"
        page.emulate_media(media="print")
        for gone in (".top", ".tabs", ".filters", ".downloads"):
            expect(page.locator(gone)).to_be_hidden()
        expect(page.locator("td.mean_risk .value").first).to_have_css("color", "rgb(0, 0, 0)")
        assert page.locator(".cells thead").evaluate("e => getComputedStyle(e).display").startswith("table-h")
        page.emulate_media(media="null")


@pytest.mark.slow
def test_the_page_needs_no_script_on_a_phone_either(chromium: Browser, site: Site) -> None:
    for page in _signed_in(chromium, site, java_script_enabled=False):
        page.goto(f"{PAGE}?cube=hospital")
        page.set_viewport_size(NARROW)  # type: ignore[arg-type]
        page.select_option("#only-hospital_id", "H0001")
        page.click("#apply")
        assert page.locator(".cells tbody tr").count() == 1
        page.click("text=Region by diagnosis")
        page.select_option("#sort", "members")
        page.select_option("#order", "up")
        page.click("#apply")
        assert page.locator("th.members").get_attribute("aria-sort") == "ascending"
        page.set_viewport_size(WIDE)  # type: ignore[arg-type]
        page.click("th.members a")
        assert page.locator("th.members").get_attribute("aria-sort") == "descending"
