"""A run that is killed at any moment leaves the old list or the whole list of its own, nothing between."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.context import ForkServerContext
from pathlib import Path
from statistics import median

import pytest
import sqlalchemy as sa

from medscore_assets.partitions import window
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.publish import Champion, publish_list
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.warehouse import Warehouse
from tests.faults import worker
from tests.faults.lists import correct, digests, first_rows
from tests.readmission.test_outreach import DAY

MOMENTS = 20
READING = 6
"""So many of the moments lie before the first write, the others after it, where it matters."""

MOST = 200
"""So many kills at most, until enough of them have met a run between its first write and its commit."""

ENOUGH = 3
WRITING = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL"
)
"""How many transactions have written and not ended."""


class Run:
    """A process that makes the day's list. It is about to begin when this is made."""

    def __init__(self, processes: ForkServerContext, warehouse: Warehouse, model_files: Path) -> None:
        url = warehouse.engine.url.render_as_string(hide_password=False)
        self._parent, child = processes.Pipe(duplex=False)
        self._process = processes.Process(target=worker.publish, args=(url, model_files, DAY, child))
        self._process.start()
        child.close()
        self._wait_until("begins")

    def _wait_until(self, word: str) -> float:
        """Gives the time that passed, in seconds."""
        began = time.perf_counter()
        assert self._parent.poll(300)
        assert self._parent.recv() == word
        return time.perf_counter() - began

    def durations(self) -> dict[str, float]:
        """How long it takes undisturbed until it writes and from there on, in seconds."""
        took = {"begins": self._wait_until("writes"), "writes": self._wait_until("ends")}
        self._process.join()
        return took

    def kill(self, since: str, after: float, warehouse: Warehouse) -> str:
        """Kill it with SIGKILL so many seconds after it began or wrote; what it was doing."""
        if since == "writes":
            self._wait_until("writes")
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            # Held first, so that what is seen is what is killed.
            os.kill(self._process.pid, signal.SIGSTOP)
        with warehouse.transaction() as connection:
            writing = connection.scalar(WRITING) > 0
        said = []
        # A process that has ended leaves an end of file behind its last word.
        with contextlib.suppress(EOFError):
            while self._parent.poll():
                said.append(self._parent.recv())
        self._process.kill()
        self._process.join()
        return "had ended" if "ends" in said else "was writing" if writing else "had written nothing"


@pytest.mark.faults
@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_whole_lists(
    processes: ForkServerContext,
    model: ReadmissionModel,
    model_files: Path,
    open_warehouse: Callable[[], Warehouse],
) -> None:
    killed, undisturbed, policy = open_warehouse(), open_warehouse(), load_policy()
    for warehouse in (killed, undisturbed):
        first_rows(warehouse)
        publish_list(warehouse, window(DAY), lambda: Champion(model, 1), policy)
    measured = [Run(processes, undisturbed, model_files).durations() for _ in range(3)]
    lasts = {since: median(durations[since] for durations in measured) for since in measured[0]}
    old = digests(undisturbed)
    assert digests(killed) == old

    seed = int.from_bytes(os.urandom(8))
    chance = random.Random(seed)
    met: Counter[str] = Counter()
    while met.total() < MOMENTS or met["was writing"] < ENOUGH:
        since = "begins" if met.total() % MOMENTS < READING else "writes"
        moment = chance.uniform(0, lasts[since])
        kill = f"kill {met.total() + 1} of seed {seed}, {moment:.4f} s after it {since}, {lasts}, {dict(met)}"
        assert met.total() < MOST, kill
        corrected = datetime.now(UTC)
        for warehouse in (killed, undisturbed):
            correct(warehouse, met.total() + 1)
        publish_list(undisturbed, window(DAY), lambda: Champion(model, 1), policy)
        new = digests(undisturbed)
        assert all(new[table] != old[table] for table in new), kill

        phase = Run(processes, killed, model_files).kill(since, moment, killed)
        left = digests(killed)
        assert left in (old, new), f"{kill}: it {phase}"
        assert phase != "had ended" or left == new, kill

        publish_list(killed, window(DAY), lambda: Champion(model, 1), policy)
        assert digests(killed, corrected) == digests(undisturbed, corrected), f"{kill}: it {phase}"
        met["had just committed" if phase == "was writing" and left == new else phase] += 1
        old = new
