"""The watch: a daemon that has stopped, a database that is gone, and the sign of life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._daemon.types import DaemonHeartbeat

from medscore_assets.alerting import watch as module
from medscore_assets.alerting.ledger import Ledger
from medscore_assets.alerting.routing import load_routing
from medscore_assets.alerting.watch import Watcher, watch
from medscore_assets.database import create_database, upgrade
from medscore_assets.settings import PROJECT_ROOT, Settings
from medscore_assets.tables import alerts
from resources.embedded_postgres import ensure_running, release
from resources.errors import PermanentError
from resources.warehouse import Warehouse
from tests.alerts.conftest import Receiver
from tests.conftest import address_of

QUICK = {"fsync": "off"}
"""What is committed outlives a kill of the server, if not one of the machine."""


@pytest.fixture(scope="module")
def _shared_instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as opened:
        yield opened


@pytest.fixture
def instance(_shared_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """An instance whose daemons beat."""
    beat(_shared_instance)
    return _shared_instance


@pytest.fixture
def open_instance(instance: dg.DagsterInstance) -> Callable[[], dg.DagsterInstance]:
    """Opens that instance as another process would."""
    return lambda: dg.DagsterInstance.from_ref(instance.get_ref())


def beat(instance: dg.DagsterInstance, *, age_s: float = 0.0) -> None:
    for name in instance.get_required_daemon_types():
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age_s, name, None, None))


@pytest.fixture
def watcher(told: Settings, warehouse: Warehouse, open_instance: Callable[[], dg.DagsterInstance]) -> Watcher:
    return Watcher(told, load_routing(told), warehouse, open_instance)


def keys(receiver: Receiver) -> list[tuple[str, str]]:
    return [(m["state"], m["key"]) for m in receiver.messages]


def test_a_daemon_that_has_stopped_is_told_once_and_so_is_its_return(
    watcher: Watcher, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    assert watcher.look(patient=False)
    beat(instance, age_s=module.STALE_HEARTBEAT_S + 1)
    for _ in range(3):
        assert not watcher.look(patient=False)
    assert keys(receiver) == [("open", "daemon")]
    assert "SCHEDULER" in receiver.messages[0]["detail"]
    assert receiver.messages[0]["owner"] == "platform"
    beat(instance)
    for _ in range(3):
        assert watcher.look(patient=False)
    assert keys(receiver) == [("open", "daemon"), ("recovered", "daemon")]


def test_one_daemon_of_several_that_is_silent_is_named(
    watcher: Watcher, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    old = time.time() - module.STALE_HEARTBEAT_S - 1
    instance.add_daemon_heartbeat(DaemonHeartbeat(old, "SENSOR", None, None))
    watcher.look(patient=False)
    assert "Silent: SENSOR." in receiver.messages[0]["detail"]


def test_a_daemon_that_may_still_be_starting_is_waited_for(
    watcher: Watcher, instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(instance, age_s=module.STALE_HEARTBEAT_S + 1)
    watcher.look()
    assert receiver.requests == []
    monkeypatch.setattr(watcher, "_began", time.time() - module.STALE_HEARTBEAT_S - 1)
    watcher.look()
    assert keys(receiver) == [("open", "daemon")]


def test_a_missing_list_is_told_where_lists_are_wanted(
    told: Settings, warehouse: Warehouse, open_instance: Callable[[], dg.DagsterInstance], receiver: Receiver
) -> None:
    wanting = told.model_copy(update={"schedules": "running"})
    watch(wanting, once=True, warehouse=warehouse, open_instance=open_instance)
    watch(wanting, once=True, warehouse=warehouse, open_instance=open_instance)
    assert [key.rpartition(":")[0] for _, key in keys(receiver)] == ["missing-list:outreach"]


def test_what_the_sensor_could_not_deliver_is_delivered(
    watcher: Watcher, warehouse: Warehouse, told: Settings, receiver: Receiver
) -> None:
    from tests.alerts.conftest import alert

    Ledger(warehouse, load_routing(told)).raise_alert(alert())
    watcher.look()
    assert receiver.states == ["open"]


def test_dagsters_database_that_is_gone_is_told_without_its_address(
    told: Settings, warehouse: Warehouse, open_instance: Callable[[], dg.DagsterInstance], receiver: Receiver
) -> None:
    gone = True

    def open_if_there() -> dg.DagsterInstance:
        if gone:
            raise RuntimeError("postgresql://user:TOKEN@host")
        return open_instance()

    watcher = Watcher(told, load_routing(told), warehouse, open_if_there)
    assert not watcher.look()
    assert not watcher.look()
    gone = False
    assert watcher.look()
    assert keys(receiver) == [("open", "dagster-database"), ("recovered", "dagster-database")]
    assert "TOKEN" not in repr(receiver.requests)


def test_a_warehouse_without_a_ledger_is_told_too(
    told: Settings, postgres: str, open_instance: Callable[[], dg.DagsterInstance], receiver: Receiver
) -> None:
    create_database(address_of(postgres, "not_migrated"))
    empty = Warehouse(address_of(postgres, "not_migrated"))
    watcher = Watcher(told, load_routing(told), empty, open_instance)
    for _ in range(2):
        assert not watcher.look()
    assert keys(receiver) == [("open", "alert-ledger")]
    assert "medscore db upgrade" in receiver.messages[0]["mend"]
    upgrade(address_of(postgres, "not_migrated"))
    assert watcher.look()
    empty.close()
    assert keys(receiver)[1:] == [("recovered", "alert-ledger")]


@pytest.fixture
def server(homes: Path) -> Iterator[tuple[Path, str]]:
    """The folder of a server of its own, and the address of a warehouse on it."""
    with tempfile.TemporaryDirectory(dir=homes) as folder:
        directory = Path(folder) / "postgres"
        url = address_of(ensure_running(directory, QUICK), "medscore")
        create_database(url)
        upgrade(url)
        yield directory, url
        release(directory)


def kill(directory: Path) -> None:
    os.kill(int((directory / "data" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.faults
def test_a_warehouse_that_is_gone_is_told_once_without_it_and_so_is_its_return(
    told: Settings,
    server: tuple[Path, str],
    open_instance: Callable[[], dg.DagsterInstance],
    receiver: Receiver,
) -> None:
    directory, url = server
    warehouse = Warehouse(url)
    watcher = Watcher(told, load_routing(told), warehouse, open_instance)
    assert watcher.look()
    kill(directory)
    for _ in range(4):
        assert not watcher.look()
    assert keys(receiver) == [("open", "warehouse")]
    assert ensure_running(directory, QUICK)
    assert watcher.look()
    assert watcher.look()
    assert keys(receiver) == [("open", "warehouse"), ("recovered", "warehouse")]
    stored = warehouse.read(sa.select(alerts)).to_pylist()
    warehouse.close()
    assert stored
    assert all(row["notified_at"] and row["recovery_notified_at"] for row in stored)


@pytest.mark.slow
@pytest.mark.faults
def test_a_warehouse_that_comes_and_goes_does_not_storm(
    told: Settings,
    instance: dg.DagsterInstance,
    open_instance: Callable[[], dg.DagsterInstance],
    receiver: Receiver,
    warehouse: Warehouse,
    database: str,
) -> None:
    gone = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    now = [database]
    coming_and_going = Warehouse(lambda: now[0])
    watcher = Watcher(told, load_routing(told), coming_and_going, open_instance)
    beat(instance, age_s=module.STALE_HEARTBEAT_S + 1)
    watcher.look(patient=False)
    for _ in range(8):
        now[0] = gone
        coming_and_going.close()
        watcher.look(patient=False)
        now[0] = database
        coming_and_going.close()
        watcher.look(patient=False)
    coming_and_going.close()
    told_keys = [key for _, key in keys(receiver)]
    assert told_keys.count("warehouse") <= 6
    # It stands in the ledger, so nobody is told again because the ledger cannot be asked.
    assert told_keys.count("daemon") == 1


def test_the_sign_of_life_is_given_while_all_is_well(
    told: Settings,
    warehouse: Warehouse,
    instance: dg.DagsterInstance,
    open_instance: Callable[[], dg.DagsterInstance],
    receiver: Receiver,
) -> None:
    alive = Settings(
        home=told.home,
        database_url=told.database_url,
        heartbeat_url=receiver.url.replace("hook", "alive"),
    )
    watcher = Watcher(alive, load_routing(alive), warehouse, open_instance)
    for _ in range(3):
        watcher.look(patient=False)
    assert [body for _, body in receiver.requests] == [b"/alive"]
    beat(instance, age_s=module.STALE_HEARTBEAT_S + 1)
    silent = Watcher(alive, load_routing(alive), warehouse, open_instance)
    silent.look(patient=False)
    assert len(receiver.requests) == 1


def test_a_dead_mans_service_that_is_down_harms_nothing_and_is_not_named(
    told: Settings,
    warehouse: Warehouse,
    open_instance: Callable[[], dg.DagsterInstance],
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.stop()
    url = f"http://127.0.0.1:{receiver.port}/TOKEN"
    alive = Settings(home=told.home, database_url=told.database_url, heartbeat_url=url)
    assert Watcher(alive, load_routing(alive), warehouse, open_instance).look()
    assert "sign of life" in caplog.text
    assert "TOKEN" not in caplog.text


def test_wrong_routes_end_the_watch_before_it_begins(routes: Callable[[str], Settings]) -> None:
    with pytest.raises(PermanentError, match="routes are not valid"):
        watch(routes("[routes]"), once=True)


def test_it_looks_until_it_is_stopped(
    told: Settings,
    warehouse: Warehouse,
    instance: dg.DagsterInstance,
    open_instance: Callable[[], dg.DagsterInstance],
    receiver: Receiver,
) -> None:
    beat(instance, age_s=module.STALE_HEARTBEAT_S + 1)
    stop = threading.Event()
    codes: list[int] = []

    def run() -> None:
        options: dict[str, Any] = {"warehouse": warehouse, "open_instance": open_instance}
        codes.append(watch(told, stop=stop, interval_s=0.02, **options))

    thread = threading.Thread(target=run)
    thread.start()
    stop.wait(0.3)
    stop.set()
    thread.join(20)
    assert codes == [0]
    assert watch(told, once=True, warehouse=warehouse, open_instance=open_instance) == 1
    assert receiver.states == ["open"]


@pytest.mark.slow
@pytest.mark.faults
def test_sigterm_ends_it_in_good_order(told: Settings, database: str, tmp_path: Path) -> None:
    script = (
        "from medscore_assets.settings import Settings\n"
        "from medscore_assets.alerting.watch import watch\n"
        "print('watching', flush=True)\n"
        "raise SystemExit(watch(Settings(), open_instance=lambda: 1 / 0))\n"
    )
    environment = {**os.environ, "MEDSCORE_DATABASE_URL": database, "MEDSCORE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "watching\n"
    # The handler is set before the first look; until then SIGTERM would end the process by itself.
    deadline = time.monotonic() + 300
    while "SigCgt" in (status := _status(process.pid)) and not _catches_sigterm(status):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def _catches_sigterm(status: str) -> bool:
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)
