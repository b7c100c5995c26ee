"""Texts that nobody may find again, sent everywhere: no log, error, measure, model store or audit holds them.

The real process, its own PostgreSQL and registry. What a client names a stay and a patient may stand in the
stored score, the audit and the answer to whoever sent it; whatever else is sent, nowhere.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from psycopg import sql

from benchmarks.document_api import ReadmissionRequest
from benchmarks.site import Site
from medscore_assets.audit import verify
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.embedded_postgres import release
from serving.app import create_app
from tests.serving.conftest import features
from tests.serving.portal_site import make_key
from tests.serving.sentinel_site import MARK, NAMES, PORTAL, Hospital, ask_everything, ask_too_often, marks

pytestmark = pytest.mark.slow
MAY_HOLD_NAMES = ("audit_events", "readmission_scores")


@pytest.fixture(scope="module")
def hospital(model: ReadmissionModel, homes: Path) -> Iterator[Hospital]:
    home = homes / "sentinels"
    home.mkdir()
    site = Site.prepare(home)
    site.set_champion(site.register(model))
    rules = site.settings.home / "access.toml"
    rules.write_text(
        'api_keys = true\npublic_url = "https://medscore.example.org"\n'
        + rules.read_text()
        + 'purpose_claim = "purpose"\n'
        '\n[issuers.ehr]\nissuer = "https://ehr.example.org"\nalgorithms = ["ES384"]\n'
        'keys_file = "issuer.pem"\none_time = true\ndefault_roles = ["coordinator"]\n'
    )
    now = datetime.now(UTC)
    keys = {role: make_key(site.warehouse, role, now) for role in ("care-manager", "analyst")}
    # The second is the same under a limit of one request.
    server, limited = site.start_api(), site.start_api(MEDSCORE_API_RATE="1")
    try:
        server.wait_ready("/health/ready")
        found = Hospital(site, server, keys)
        ask_everything(found)
        ask_too_often(found, limited)
        limited.stop()
        yield found
    finally:
        limited.stop()
        server.stop()
        site.warehouse.close()
        release(site.settings.postgres_directory)


def test_every_kind_of_answer_was_given(hospital: Hospital) -> None:
    statuses = {answer.status_code for _, answer in hospital.answers}

    assert statuses >= {200, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 429}
    assert not {s for s in statuses if s >= 500}


def test_an_answer_holds_only_what_its_caller_may_know(hospital: Hospital) -> None:
    for asked, answer in hospital.answers:
        told = f"{answer.text}\n{answer.headers}"
        if answer.status_code == 200 or (asked == "POST /portal/patient" and answer.status_code == 422):
            # The caller's own names and, by the protocol, the id that it gave its own request.
            own = {*NAMES, f"{MARK}-id"} | ({f"{MARK}-age"} if "/portal/" in asked else set())
            assert not marks(told, tuple(own)), asked
        else:
            assert not marks(told), (asked, answer.status_code)


def test_no_file_of_the_service_holds_a_sentinel(hospital: Hospital) -> None:
    """The logs of the process and of PostgreSQL, model files and artifacts: all under one home."""
    heap = hospital.site.settings.postgres_directory / "data" / "base"
    files = [f for f in hospital.site.settings.home.rglob("*") if f.is_file() and heap not in f.parents]
    files = [f for f in files if "pg_wal" not in f.parts]
    assert {"api.log", "log"} <= {f.name for f in files}
    for file in files:
        assert not marks(file.read_bytes().decode("latin-1")), file.name


def test_the_log_names_no_feature_and_only_routes_as_templates(hospital: Hospital) -> None:
    lines = (hospital.site.settings.home / "api.log").read_text().splitlines()
    told = [json.loads(line) for line in lines]

    assert len([t for t in told if t["event"] == "request"]) > 500
    assert not [name for name in READMISSION.feature_names if any(name in line for line in lines)]
    assert {t["route"] for t in told if "route" in t} <= {*templates(hospital), "unmatched"}


def templates(hospital: Hospital) -> set[str]:
    documented = create_app(hospital.site.settings).openapi()["paths"]
    portal = {p for p in PORTAL if MARK not in p} | {"/portal/{anything:path}", "/openapi.json"}
    # An id may hold a slash; the document writes such a parameter like any other.
    return {*documented, *portal, "/v1/mobility/forecast/{patient_id:path}"}


def test_the_measures_hold_no_sentinel_and_no_id(hospital: Hospital) -> None:
    text = httpx.get(f"http://127.0.0.1:{hospital.server.port}/metrics").text

    assert "medscore_http_requests_total" in text
    assert not marks(text)
    routes = set(re.findall(r'route="([^"]*)"', text))
    assert routes <= {*templates(hospital), "unmatched"}


def rows_with_marks(url: str) -> dict[str, list[str]]:
    """Per table the rows that hold a sentinel, as text."""
    found: dict[str, list[str]] = {}
    with psycopg.connect(url.replace("+psycopg2", "").replace("+psycopg", "")) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        for (table,) in tables:
            query = sql.SQL("SELECT t::text FROM {} t WHERE t::text ILIKE %s").format(sql.Identifier(table))
            if rows := connection.execute(query, [f"%{MARK}%"]).fetchall():
                found[table] = [row[0] for row in rows]
    return found


def test_databases_hold_only_names_and_only_where_scores_and_audit_are(hospital: Hospital) -> None:
    databases = hospital.site.settings.databases()
    warehouse = rows_with_marks(databases.warehouse)

    assert set(warehouse) == set(MAY_HOLD_NAMES)
    for row in warehouse["audit_events"]:
        # Whom the record system names as its user is who saw the score.
        assert not marks(row, (*NAMES, f"{MARK}-user"))
        assert not [name for name in READMISSION.feature_names if name in row]
    for row in warehouse["readmission_scores"]:
        assert not marks(row, (*NAMES, f"{MARK}-idempotency"))
    assert rows_with_marks(databases.mlflow) == {}
    assert rows_with_marks(databases.dagster) == {}
    assert verify(hospital.site.warehouse).intact


def test_a_statement_that_fails_is_not_in_the_log_of_the_database(hospital: Hospital) -> None:
    url = hospital.site.settings.databases().warehouse.replace("+psycopg", "")
    with psycopg.connect(url) as connection, pytest.raises(psycopg.DataError):
        connection.execute(f"SELECT '{MARK}-statement'::int")

    assert not marks((hospital.site.settings.postgres_directory / "data" / "log").read_text())


def test_control_what_the_document_does_would_be_found(tmp_path: Path) -> None:
    """Its 422 repeats what was sent, and a log line with the request's address and body holds it."""
    app = FastAPI()
    log, file = logging.getLogger("document"), logging.FileHandler(tmp_path / "document.log")
    log.addHandler(file)
    log.setLevel(logging.INFO)

    @app.post("/predict")
    async def predict(request: Request, asked: ReadmissionRequest) -> None:
        log.info("POST %s %s", request.url, asked)

    client = TestClient(app)
    refused = client.post("/predict", json={"insurance_type": f"{MARK}-payer"})
    taken = client.post(f"/predict?patient={MARK}-query", json=features())
    log.removeHandler(file)
    file.close()

    assert (refused.status_code, taken.status_code) == (422, 200)
    assert marks(refused.text) == {f"{MARK}-payer".lower()}
    told = (tmp_path / "document.log").read_text()
    assert marks(told) == {f"{MARK}-query".lower()}
    assert [name for name in READMISSION.feature_names if name in told]
