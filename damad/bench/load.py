"""A client that is no bound: it asks over HTTP as fast as it is answered, and does nothing else.

A full HTTP client in the same Python would take longer to ask than a server to answer, and measure itself.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, NamedTuple, cast

from damad.bench.ground import Daemon, MeasuringFailed

_HEAD_ENDS: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_PATIENCE: Final = 30.0
"""Seconds until each connection has been answered once, and after what is measured once more."""
_LOOK: Final = 0.01
"""Seconds between looks whether one was."""


class Answers(NamedTuple):
    """How many there were in all, and how many a second once it was under way."""

    number: int
    rate: float


class _Load:
    """Who asks on all connections, until it is over."""

    def __init__(self, connections: int) -> None:
        self.answered = 0
        self.latest = 0.0
        self.going = True
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.warm = asyncio.Event()
        self._connections = connections

    def count(self) -> None:
        """One more answer. Once there are as many as connections, everything has been used for the first time."""
        self.answered += 1
        self.latest = perf_counter()
        if self.answered == self._connections:
            self.warm.set()

    def fail(self, reason: str) -> None:
        """Ends it without a figure."""
        if self.going and not self.ended.done():
            self.ended.set_exception(MeasuringFailed(reason))


class _Asker(asyncio.Protocol):
    """One connection: a request, its answer, the next one."""

    def __init__(self, load: _Load, request: bytes) -> None:
        self._load, self._request = load, request
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(_HEAD_ENDS)
        if end >= 0 and self._is_whole(end):
            self._got = b""
            self._load.count()
            if self._load.going:
                self._transport.write(self._request)

    def _is_whole(self, end: int) -> bool:
        """Whether the answer, whose head ends there, is all there. One that says no success, or no length, fails."""
        head = self._got[:end].lower()
        at = head.find(_LENGTH)
        if not head.startswith(b"http/1.1 2") or at < 0:
            self._load.fail(f"a request was answered with {self._got[:300]!r}")
            return False
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        return len(self._got) >= end + len(_HEAD_ENDS) + length

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.fail(f"a connection was closed: {exc}")


async def answers(host: str, port: int, requests: Sequence[bytes], seconds: float) -> Answers:
    """What each of the requests gets, asked again and again on a connection of its own. The rate goes from the answer
    with which all have been answered once to the last one, so that slow ones are counted as exactly as fast ones.

    Raises MeasuringFailed for any answer but success, TimeoutError where none comes.
    """
    loop, load = asyncio.get_running_loop(), _Load(len(requests))
    transports = []
    try:
        for request in requests:
            transports.append((await loop.create_connection(partial(_Asker, load, request), host, port))[0])
        async with asyncio.timeout(_PATIENCE + seconds):
            await _first(load.warm.wait(), load.ended)
            before, began = load.answered, load.latest
            await _first(asyncio.sleep(seconds), load.ended)
            while load.answered == before:
                await _first(asyncio.sleep(_LOOK), load.ended)
        return Answers(load.answered, (load.answered - before) / (load.latest - began))
    finally:
        load.going = False
        for transport in transports:
            transport.close()


async def _first(what: Coroutine[Any, Any, Any], ended: "asyncio.Future[None]") -> None:
    """Waits for something, and raises at once where the load has ended."""
    task = asyncio.ensure_future(what)
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
    if ended.done():
        ended.result()


def request(daemon: Daemon, method: str, path: str, body: bytes = b"") -> bytes:
    """A request of a daemon, with its token, as it goes over the wire."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {daemon.host}:{daemon.port}\r\nAuthorization: Bearer {daemon.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
