"""The probes and the measures: what is said, and when it is said that the service cannot score."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from medscore_assets.readmission.policy import DEFAULT_FILE, DISCLAIMER
from medscore_assets.readmission.scoring import MODEL
from medscore_assets.settings import Settings
from resources.errors import PermanentError
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse
from serving.app import create_app
from serving.champion import Champions
from serving.logs import JsonLines
from serving.policy_file import PolicyFile
from serving.run import run
from tests.conftest import PROJECT_ROOT, address_of
from tests.serving.conftest import features, running, wait_until
from tests.serving.journal_site import held_chain

PREDICT = "/v1/readmission/predict"
NAMES = {
    "database", "audit", "champion", "contract hash", "file hash", "warm-up", "registry", "policy", "access"
}  # fmt: skip
SENTINEL = "SENTINEL-2d77"


def checks(response: httpx.Response) -> dict[str, str]:
    return {check["name"]: check["status"] for check in response.json()["checks"]}


def test_a_sound_service_lives_and_is_ready_and_names_what_that_rests_on(api: httpx.Client) -> None:
    assert api.get("/health/live").json() == {"status": "live"}
    ready = api.get("/health/ready")

    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert checks(ready) == dict.fromkeys(NAMES, "ok")
    assert ready.json()["disclaimer"] == DISCLAIMER
    (access,) = [c for c in ready.json()["checks"] if c["name"] == "access"]
    assert "open on loopback" in access["found"]


def test_without_a_champion_it_lives_but_is_not_ready_and_refuses_scores(
    settings: Settings, empty_registry: ModelRegistry
) -> None:
    with running(create_app(settings, registry=empty_registry), ready=False) as client:
        live = client.get("/health/live")
        ready = wait_until(lambda: (r := client.get("/health/ready")) and "alias" in r.text and r)
        protocol = client.get("/v2/health/ready")
        refused = client.post(PREDICT, json=features())

    assert live.status_code == 200
    assert ready.status_code == 503
    assert ready.json()["status"] == "not ready"
    assert checks(ready)["champion"] == "failed"
    assert checks(ready)["database"] == "ok"
    assert (protocol.status_code, protocol.json()) == (503, {"ready": False})
    assert refused.status_code == 503
    assert refused.headers["retry-after"]


def test_without_a_database_it_lives_but_is_not_ready(
    api_settings: Settings, api_registry: ModelRegistry, postgres: str
) -> None:
    gone = api_settings.model_copy(
        update={"database_url": Settings(database_url=address_of(postgres, "gone")).database_url}
    )
    with running(create_app(gone, registry=api_registry)) as client:
        ready = client.get("/health/ready")
        refused = client.post(PREDICT, json=features())

    assert ready.status_code == 503
    assert checks(ready)["database"] == "failed"
    assert refused.status_code == 503


def test_where_answers_cannot_be_audited_it_is_not_ready_until_they_can(
    api: httpx.Client, api_warehouse: Warehouse
) -> None:
    with held_chain(api_warehouse):
        refused = api.post(PREDICT, json=features())
        ready = api.get("/health/ready")

    assert refused.status_code == 503
    assert (ready.status_code, checks(ready)["database"], checks(ready)["audit"]) == (503, "ok", "failed")
    wait_until(lambda: api.post(PREDICT, json=features()).status_code == 200)
    assert checks(api.get("/health/ready"))["audit"] == "ok"


def test_a_refused_champion_is_said_while_the_old_one_goes_on(
    api: httpx.Client, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    champions: Champions = app.state.service.champions
    monkeypatch.setattr(
        champions, "state", lambda: champions._state.__class__(1, True, "ok", "version 2: bad")
    )

    ready = api.get("/health/ready")

    assert ready.status_code == 200
    assert ready.json()["status"] == "degraded"
    assert "the new champion was refused: version 2: bad" in ready.text


def test_measures_are_by_template_and_status_and_hold_no_id(api: httpx.Client) -> None:
    api.post(PREDICT, json=features(encounter_id=SENTINEL, patient_id=SENTINEL))
    api.get(f"/v1/readmission/scores/{uuid.uuid4()}")
    api.get(f"/v1/{SENTINEL}")

    measures = api.get("/metrics")

    assert measures.headers["content-type"].startswith("text/plain")
    text = measures.text
    assert 'medscore_http_requests_total{method="POST",route="/v1/readmission/predict",status="200"}' in text
    assert 'route="/v1/readmission/scores/{score_id}",status="404"' in text
    assert 'route="unmatched",status="404"' in text
    assert 'medscore_model_version{alias="champion"} 1.0' in text
    assert 'medscore_scores_total{source="api",tier=' in text
    assert SENTINEL not in text


def test_a_changed_policy_file_is_in_force_in_seconds_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    original = DEFAULT_FILE.read_text()
    file.write_text(original)
    policy = PolicyFile(file)
    first = policy()

    file.write_text(original.replace('version = "2026.1"', 'version = "2026.2"'))
    wait_until(lambda: policy().version == "2026.2")
    for wrong in (b"version = 17", original.replace("2026.1", "März").encode("latin-1")):
        file.write_bytes(wrong)
        wait_until(lambda: policy() and policy.refused)
        policy.refused = None

    assert first.version == "2026.1"
    assert policy().version == "2026.2"
    file.write_text(original)
    wait_until(lambda: policy().version == "2026.1")
    assert policy.refused is None


def test_a_log_line_holds_only_what_is_on_the_list() -> None:
    own = logging.LogRecord("medscore.serving", logging.INFO, "", 0, "request", (), None)
    own.__dict__.update(route="/v1/x", status=200, body=SENTINEL, path=SENTINEL)
    foreign = logging.LogRecord("somebody", logging.ERROR, "", 0, f"failed for {SENTINEL}", (), None)
    try:
        raise ValueError(SENTINEL)
    except ValueError:
        raised = logging.LogRecord(
            "uvicorn.error", logging.ERROR, "", 0, "oh %s", (SENTINEL,), sys.exc_info()
        )

    lines = [json.loads(JsonLines().format(record)) for record in (own, foreign, raised)]

    assert set(lines[0]) == {"time", "level", "event", "route", "status"}
    assert lines[1]["event"] == "somebody reports"
    assert lines[2]["reason"] == "ValueError"
    assert SENTINEL not in json.dumps(lines)


def test_each_request_is_logged_by_its_template(api: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "medscore.serving"):
        api.get(f"/v1/readmission/scores/{uuid.uuid4()}")
    (record,) = wait_until(lambda: [r for r in caplog.records if r.msg == "request"])

    line = json.loads(JsonLines().format(record))
    assert set(line) == {
        "time", "level", "event", "route", "method", "status", "duration_ms", "request_id", "client",
    }  # fmt: skip
    assert line["route"] == "/v1/readmission/scores/{score_id}"
    assert line["client"] == "local"


def test_it_refuses_to_serve_openly_on_another_address(settings: Settings) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org"):
        with pytest.raises(PermanentError, match="MEDSCORE_ACCESS_FILE"):
            run(settings.model_copy(update={"api_host": host}))


@pytest.fixture
def process(
    settings: Settings, versions: ModelRegistry, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The API as a process of its own, and its address."""
    versions.set_alias(MODEL, 1, CHAMPION)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = settings.database_url
    assert url is not None
    environment = {
        **os.environ,
        "MEDSCORE_HOME": str(tmp_path),
        "MEDSCORE_DATABASE_URL": url.get_secret_value(),
        "MEDSCORE_MLFLOW_DATABASE_URL": str(versions._tracking_uri),
        "MEDSCORE_API_PORT": str(port),
    }
    command = [sys.executable, "-c", "from medscore_assets.cli.serve import serve; serve()"]
    serving = subprocess.Popen(
        command,
        env=environment,
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # Whatever the tests before this one, or their shell, do with the signal.
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    )
    yield serving, f"http://127.0.0.1:{port}"
    serving.kill()
    serving.communicate()


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_the_process_says_what_it_does_takes_only_its_own_name_and_drains_when_asked_to_stop(
    process: tuple[subprocess.Popen[str], str],
) -> None:
    serving, address = process
    wait_until(lambda: is_ready(address), seconds=240)
    assert httpx.post(f"{address}{PREDICT}", json=features()).status_code == 200
    rebound = httpx.get(f"{address}/v2", headers={"Host": "evil.example"})
    body = json.dumps(features()).encode()

    def slowly() -> Iterator[bytes]:
        yield body[:20]
        serving.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        yield body[20:]

    drained = httpx.post(
        f"{address}{PREDICT}", content=slowly(), headers={"Content-Type": "application/json"}
    )
    output, _ = serving.communicate(timeout=300)

    assert rebound.status_code == 400
    assert drained.status_code == 200
    # uvicorn stops cleanly and then dies of the signal that it was sent.
    assert serving.returncode == -signal.SIGTERM
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    assert any(
        f"MedScore API on {address}" in line["event"] and "loopback" in line["event"] for line in lines
    )
    assert not [line for line in lines if line["level"] in ("error", "critical")]
