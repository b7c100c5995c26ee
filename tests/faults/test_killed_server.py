"""PostgreSQL is killed in the middle of a run: it is started again, and the run ends as if nothing was."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.database import create_database, upgrade
from medscore_assets.definitions import build_defs
from medscore_assets.settings import Settings
from resources.embedded_postgres import release
from resources.registry import ModelRegistry
from resources.warehouse import Part, Warehouse
from tests.faults import worker
from tests.faults.lists import correct, digests, first_rows
from tests.infrastructure.test_embedded_postgres import postmaster, server_processes
from tests.readmission.test_outreach import DAY


@pytest.fixture
def embedded(homes: Path) -> Iterator[Settings]:
    """Settings with a durable embedded server of their own, and the warehouse's schema in it."""
    with tempfile.TemporaryDirectory(dir=homes) as folder:
        settings = Settings(home=Path(folder))
        url = settings.databases().warehouse
        create_database(url)
        upgrade(url)
        yield settings
        release(settings.postgres_directory)


class FatedWarehouse(Warehouse):
    """Kills its server once, at one of the steps of a run."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(lambda: settings.databases().warehouse)
        self.directory = settings.postgres_directory
        self.fate: tuple[str, Callable[[Path], None]] | None = None

    def lock(self, connection: sa.Connection, name: str, **options: Any) -> None:
        super().lock(connection, name, **options)
        self._comes_to("reading")

    def replace_each(self, connection: sa.Connection, parts: Sequence[Part]) -> list[int]:
        written = []
        # One after another, so that the server can die between two tables.
        for part in parts:
            written += super().replace_each(connection, [part])
            self._comes_to(part.table.name)
        return written

    def _comes_to(self, step: str) -> None:
        if self.fate is not None and self.fate[0] == step:
            kill, self.fate = self.fate[1], None
            kill(self.directory)


def kill_all(directory: Path) -> None:
    """As a power cut or the kernel out of memory does."""
    for pid in server_processes(directory):
        os.kill(pid, signal.SIGKILL)


def kill_postmaster(directory: Path) -> None:
    """Its children notice at their own time."""
    os.kill(postmaster(directory), signal.SIGKILL)


@pytest.mark.faults
@pytest.mark.slow
def test_a_run_whose_server_is_killed_ends_with_the_table_of_an_undisturbed_run(
    embedded: Settings,
    champion: ModelRegistry,
    open_warehouse: Callable[[], Warehouse],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("medscore_assets.failures.SECONDS_BETWEEN_RETRIES", 0.1)
    struck, undisturbed = FatedWarehouse(embedded), open_warehouse()
    for warehouse in (struck, undisturbed):
        first_rows(warehouse)
        assert worker.run_job(warehouse, champion, DAY) == ""
    fates = [
        ("reading", kill_all),
        (tables.care_management_scores.name, kill_all),
        (tables.care_management_scores.name, kill_postmaster),
        (tables.encounter_quarantine.name, kill_all),
    ]
    for times, fate in enumerate(fates, start=1):
        corrected = datetime.now(UTC)
        for warehouse in (struck, undisturbed):
            correct(warehouse, times)
        assert worker.run_job(undisturbed, champion, DAY) == ""
        killed = postmaster(struck.directory)
        struck.fate = fate
        with dg.DagsterInstance.ephemeral() as instance:
            job = build_defs(warehouse=struck, registry=champion).resolve_job_def("readmission_outreach")
            result = job.execute_in_process(partition_key=DAY, instance=instance, raise_on_error=False)
            assert result.success, fate
            assert len([e for e in result.all_events if e.is_step_up_for_retry]) == 1, fate
        assert struck.fate is None
        assert postmaster(struck.directory) != killed
        assert digests(struck, corrected) == digests(undisturbed, corrected), fate
    struck.close()
