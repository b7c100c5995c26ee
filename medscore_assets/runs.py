"""Runs Dagster jobs from the command line, in this process, recorded like any other run.

Belongs here: finding the instance, running a job by name, and the one sentence of its failure.
Does not belong here: what the jobs do, and how progress is drawn (`cli.py`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from medscore_assets.settings import PROJECT_ROOT
from resources.errors import PermanentError

if TYPE_CHECKING:
    import dagster as dg


QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def instance() -> dg.DagsterInstance:
    """The instance of `dagster.yaml`: the one that the UI, the daemon and every run share."""
    import dagster as dg

    os.environ.setdefault("DAGSTER_HOME", str(PROJECT_ROOT))
    return dg.DagsterInstance.get()


def limit_pools() -> None:
    """Give every pool its limit. Left to itself, the first of Dagster's launches from a pool meets none."""
    from medscore_assets.definitions import defs

    steps = (op for job in defs.resolve_all_job_defs() for op in job.graph.iterate_op_defs())
    with instance() as shared:
        limited = {limit.name for limit in shared.event_log_storage.get_pool_limits()}
        for pool in sorted({op.pool for op in steps if op.pool} - limited):
            shared.event_log_storage.initialize_concurrency_limit_to_default(pool)


def execute(
    job: str,
    *,
    partition: str | None = None,
    until: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """Runs a job for one partition, or for all `until` another one. Returns its result.

    `config` is the configuration of its steps, as Dagster's run config has it.

    Raises `PermanentError` with the sentence of the failure.
    """
    from medscore_assets.definitions import defs

    quiet = {**QUIET, **(config or {})}
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    with instance() as shared:
        result = defs.resolve_job_def(job).execute_in_process(
            instance=shared, run_config=quiet, raise_on_error=False, **_of_partitions(partition, until)
        )
        if not result.success:
            raise _failure(result, job)
    return result


def execute_in_processes(job: Callable[[], dg.JobDefinition], tags: Mapping[str, str]) -> None:
    """Runs a job whose executor has processes of its own for the steps; `job` is a function of a module.

    Raises `PermanentError` with the sentence of the failure.
    """
    import dagster as dg

    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    with (
        instance() as shared,
        dg.execute_job(
            dg.reconstructable(job), shared, run_config=QUIET, tags=dict(tags), raise_on_error=False
        ) as result,
    ):
        if not result.success:
            raise _failure(result, job().name)


def _of_partitions(first: str | None, last: str | None) -> dict[str, Any]:
    from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

    if first is None or last in (None, first):
        return {"partition_key": first}
    return {"tags": {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: str(last)}}


def _failure(result: dg.ExecuteInProcessResult | dg.JobExecutionResult, job: str) -> PermanentError:
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.metadata.get("what"):
                metadata = data.user_failure_data.metadata
                return PermanentError(
                    str(metadata["what"].value),
                    where=str(metadata["where"].value),
                    mend=str(metadata["mend"].value),
                )
            # Only a description of ours is printed: another error's text may quote a row.
            stated = data.user_failure_data.description if data.user_failure_data else None
            return PermanentError(
                (stated or "the step failed").rstrip("."),
                where=f"{job}, step {event.step_key}, run {result.run_id}",
                mend="See the run in Dagster's UI (make up).",
            )
    return PermanentError(
        "the run failed", where=f"{job}, run {result.run_id}", mend="See the run in Dagster's UI."
    )
