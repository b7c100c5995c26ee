"""Servers as processes on one core, and a client on loopback that costs next to nothing.

Belongs here: starting, pinning, measuring and ending a server, and sending requests over connections that
stay open. Does not belong here: what is served and asked.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.request import urlopen

import psutil

HOST = "127.0.0.1"
_ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_ANSWER_S = 30.0


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """One server with its children, in a process group of its own."""

    process: psutil.Process
    port: int
    log: Path
    started_at: float

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        port: int,
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        core: int | None = None,
    ) -> Self:
        """Start a command, on one core with one thread of arithmetic if `core` says which."""
        pinned = ["taskset", "--cpu-list", str(core)] if core is not None else []
        more = _ONE_CORE if core is not None else {}
        started_at = time.perf_counter()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*pinned, *command],
                env={**os.environ, **more, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(psutil.Process(process.pid), port, log, started_at)

    def wait_ready(self, path: str, seconds: float = 120.0) -> float:
        """Seconds from the process's start until this path answers 200."""
        deadline = self.started_at + seconds
        while time.perf_counter() < deadline:
            with contextlib.suppress(OSError), urlopen(f"http://{HOST}:{self.port}{path}", timeout=5):
                return time.perf_counter() - self.started_at
            if not self.alive:
                break
            time.sleep(0.01)
        raise RuntimeError(f"the server did not become ready:\n{self.log.read_text()[-3000:]}")

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE

    def cpu_seconds(self) -> float:
        """CPU of the process and its children so far."""
        return sum(sum(p.cpu_times()[:2]) for p in self._family())

    def memory_mb(self) -> float:
        """Resident memory now, children included."""
        return sum(p.memory_info().rss for p in self._family()) / 1e6

    def peak_memory_mb(self) -> float:
        """The most that each process ever had resident, added up."""
        return sum(_peak_kb(p.pid) for p in self._family()) / 1e3

    def stop(self, seconds: float = 30.0) -> None:
        """SIGTERM to the group, and SIGKILL for who does not heed it."""
        for how, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)
            with contextlib.suppress(psutil.Error):
                self.process.wait(timeout=patience)
                return

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def _peak_kb(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def request_bytes(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A POST as it goes over the wire."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {HOST}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Driven:
    """What some seconds of requests gave: latencies in seconds, statuses, the last body."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    client_cpu: float = 0.0
    last_body: bytes = b""

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


class _Connection:
    """A connection on which one request is under way at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=_ANSWER_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0
        self._received = b""

    def send(self, request: bytes) -> None:
        self._received = b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> tuple[int, bytes] | None:
        """Status and body, once all is there."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise ConnectionError("the server closed a connection that was to stay open")
        self._received += chunk
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _length(head):
            return None
        return int(head[9:12]), body


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    if not found:
        raise ConnectionError("the answer does not say how long it is")
    return int(rest.split(b"\r\n", 1)[0])


@contextlib.contextmanager
def connections(port: int, number: int) -> Iterator[list[_Connection]]:
    """So many open connections."""
    opened = [_Connection(port) for _ in range(number)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.socket.close()


def drive(port: int, requests: Sequence[bytes], at_once: int, seconds: float) -> Driven:
    """Send the requests in turn for so long, each connection its next one as soon as it has its answer."""
    driven = Driven()
    with connections(port, at_once) as opened, selectors.DefaultSelector() as selector:
        for connection in opened:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        cpu, started = time.process_time(), time.perf_counter()
        ends = started + seconds
        for number, connection in enumerate(opened):
            connection.send(requests[number % len(requests)])
        sent, waiting = at_once, at_once
        while waiting:
            ready = selector.select(_ANSWER_S)
            if not ready:
                raise TimeoutError("the server does not answer")
            for key, _ in ready:
                connection = key.data
                answer = connection.receive()
                if answer is None:
                    continue
                now = time.perf_counter()
                driven.latencies.append(now - connection.sent_at)
                driven.statuses[answer[0]] += 1
                driven.last_body = answer[1]
                if now < ends:
                    connection.send(requests[sent % len(requests)])
                    sent += 1
                else:
                    waiting -= 1
        driven.seconds = time.perf_counter() - started
        driven.client_cpu = time.process_time() - cpu
    return driven


def ask(port: int, request: bytes) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    with connections(port, 1) as (connection,):
        connection.send(request)
        while (answer := connection.receive()) is None:
            pass
        return answer
