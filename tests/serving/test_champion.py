"""Following the registry: taken up, checked, swapped, rolled back, refused, remembered; never a gap."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.settings import Settings
from medscore_assets.tables.serving import readmission_scores, shadow_scores
from resources.errors import IntegrityError, TransientError
from resources.registry import CHALLENGER, CHAMPION, ModelRegistry
from resources.warehouse import Warehouse
from serving.app import create_app
from serving.champion import POINTER_FILE, TRUSTED_FOR, Champions, warm_up
from serving.errors import Unavailable
from tests.serving.conftest import features, running, wait_until

PREDICT = "/v1/readmission/predict"


@pytest.fixture
def champions(versions: ModelRegistry, tmp_path: Path) -> Champions:
    """Follows a registry of its own with three versions, whose champion is version 2; looks when told."""
    versions.set_alias(MODEL, 2, CHAMPION)
    return Champions(versions, tmp_path / "versions", shadow=True)


def test_before_the_first_look_there_is_no_model_and_it_says_so(champions: Champions) -> None:
    with pytest.raises(Unavailable):
        champions.current()
    assert champions.challenger() is None
    assert not champions.state().confirmed


def test_the_champion_is_taken_up_and_an_alias_that_moves_is_followed(
    champions: Champions, versions: ModelRegistry
) -> None:
    champions.look()
    assert champions.current().version == 2
    before = champions.current()

    champions.look()
    assert champions.current() is before

    versions.set_alias(MODEL, 3, CHAMPION)
    champions.look()
    assert champions.current().version == 3
    versions.set_alias(MODEL, 1, CHAMPION)
    champions.look()
    assert champions.current().version == 1
    assert champions.state().confirmed


def test_a_challenger_comes_and_goes_with_its_alias(champions: Champions, versions: ModelRegistry) -> None:
    champions.look()
    assert champions.challenger() is None

    versions.set_alias(MODEL, 3, CHALLENGER)
    champions.look()
    challenger = champions.challenger()
    assert challenger is not None
    assert challenger.version == 3

    versions.drop_alias(MODEL, CHALLENGER)
    champions.look()
    assert champions.challenger() is None


def test_a_registry_that_is_away_changes_nothing_but_what_is_said(
    champions: Champions, versions: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    champions.look()
    before = champions.current()

    def away(*_: Any) -> None:
        raise TransientError("the model registry cannot be reached", where="x", mend="y")

    with monkeypatch.context() as patch:
        patch.setattr(versions, "version_with", away)
        champions.look()
        assert champions.current() is before
        assert champions.state().registry == "the model registry cannot be reached"
    champions.look()
    assert champions.state().registry == "ok"


def test_an_alias_that_was_dropped_leaves_the_champion_in_place_and_is_said(
    champions: Champions, versions: ModelRegistry
) -> None:
    champions.look()
    versions.drop_alias(MODEL, CHAMPION)

    champions.look()

    assert champions.current().version == 2
    assert "champion" in champions.state().registry


@pytest.fixture
def foreign(model: ReadmissionModel, versions: ModelRegistry, tmp_path: Path) -> int:
    """A registered version that was trained under another contract."""
    folder = tmp_path / "foreign"
    model.save(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["contract_hash"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return versions.register(MODEL, folder)


def test_a_champion_under_another_contract_is_refused_once_and_the_old_one_goes_on(
    champions: Champions, versions: ModelRegistry, foreign: int, caplog: pytest.LogCaptureFixture
) -> None:
    champions.look()
    versions.set_alias(MODEL, foreign, CHAMPION)

    with caplog.at_level(logging.INFO):
        champions.look()
        champions.look()

    assert champions.current().version == 2
    refused = champions.state().refused
    assert refused is not None
    assert f"version {foreign}" in refused
    assert "contract" in refused
    assert len([r for r in caplog.records if r.msg == "model refused"]) == 1

    versions.set_alias(MODEL, 3, CHAMPION)
    champions.look()
    assert champions.current().version == 3
    assert champions.state().refused is None


def test_a_champion_whose_registered_file_was_changed_is_refused(
    champions: Champions, versions: ModelRegistry, model: ReadmissionModel, tmp_path: Path
) -> None:
    champions.look()
    folder = tmp_path / "tampered"
    model.save(folder)
    version = versions.register(MODEL, folder)
    artifacts = Path(versions._artifacts.removeprefix("file://"))
    newest = max(artifacts.rglob("model/model.ubj"), key=lambda file: file.stat().st_mtime_ns)
    original = newest.read_bytes()
    newest.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    try:
        versions.set_alias(MODEL, version, CHAMPION)
        champions.look()
    finally:
        newest.write_bytes(original)

    assert champions.current().version == 2
    assert "model.ubj" in str(champions.state().refused)


def test_a_model_whose_reasons_do_not_add_up_is_not_warmed_up(model: ReadmissionModel) -> None:
    from dataclasses import replace

    with pytest.raises(IntegrityError):
        warm_up(replace(model, baseline=model.baseline + 0.1))
    warm_up(model)


class TestRememberedChampion:
    """The start from the local cache."""

    @pytest.fixture
    def cache(self, champions: Champions, tmp_path: Path) -> Path:
        """A cache whose champion, version 2, the registry has just confirmed."""
        champions.look()
        return tmp_path / "versions"

    @staticmethod
    def restarted(cache: Path, after: timedelta = timedelta(0)) -> Champions:
        """Champions of a process that starts so much later; its registry has not answered yet."""
        registry = ModelRegistry("postgresql+psycopg://nowhere", artifacts="file:///nowhere", cache=cache)
        return Champions(registry, cache, now=lambda: datetime.now(UTC) + after)

    def test_it_serves_before_the_registry_has_answered_and_says_so(self, cache: Path) -> None:
        restarted = self.restarted(cache)
        restarted.take_cached()

        assert restarted.current().version == 2
        assert not restarted.state().confirmed

    def test_it_does_not_serve_if_the_registry_confirmed_it_long_ago_or_in_the_future(
        self, cache: Path
    ) -> None:
        for after in (TRUSTED_FOR + timedelta(seconds=5), timedelta(minutes=-5)):
            restarted = self.restarted(cache, after)
            restarted.take_cached()
            with pytest.raises(Unavailable):
                restarted.current()

    @pytest.mark.parametrize("name", ["model.ubj", "manifest.json"])
    def test_it_does_not_serve_with_a_changed_file(self, cache: Path, name: str) -> None:
        file = cache / MODEL / "2" / name
        file.write_bytes(file.read_bytes() + b" ")
        restarted = self.restarted(cache)
        restarted.take_cached()

        with pytest.raises(Unavailable):
            restarted.current()

    @pytest.mark.parametrize("pointer", ["", "{", "[]", "{}", '{"version": "x"}', "17"])
    def test_a_pointer_that_is_none_is_passed_over(self, cache: Path, pointer: str) -> None:
        (cache / MODEL / POINTER_FILE).write_text(pointer)
        restarted = self.restarted(cache)
        restarted.take_cached()

        with pytest.raises(Unavailable):
            restarted.current()

    def test_a_rollback_during_the_stop_is_followed_at_the_first_look(
        self, cache: Path, versions: ModelRegistry
    ) -> None:
        versions.set_alias(MODEL, 1, CHAMPION)
        restarted = Champions(versions, cache)
        restarted.take_cached()
        assert restarted.current().version == 2

        restarted.look()

        assert restarted.current().version == 1
        pointer = json.loads((cache / MODEL / POINTER_FILE).read_text())
        assert pointer["version"] == 1


@pytest.fixture
def following(settings: Settings, versions: ModelRegistry, tmp_path: Path) -> FastAPI:
    """An application of its own that follows `versions` with a shadow."""
    versions.set_alias(MODEL, 2, CHAMPION)
    champions = Champions(versions, tmp_path / "versions", shadow=True)
    return create_app(
        settings.model_copy(update={"api_rate": 1_000_000}), registry=versions, champions=champions
    )


@pytest.mark.slow
def test_promotion_and_rollback_take_effect_within_five_seconds_and_no_request_is_dropped(
    following: FastAPI, versions: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[tuple[int, str]] = []
    champions: Champions = following.state.service.champions
    looks: list[tuple[float, int]] = []
    look_at_registry = champions.look

    def look() -> None:
        began = time.monotonic()
        look_at_registry()
        looks.append((began, champions.current().version))

    monkeypatch.setattr(champions, "look", look)
    assert champions._poll_seconds < 5
    stop = threading.Event()

    def ask(base_url: httpx.URL) -> None:
        with httpx.Client(base_url=base_url) as client:
            while not stop.is_set():
                response = client.post(PREDICT, json=features())
                answers.append((response.status_code, response.json().get("model_version", "")))

    with running(following) as client:
        asking = threading.Thread(target=ask, args=(client.base_url,))
        asking.start()
        try:
            for version in (3, 1):
                versions.set_alias(MODEL, version, CHAMPION)
                moved = time.monotonic()
                wait_until(lambda wanted=version: answers and answers[-1][1] == str(wanted))
                # The first look takes it up; when that comes is up to the machine too.
                after = wait_until(lambda since=moved: [found for began, found in looks if began > since])
                assert after[0] == version
        finally:
            stop.set()
            asking.join()

    assert {status for status, _ in answers} == {200}
    told = [version for _, version in answers]
    assert sorted(set(told), key=told.index) == ["2", "3", "1"]


def test_the_challenger_scores_in_the_shadow_and_its_failure_harms_no_answer(
    following: FastAPI, versions: ModelRegistry, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions.set_alias(MODEL, 3, CHALLENGER)
    champions = following.state.service.champions
    with running(following) as client:
        wait_until(champions.challenger)
        answer = client.post(PREDICT, json=features()).json()
        shadows = warehouse.read(sa.select(shadow_scores)).to_pylist()

        def fail(*_: Any) -> None:
            raise RuntimeError

        monkeypatch.setattr(
            champions, "challenger", lambda: type("Broken", (), {"version": 3, "model": fail})()
        )
        second = client.post(PREDICT, json=features())
        measures = client.get("/metrics").text

    (shadow,) = shadows
    assert (shadow["score_id"], shadow["model_version"]) == (answer["score_id"], 3)
    assert shadow["readmission_probability"] == answer["readmission_probability"]
    assert answer["model_version"] == "2"
    assert second.status_code == 200
    assert len(warehouse.read(sa.select(readmission_scores))) == 2
    assert "medscore_shadow_failures_total 1.0" in measures
