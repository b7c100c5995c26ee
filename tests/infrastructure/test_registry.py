"""The registry on a real MLflow store: what is kept, what is refused, and what mends itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.contracts.schemas import mlflow_signature
from medscore_assets.database import create_database
from medscore_assets.readmission.scoring import MODEL_FILE, ReadmissionModel
from medscore_assets.readmission.training import Trained, train
from resources.artifacts import MANIFEST_FILE, sha256
from resources.errors import IntegrityError, PermanentError, TransientError
from resources.registry import MANIFEST_TAG, ModelRegistry
from tests.clocks import awake
from tests.conftest import address_of
from tests.readmission.training_sets import random_matrix, training_set


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(training_set(1500, seed=1), READMISSION, policy_hash="a" * 64)


@pytest.fixture(scope="module")
def files(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    trained.model.save(folder)
    return folder


@pytest.fixture
def name() -> str:
    """A model of this test alone."""
    return f"model_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def champion(registry: ModelRegistry, name: str, files: Path) -> int:
    """The version that is champion under `name`."""
    version = registry.register(name, files)
    registry.set_alias(name, version)
    return version


@pytest.fixture
def fresh_database(postgres: str) -> Iterator[str]:
    database = f"mlflow_{uuid.uuid4().hex[:8]}"
    create_database(address_of(postgres, database))
    yield address_of(postgres, database)
    drop(postgres, database)


def drop(postgres: str, database: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as server:
        server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


def stored_files(registry: ModelRegistry, name: str) -> Path:
    """The folder in which the artifact store keeps the newest version of a model."""
    with registry._talking() as client:
        (newest, *_) = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"])
        return Path(urlparse(newest.source).path)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_registered_model_comes_back_as_it_was(
    registry: ModelRegistry, name: str, files: Path, trained: Trained
) -> None:
    version = registry.register(
        name,
        files,
        signature=mlflow_signature(READMISSION),
        params=trained.parameters,
        metrics=trained.metrics,
        tags={"made_for": "a test"},
    )
    registry.set_alias(name, version)
    stored = registry.champion(name)
    assert (stored.name, stored.version) == (name, 1)
    for file in (MODEL_FILE, MANIFEST_FILE):
        assert (stored.directory / file).read_bytes() == (files / file).read_bytes()
    manifest = trained.model.manifest
    assert stored.tags == {
        "made_for": "a test",
        "contract_hash": READMISSION.hash,
        "policy_hash": "a" * 64,
        "data_fingerprint": manifest.data_fingerprint,
        MANIFEST_TAG: sha256((files / MANIFEST_FILE).read_bytes()),
    }
    matrix = random_matrix(50, seed=3)
    loaded = ReadmissionModel.load(stored.directory, READMISSION)
    assert np.array_equal(loaded.score(matrix), trained.model.score(matrix))


def test_the_run_is_finished_and_tells_parameters_and_measures(
    registry: ModelRegistry, name: str, files: Path, trained: Trained
) -> None:
    registry.register(name, files, params=trained.parameters, metrics=trained.metrics)
    with registry._talking() as client:
        run = client.get_run(client.get_model_version(name, "1").run_id)
        listed = {f.path for f in client.list_artifacts(run.info.run_id, "model")}
    assert run.info.status == "FINISHED"
    assert run.data.params["max_depth"] == str(trained.parameters["max_depth"])
    assert run.data.metrics["auroc"] == pytest.approx(trained.metrics["auroc"])
    assert run.data.tags["contract_hash"] == READMISSION.hash
    assert {"model/MLmodel", f"model/{MODEL_FILE}", f"model/{MANIFEST_FILE}"} <= listed
    assert not [path for path in listed if path.endswith((".pkl", ".pickle", ".joblib"))]


def test_mlflows_own_loader_reads_the_model_and_its_signature(
    registry: ModelRegistry, name: str, files: Path, trained: Trained
) -> None:
    import mlflow.models
    import mlflow.xgboost

    registry.register(name, files, signature=mlflow_signature(READMISSION))
    source = str(stored_files(registry, name))
    booster = mlflow.xgboost.load_model(source)
    matrix = random_matrix(20, seed=5)
    expected = trained.model.booster.inplace_predict(matrix)
    assert np.array_equal(booster.inplace_predict(matrix), expected)
    inputs = mlflow.models.get_model_info(source).signature.inputs
    assert tuple(inputs.input_names()) == READMISSION.feature_names
    requirements = (stored_files(registry, name) / "requirements.txt").read_text().split()
    assert [r.partition("==")[0] for r in requirements if not r.startswith("mlflow")] == ["xgboost"]


def test_the_alias_decides_which_version_scores(registry: ModelRegistry, name: str, files: Path) -> None:
    first, second = registry.register(name, files), registry.register(name, files)
    assert (first, second) == (1, 2)
    registry.set_alias(name, second)
    assert registry.champion(name).version == 2
    registry.set_alias(name, first)
    assert registry.champion(name).version == 1
    registry.set_alias(name, second, "challenger")
    assert registry.aliased(name, "challenger").version == 2


def test_what_mlflow_says_of_an_alias_is_read_without_it(
    registry: ModelRegistry, name: str, files: Path, champion: int, tmp_path: Path
) -> None:
    with registry._talking() as client:
        said = client.get_model_version_by_alias(name, "champion")
        tables = registry._reading()
        read = tables.behind(name, "champion")
        assert read is not None
        assert (read.version, read.source, dict(read.tags)) == (int(said.version), said.source, said.tags)
        assert tables.behind(name, "challenger") is None
        client.delete_registered_model_alias(name, "champion")
        assert tables.behind(name, "champion") is None
        client.set_registered_model_alias(name, "champion", str(champion))
        registry.drop_alias(name, "champion")

    script = (
        "import sys; from pathlib import Path; from resources.registry import ModelRegistry\n"
        "uri, artifacts, cache, name, version = sys.argv[1:]\n"
        "registry = ModelRegistry(uri, artifacts, Path(cache))\n"
        "assert registry.aliased(name, 'challenger').version == int(version)\n"
        "assert not any(m == 'mlflow' or m.startswith('mlflow.') for m in sys.modules)\n"
    )
    registry.set_alias(name, champion, "challenger")
    arguments = [str(registry._asked_address()), registry._artifacts, str(tmp_path), name, str(champion)]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, timeout=300)


def test_where_the_tables_are_others_mlflow_is_asked(
    registry: ModelRegistry, name: str, files: Path, champion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.mlflow_tables._VERSION", sa.text("SELECT workspace FROM no_such_table"))
    assert registry.version_with(name, "champion") == champion
    assert registry.champion(name).version == champion
    assert registry.version_with(name, "challenger") is None


@pytest.mark.parametrize("registered", [False, True])
def test_no_champion_is_a_refusal_with_the_next_step(
    registry: ModelRegistry, name: str, files: Path, registered: bool
) -> None:
    if registered:
        registry.register(name, files)
    with pytest.raises(PermanentError, match="no model has the alias champion") as refused:
        registry.champion(name)
    assert f"medscore train {name}" in refused.value.mend


def test_versions_are_listed_newest_first_with_their_measures(
    registry: ModelRegistry, name: str, files: Path, trained: Trained
) -> None:
    assert registry.versions(name) == []
    for _ in range(2):
        registry.register(name, files, metrics=trained.metrics)
    registry.set_alias(name, 1)
    newest, oldest = registry.versions(name)
    assert (newest.version, newest.aliases, oldest.version, oldest.aliases) == (2, (), 1, ("champion",))
    assert abs(datetime.now(UTC) - newest.created_at) < timedelta(minutes=5)
    assert newest.metrics["auroc"] == pytest.approx(trained.metrics["auroc"])
    assert json.loads(json.dumps(oldest.as_dict()))["tags"]["contract_hash"] == READMISSION.hash


# --- integrity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [MODEL_FILE, MANIFEST_FILE])
@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink], ids=["changed", "deleted"])
@pytest.mark.usefixtures("champion")
def test_a_damaged_cache_is_fetched_anew(
    registry: ModelRegistry, name: str, files: Path, file: str, damage: Any
) -> None:
    directory = registry.champion(name).directory
    damage(directory / file)
    assert registry.champion(name).directory == directory
    assert (directory / file).read_bytes() == (files / file).read_bytes()


@pytest.mark.parametrize("file", [MODEL_FILE, MANIFEST_FILE])
@pytest.mark.usefixtures("champion")
def test_a_changed_file_in_the_store_is_refused_by_name_and_leaves_nothing_behind(
    registry: ModelRegistry, name: str, tmp_path: Path, file: str
) -> None:
    flip_a_bit(stored_files(registry, name) / file)
    elsewhere = ModelRegistry(registry._tracking_uri, registry._artifacts, tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(IntegrityError, match=f"file {file} was changed"):
            elsewhere.champion(name)
    assert [f.name for f in (tmp_path / "cache" / name).iterdir()] == [".lock"]


@pytest.mark.usefixtures("champion")
def test_a_manifest_exchanged_together_with_its_file_is_refused(
    registry: ModelRegistry, name: str, tmp_path: Path
) -> None:
    """Both agree with each other, but not with what was registered."""
    store = stored_files(registry, name)
    other = train(training_set(900, seed=2), READMISSION, policy_hash="b" * 64).model
    other.save(store)
    ReadmissionModel.load(store, READMISSION)
    elsewhere = ModelRegistry(registry._tracking_uri, registry._artifacts, tmp_path / "cache")
    with pytest.raises(IntegrityError, match=f"file {MANIFEST_FILE} was changed"):
        elsewhere.champion(name)


@pytest.mark.usefixtures("champion")
def test_files_gone_from_the_store_are_a_refusal(registry: ModelRegistry, name: str, tmp_path: Path) -> None:
    shutil.rmtree(stored_files(registry, name))
    elsewhere = ModelRegistry(registry._tracking_uri, registry._artifacts, tmp_path / "cache")
    with pytest.raises(IntegrityError, match="files are gone"):
        elsewhere.champion(name)


@pytest.mark.usefixtures("champion")
def test_an_intact_cache_needs_no_artifact_store(registry: ModelRegistry, name: str) -> None:
    directory = registry.champion(name).directory
    shutil.rmtree(stored_files(registry, name))
    assert registry.champion(name).directory == directory


def test_a_cache_of_another_store_is_not_believed(
    registry: ModelRegistry, name: str, champion: int, files: Path, tmp_path: Path
) -> None:
    """A home whose databases were made anew: same name, same number, other model."""
    cache = tmp_path / "cache"
    train(training_set(900, seed=2), READMISSION, policy_hash="b" * 64).model.save(
        cache / name / str(champion)
    )
    elsewhere = ModelRegistry(registry._tracking_uri, registry._artifacts, cache)
    stored = elsewhere.champion(name)
    assert (stored.directory / MODEL_FILE).read_bytes() == (files / MODEL_FILE).read_bytes()


def test_a_directory_that_is_not_what_its_manifest_says_is_not_registered(
    registry: ModelRegistry, name: str, files: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(files, tmp_path / "copied"))
    flip_a_bit(copied / MODEL_FILE)
    with pytest.raises(IntegrityError, match=f"file {MODEL_FILE} was changed"):
        registry.register(name, copied)
    with pytest.raises(IntegrityError, match=r"manifest\.json is absent"):
        registry.register(name, tmp_path)
    assert registry.versions(name) == []
    with registry._talking() as client:
        assert client.get_experiment_by_name(name) is None


def test_a_run_that_could_not_be_logged_is_marked_as_failed(
    registry: ModelRegistry, name: str, files: Path
) -> None:
    def broken_flavor(*_: Any) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        registry.register(name, files, flavor=broken_flavor)
    assert registry.versions(name) == []
    with registry._talking() as client:
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


# --- the store ---------------------------------------------------------------------------------------


def test_an_unreachable_store_is_transient_and_told_at_once(tmp_path: Path) -> None:
    closed = "postgresql+psycopg://somebody:SENTINEL@127.0.0.1:1/mlflow"
    registry = ModelRegistry(closed, artifacts=tmp_path.as_uri(), cache=tmp_path)
    with awake() as seconds, pytest.raises(TransientError, match="registry cannot be reached") as refused:
        registry.champion("readmission")
    assert seconds() < 5
    assert "SENTINEL" not in str(refused.value)
    assert "127.0.0.1" in refused.value.where


def test_a_store_that_goes_away_is_transient_and_its_address_is_asked_anew(
    postgres: str, fresh_database: str, tmp_path: Path
) -> None:
    asked = []

    def address() -> str:
        asked.append(1)
        return fresh_database

    registry = ModelRegistry(address, artifacts=tmp_path.as_uri(), cache=tmp_path)
    assert registry.versions("readmission") == []
    assert registry.versions("readmission") == []
    assert len(asked) == 1
    drop(postgres, str(sa.make_url(fresh_database).database))
    for _ in range(2):
        with pytest.raises(TransientError):
            registry.versions("readmission")
    assert len(asked) == 2


def test_nothing_is_printed_or_logged(
    registry: ModelRegistry,
    name: str,
    files: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry.set_alias(name, registry.register(name, files, signature=mlflow_signature(READMISSION)))
    registry.champion(name)
    registry.versions(name)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_telemetry_is_off(registry: ModelRegistry) -> None:
    registry.prepare()
    from mlflow.telemetry.client import get_telemetry_client

    assert get_telemetry_client() is None


@pytest.mark.faults
@pytest.mark.usefixtures("champion")
def test_fetching_at_once_gives_everybody_an_intact_model(
    registry: ModelRegistry, name: str, files: Path, tmp_path: Path
) -> None:
    def fetch(_: int) -> bytes:
        own = ModelRegistry(registry._tracking_uri, registry._artifacts, tmp_path / "cache")
        return (own.champion(name).directory / MODEL_FILE).read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(fetch, range(6))) == {(files / MODEL_FILE).read_bytes()}
