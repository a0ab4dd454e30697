"""A small TCP proxy before an HTTP server, which resets connections amid an answer when a test says so."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

SOON = 40.0


class ResettingProxy:
    """The proxy. `lost`: answers that came and were not passed on · `statuses`: of those that were, as they came.

    lose: how many more answers are lost. The server has done by then what it was asked · budget: how many bytes of
    answers each new connection passes on before it is reset.
    """

    def __init__(self) -> None:
        self.lose = self.lost = self.cuts = 0
        self.budget: Callable[[], int] | None = None
        self.statuses: list[int] = []
        self.refusing = False
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns once a condition holds of what passed here."""
        async with asyncio.timeout(SOON):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    def cut_all(self) -> None:
        """Resets every connection."""
        for writer in self._open.copy():
            _reset(writer)

    async def serve(self, upstream: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            _reset(writer)
            return
        self._open.add(writer)
        theirs, ours = await asyncio.open_connection("127.0.0.1", upstream)
        try:
            async with asyncio.TaskGroup() as group:
                forwards = group.create_task(_copy(reader, ours))
                await self._answers(theirs, writer)
                forwards.cancel()
        finally:
            self._open.discard(writer)
            ours.transport.abort()
            writer.close()

    async def _answers(self, theirs: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = None if self.budget is None else self.budget()
        with suppress(OSError):
            while chunk := await theirs.read(1 << 16):
                if self.lose:
                    self.lose, self.lost = self.lose - 1, self.lost + 1
                    _reset(writer)
                elif left is not None and len(chunk) > left:
                    writer.write(chunk[:left])
                    await writer.drain()
                    self.cuts += 1
                    _reset(writer)
                else:
                    left = None if left is None else left - len(chunk)
                    if chunk.startswith(b"HTTP/1.1 "):
                        self.statuses.append(int(chunk[9:12]))
                    writer.write(chunk)
                    await writer.drain()
                self._changed.set()
                if writer.transport.is_closing():
                    return


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    own: socket.socket | None = writer.get_extra_info("socket")
    if own is not None and not writer.transport.is_closing():
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@asynccontextmanager
async def resetting(upstream: int) -> AsyncIterator[tuple[ResettingProxy, str]]:
    """A proxy before a port of this machine, and the address to ask in its place."""
    proxy = ResettingProxy()
    server = await asyncio.start_server(lambda *ends: proxy.serve(upstream, *ends), "127.0.0.1", 0)
    try:
        yield proxy, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        proxy.cut_all()
