"""Ticks that are killed, made twice at once, or lose their database: every row once, all that work saved."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import sqlalchemy as sa

from medscore_assets import failures, tables
from medscore_assets.database import create_database, upgrade
from medscore_assets.definitions import build_defs
from medscore_assets.demo.emergency import SimulatedVisits
from medscore_assets.wait_times import registry
from medscore_assets.wait_times.assets import at_moment
from medscore_assets.wait_times.jobs import TICK_JOB
from medscore_assets.wait_times.prediction import Predictions
from medscore_assets.wait_times.registry import Registry, load_models
from medscore_assets.wait_times.showing import shown
from resources.embedded_postgres import ensure_running, release
from resources.warehouse import Warehouse
from tests.conftest import UNSAFE_AND_QUICK
from tests.wait_times.stored import BUILT_IN, DEFAULT, NOW, ODD, Hanging, Steady, fill, tick

pytestmark = pytest.mark.faults

ROWS = 3 * 4 * 5


def kept(warehouse: Warehouse) -> list[dict[str, Any]]:
    c = tables.wait_time_predictions.c
    names = (c.facility_id, c.band, c.model, c.version, c.as_of, c.wait_seconds, c.p80_seconds, c.status)
    return warehouse.read(sa.select(*names).order_by(*names[:5])).to_pylist()


def test_boards_show_the_same_beside_models_of_every_odd_kind(
    waits: Warehouse, enable: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(Hanging, "released", released)
    try:
        made = tick(waits, NOW, load_models(enable(*ODD, "moving_average_60")))
    finally:
        released.set()
    beside = shown(waits, NOW, default=DEFAULT)
    assert {"raising 1.0.0", "huge 1.0.0", "changing 1.0.0"} <= set(made.problems)
    assert sum(answer.current for answer in beside.values()) >= 9
    with waits.transaction() as connection:
        connection.execute(sa.delete(tables.wait_time_predictions))
        connection.execute(sa.delete(tables.wait_time_displays))
    tick(waits, NOW, load_models(enable("moving_average_60")))
    assert shown(waits, NOW, default=DEFAULT) == beside


class MeetingWarehouse(Warehouse):
    """Asks for its lock at the same moment as another one."""

    def __init__(self, url: str, barrier: threading.Barrier) -> None:
        super().__init__(url)
        self._barrier = barrier
        self.met = False

    def lock(self, connection: sa.Connection, name: str, **options: Any) -> None:
        if name == "wait_time_tick":
            self._barrier.wait(300)
            self.met = True
        super().lock(connection, name, **options)


def test_two_ticks_at_once_make_each_row_once(waits: Warehouse, library: Registry) -> None:
    url, barrier = waits.engine.url.render_as_string(hide_password=False), threading.Barrier(2)
    meeting = [MeetingWarehouse(url, barrier) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda warehouse: tick(warehouse, NOW, library), meeting))
    for warehouse in meeting:
        warehouse.close()
    assert sorted(one.written for one in made) == [0, ROWS]
    # Both were there before either had the lock.
    assert all(warehouse.met for warehouse in meeting)
    assert len(kept(waits)) == ROWS
    assert len(waits.read(sa.select(tables.wait_time_ticks))) == 1


class HoldingWarehouse(Warehouse):
    """Says that the predictions are written, in a transaction that does not end."""

    def __init__(self, url: str, listener: Connection) -> None:
        super().__init__(url)
        self._listener = listener

    def append(self, connection: sa.Connection, table: sa.Table, *arguments: Any, **options: Any) -> int:
        written = super().append(connection, table, *arguments, **options)
        self._listener.send(written)
        threading.Event().wait(600)
        return written


def hold(url: str, models: Path, listener: Connection) -> None:
    """A tick up to its write; for another process."""
    tick(HoldingWarehouse(url, listener), NOW, load_models(models))


@pytest.mark.slow
def test_a_tick_killed_while_it_writes_leaves_nothing_and_is_made_again(
    waits: Warehouse, library: Registry, processes: ForkServerContext, tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text(BUILT_IN)
    parent, child = processes.Pipe(duplex=False)
    url = waits.engine.url.render_as_string(hide_password=False)
    process = processes.Process(target=hold, args=(url, models, child))
    process.start()
    try:
        assert parent.poll(600)
        assert parent.recv() == ROWS
    finally:
        process.kill()
        process.join()
    assert kept(waits) == []
    assert tick(waits, NOW, library).written == ROWS
    assert len(kept(waits)) == ROWS


class Cutting(Steady):
    """Kills the server that the tick writes to, the first time that it is asked."""

    name = "cutting"
    server: psutil.Process | None = None

    def predict_all(self, snapshot: Any, fitted: Any) -> Predictions:
        server, type(self).server = type(self).server, None
        if server is not None:
            server.kill()
            server.wait(300)
        return super().predict_all(snapshot, fitted)


@pytest.fixture
def own_server(stored_visits: SimulatedVisits) -> Iterator[tuple[Warehouse, psutil.Process]]:
    """A server that may be killed, with the simulated visits, and its process."""
    with tempfile.TemporaryDirectory(prefix="medscore-tests-") as folder:
        directory = Path(folder) / "postgres"

        def address() -> str:
            # What is committed is with the kernel, so it outlives a server that is killed.
            server = ensure_running(directory, {**UNSAFE_AND_QUICK, "synchronous_commit": "on"})
            return f"postgresql+psycopg:{server.partition(':')[2].replace('/postgres?', '/waits?')}"

        create_database(address())
        upgrade(address())
        warehouse = Warehouse(address)
        fill(warehouse, stored_visits)
        pid = int((directory / "data" / "postmaster.pid").read_text().splitlines()[0])
        yield warehouse, psutil.Process(pid)
        warehouse.close()
        release(directory)


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_costs_one_more_try(
    own_server: tuple[Warehouse, psutil.Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse, server = own_server
    place = ("cutting", f"{__name__}:Cutting")
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, place))
    monkeypatch.setattr(failures, "SECONDS_BETWEEN_RETRIES", 0.1)
    monkeypatch.setattr(Cutting, "server", server)
    models = tmp_path / "models.toml"
    models.write_text('enabled = ["moving_average_60", "cutting", "queue_fluid"]')
    defs = build_defs(warehouse=warehouse, wait_models_file=models, wait_bootstrap=DEFAULT)
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def(TICK_JOB).execute_in_process(
            instance=instance, run_config=at_moment(NOW, "wait_time_predictions")
        )
    assert result.success
    retries = [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]
    assert len(retries) == 1
    assert Cutting.server is None
    found = kept(warehouse)
    assert len(found) == len({tuple(row.values())[:5] for row in found}) == 3 * 4 * 3
    assert {row["status"] for row in found if row["model"] == "cutting"} <= {"ok", "no_data"}
