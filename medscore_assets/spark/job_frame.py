"""The frame of a script that Spark runs: takes the task, tells what came of it, leaves what failed.

Belongs here: what every such script does around its work. Does not belong here: the work (`spark_job.py` of
a family), who starts the script (`launchers.py`).

What is told to Dagster is what the work returns; no log of the driver gets a value of anybody.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dagster_pipes import PipesContext, PipesEnvVarParamsLoader, PipesS3MessageWriter, open_dagster_pipes

from medscore_assets.spark.exchange import ERROR_FILE, TASK, Exchange, Task, error_to_bytes, versions
from resources.errors import MedscoreError, PermanentError

Given = TypeVar("Given", bound=Task)


@dataclass(frozen=True, slots=True)
class Job(Generic[Given]):
    """A script of Spark: its name in sentences, its task's type, and what it does with a task.

    `work` gets the task, the exchange and a folder for downloads, and returns what is told to Dagster:
    counts, hashes, sentences.
    """

    name: str
    task: type[Given]
    work: Callable[[Given, Exchange, Path], Mapping[str, Any]]

    def main(self) -> None:
        """Do the task in the context of Dagster Pipes. Exits with 1 if it fails."""
        with open_dagster_pipes(message_writer=_message_writer()) as pipes:
            done = self.perform(pipes)
        if not done:
            sys.exit(1)

    def perform(self, pipes: PipesContext) -> bool:
        """Do the work and tell of it, or leave the error in the run's folder. Returns whether it is done."""
        task = self.task.model_validate(pipes.get_extra(TASK))
        with tempfile.TemporaryDirectory(prefix="medscore-spark-") as cache:
            exchange = Exchange(task.address, Path(cache))
            try:
                told = self.work(task, exchange, Path(cache))
            except MedscoreError as error:
                failed = error
            except Exception as error:
                traceback.print_exc()
                failed = PermanentError(
                    f"the Spark job ended with {type(error).__name__}",
                    where=self.name,
                    mend="See Spark's log.",
                )
            else:
                pipes.report_custom_message(dict(told))
                return True
            exchange.put(f"{task.run}/{ERROR_FILE}", error_to_bytes(failed))
            return False


def require_packages(stated: Mapping[str, str], here: str) -> None:
    """Raises `PermanentError` if a package has another version here; `here` begins the sentence."""
    found = versions(tuple(stated))
    for name, wanted in stated.items():
        if found[name] != wanted:
            raise of_another(f"{here} {name} {found[name]}", wanted)


def of_another(here: str, wanted: str) -> PermanentError:
    """The error of a job that runs what the task was not made with."""
    return PermanentError(
        f"{here}, the task was made with {wanted}",
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
