"""What a request may cost before anybody reads it."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Iterator

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from medscore_assets.settings import Settings
from medscore_assets.tables.serving import audit_events
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from serving import limits
from serving.app import create_app
from serving.errors import BadRequest
from serving.limits import MAX_BODY, MAX_DEPTH, MOST_CLIENTS, Rates, check_depth
from tests.serving.conftest import features, running

PREDICT = "/v1/readmission/predict"
INFER = "/v2/models/readmission/infer"
JSON = {"Content-Type": "application/json"}


def test_a_body_over_the_limit_is_a_413_whether_its_length_is_stated_or_not(api: httpx.Client) -> None:
    large = b'{"patient_age": "' + b"x" * MAX_BODY + b'"}'

    def in_pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 4096):
            yield large[start : start + 4096]

    assert api.post(PREDICT, content=large, headers=JSON).status_code == 413
    assert api.post(PREDICT, content=in_pieces(), headers=JSON).status_code == 413


def test_a_body_in_pieces_under_the_limit_is_taken(api: httpx.Client) -> None:
    body = json.dumps(features()).encode()

    assert api.post(PREDICT, content=iter([body[:50], body[50:]]), headers=JSON).status_code == 200


def test_a_batch_may_be_larger(api: httpx.Client) -> None:
    body = b'{"inputs": [' + b" " * MAX_BODY + b"]}"

    assert api.post(INFER, content=body, headers=JSON).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_what_is_not_plain_json_by_its_header_is_a_415(api: httpx.Client, headers: dict[str, str]) -> None:
    assert api.post(PREDICT, content=json.dumps(features()), headers=headers).status_code == 415


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=UTF-8"])
def test_json_by_its_header_is_taken(api: httpx.Client, kind: str) -> None:
    body = json.dumps(features())

    assert api.post(PREDICT, content=body, headers={"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize(("path", "count"), [(PREDICT, 20_000), (INFER, 200_000)])
def test_deep_nesting_is_refused_before_it_is_parsed(api: httpx.Client, path: str, count: int) -> None:
    response = api.post(path, content=b"[" * count, headers=JSON)

    assert response.status_code == 400
    assert "nested too deeply" in response.text


def test_depth_counts_brackets_outside_of_texts_only() -> None:
    check_depth(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    check_depth(b"[" + b"[],{}," * 1000 + b"1]")
    check_depth(b'{"a": "' + b"[" * 1000 + b'\\"' + b"{" * 1000 + b'"}')
    for body in (
        b"[" * (MAX_DEPTH + 1),
        b'["]]]]]",' * (MAX_DEPTH + 1),
        b'{"a\\\\":' * (MAX_DEPTH + 1),
    ):
        with pytest.raises(BadRequest):
            check_depth(body)


@pytest.mark.parametrize("piece", [b'\\"', b'"', b'"\\', b"{}", b'"[', b"\\"])
def test_no_body_makes_the_depth_check_slow(piece: bytes) -> None:
    body = b"[" * 20 + b"{" * 20 + b'"' + piece * (500_000 // len(piece))
    started = time.thread_time()

    with contextlib.suppress(BadRequest):
        check_depth(b"]" * 20 + body)

    assert time.thread_time() - started < 2


def test_a_client_that_is_too_fast_waits_for_its_next_token() -> None:
    rates = Rates(60)  # one a second, ten at once

    assert [rates.wait("a", 0.0) for _ in range(10)] == [0.0] * 10
    assert rates.wait("a", 0.0) == pytest.approx(1.0)
    assert rates.wait("b", 0.0) == 0.0
    assert rates.wait("a", 0.5) == pytest.approx(0.5)
    assert rates.wait("a", 1.5) == 0.0


def test_the_buckets_do_not_grow_without_end() -> None:
    rates = Rates(60)
    for number in range(MOST_CLIENTS + 500):
        rates.wait(str(number), 0.0)

    assert len(rates._buckets) == MOST_CLIENTS


@pytest.fixture
def slow_lane(api_settings: Settings, api_registry: ModelRegistry) -> FastAPI:
    """An application that takes six requests a minute: one at once."""
    return create_app(api_settings.model_copy(update={"api_rate": 6}), registry=api_registry)


def test_too_many_requests_are_a_429_that_says_when_to_come_again_and_are_audited(
    slow_lane: FastAPI, api_warehouse: Warehouse
) -> None:
    request_id = str(uuid.uuid4())
    with running(slow_lane) as client:
        first = client.post(PREDICT, json=features())
        second = client.post(PREDICT, json=features(), headers={"X-Request-Id": request_id})
        probes = {client.get(path).status_code for path in ("/health/live", "/health/ready", "/metrics") * 3}

    assert first.status_code == 200
    assert second.status_code == 429
    assert 1 <= int(second.headers["retry-after"]) <= 11
    events = api_warehouse.read(sa.select(audit_events).where(audit_events.c.event.contains(request_id)))
    assert len(events) == 1
    assert probes == {200}


def test_a_body_that_does_not_come_is_given_up(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    address = (api.base_url.host, api.base_url.port)
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    )
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(head.encode() + b"{")
        answer = connection.recv(65536)

    assert b" 408 " in answer.split(b"\r\n")[0]
