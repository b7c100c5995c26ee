"""Services under one parent: however it is stopped and whatever dies, nothing of them is left.

`medscore up` itself is started in `test_up.py`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from medscore_assets.processes import run_all
from medscore_assets.settings import Settings
from resources.errors import PermanentError

FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print("started", os.getpid(), flush=True)
time.sleep(300)
"""
"""A service with a child of its own, as servers with workers are."""

RUN = """
import sys
from pathlib import Path
from medscore_assets.processes import run_all
from medscore_assets.settings import Settings
sys.exit(run_all(Settings(), Path(sys.argv[1])))
"""


class Up:
    """A running `medscore up` with an embedded server of its own, on free ports."""

    def __init__(self, home: Path, *command: object) -> None:
        self.home = home
        self.ports = [free_port(), free_port(), free_port()]
        environment = {
            **os.environ,
            "MEDSCORE_HOME": str(home),
            "MEDSCORE_DAGSTER_PORT": str(self.ports[0]),
            "MEDSCORE_MLFLOW_PORT": str(self.ports[1]),
            "MEDSCORE_API_PORT": str(self.ports[2]),
        }
        self.process = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def family(self) -> set[psutil.Process]:
        """Every process that knows this home: services, code servers, database."""
        found = set()
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("MEDSCORE_HOME") == str(self.home)
                if process.status() != psutil.STATUS_ZOMBIE and (ours or str(self.home) in process.cwd()):
                    found.add(process)
            except (psutil.Error, OSError):
                continue
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.2)
    return holds()


@contextmanager
def starting(home: Path) -> Iterator[Callable[..., Up]]:
    """Starts commands under this home; whatever a failed test leaves is killed."""
    started: list[Up] = []

    def run(*command: object) -> Up:
        started.append(Up(home, *command))
        return started[-1]

    try:
        yield run
    finally:
        for up in started:
            for process in up.family():
                process.kill()
            up.process.wait(30)


@pytest.fixture
def start(homes: Path) -> Iterator[Callable[..., Up]]:
    with (
        tempfile.TemporaryDirectory(dir=homes, ignore_cleanup_errors=True) as home,
        starting(Path(home)) as run,
    ):
        yield run


@pytest.fixture
def family(start: Callable[..., Up], tmp_path: Path) -> Up:
    """Two services with children of their own, under the same parent as the real ones."""
    (tmp_path / "service.py").write_text(FAMILY)
    (tmp_path / "Procfile").write_text(
        "".join(f"{n}: exec python {tmp_path}/service.py\n" for n in ("one", "two"))
    )
    up = start(sys.executable, "-c", RUN, tmp_path / "Procfile")
    assert eventually(lambda: up.said.count("| started") == 2, 60), up.said
    return up


@pytest.mark.faults
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_way_to_stop_ends_children_of_children_too(family: Up, stop: signal.Signals) -> None:
    assert len(family.family()) > 4
    family.process.send_signal(stop)
    assert family.process.wait(60) == 0
    assert eventually(lambda: not family.family(), 60), family.family()


@pytest.mark.faults
def test_a_service_that_is_killed_is_named_and_takes_the_others_with_it(family: Up) -> None:
    line = next(
        line for line in family.lines if "| started" in line and line.split("|")[0].split()[-1] == "two"
    )
    os.kill(int(line.split()[-1]), signal.SIGKILL)
    assert family.process.wait(60) == 1
    assert eventually(lambda: not family.family(), 60), family.family()
    assert "two ended on its own" in family.said
    assert "one ended on its own" not in family.said


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PermanentError, match=f"127.0.0.1:{port}.*MEDSCORE_MLFLOW_PORT"):
            run_all(Settings(home=tmp_path, dagster_port=free_port(), mlflow_port=port))
    assert not list(tmp_path.iterdir())
