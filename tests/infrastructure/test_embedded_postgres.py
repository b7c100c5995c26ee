"""The embedded server: shared, proven, started anew after a kill, stopped by its last holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from resources.embedded_postgres import ensure_running, release
from resources.errors import PermanentError
from tests.conftest import UNSAFE_AND_QUICK
from tests.infrastructure.services import eventually

HOLD = """
import sys
from pathlib import Path
from resources.embedded_postgres import ensure_running
import psycopg
address = ensure_running(Path(sys.argv[1]), {"fsync": "off"})
with psycopg.connect(address) as connection:
    print(connection.execute("SELECT pg_postmaster_start_time()::text").fetchone()[0], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory(homes: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=homes) as folder:
        yield Path(folder) / "postgres"
        release(Path(folder) / "postgres")


def postmaster(directory: Path) -> int:
    return int((directory / "data" / "postmaster.pid").read_text().splitlines()[0])


def server_processes(directory: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "postgres" and process.cwd() == str(directory / "data"):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def holder(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate("", timeout=300)
    assert process.returncode == 0


def test_the_second_call_gives_the_same_server(directory: Path) -> None:
    address = ensure_running(directory, UNSAFE_AND_QUICK)
    pid = postmaster(directory)
    assert ensure_running(directory) == address
    assert postmaster(directory) == pid


def test_rows_do_not_reach_the_servers_log(directory: Path) -> None:
    with psycopg.connect(ensure_running(directory, UNSAFE_AND_QUICK)) as connection:
        connection.execute("CREATE TABLE t (id text PRIMARY KEY, n integer NOT NULL)")
        connection.commit()
        for statement in ("INSERT INTO t VALUES ('patient-4711', NULL)", "SELECT 'patient-4711'::integer"):
            with pytest.raises(psycopg.Error):
                connection.execute(statement)
            connection.rollback()
    log = (directory / "data" / "log").read_text()
    assert "ready to accept connections" in log
    assert "4711" not in log


def test_it_is_durable_and_reachable_from_this_machine_only_by_default(directory: Path) -> None:
    with psycopg.connect(ensure_running(directory)) as connection:
        shown = dict(
            connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)",
                [["fsync", "synchronous_commit", "listen_addresses", "TimeZone"]],
            ).fetchall()
        )
    assert shown == {"fsync": "on", "synchronous_commit": "on", "listen_addresses": "", "TimeZone": "UTC"}
    socket = next((directory / "data").glob(".s.PGSQL.*[0-9]"))
    assert socket.stat().st_mode & 0o077 == 0


def test_a_path_too_long_for_a_socket_works(directory: Path) -> None:
    long = directory / ("a folder with a name that is long " * 4).strip() / "postgres"
    address = ensure_running(long, UNSAFE_AND_QUICK)
    try:
        assert len(address.partition("host=")[2]) < 100
        with psycopg.connect(address) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        assert release(long)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
def test_a_closed_folder_is_opened_for_passing_through_and_not_for_reading(directory: Path) -> None:
    closed = directory / "closed"
    closed.mkdir(parents=True, mode=0o700)
    ensure_running(closed / "postgres", UNSAFE_AND_QUICK)
    assert release(closed / "postgres")
    assert closed.stat().st_mode & 0o777 == 0o701


def test_a_cluster_of_another_version_is_refused(directory: Path) -> None:
    (directory / "data").mkdir(parents=True)
    (directory / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(PermanentError, match="PostgreSQL 16"):
        ensure_running(directory)


def test_a_server_that_cannot_start_says_why(directory: Path) -> None:
    with pytest.raises(PermanentError, match=r"shared_buffers"):
        ensure_running(directory, {"shared_buffers": "no"})


def test_a_directory_that_cannot_be_made_is_named(directory: Path) -> None:
    directory.parent.joinpath("file").write_text("not a folder")
    with pytest.raises(PermanentError, match="MEDSCORE_HOME"):
        ensure_running(directory.parent / "file" / "postgres")


def test_a_half_made_cluster_is_made_anew(directory: Path) -> None:
    half = directory / "data.unfinished"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with psycopg.connect(ensure_running(directory, UNSAFE_AND_QUICK)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.faults
def test_after_a_kill_of_the_server_the_next_call_gives_a_live_one_with_its_data(directory: Path) -> None:
    address = ensure_running(directory, {})
    with psycopg.connect(address) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    for _ in range(3):
        killed = postmaster(directory)
        os.kill(killed, signal.SIGKILL)
        assert ensure_running(directory) == address
        assert postmaster(directory) != killed
        with psycopg.connect(address) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


@pytest.mark.faults
def test_after_a_reboot_a_strangers_pid_in_the_servers_files_does_no_harm(directory: Path) -> None:
    ensure_running(directory, UNSAFE_AND_QUICK)
    mark = directory / "data" / "postmaster.pid"
    lines = mark.read_text().splitlines()
    os.kill(int(lines[0]), signal.SIGKILL)
    assert eventually(lambda: not server_processes(directory))
    mark.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    with psycopg.connect(ensure_running(directory)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert psutil.pid_exists(os.getpid())


@pytest.mark.faults
@pytest.mark.slow
def test_four_processes_at_once_get_one_server_and_the_last_one_stops_it(directory: Path) -> None:
    holders = [holder(directory) for _ in range(4)]
    started = {said(process) for process in holders}
    assert len(started) == 1
    assert started != {""}
    for process in holders[:3]:
        finish(process)
        assert server_processes(directory)
    finish(holders[3])
    assert not server_processes(directory)


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_holder_does_not_keep_the_server_for_ever(directory: Path) -> None:
    first, second = holder(directory), holder(directory)
    assert said(first) == said(second) != ""
    first.kill()
    first.communicate(timeout=300)
    assert server_processes(directory)
    finish(second)
    assert not server_processes(directory)


@pytest.mark.faults
def test_a_forked_child_that_ends_does_not_stop_its_parents_server(directory: Path) -> None:
    address = ensure_running(directory, UNSAFE_AND_QUICK)
    child = os.fork()
    if child == 0:
        # Like a program that ends in good order, and unlike a test.
        try:
            release(directory)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert release(directory)
