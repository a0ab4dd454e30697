"""Follows a stream of events (server-sent events) for as long as somebody asks for the next one.

Where it breaks off it begins again behind the last whole message, as its cursor says: what came in half is no message.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import aiohttp
import msgspec
from aiohttp import hdrs

from damad.client.calls import ANSWER_TIMEOUT, Calls, NotNow, Patience, Query
from damad.errors import Unavailable
from damad.model.event import RecordedEvent

_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=ANSWER_TIMEOUT)


class Following(AsyncIterator[RecordedEvent]):
    """Events, those that are there and then each new one. cursor: behind the last one that was given out.

    Whoever keeps the cursor beside what it makes of the events goes on there, in another process too. `aclose` ends it.
    """

    def __init__(self, calls: Calls, path: str, query: Query, cursor: str | None) -> None:
        self.cursor = cursor
        self._calls, self._path, self._query = calls, path, query
        self._shown = self._show()

    async def __anext__(self) -> RecordedEvent:
        """The next event. Raises what was refused, CursorGone too, and Unavailable at the end of one's patience."""
        try:
            event, self.cursor = await anext(self._shown)
        except StopAsyncIteration:  # it was closed
            raise
        except BaseException:  # who stopped waiting, for a time ran out, may ask again: it goes on behind the last one
            self._shown = self._show()
            raise
        return event

    async def aclose(self) -> None:
        """Closes the stream."""
        await self._shown.aclose()

    async def _show(self) -> AsyncGenerator[tuple[RecordedEvent, str], None]:
        patience, cursor = Patience(self._calls.patience), self.cursor
        while True:
            headers: dict[str, str] = {hdrs.ACCEPT: "text/event-stream"}
            if cursor is not None:
                headers[hdrs.LAST_EVENT_ID] = cursor
            asked = self._calls.answered("GET", self._path, query=self._query, headers=headers, timeout=_TIMEOUT)
            try:
                async with asked as response:
                    patience.worked()
                    async for cursor, data in messages(response.content.iter_any()):
                        yield msgspec.json.decode(data, type=RecordedEvent), cursor
                failure = NotNow(Unavailable("the daemon ended the stream"))
            except NotNow as broken:
                failure = broken
            await patience.after(failure)


async def messages(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str, bytes], None]:
    """The `id` and `data` of each whole message, however the bytes are cut.

    As damad writes them: lines end in \\n, and one `data` line holds it all. Comments are passed over, and so is what
    has a name: it is no event of the log, but says why the stream ends.
    """
    begun, id_, data, named = bytearray(), "", b"", False
    async for chunk in chunks:
        *lines, rest = chunk.split(b"\n")
        for end in lines:
            line = bytes(begun + end)
            begun.clear()
            field, _, value = line.partition(b": ")
            if field == b"id":
                id_ = value.decode()
            elif field == b"data":
                data = value
            elif field == b"event":
                named = True
            elif not line and data:
                if not named:
                    yield id_, data
                data, named = b"", False
        begun += rest
