"""The script that Spark runs for mobility: steps, monthly sums or features, from the lake to the lake.

Belongs here: which of them the task asks for, and what is told back. Does not belong here: how days are made
(`spark_work.py`), what is around every job (`spark/job_frame.py`), who starts it (`day_engine.py`).

What is told to Dagster are counts by day.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility.engines import Engine, EngineOptions, connect
from medscore_assets.mobility.spark_work import DAY, features_on, lake_at, rollups_on, steps_on
from medscore_assets.spark.exchange import Exchange
from medscore_assets.spark.exchange import Task as SparkTask
from medscore_assets.spark.job_frame import Job, of_another, require_packages
from resources.lake import Lake

PACKAGES = ("medscore", "numpy", "pyarrow")
"""What the job must have in the versions of the machine that starts it."""


class Task(SparkTask):
    """What the job is to do; its address is the lake's."""

    what: Literal["steps", "rollups", "features"]
    first_day: date
    last_day: date
    """Features of all days between come in one pass; rollups are those of the months between."""
    as_of: AwareDatetime
    """Records after it are of the future."""
    contract_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def days_made(task: Task, exchange: Exchange, cache: Path) -> dict[str, Any]:
    """Make the days in a session of this job's own; how many rows each has."""
    with connect(EngineOptions("spark", spark=None)) as engine:
        made = make(task, engine, lake_at(task.address, cache))
    return {"rows": {day.isoformat(): rows for day, rows in made.items()}}


def make(task: Task, engine: Engine, lake: Lake) -> dict[date, int]:
    """Rows by day, of rollups by month. Raises `PermanentError` if this is not the code that was meant."""
    require_packages(task.packages, "the Spark job has")
    if task.contract_hash != MOBILITY.hash:
        raise of_another(f"the Spark job has the contract {MOBILITY.hash[:12]}", task.contract_hash[:12])
    match task.what:
        case "steps":
            return {task.first_day: steps_on(engine, lake, task.first_day, as_of=task.as_of)}
        case "rollups":
            days = (task.last_day - task.first_day).days
            return rollups_on(engine, lake, [task.first_day + n * DAY for n in range(days + 1)])
        case "features":
            return features_on(engine, lake, task.first_day, task.last_day)


JOB = Job("mobility on Spark", Task, days_made)

if __name__ == "__main__":
    JOB.main()
