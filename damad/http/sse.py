"""Streams of events (server-sent events): what is there, then each new one, until the reader or the server ends it.

`data` is one event, `id` its cursor, `event` is left unset, so that EventSource.onmessage gets it. While nothing
happens a comment goes out now and then, so that whoever stands between does not take the line for dead. An outage of
Postgres is waited out with the stream open: EventSource gives up for good when its reconnecting meets a 503.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp_sse import sse_response

from damad.errors import Unavailable
from damad.http.shutdown import WAITS
from damad.model.event import RecordedEvent

PING_INTERVAL: Final = 15.0
"""Seconds between comments."""
_PAUSE: Final = 1.0
"""Seconds, about, between looks whether Postgres is back."""

log = logging.getLogger(__name__)


def is_wanted(request: web.Request) -> bool:
    """True where the reader asks for a stream."""
    accepted = request.headers.get(hdrs.ACCEPT, "").lower().split(",")
    return any(part.partition(";")[0].strip() == "text/event-stream" for part in accepted)


async def stream(
    request: web.Request,
    follow: Callable[[], AsyncGenerator[RecordedEvent, None]],
    *,
    cursor_after: Callable[[RecordedEvent], str],
) -> web.StreamResponse:
    """Sends events as they come. `follow` begins after the last event that `cursor_after` was called with."""
    async with sse_response(request, sep="\n", ping_interval=PING_INTERVAL) as response:
        with suppress(TimeoutError):  # The server shuts down: the stream ends as it should.
            async with request.app[WAITS].bounded(), aclosing(_outlasting(follow)) as source:
                async for event in source:
                    await response.send(msgspec.json.encode(event).decode(), id=cursor_after(event))
    return response


async def _outlasting(
    follow: Callable[[], AsyncGenerator[RecordedEvent, None]],
) -> AsyncGenerator[RecordedEvent, None]:
    while True:
        try:
            async with aclosing(follow()) as events:
                async for event in events:
                    yield event
        except Unavailable as error:
            log.debug("a stream waits for Postgres: %s", error)
        await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.5))
