"""HTTP as uvicorn speaks it, with a limit for a request's head, and an answer's head and body sent together.

Belongs here: how bytes come and leave. Does not belong here: what they say, and limits that the application
can hold (`limits.py`).

The parser keeps a head of any length, copies it with each piece that comes, and waits for its end for ever;
no application hears of it until then. What follows a body in pieces (trailers) it takes for headers.

uvicorn writes the head, then the body, and uvloop sends each at once: two system calls, and two wake-ups of
the client, who can do nothing with the first one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 32 * 1024
"""How long a request's head may be; what comes in one piece with its first byte is not counted."""

HEAD_SECONDS = 10.0
"""How long a request's head may take."""

_HEAD = b"HTTP/1.1 "


class Together(HttpToolsProtocol):
    """uvicorn's protocol on a transport that waits with a head for what follows it."""

    _in_head = False
    _head_bytes = 0
    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        super().connection_made(Joining(transport, self.loop))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._head_ended()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        goes_on = self._in_head
        super().data_received(data)
        if not self._in_head:
            return
        if self._head_due is None:
            self._head_due = self.loop.call_later(HEAD_SECONDS, self._refuse_head)
        self._head_bytes += len(data) if goes_on else 0
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, for trailers too, which nobody here asks for."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._head_ended()
        super().on_headers_complete()

    def _head_ended(self) -> None:
        self._in_head = False
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _refuse_head(self) -> None:
        self._head_ended()
        if self.cycle is None or self.cycle.response_complete:
            self.send_400_response("The head of the request is too long or too slow.")
        else:
            # An answer is under way: nothing can be said in the middle of it.
            self.transport.close()


class Joining:
    """A transport that sends an answer's head with the next write, at the latest in the loop's next turn."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Sends `data`, and before it what was kept; keeps a head."""
        head, self._head = self._head, None
        if head is not None:
            self._transport.write(head + data)
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Closes after what was kept is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None and not self._transport.is_closing():
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
