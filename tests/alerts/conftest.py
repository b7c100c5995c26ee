"""A receiver of webhooks and a mail server, both real, on this machine; and alerts to send to them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from medscore_assets.alerting.ledger import Ledger
from medscore_assets.alerting.routing import load_routing
from medscore_assets.settings import Settings
from resources.alerts import Alert
from resources.warehouse import Warehouse

OPENED = datetime(2026, 3, 2, 11, 0, tzinfo=UTC)
SECRET = "a-secret-of-tests"


def alert(key: str = "run:readmission_outreach:scores:2026-03-02", **changes: Any) -> Alert:
    values: dict[str, Any] = {
        "key": key,
        "owner": "team:clinical-ml",
        "severity": "critical",
        "title": "readmission_outreach failed for 2026-03-02",
        "detail": "the registry does not answer (registry).",
        "mend": "Start it.",
        "opened_at": OPENED,
    }
    return Alert(**(values | changes))


@dataclass
class Receiver:
    """What came in. `answers` is asked for the status of each message."""

    url: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: Callable[[], int] = lambda: 200
    server: ThreadingHTTPServer | None = None
    port: int = 0

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body)["alert"] for _, body in self.requests]

    @property
    def states(self) -> list[str]:
        return [message["state"] for message in self.messages]

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.answers()
                if status < 300:
                    receiver.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.answer(status)

            def do_GET(self) -> None:
                receiver.requests.append(({}, self.path.encode()))
                self.answer(receiver.answers())

            def answer(self, status: int) -> None:
                self.send_response(status)
                if status in (301, 302, 307, 308):
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr("resources.alerts.SECONDS_BETWEEN_ATTEMPTS", 0.01)
    started = Receiver()
    started.start()
    yield started
    started.stop()


@dataclass
class Mailbox:
    """What a mail server took."""

    port: int = 0
    mails: list[Message] = field(default_factory=list)
    refuse: str = ""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        from email import message_from_bytes, policy

        if self.refuse:
            return self.refuse
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@pytest.fixture
def mail_server() -> Iterator[Callable[..., Mailbox]]:
    """Starts mail servers; the arguments are aiosmtpd's."""
    from aiosmtpd.smtp import SMTP

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    servers: list[asyncio.Server] = []

    def start(tls: Any = None, **options: Any) -> Mailbox:
        mailbox = Mailbox()

        async def listen() -> None:
            server = await loop.create_server(
                lambda: SMTP(mailbox, loop=loop, **options), "127.0.0.1", 0, ssl=tls
            )
            servers.append(server)
            mailbox.port = server.sockets[0].getsockname()[1]

        asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
        return mailbox

    yield start

    async def close() -> None:
        for server in servers:
            server.close()

    asyncio.run_coroutine_threadsafe(close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def told(settings: Settings, receiver: Receiver) -> Settings:
    """Settings whose alerts go to the log and to the receiver, signed."""
    return settings.model_copy(
        update=Settings(
            home=settings.home,
            database_url=settings.database_url,
            alert_webhook_url=receiver.url,
            alert_webhook_secret=SECRET,
        ).model_dump()
    )


@pytest.fixture
def ledger(warehouse: Warehouse, told: Settings) -> Ledger:
    return Ledger(warehouse, load_routing(told))


@pytest.fixture
def routes(tmp_path: Path, clean_environment: Any) -> Callable[[str], Settings]:
    """Settings with these routes."""

    def write(text: str, **values: Any) -> Settings:
        file = tmp_path / "alerts.toml"
        file.write_text(text)
        return Settings(home=tmp_path, alerts_file=file, **values)

    return write
