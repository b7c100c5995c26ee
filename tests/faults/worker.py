"""What the other processes of these tests do. They are forked from one that has imported this module.

Belongs here: functions that open everything for themselves, and nothing that a fork must not inherit.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.definitions import build_defs
from medscore_assets.partitions import window
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse


class MeetingWarehouse(Warehouse):
    """Asks for its first lock at the same moment as the other processes of the barrier."""

    def __init__(self, url: str, barrier: Barrier) -> None:
        super().__init__(url)
        self._barrier: Barrier | None = barrier

    def lock(self, connection: sa.Connection, name: str, **options: Any) -> None:
        barrier, self._barrier = self._barrier, None
        if barrier is not None:
            barrier.wait(300)
        super().lock(connection, name, **options)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a process finds everything."""

    warehouse: str
    registry: str
    cache: Path


def materialize(places: Places, day: str, barrier: Barrier, answer: Connection) -> None:
    """Make one day's list through Dagster; send what went wrong, which is an empty text if nothing did."""
    try:
        warehouse = MeetingWarehouse(places.warehouse, barrier)
        registry = ModelRegistry(places.registry, artifacts=places.cache.as_uri(), cache=places.cache)
        answer.send(run_job(warehouse, registry, day))
    except BaseException as error:
        answer.send(repr(error))
        raise


def materialize_all(places: Places, days: list[str], answer: Connection) -> None:
    """Make the lists of several days, one after another, through Dagster; send what went wrong for each."""
    warehouse = Warehouse(places.warehouse)
    registry = ModelRegistry(places.registry, artifacts=places.cache.as_uri(), cache=places.cache)
    answer.send([run_job(warehouse, registry, day) for day in days])


def run_job(warehouse: Warehouse, registry: ModelRegistry, day: str) -> str:
    """Run the outreach job for one day with a Dagster instance of its own; what went wrong."""
    defs = build_defs(warehouse=warehouse, registry=registry)
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("readmission_outreach").execute_in_process(
            partition_key=day, instance=instance, raise_on_error=False
        )
    failures = [event.step_failure_data.error_display_string for event in result.get_step_failure_events()]
    return "" if result.success else "\n".join(failures) or "failed"


def prepare_store(url: str, folder: Path, barrier: Barrier, answer: Connection) -> None:
    """Prepare a registry's database; send how many models it has and what was printed meanwhile."""
    with (folder / f"said by {os.getpid()}").open("w+b") as said:
        for output in (1, 2):
            os.dup2(said.fileno(), output)
        registry = ModelRegistry(url, artifacts=folder.as_uri(), cache=folder)
        barrier.wait(300)
        registry.prepare()
        number = len(registry.versions("readmission"))
        said.seek(0)
        answer.send((number, said.read()))


class TellingWarehouse(Warehouse):
    """Tells another process when it is about to write for the first time."""

    def __init__(self, url: str, listener: Connection) -> None:
        super().__init__(url)
        self._listener: Connection | None = listener

    def replace_each(self, *arguments: Any, **options: Any) -> list[int]:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.send("writes")
        return super().replace_each(*arguments, **options)


def publish(url: str, model_files: Path, day: str, parent: Connection) -> None:
    """Make one day's list; tell the parent when it begins, writes and has ended."""
    warehouse = TellingWarehouse(url, parent)
    model = ReadmissionModel.load(model_files, READMISSION, threads=1)
    policy = load_policy()
    with warehouse.transaction():
        pass
    parent.send("begins")
    publish_list(warehouse, window(day), lambda: Champion(model, 1), policy)
    parent.send("ends")
