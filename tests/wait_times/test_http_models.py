"""Models behind HTTP: real servers that answer well, badly, late and not at all."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medscore_assets.settings import PROJECT_ROOT
from medscore_assets.wait_times.http import Breaker, HttpEntry, breakers_of, http_models, prepare
from medscore_assets.wait_times.http.client import RefusedAnswer, TooSlow, Unreachable
from medscore_assets.wait_times.prediction import Status
from medscore_assets.wait_times.running import run_models
from resources.errors import PermanentError
from tests.infrastructure.tls import self_made_certificate
from tests.wait_times.http_servers import (
    AS_OF,
    METADATA,
    NOW,
    TOKEN,
    drip,
    drip_headers,
    good,
    hang,
    hang_up,
    model_at,
    native,
    node_example,
    predicting,
    saying,
    served,
    snapshot,
    statuses,
    ten_megabytes,
)

BOTH = (good("a"), good("b"))


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    with node_example(TOKEN=TOKEN) as url:
        yield url


def test_the_example_in_another_language_predicts(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_MODEL_TOKEN", TOKEN)
    (run,) = run_models([model_at(node, name="node_queue", token_env="NODE_MODEL_TOKEN")], snapshot(), {})
    assert (run.name, run.version, run.error) == ("node_queue", "1.0.0", None)
    found = run.predictions
    # Two wait and one comes, four were seen in two hours, who had waited 100, 100, 60 and 50 minutes.
    assert found.p50[0, 0] == pytest.approx(60 * (3 * 120 / 4 + 77.5) / 2)
    assert found.p80[0, 0] == pytest.approx(100 * 60)
    assert Status(found.status[1, 0]) is Status.NO_DATA


def test_a_wrong_token_is_refused_and_shown_nowhere(
    node: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NODE_MODEL_TOKEN", "wrong-" + TOKEN)
    model = model_at(node, name="node_queue", token_env="NODE_MODEL_TOKEN")
    with caplog.at_level(logging.DEBUG), pytest.raises(RefusedAnswer, match="401") as refusal:
        model.predict_all(snapshot(), {})
    assert TOKEN not in caplog.text + repr(refusal.value) + repr(vars(model)) + repr(model.parameters())


def test_only_a_server_that_somebody_vouches_for_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_TOKEN", TOKEN)
    certificate = self_made_certificate(tmp_path, "localhost")
    with served(native(predicting(*BOTH)), certificate=certificate) as script:
        with pytest.raises(Unreachable):
            model_at(script.url, token_env="FAR_TOKEN").predict_all(snapshot(), {})
        assert script.requests == []
        model = model_at(script.url, token_env="FAR_TOKEN", ca_file=str(certificate))
        assert model.predict_all(snapshot(), {}).has_value().all()
    assert {request.headers["Authorization"] for request in script.requests} == {f"Bearer {TOKEN}"}


def test_only_what_is_asked_for_is_sent_and_nothing_identifies_a_patient() -> None:
    metadata = {**METADATA, "columns": ["ended_at", "wait_seconds", "since"], "max_history_hours": 48}
    with served(native(predicting(*BOTH), saying(metadata))) as script:
        model_at(script.url).predict_all(snapshot(), {})
        model_at(script.url, hours=96).predict_all(snapshot(), {})
        script.answers["GET /metadata"] = saying(METADATA)
        model_at(script.url, bands=["all_posted", "ctas_2"]).predict_all(snapshot(), {})
    short, long, full = (request.asked() for request in script.requests if request.command == "POST")
    assert set(short) == {"as_of", "request_id", "bands", "facilities"}
    assert short["as_of"] == NOW
    assert short["bands"] == ["all_posted"]
    assert short["facilities"] == [
        {
            "facility_id": "a",
            "waits": [
                {"ended_at": "2026-03-02T13:20:00Z", "wait_seconds": 6000},
                {"ended_at": "2026-03-02T14:10:00Z", "wait_seconds": 6000},
                {"ended_at": "2026-03-02T14:30:00Z", "wait_seconds": 3600},
                {"ended_at": "2026-03-02T14:50:00Z", "wait_seconds": 3000},
            ],
            "waiting": [{"since": "2026-03-02T14:15:00Z"}, {"since": "2026-03-02T14:45:00Z"}],
        },
        {"facility_id": "b", "waits": [], "waiting": [{"since": "2026-03-02T14:55:00Z"}]},
    ]
    assert len(long["facilities"][0]["waits"]) == 5
    assert [wait["ctas"] for wait in full["facilities"][0]["waits"]] == [3, 4, 5, 2, None]
    assert [each["ctas"] for each in full["facilities"][0]["waiting"]] == [3, 2, None]
    assert "visit-" not in json.dumps([short, long, full])


BAD_ANSWERS = {
    "a redirect": (saying({}, status=302, headers={"Location": "/elsewhere"}), RefusedAnswer, "a redirect"),
    "10 MB": (ten_megabytes, RefusedAnswer, "longer than 1000000 bytes"),
    "no JSON": (lambda handler: handler.send_bytes(b"{'a': 1}"), RefusedAnswer, "not valid JSON"),
    "deep": (lambda handler: handler.send_bytes(b"[" * 100_000), RefusedAnswer, "not valid JSON"),
    "a list": (saying([1]), RefusedAnswer, "not of the form"),
    "compressed": (saying({}, headers={"Content-Encoding": "gzip"}), RefusedAnswer, "compressed"),
    "no version": (
        saying({"model": {"name": "far"}, "as_of": NOW, "predictions": []}),
        RefusedAnswer,
        r"model\.version: missing",
    ),
    "no number": (predicting(*BOTH, version="latest"), RefusedAnswer, "version is not made of numbers"),
    "another name": (predicting(*BOTH, name="near"), RefusedAnswer, "another model answers"),
    "another moment": (predicting(*BOTH, as_of="2026-03-02T14:45:00Z"), RefusedAnswer, "another moment"),
    "another facility": (predicting(good("a"), good("c")), RefusedAnswer, "not asked for"),
    "another band": (predicting(good("a", band="ctas_2")), RefusedAnswer, "not asked for"),
    "twice": (predicting(good("a"), good("a")), RefusedAnswer, "twice"),
    "a made-up field": (predicting(*BOTH, john_smith=1), RefusedAnswer, "a field that there is not"),
    "500": (saying({}, status=500), Unreachable, "answered 500"),
    "hung up": (hang_up, Unreachable, "cannot be asked"),
}


def test_an_answer_that_cannot_be_trusted_is_refused_as_a_whole() -> None:
    with served(native(hang)) as script:
        for case, (answer, kind, words) in BAD_ANSWERS.items():
            script.answers["POST /predict"] = answer
            with pytest.raises(kind, match=words) as refusal:
                model_at(script.url).predict_all(snapshot(), {})
            assert "john" not in str(refusal.value), case
            assert script.url not in str(refusal.value), case
    # Once each, the one that hung up included: what was sent may have been heard.
    assert script.paths() == ["GET /metadata", "POST /predict"] * len(BAD_ANSWERS)


@pytest.mark.parametrize("slow", [hang, drip, drip_headers])
def test_the_deadline_holds_over_the_whole_exchange(slow: Any) -> None:
    with served(native(slow)) as script, pytest.raises(TooSlow, match=r"within 0\.4 s"):
        model_at(script.url, time_limit_seconds=0.4).predict_all(snapshot(), {})


def test_a_wrong_value_costs_its_own_facility_only() -> None:
    rows = {
        "NaN": good("a", float("nan")),
        "milliseconds": good("a", 3_600_000),
        "negative": good("a", -1),
        "text": good("a", "3600"),
        "true": good("a", True),
        "endless": good("a", 10**400),
        "a wrong quantile": good("a", quantiles={"0.8": 3_600_000}),
        "a quantile of no level": good("a", quantiles={"80": 4000}),
        "no seconds": {"facility_id": "a", "status": "ok"},
        "another unit": {"facility_id": "a", "status": "ok", "wait_minutes": 60},
        "another status": {"facility_id": "a", "status": "great", "wait_seconds": 60},
    }
    with served(native(hang)) as script:
        for case, row in rows.items():
            script.answers["POST /predict"] = predicting(row, good("b"))
            assert statuses(script) == ["invalid", "ok"], case
        script.answers["POST /predict"] = predicting(good("b"))
        assert statuses(script) == ["error", "ok"]
        script.answers["POST /predict"] = predicting(
            {"facility_id": "a", "status": "error", "message": "John Smith, 80"},
            good("b", quantiles={"0.80": 7200}, status="fallback"),
        )
        (run,) = run_models([model_at(script.url)], snapshot(), {})
    assert [Status(s).code for s in run.predictions.status[:, 0]] == ["error", "fallback"]
    assert run.predictions.p80[1, 0] == 7200
    assert "John" not in repr(run)


def test_the_answer_is_filed_under_the_version_that_made_it() -> None:
    with served(native(predicting(*BOTH, version="1.5.0"))) as script:
        model = model_at(script.url)
        prepare([model], {"far": "1.4.0"}, {})
        (changed,) = run_models([model], snapshot(), {})
        (replaced_meanwhile,) = run_models([model], snapshot(), {})
        script.answers["GET /metadata"] = saying({**METADATA, "version": "1.5"})
        (same,) = run_models([model], snapshot(), {})
        script.answers["POST /predict"] = saying({}, status=500)
        (failed,) = run_models([model], snapshot(), {})
    assert (changed.version, changed.version_changed) == ("1.5.0", True)
    assert (replaced_meanwhile.version, replaced_meanwhile.version_changed) == ("1.5.0", True)
    assert (same.version, same.version_changed) == ("1.5.0", False)
    assert (failed.version, failed.error is None) == ("1.5.0", False)
    assert {changed.fingerprint, same.fingerprint} == {model.fingerprint()}


def test_a_refused_connection_is_tried_once_more_and_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from medscore_assets.wait_times.http import client

    with served({}) as gone:
        port = int(gone.url.rpartition(":")[2])
    started: list[Any] = []

    async def start(_: float) -> None:
        started.append(served(native(predicting(*BOTH)), port))
        started.append(started[0].__enter__())

    # Of this module alone: servers of other tests run in this process.
    monkeypatch.setattr(client, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": start}))
    try:
        assert model_at(gone.url).predict_all(snapshot(), {}).has_value().all()
    finally:
        started[0].__exit__(None, None, None)
    first, second = started[1].requests
    assert (first.command, second.command) == ("GET", "POST")
    assert second.headers["X-Request-ID"] == second.asked()["request_id"]


def test_a_server_that_keeps_failing_is_left_alone_for_a_while() -> None:
    def tick(number: int) -> str:
        # Every tick has a process of its own: only the states are kept.
        model = model_at(script.url)
        prepare([model], {"far": "1.4.0"}, kept)
        at = AS_OF + timedelta(minutes=5 * number)
        script.answers["POST /predict"] = (
            saying({}, status=503) if number < 7 else predicting(*BOTH, as_of=at.isoformat())
        )
        asked = len(script.requests)
        (run,) = run_models([model], snapshot(at), {})
        kept.update(breakers_of([model]))
        if len(script.requests) == asked:
            assert run.error is not None
            assert "not asked after" in run.error
            return "left alone"
        return "failed" if run.error else "answered"

    kept: dict[str, Breaker] = {}
    with served(native(hang)) as script:
        story = [tick(number) for number in range(14)]
    # Three failures, 15 minutes, a trial, 30 minutes, a trial that succeeds, and all is as before.
    assert story == [
        *["failed"] * 3,
        *["left alone"] * 2,
        "failed",
        *["left alone"] * 5,
        *["answered"] * 3,
    ]
    assert list(kept.values()) == [Breaker()]


def test_models_that_hang_or_are_dead_do_not_delay_the_others(
    node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_MODEL_TOKEN", TOKEN)
    with served({}) as gone:
        dead = gone.url
    with served({"GET /metadata": hang}) as script:
        slow = [model_at(script.url, name=f"slow_{n}", time_limit_seconds=2.0) for n in range(4)]
        others = [
            model_at(dead, name="dead"),
            model_at(node, name="node_queue", token_env="NODE_MODEL_TOKEN"),
        ]
        # One after the other would take eight seconds.
        runs = run_models([*slow, *others], snapshot(), {}, budget=timedelta(seconds=6))
    found = {run.name: Status(run.predictions.status[0, 0]).code for run in runs}
    assert found == {**{f"slow_{n}": "timeout" for n in range(4)}, "dead": "error", "node_queue": "ok"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"url": "https://user:secret@host/"}, "must not hold a user"),
        ({"url": "http://127.0.0.1:1", "allow_http": False}, "must be https"),
        ({"url": "http://10.0.0.5:1"}, "to this machine"),
        ({"url": "https://host/?token=secret"}, "no query"),
        ({"url": "ftp://host/"}, "must be https"),
        ({"url": "https://host:port/"}, "no address"),
        ({"time_limit": 5}, "time_limit: Extra"),
        ({"time_limit_seconds": 3600.0}, "less than or equal to 20"),
        ({"adapter": "mlflow"}, "version: an MLflow server"),
        ({"version": "1.0.0"}, "only for the adapter mlflow"),
        ({"bands": ["ctas_1"]}, "there is no band"),
        ({"token_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE holds no token"),
        ({"ca_file": "/no/file"}, "ca_file is no file"),
    ],
)
def test_an_entry_that_is_wrong_or_unsafe_is_refused_without_its_values(
    entry: dict[str, Any], words: str
) -> None:
    with pytest.raises(PermanentError, match=words) as refusal:
        http_models([{"name": "far", "url": "https://host/", "allow_http": True, **entry}])
    assert "secret" not in str(refusal.value)


def test_the_guide_shows_what_is_really_sent_and_taken() -> None:
    guide = (PROJECT_ROOT / "docs" / "how-to" / "wait-model-in-another-language.md").read_text()
    table, metadata, request, answer = re.findall(r"```\n(.*?)```", guide, flags=re.DOTALL)
    entry = tomllib.loads(table)["http"][0]
    assert set(entry) <= set(HttpEntry.model_fields)
    with served(native(saying(json.loads(answer)), saying(json.loads(metadata)))) as script:
        del entry["token_env"], entry["ca_file"]
        model = model_at(**{**entry, "url": script.url})
        found = model.predict_all(snapshot(facilities=("lhsc",)), {})
    assert (found.p50.item(), found.p80.item(), found.stamp) == (5400, 9000, ("node_queue", "1.0.0"))
    sent, shown = script.requests[1].asked(), json.loads(request)
    assert set(sent) == set(shown)
    assert set(sent["facilities"][0]) == set(shown["facilities"][0])


def test_a_server_is_asked_about_the_present_only() -> None:
    model = model_at("http://127.0.0.1:1")
    assert not model.replayable
    with pytest.raises(PermanentError, match="one moment at a time"):
        model.predict_all(snapshot(facilities=("a", "a")), {})
