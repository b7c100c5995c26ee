"""Asking a server under one deadline for the whole exchange.

Belongs here: transport: deadline, size cap, redirects, token, one retry, and what each refusal is called.
Does not belong here: what is asked and what an answer means (`wire.py` and the adapters).

Time-outs of HTTP libraries count from byte to byte, so a server that drips holds them for ever. Here one
clock runs over name look-up, connection, requests and bodies together. No error that leaves this module holds
an address, a token or anything that the server wrote.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import from_json

from medscore_assets.wait_times.http.entry import HttpEntry
from resources.alerts import within
from resources.errors import MedscoreError, PermanentError, TransientError

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

_GRACE_S = 0.5
"""For what cannot be interrupted, such as the look-up of a name; after it the thread is left behind."""
_BEFORE_RETRY_S = 0.2
_TRY_AGAIN_LATER = (408, 425, 429)


class TooSlow(TransientError, TimeoutError):
    """The exchange was not over within the limit."""


class Unreachable(TransientError):
    """The server could not be asked, or said itself that it cannot answer at the moment."""


class RefusedAnswer(PermanentError):
    """The server answered what must not be used."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer: parsed JSON, NaN and Infinity as floats, and headers by lower-case name."""

    content: Any
    headers: Mapping[str, str]


class Caller:
    """Asks the server of one entry, inside of an `exchange`."""

    def __init__(self, client: httpx.AsyncClient, entry: HttpEntry) -> None:
        self._client, self._entry = client, entry

    async def get(self, path: str) -> Answer:
        """The answer to GET. Raises `Unreachable` or `RefusedAnswer`."""
        return await self._asked("GET", path, None, {})

    async def post(self, path: str, body: bytes, request_id: str) -> Answer:
        """The answer to POST of JSON. Raises `Unreachable` or `RefusedAnswer`."""
        headers = {"Content-Type": "application/json", "X-Request-ID": request_id}
        return await self._asked("POST", path, body, headers)

    async def _asked(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        import httpx

        url = self._entry.root + path
        try:
            try:
                return await self._once(method, url, body, headers)
            except httpx.ConnectError:
                # Nothing was sent, so that asking again, with the same id, cannot ask twice.
                await asyncio.sleep(_BEFORE_RETRY_S)
                return await self._once(method, url, body, headers)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            # Not chained, and not quoted: the text holds the address.
            raise Unreachable(
                f"the server cannot be asked ({type(error).__name__})",
                where=self._where,
                mend="Start the server, or correct url and ca_file.",
            ) from None

    async def _once(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        async with self._client.stream(method, url, content=body, headers=headers) as response:
            self._require_taken(response)
            content = await self._body(response)
            return Answer(self._json(content), {k.lower(): v for k, v in response.headers.items()})

    def _require_taken(self, response: httpx.Response) -> None:
        status = response.status_code
        if status >= 500 or status in _TRY_AGAIN_LATER:
            raise Unreachable(
                f"the server answered {status}", where=self._where, mend="Look into the server's log."
            )
        if 300 <= status < 400:
            raise RefusedAnswer(
                f"the server answered {status}, a redirect",
                where=self._where,
                mend="Write the address to which it redirects as url.",
            )
        if not 200 <= status < 300:
            raise RefusedAnswer(
                f"the server answered {status}", where=self._where, mend="Correct url or the token."
            )
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedAnswer(
                "the answer is compressed, which was not asked for",
                where=self._where,
                mend="Let the server respect Accept-Encoding: identity.",
            )

    async def _body(self, response: httpx.Response) -> bytes:
        found = bytearray()
        async for chunk in response.aiter_raw():
            found += chunk
            if len(found) > self._entry.max_bytes:
                raise RefusedAnswer(
                    f"the answer is longer than {self._entry.max_bytes} bytes",
                    where=self._where,
                    mend="Let the server answer only what is asked, or raise max_bytes.",
                )
        return bytes(found)

    def _json(self, content: bytes) -> Any:
        try:
            # NaN is no JSON but many servers write it: it costs one facility its value, not all of them.
            return from_json(content, allow_inf_nan=True, cache_strings="none")
        except ValueError:
            # Not quoted: a piece of the body may be a patient's.
            raise RefusedAnswer(
                "the answer is not valid JSON", where=self._where, mend="Look into the server's log."
            ) from None

    @property
    def _where(self) -> str:
        return where_of(self._entry)


def where_of(entry: HttpEntry) -> str:
    """How errors name the model of an entry."""
    return f"the HTTP model {entry.name}"


def exchange(entry: HttpEntry, work: Callable[[Caller], Awaitable[T]]) -> T:
    """What `work` gives, all of its requests together within the entry's time limit.

    Raises `TooSlow`, `Unreachable`, `RefusedAnswer`, what `work` raises, or `PermanentError` without the
    token. May be called from any thread, one with a running event loop included.
    """
    limit = entry.time_limit_seconds
    # Made here, since importing the library is not the server's time.
    client = _client(entry)
    try:
        return within(
            limit + _GRACE_S, lambda: asyncio.run(_limited(entry, client, work)), where=where_of(entry)
        )
    except MedscoreError as error:
        if type(error) is TransientError:
            raise _too_slow(entry) from None
        raise


async def _limited(entry: HttpEntry, client: httpx.AsyncClient, work: Callable[[Caller], Awaitable[T]]) -> T:
    deadline = asyncio.timeout(entry.time_limit_seconds)
    try:
        async with deadline, client:
            return await work(Caller(client, entry))
    except TimeoutError:
        if deadline.expired():
            raise _too_slow(entry) from None
        raise


def _client(entry: HttpEntry) -> httpx.AsyncClient:
    import httpx

    headers = {
        "Accept": "application/json",
        # A small compressed answer may unfold to any size.
        "Accept-Encoding": "identity",
        "User-Agent": "medscore-wait-times",
    }
    if token := entry.token():
        headers["Authorization"] = f"Bearer {token}"
    return httpx.AsyncClient(
        headers=headers,
        follow_redirects=False,
        timeout=None,  # the deadline is over everything
        # Neither a proxy nor a password that happens to stand in the environment or in .netrc.
        trust_env=False,
        verify=_tls(entry),
    )


def _tls(entry: HttpEntry) -> ssl.SSLContext:
    if entry.root.startswith("http:"):
        # Never used; it trusts nobody and costs nothing, while reading the authorities costs 20 ms.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    import certifi

    trusted = entry.ca_file or ssl.get_default_verify_paths().cafile or certifi.where()
    return ssl.create_default_context(cafile=trusted)


def _too_slow(entry: HttpEntry) -> TooSlow:
    return TooSlow(
        f"no whole answer within {entry.time_limit_seconds:g} s",
        where=where_of(entry),
        mend="Make the server faster, or raise time_limit_seconds.",
    )
