"""Refusals: one form, the right status, never a value, never the text of an exception."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from pydantic import BaseModel

from medscore_assets.settings import Settings
from medscore_assets.tables.serving import audit_events
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving.app import create_app
from serving.errors import problems_of
from tests.serving.conftest import features, running

PREDICT = "/v1/readmission/predict"
SENTINEL = "SENTINEL-9be2"


def test_a_path_that_is_not_there_is_a_404_without_it(api: httpx.Client) -> None:
    response = api.get(f"/v1/{SENTINEL}")

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
    assert SENTINEL not in response.text


def test_another_method_is_a_405_that_names_the_right_one(api: httpx.Client) -> None:
    response = api.get(PREDICT)

    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["error"]["code"] == "method_not_allowed"


def test_a_query_that_is_not_valid_is_refused_without_an_echo(api: httpx.Client) -> None:
    response = api.post(PREDICT, json=features(), params={"explain": SENTINEL})

    assert response.status_code == 422
    assert response.json()["error"]["problems"][0]["location"] == "query.explain"
    assert SENTINEL not in response.text


@pytest.mark.parametrize("key", ["", "x" * 201, "two words"])
def test_a_key_that_cannot_be_one_is_refused(api: httpx.Client, key: str) -> None:
    assert api.post(PREDICT, json=features(), headers={"Idempotency-Key": key}).status_code == 422


def test_every_answer_has_the_requests_id_and_a_made_up_one_if_it_is_no_uuid(api: httpx.Client) -> None:
    given = str(uuid.uuid4())

    assert api.get("/v2", headers={"X-Request-Id": given}).headers["x-request-id"] == given
    made = api.get("/v2", headers={"X-Request-Id": SENTINEL}).headers["x-request-id"]
    assert uuid.UUID(made)
    assert api.post(PREDICT, content=b"x" * 100_000).headers["x-request-id"]


@pytest.fixture
def broken(api_settings: Settings, api_registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """An application in which scoring fails with an error that quotes a value."""
    app = create_app(api_settings, registry=api_registry)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"cannot score {SENTINEL}")

    monkeypatch.setattr("serving.gathering.score_each", fail)
    return app


def test_what_nobody_expected_is_a_500_that_is_audited_and_tells_nothing(
    broken: FastAPI, api_warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    request_id = str(uuid.uuid4())
    with running(broken) as client:
        response = client.post(PREDICT, json=features(), headers={"X-Request-Id": request_id})

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert SENTINEL not in response.text
    assert SENTINEL not in caplog.text
    events = api_warehouse.read(sa.select(audit_events).where(audit_events.c.event.contains(request_id)))
    assert len(events) == 1
    (logged,) = [r for r in caplog.records if r.msg == "request failed"]
    assert logged.__dict__["reason"] == "RuntimeError"


def test_without_an_audit_there_is_no_answer_but_a_503(
    api: httpx.Client, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.journal import JournalUnavailable

    class Gone:
        async def record(self, *_: Any, **__: Any) -> None:
            raise JournalUnavailable()

    monkeypatch.setattr(app.state.service, "journal", Gone())

    for response in (
        api.post(PREDICT, json=features()),
        api.post(PREDICT, json=features(patient_age=500)),
        api.get(f"/v1/readmission/scores/{uuid.uuid4()}"),
        api.post(PREDICT, content=b"x" * 100_000, headers={"Content-Type": "application/json"}),
    ):
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert "readmission_probability" not in response.text


def test_no_validation_error_of_pydantic_repeats_what_was_sent() -> None:
    class Everything(BaseModel):
        number: int
        flag: bool
        ident: uuid.UUID

    from pydantic import ValidationError

    with pytest.raises(ValidationError) as refused:
        Everything.model_validate_json(
            f'{{"number": "{SENTINEL}", "flag": "{SENTINEL}", "ident": "{SENTINEL}"}}'
        )
    problems = problems_of(refused.value.errors())

    assert [p.location for p in problems] == ["number", "flag", "ident"]
    assert not any("SENTINEL" in str(p) or "`" in p.message for p in problems)


def test_every_route_documents_its_refusals_in_our_form(app: FastAPI) -> None:
    document = app.openapi()
    schemas = document["components"]["schemas"]

    assert "HTTPValidationError" not in schemas
    ours = {p: o for p, o in document["paths"].items() if p.startswith(("/v1/readmission", "/v2", "/health"))}
    assert len(ours) > 10
    for path, operations in ours.items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])
            assert {"405", "500"} <= statuses, path
            if method == "post":
                assert {"400", "401", "403", "408", "413", "415", "422", "429", "503"} <= statuses, path
                body = operation["requestBody"]["content"]["application/json"]
                assert body["examples"]
                assert body["schema"]["$ref"].rsplit("/", 1)[1] in schemas
    text = str(document)
    for reference in {part.split("'")[0] for part in text.split("'#/components/schemas/")[1:]}:
        assert reference in schemas


def test_a_route_that_asks_for_a_role_says_which(app: FastAPI) -> None:
    documented = {
        (path, method): operation
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    }
    asking = {key for key, operation in documented.items() if "403" in operation["responses"]}
    stating = {key: operation["x-roles"] for key, operation in documented.items() if "x-roles" in operation}

    # Shown waits are anybody's by a setting, so that these two ask by themselves.
    assert asking - stating.keys() == {("/wait_time", "get"), ("/wait_time/feed/{facility}", "get")}
    assert stating["/v1/outreach/latest", "get"] == ["care-manager"]
    assert stating["/v1/population/quarters", "get"] == ["analyst", "steward"]
