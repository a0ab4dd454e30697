"""Streams of events (server-sent events): what is there, then each new one, until the reader or the server ends it.

`data` is one event, `id` its cursor, `event` is left unset, so that EventSource.onmessage gets it. While nothing
happens a comment goes out now and then, so that whoever stands between does not take the line for dead. The stream
stays open through an outage of Postgres, which `events.follow` waits out: EventSource gives up for good when its
reconnecting meets a 503.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp_sse import sse_response

from damad.http.shutdown import WAITS
from damad.model.event import RecordedEvent

PING_INTERVAL: Final = 15.0
"""Seconds between comments."""


def is_wanted(request: web.Request) -> bool:
    """True where the reader asks for a stream."""
    accepted = request.headers.get(hdrs.ACCEPT, "").lower().split(",")
    return any(part.partition(";")[0].strip() == "text/event-stream" for part in accepted)


async def stream(
    request: web.Request,
    source: AsyncGenerator[RecordedEvent, None],
    *,
    cursor_after: Callable[[RecordedEvent], str],
) -> web.StreamResponse:
    """Sends the events of a source as they come, each with its cursor."""
    async with sse_response(request, sep="\n", ping_interval=PING_INTERVAL) as response:
        with suppress(TimeoutError):  # The server shuts down: the stream ends as it should.
            async with request.app[WAITS].bounded(), aclosing(source) as events:
                async for event in events:
                    await response.send(msgspec.json.encode(event).decode(), id=cursor_after(event))
    return response
