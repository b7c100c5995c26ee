"""An answer's head and body leave together, and nothing is kept back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serving.protocol import Joining

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
