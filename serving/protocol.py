"""HTTP as uvicorn speaks it, with an answer's head and body sent together.

Belongs here: how bytes leave. Does not belong here: what they say.

uvicorn writes the head, then the body, and uvloop sends each at once: two system calls, and two wake-ups of
the client, who can do nothing with the first one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD = b"HTTP/1.1 "


class Together(HttpToolsProtocol):
    """uvicorn's protocol on a transport that waits with a head for what follows it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        super().connection_made(Joining(transport, self.loop))  # type: ignore[arg-type]


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
