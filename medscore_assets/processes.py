"""What `medscore up` runs: the services of the Procfile, under one parent that holds PostgreSQL.

Belongs here: starting, watching and stopping processes, and saying where they answer.
Does not belong here: what the services do, and the preparation of the databases (`database.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil
from honcho.environ import parse_procfile
from honcho.manager import Manager
from rich.console import Console
from rich.table import Table

from medscore_assets.alerting.routing import load_routing
from medscore_assets.database_addresses import without_password
from medscore_assets.settings import PROJECT_ROOT, Settings
from resources.embedded_postgres import release
from resources.errors import PermanentError

PATIENCE_S = 180.0
GRACE_S = 30.0
"""How long a service may take to end. Dagster's take 5 s of a busy machine, and honcho grants no more."""
_HOST = "127.0.0.1"
_MARK = "_MEDSCORE_UP"
"""An environment variable on every process that descends from one `medscore up`, also an orphan."""


@dataclass(frozen=True, slots=True)
class Service:
    """One line of the Procfile as a person meets it. `answers` asks it once."""

    name: str
    title: str
    address: str
    answers: Callable[[], bool]


def run_all(settings: Settings, procfile: Path = PROJECT_ROOT / "Procfile") -> int:
    """Run the services until Ctrl-C, SIGTERM or a closed terminal, or until one of them ends.

    PostgreSQL, if it is the embedded one, stops last. Returns the exit code: 0 when asked to stop, else
    1. Raises `PermanentError` before anything is started if a port is taken or a route of alerts is wrong.
    """
    console = Console()
    _require_free(settings)
    # A wrong route would end the watch, and with it all the others.
    load_routing(settings)
    environment = _environment(settings)
    manager = _Manager()
    for name, command in parse_procfile(procfile.read_text()).processes.items():
        manager.add_process(name, command, env=environment, cwd=str(PROJECT_ROOT))
    signal.signal(signal.SIGHUP, _as_sigterm)
    stopping = threading.Event()
    services = _services(settings, environment)
    for work in (
        lambda: _announce(console, services, settings, stopping),
        lambda: manager.watch(stopping),
    ):
        threading.Thread(target=work, daemon=True).start()
    try:
        manager.loop()
    finally:
        stopping.set()
        _end_stragglers(environment[_MARK])
        stopped = release(settings.postgres_directory)
    for name, code in manager.ended_first.items():
        console.print(f"[red]{name} ended on its own (exit code {code}), so all were stopped.[/red]")
    if settings.database_url is None:
        fate = "PostgreSQL is stopped too" if stopped else "another process still uses PostgreSQL"
        console.print(f"All services are stopped; {fate}.")
    return 1 if manager.ended_first else 0


class _Manager(Manager):  # type: ignore[misc]
    """honcho's, which also knows who ended first, and takes a Ctrl-C before all have started."""

    def __init__(self) -> None:
        super().__init__()
        self.ended_first: dict[str, int] = {}
        self._asked_to_end = 0.0

    def terminate(self) -> None:
        if not self._all_started():
            threading.Timer(0.2, self.terminate).start()
        elif not self._terminating:
            self.ended_first = {
                name: process["returncode"]
                for name, process in self._processes.items()
                if "returncode" in process
            }
            self._asked_to_end = time.monotonic()
            super().terminate()

    def kill(self) -> None:
        if time.monotonic() > self._asked_to_end + GRACE_S:
            super().kill()

    def watch(self, stopping: threading.Event) -> None:
        """End what a dead service left running: it keeps the service's output open, and honcho waits."""
        while not stopping.wait(1):
            for process in self._processes.values():
                if "pid" in process and "returncode" not in process and _is_dead(process["pid"]):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process["pid"], signal.SIGTERM)


def _environment(settings: Settings) -> dict[str, str]:
    """What the children get: the settings as given, and addresses for those that do not read them."""
    databases = settings.databases()
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "DAGSTER_HOME": str(PROJECT_ROOT),
        "DAGSTER_PORT": str(settings.dagster_port),
        "MLFLOW_PORT": str(settings.mlflow_port),
        # Not as arguments: those are shown to everybody who lists processes.
        "MLFLOW_BACKEND_STORE_URI": databases.mlflow,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": settings.mlflow_artifacts_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Workers for language-model evaluations, which nobody here asks for.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONUNBUFFERED": "1",
        _MARK: f"{os.getpid()}-{time.time_ns()}",
    }


def _services(settings: Settings, environment: dict[str, str]) -> list[Service]:
    dagster = f"http://{_HOST}:{settings.dagster_port}"
    mlflow = f"http://{_HOST}:{settings.mlflow_port}"
    api = f"http://{settings.api_host}:{settings.api_port}"
    return [
        Service("api", "API and portal (/portal)", f"{api}/portal", lambda: _answers(f"{api}/health/live")),
        Service("mlflow", "MLflow (models)", mlflow, lambda: _answers(f"{mlflow}/health")),
        Service("dagster", "Dagster (assets, runs)", dagster, lambda: _answers(f"{dagster}/server_info")),
        Service("daemon", "Dagster's daemon (schedules)", "beats", lambda: _daemon_lives(environment)),
    ]


def _announce(
    console: Console, services: list[Service], settings: Settings, stopping: threading.Event
) -> None:
    """Wait until each service answers and show the addresses."""
    late = [s.name for s in services if not _wait_for(s, stopping)]
    if stopping.is_set():
        return
    table = Table(title="MedScore is up. Ctrl-C stops everything.")
    table.add_column("service")
    table.add_column("address", overflow="fold")
    for service in services:
        table.add_row(service.title, "does not answer yet" if service.name in late else service.address)
    table.add_row("PostgreSQL (warehouse)", without_password(settings.databases().warehouse))
    console.print(table)


def _wait_for(service: Service, stopping: threading.Event) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not stopping.wait(0.5) and time.monotonic() < deadline:
        if service.answers():
            return True
    return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _daemon_lives(environment: dict[str, str]) -> bool:
    command = ["dagster-daemon", "liveness-check"]
    done = subprocess.run(
        command, env=environment, cwd=PROJECT_ROOT, capture_output=True, start_new_session=True, check=False
    )
    return done.returncode == 0


def _require_free(settings: Settings) -> None:
    for variable, host, port in (
        ("MEDSCORE_DAGSTER_PORT", _HOST, settings.dagster_port),
        ("MEDSCORE_MLFLOW_PORT", _HOST, settings.mlflow_port),
        ("MEDSCORE_API_PORT", settings.api_host, settings.api_port),
    ):
        with socket.socket() as probe:
            # As the services do: a port that was just left may be taken again.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                raise PermanentError(
                    "the port is in use",
                    where=f"{host}:{port}",
                    mend=f"End what uses it (another medscore up?), or set {variable}.",
                ) from None


def _is_dead(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _as_sigterm(signum: int, frame: FrameType | None) -> None:
    """A terminal that is closed stops everything like Ctrl-C."""
    os.kill(os.getpid(), signal.SIGTERM)


def _end_stragglers(mark: str) -> None:
    """End what the services left behind in process groups of their own."""
    for end in (psutil.Process.terminate, psutil.Process.kill):
        marked = [process for process in psutil.process_iter() if _is_marked(process, mark)]
        for process in marked:
            with contextlib.suppress(psutil.Error):
                end(process)
        psutil.wait_procs(marked, timeout=10)


def _is_marked(process: psutil.Process, mark: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(_MARK) == mark
    return False
