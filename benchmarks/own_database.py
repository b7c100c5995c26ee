"""A PostgreSQL that a benchmark has to itself: where it is, that it is nobody else's, and what it costs.

Belongs here: settings of a home of the benchmark's own, and the processor time of its server. Does not belong
here: what is measured, and other servers (`loopback.py`).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from medscore_assets.settings import Settings
from resources.errors import PermanentError
from resources.warehouse import Warehouse

_OTHERS = ("database_url", "dagster_database_url", "mlflow_database_url")


def own_settings(home: Path, **more: Any) -> Settings:
    """Settings with the embedded database of this folder, which PostgreSQL's own user must be able to enter.

    `more` are settings by the names of their fields. Raises `PermanentError` where the environment or
    `.env` names a database: a benchmark would fill it.
    """
    settings = Settings(home=home, **more)
    named = [f"MEDSCORE_{name.upper()}" for name in _OTHERS if getattr(settings, name) is not None]
    if named:
        raise PermanentError(
            "a benchmark fills the database that it measures",
            where=" and ".join(named),
            mend="Unset it: the benchmark starts a PostgreSQL of its own.",
        )
    home.chmod(0o755)
    return settings


def server_of(warehouse: Warehouse) -> psutil.Process:
    """PostgreSQL's first process."""
    with warehouse.engine.connect() as connection:
        backend = int(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
    parent = psutil.Process(backend).parent()
    assert parent is not None
    return parent


def cpu_of(server: psutil.Process) -> float:
    """Seconds of the processor of the server so far: of what has ended, and of what is running."""
    while True:
        ended, running = _ended(server), 0.0
        for child in server.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                own = child.cpu_times()
                running += own.user + own.system
        # A process that ended meanwhile would be missed, or be counted twice.
        if _ended(server) == ended:
            own = server.cpu_times()
            return float(own.user + own.system + ended + running)


def _ended(server: psutil.Process) -> float:
    times = server.cpu_times()
    return float(times.children_user + times.children_system)
