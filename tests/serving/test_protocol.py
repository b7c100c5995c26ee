"""A request's head has limits; an answer's head and body leave together, and nothing is kept back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving import protocol
from serving.protocol import MOST_HEAD_BYTES, Joining, Together

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Transport:
    """What `Joining` asks of a transport."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def sent(*steps: Callable[[Joining], object]) -> list[bytes]:
    """What was written, a turn of the loop after each step."""
    transport = Transport()

    async def work() -> None:
        joining = Joining(transport, asyncio.get_running_loop())
        for step in steps:
            step(joining)
            await asyncio.sleep(0)

    asyncio.run(work())
    return transport.written


def test_head_and_body_are_one_write_and_the_next_answer_another() -> None:
    def answer(joining: Joining) -> None:
        joining.write(HEAD)
        joining.write(b"body")

    assert sent(answer, answer) == [HEAD + b"body"] * 2


def test_a_head_whose_body_comes_later_or_never_leaves_at_once() -> None:
    assert sent(lambda j: j.write(HEAD), lambda j: j.write(b"a"), lambda j: j.write(b"b")) == [
        HEAD,
        b"a",
        b"b",
    ]


def test_closing_sends_what_is_kept_first() -> None:
    def last(joining: Joining) -> None:
        joining.write(HEAD)
        joining.close()
        assert joining.is_closing()

    assert sent(last) == [HEAD]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the names of the headers, after the body."""
    while (await receive()).get("more_body"):
        pass
    told = b" ".join(name for name, _ in scope["headers"])
    length = str(len(told)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": told})


def answer_to(*pieces: bytes) -> bytes:
    """What a server sends before it closes, to pieces that come one after the other."""
    config = uvicorn.Config(application, log_config=None)
    config.load()

    async def work() -> bytes:
        loop, state = asyncio.get_running_loop(), ServerState()
        server = await loop.create_server(lambda: Together(config, state, {}), "127.0.0.1", 0)
        async with server, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            found = await reader.read()
            writer.close()
        return found

    return asyncio.run(work())


GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def test_a_head_in_pieces_within_its_limit_is_taken() -> None:
    long = b"X-Long: " + b"a" * (MOST_HEAD_BYTES // 2)

    assert answer_to(GET, long, b"\r\n", b"\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_head_without_an_end_is_given_up_by_its_length() -> None:
    pieces = [b"a" * 8192] * (MOST_HEAD_BYTES // 8192 + 1)

    assert answer_to(GET + b"X-Long: ", *pieces).startswith(b"HTTP/1.1 400 ")


def test_a_head_without_an_end_is_given_up_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)

    assert answer_to(GET).startswith(b"HTTP/1.1 400 ")


def test_what_follows_a_body_is_no_header() -> None:
    chunked = b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    told = answer_to(chunked + b"Authorization: Bearer made-up\r\n\r\n")

    assert told.startswith(b"HTTP/1.1 200 ")
    assert told.endswith(b"connection transfer-encoding")
