"""How often a failure runs: a permanent one once, a transient one a bounded number of times.

With the project's `dagster.yaml`, and with the code by which Dagster's daemon decides on another run.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.storage.tags import RUN_FAILURE_REASON_TAG
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import filter_runs_to_should_retry

from medscore_assets.failures import MAX_RETRIES, failures
from medscore_assets.settings import PROJECT_ROOT
from resources.errors import ContractViolation, IntegrityError, MedscoreError, TransientError

raises: list[MedscoreError | None] = []
"""What the attempts meet, one after another; at the end of the list, its last entry again."""
attempts: list[int] = []


@dg.asset
def shaky() -> None:
    attempts.append(1)
    with failures():
        error = raises[min(len(attempts), len(raises)) - 1]
        if error is not None:
            raise error


JOB = dg.define_asset_job("shaky_job", selection=[shaky])
DEFS = dg.Definitions(assets=[shaky], jobs=[JOB], executor=dg.in_process_executor)


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance with this project's policy of retries."""
    configured = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.ephemeral(settings={"run_retries": configured["run_retries"]}) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medscore_assets.failures.SECONDS_BETWEEN_RETRIES", 0)
    attempts.clear()
    raises.clear()


def run(instance: dg.DagsterInstance) -> Any:
    return DEFS.resolve_job_def("shaky_job").execute_in_process(instance=instance, raise_on_error=False)


def asks_for_another_run(instance: dg.DagsterInstance, run_id: str) -> bool:
    """What the daemon decides of a run that has ended."""
    ended = instance.get_run_by_id(run_id)
    assert ended is not None
    return bool(list(filter_runs_to_should_retry([ended], instance)))


GONE = TransientError("the database does not answer", where="database", mend="Start it.")
PERMANENT = [
    ContractViolation("the contract is broken", where="field", mend="Correct it."),
    IntegrityError("the model is not what was registered", where="model", mend="Train it."),
]


@pytest.mark.parametrize("error", PERMANENT, ids=lambda error: type(error).__name__)
def test_a_permanent_failure_is_one_run_with_one_attempt(
    instance: dg.DagsterInstance, error: MedscoreError
) -> None:
    raises.append(error)
    before = instance.get_runs_count()
    result = run(instance)
    assert not result.success
    assert len(attempts) == 1
    assert not asks_for_another_run(instance, result.run_id)
    assert instance.get_runs_count() - before == 1


def test_a_transient_failure_is_tried_again_in_the_same_run_and_no_more_than_that(
    instance: dg.DagsterInstance,
) -> None:
    raises.append(GONE)
    before = instance.get_runs_count()
    result = run(instance)
    assert not result.success
    assert len(attempts) == 1 + MAX_RETRIES
    assert not asks_for_another_run(instance, result.run_id)
    assert instance.get_runs_count() - before == 1


def test_a_transient_failure_that_passes_ends_well(instance: dg.DagsterInstance) -> None:
    raises.extend([GONE, GONE, None])
    assert run(instance).success
    assert len(attempts) == 3


def test_a_transient_failure_that_turns_out_permanent_stops_there(instance: dg.DagsterInstance) -> None:
    raises.extend([GONE, PERMANENT[0]])
    assert not run(instance).success
    assert len(attempts) == 2


def test_a_worker_that_died_gets_two_more_runs_and_no_third(instance: dg.DagsterInstance) -> None:
    job = DEFS.resolve_job_def("shaky_job")
    died: dg.DagsterRun | None = None
    decisions = []
    for _ in range(4):
        family = (
            {
                "parent_run_id": died.run_id,
                "root_run_id": died.root_run_id or died.run_id,
                "tags": {
                    "dagster/parent_run_id": died.run_id,
                    "dagster/root_run_id": died.root_run_id or died.run_id,
                },
            }
            if died
            else {}
        )
        died = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, **family)
        instance.add_run_tags(died.run_id, {RUN_FAILURE_REASON_TAG: "UNEXPECTED_TERMINATION"})
        instance.report_run_failed(died, "the worker is gone")
        decisions.append(asks_for_another_run(instance, died.run_id))
    assert decisions == [True, True, False, False]
