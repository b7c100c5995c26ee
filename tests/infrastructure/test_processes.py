"""Services under one parent: however it is stopped and whatever dies, nothing of them is left.

`medscore up` itself is started in `test_up.py`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medscore_assets.processes import run_all
from medscore_assets.settings import Settings
from resources.errors import PermanentError
from tests.infrastructure.services import Up, eventually, free_port, starting

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
def test_a_service_that_needs_six_seconds_to_end_is_given_them(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    (tmp_path / "Procfile").write_text(
        f"slow: trap 'sleep 6; touch {tmp_path}/ended; exit' TERM; echo ready; while :; do sleep .1; done\n"
        "quick: echo ready; exec sleep 1000\n"
    )
    up = start(sys.executable, "-c", RUN, tmp_path / "Procfile")
    assert eventually(lambda: up.said.count("| ready") == 2, 60), up.said
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert (tmp_path / "ended").exists(), up.said


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
