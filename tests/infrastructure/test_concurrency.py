"""Two runs never write the same thing at once: each step that writes has a pool, each pool one place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.instance.config import PoolGranularity
from dagster._core.op_concurrency_limits_counter import GlobalOpConcurrencyLimitsCounter
from dagster._core.storage.dagster_run import DagsterRun

from medscore_assets.definitions import build_defs
from medscore_assets.maintenance import maintenance_job
from medscore_assets.runs import limit_pools
from medscore_assets.settings import PROJECT_ROOT, Settings
from tests.conftest import address_of


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch, postgres: str, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """The instance of `dagster.yaml`."""
    monkeypatch.setenv("MEDSCORE_HOME", str(tmp_path))
    monkeypatch.setenv("MEDSCORE_DATABASE_URL", address_of(postgres, "concurrent", "postgresql"))
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT_ROOT))
    with dg.DagsterInstance.get() as shared:
        yield shared


def pools_by_step() -> dict[str, str | None]:
    """Per step that writes its pool. A check only reads."""
    defs = build_defs()
    steps = {
        op.name: op.pool
        for definition in defs.assets or ()
        if isinstance(definition, dg.AssetsDefinition) and definition.is_executable
        for op in definition.node_def.iterate_op_defs()
    }
    job = maintenance_job(Settings())
    return steps | {node.name: node.definition.pool for node in job.nodes}  # type: ignore[attr-defined]


def test_every_step_that_writes_has_a_pool() -> None:
    pools = pools_by_step()
    assert {"care_management_scores", "readmission_training_set", "readmission_model"} <= set(pools)
    assert [step for step, pool in pools.items() if not pool] == []


def test_the_training_set_and_the_model_made_of_it_share_a_pool() -> None:
    pools = pools_by_step()
    assert pools["readmission_training_set"] == pools["readmission_model"]
    assert pools["readmission_model"] != pools["care_management_scores"]


def test_a_pool_has_one_place_for_a_whole_run(instance: dg.DagsterInstance) -> None:
    pools = instance.get_concurrency_config().pool_config
    assert (pools.default_pool_limit, pools.pool_granularity) == (1, PoolGranularity.RUN)
    # A killed run gives its place back.
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_runtime_seconds
    settings = instance.get_settings("run_monitoring")
    assert settings["free_slots_after_run_end_seconds"]


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
)
def test_a_second_run_of_the_same_pool_waits_and_another_does_not(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    defs = build_defs(Settings())
    limit_pools()

    def run(job: str, **options: Any) -> DagsterRun:
        return instance.create_run_for_job(defs.resolve_job_def(job), **options)

    active = run("readmission_outreach", status=status)
    backfill, training = run("readmission_outreach"), run("readmission_training")
    records = [r for r in instance.get_run_records() if r.dagster_run.run_id == active.run_id]

    def counter(in_progress: list[dg.RunRecord]) -> GlobalOpConcurrencyLimitsCounter:
        waiting = [backfill, training]

        storage = instance.event_log_storage
        return GlobalOpConcurrencyLimitsCounter(
            instance,
            waiting,
            in_progress,
            storage.get_concurrency_keys(),
            storage.get_pool_limits(),
            pool_granularity=instance.get_concurrency_config().pool_config.pool_granularity,
        )

    assert counter(records).is_blocked(backfill)
    assert not counter(records).is_blocked(training)
    assert not counter([]).is_blocked(backfill)
