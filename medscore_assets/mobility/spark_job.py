"""The script that Spark runs for mobility: steps, monthly sums or features, from the lake to the lake.

Belongs here: the driver, and what is told back. Does not belong here: how days are made (`spark_work.py`),
who starts the job (`day_engine.py`).

What is told to Dagster are counts by day and sentences; no log of the driver gets a patient's value.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from dagster_pipes import PipesContext, PipesEnvVarParamsLoader, PipesS3MessageWriter, open_dagster_pipes
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.engines import Engine, EngineOptions, connect
from medscore_assets.mobility.spark_work import DAY, features_on, lake_at, rollups_on, steps_on
from medscore_assets.readmission.population.exchange import (
    ERROR_FILE,
    TASK,
    Exchange,
    error_to_bytes,
    versions,
)
from resources.errors import MedscoreError, PermanentError
from resources.lake import Lake

PACKAGES = ("medscore", "numpy", "pyarrow")
"""What the job must have in the versions of the machine that starts it."""


class Task(BaseModel):
    """What the job is to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lake: str
    """A folder or `s3://bucket/prefix`, for all machines of the job the same."""
    run: str
    """The folder of this run in the lake."""
    what: Literal["steps", "rollups", "features"]
    first_day: date
    last_day: date
    """Features of all days between come in one pass; rollups are those of the months between."""
    as_of: AwareDatetime
    """Records after it are of the future."""
    contract_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    packages: dict[str, str]


def main() -> None:
    """Do the task in the context of Dagster Pipes. Exits with 1 if it fails."""
    with open_dagster_pipes(message_writer=_message_writer()) as pipes:
        done = perform(pipes)
    if not done:
        sys.exit(1)


def perform(pipes: PipesContext) -> bool:
    """Make the days and tell how many rows each has, or leave the error. Returns whether they are made."""
    task = Task.model_validate(pipes.get_extra(TASK))
    with tempfile.TemporaryDirectory(prefix="medscore-mobility-") as cache:
        try:
            with connect(EngineOptions("spark", spark=None)) as engine:
                made = make(task, engine, lake_at(task.lake, Path(cache)))
        except MedscoreError as error:
            failed = error
        except Exception as error:
            traceback.print_exc()
            failed = PermanentError(
                f"the Spark job ended with {type(error).__name__}",
                where="mobility on Spark",
                mend="See Spark's log.",
            )
        else:
            pipes.report_custom_message({"rows": {day.isoformat(): rows for day, rows in made.items()}})
            return True
        Exchange(task.lake, Path(cache)).put(f"{task.run}/{ERROR_FILE}", error_to_bytes(failed))
        return False


def make(task: Task, engine: Engine, lake: Lake) -> dict[date, int]:
    """Rows by day, of rollups by month. Raises `PermanentError` if this is not the code that was meant."""
    here = versions(tuple(task.packages))
    for name, wanted in task.packages.items():
        if here[name] != wanted:
            raise _other(f"{name} {here[name]}", wanted)
    if task.contract_hash != MOBILITY.hash:
        raise _other(f"the contract {MOBILITY.hash[:12]}", task.contract_hash[:12])
    match task.what:
        case "steps":
            return {task.first_day: steps_on(engine, lake, task.first_day, as_of=task.as_of)}
        case "rollups":
            days = (task.last_day - task.first_day).days
            return rollups_on(engine, lake, [task.first_day + n * DAY for n in range(days + 1)])
        case "features":
            return features_on(engine, lake, task.first_day, task.last_day)


def _other(here: str, wanted: str) -> PermanentError:
    return PermanentError(
        f"the Spark job has {here}, the task was made with {wanted}",
        where="environment of the Spark job",
        mend="Make the job's environment from the lock file of this installation.",
    )


def _message_writer() -> PipesS3MessageWriter | None:
    """For a job on other machines messages go through S3, otherwise through a file."""
    loader = PipesEnvVarParamsLoader()  # type: ignore[no-untyped-call]
    if "bucket" not in loader.load_messages_params():
        return None
    import boto3

    return PipesS3MessageWriter(boto3.client("s3"))


if __name__ == "__main__":
    main()
