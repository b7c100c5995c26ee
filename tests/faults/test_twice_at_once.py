"""What two processes do at the same moment: one day's table as if by one, and one store prepared once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import sqlalchemy as sa

from medscore_assets.database import create_database
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from tests.conftest import address_of
from tests.faults import worker
from tests.faults.lists import Digests, correct, digests, first_rows
from tests.readmission.test_outreach import DAY

WAITING = sa.text(
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class Together:
    """Runs the outreach job in several processes at once and looks on."""

    def __init__(self, processes: ForkServerContext, registry: str, cache: Path) -> None:
        self.processes, self.registry, self.cache = processes, registry, cache
        self.seen: list[Digests] = []
        """What a reader saw meanwhile, repetitions left out."""
        self.waited = False
        """Whether one of them was seen waiting for another's lock."""

    def materialize(self, warehouse: Warehouse, count: int = 2) -> None:
        """`count` processes at once; all must succeed."""
        url = warehouse.engine.url.render_as_string(hide_password=False)
        barrier = self.processes.Barrier(count)
        running, answers = [], []
        for number in range(count):
            answer, sender = self.processes.Pipe(duplex=False)
            places = worker.Places(url, self.registry, self.cache / str(number))
            process = self.processes.Process(target=worker.materialize, args=(places, DAY, barrier, sender))
            process.start()
            running.append(process)
            answers.append(answer)
        self.seen, self.waited = [], False
        deadline = time.monotonic() + 3000
        while any(process.is_alive() for process in running) and time.monotonic() < deadline:
            self._look(warehouse)
            time.sleep(0.01)
        for process in running:
            process.kill()
            process.join()
        assert [answer.recv() if answer.poll() else "no answer" for answer in answers] == [""] * count

    def _look(self, warehouse: Warehouse) -> None:
        found = digests(warehouse)
        if not self.seen or self.seen[-1] != found:
            self.seen.append(found)
        with warehouse.transaction() as connection:
            self.waited = self.waited or connection.scalar(WAITING) > 0


@pytest.fixture
def together(
    processes: ForkServerContext, champion: ModelRegistry, postgres: str, tmp_path: Path
) -> Together:
    return Together(processes, address_of(postgres, "registry"), tmp_path)


@pytest.mark.faults
@pytest.mark.slow
def test_two_processes_at_once_leave_the_table_of_one(
    together: Together, champion: ModelRegistry, open_warehouse: Callable[[], Warehouse]
) -> None:
    raced, undisturbed = open_warehouse(), open_warehouse()
    waited = []

    def both(since: datetime | None = None) -> None:
        assert worker.run_job(undisturbed, champion, DAY) == ""
        before = digests(raced)
        together.materialize(raced)
        waited.append(together.waited)
        after = digests(raced)
        # A reader meets one list or the other, and the second run changes nothing.
        assert [d for d in together.seen if d not in (before, after)] == []
        assert digests(raced, since) == digests(undisturbed, since)

    for warehouse in (raced, undisturbed):
        first_rows(warehouse)
    both()
    assert digests(raced)["care_management_scores"][0] == 237

    unchanged = datetime.now(UTC)
    both(unchanged)
    with raced.transaction() as connection:
        assert connection.scalar(sa.text("SELECT max(scored_at) FROM care_management_scores")) < unchanged

    corrected = datetime.now(UTC)
    for warehouse in (raced, undisturbed):
        correct(warehouse, 1)
    both(corrected)
    assert any(waited)


@pytest.mark.faults
def test_two_processes_that_prepare_one_store_both_succeed(
    processes: ForkServerContext, postgres: str, tmp_path: Path
) -> None:
    url = address_of(postgres, f"mlflow_{uuid.uuid4().hex[:8]}")
    create_database(url)
    barrier, racing = processes.Barrier(2), []
    for _ in range(2):
        answer, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=worker.prepare_store, args=(url, tmp_path, barrier, sender))
        process.start()
        sender.close()
        racing.append((process, answer))
    for process, answer in racing:
        assert answer.poll(600)
        assert answer.recv() == (0, b"")
        process.join()
        assert process.exitcode == 0
