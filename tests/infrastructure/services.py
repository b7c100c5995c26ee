"""`medscore up` and what is like it, started as people start it, and what is left of it afterwards.

Belongs here: starting, listening, and counting processes. Does not belong here: what is expected of them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


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


def eventually(holds: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether something comes to hold within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
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
