"""Dagster finds its storage and folders from `dagster.yaml` alone, from any working directory."""

from __future__ import annotations

import warnings
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import yaml
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef

from medscore_assets.settings import PROJECT_ROOT
from tests.conftest import address_of


@dg.asset
def something() -> None:
    print("printed by a step")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, postgres: str, tmp_path: Path) -> Path:
    """Settings by environment only, and a working directory elsewhere. Gives MEDSCORE_HOME."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("MEDSCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEDSCORE_DATABASE_URL", address_of(postgres, "m", "postgresql"))
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT_ROOT))
    return tmp_path / "home"


def test_a_run_is_recorded_in_postgresql_and_leaves_files_under_home_only(
    environment: Path, postgres: str
) -> None:
    before = {path.name for path in PROJECT_ROOT.iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared = DagsterInstance.get()
    with shared:
        result = dg.materialize([something], instance=shared)
        assert result.success
        storage = Path(shared.storage_directory())
        # What a run worker or code server gets: a reference, from which it builds its own.
        with DagsterInstance.from_ref(shared.get_ref()) as again:
            assert again.get_run_by_id(result.run_id).is_finished
            assert again.get_latest_materialization_event(something.key) is not None
    with psycopg.connect(postgres.replace("/postgres?", "/m_dagster?")) as connection:
        found = connection.execute("SELECT status FROM runs WHERE run_id = %s", [result.run_id]).fetchone()
    assert found == ("SUCCESS",)
    assert storage == environment / "dagster" / "storage"
    printed = list((environment / "dagster" / "compute_logs").rglob("*.out"))
    assert any("printed by a step" in path.read_text() for path in printed)
    assert list(Path.cwd().iterdir()) == []
    assert {path.name for path in PROJECT_ROOT.iterdir()} == before


def test_the_reference_holds_no_address_and_no_password(environment: Path) -> None:
    reference = InstanceRef.from_dir(str(PROJECT_ROOT)).to_dict()
    text = yaml.dump(reference)
    assert "postgresql" not in text
    assert str(environment) not in text


def test_the_policies_are_in_force(environment: Path) -> None:
    with DagsterInstance.get() as shared:
        concurrency = shared.get_concurrency_config()
        assert concurrency.run_queue_config is not None
        assert concurrency.run_queue_config.max_concurrent_runs == 3
        assert concurrency.pool_config.default_pool_limit == 1
        assert shared.run_retries_enabled
        assert shared.run_retries_max_retries == 2
        assert not shared.run_retries_retry_on_asset_or_op_failure
        assert shared.run_monitoring_enabled
        assert shared.run_monitoring_max_runtime_seconds == 7200
        assert not shared.telemetry_enabled
        assert not shared.nux_enabled
        assert shared.code_server_process_startup_timeout == 120


def test_the_storage_makes_its_database(
    environment: Path, monkeypatch: pytest.MonkeyPatch, postgres: str
) -> None:
    name = f"fresh{environment.parent.name.replace('_', '').lower()}"[:40]
    monkeypatch.setenv("MEDSCORE_DATABASE_URL", address_of(postgres, name))
    with DagsterInstance.get() as shared:
        assert shared.get_runs_count() == 0
