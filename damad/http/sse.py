"""Streams of events (server-sent events): what is there, then each new one, until the reader or the server ends it.

`data` is one event, `id` its cursor, `event` is left unset, so that EventSource.onmessage gets it. While nothing
happens a comment goes out now and then, so that whoever stands between does not take the line for dead. The stream
stays open through an outage of Postgres, which `events.follow` waits out: EventSource gives up for good when its
reconnecting meets a 503.
"""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Final, TypeAlias, TypeVar

import msgspec
from aiohttp import hdrs, web
from aiohttp_sse import sse_response

from damad.http.shutdown import WAITS
from damad.model.event import RecordedEvent

T = TypeVar("T")

PING_INTERVAL: Final = 15.0
"""Seconds between comments."""
SEND_TIMEOUT: Final = 30.0
"""Seconds until a reader is cut that takes nothing more. It may come back with its Last-Event-ID."""
TYPE: Final = "text/event-stream"

Message: TypeAlias = tuple[RecordedEvent, str]
"""An event, and the cursor behind it."""

log = logging.getLogger(__name__)


def is_wanted(request: web.Request) -> bool:
    """True where the reader asks for a stream, and would not rather have JSON."""
    accepted = _accepted(",".join(request.headers.getall(hdrs.ACCEPT, ())))
    stream = accepted.get(TYPE, 0.0)
    # The most exact of the words for JSON says how welcome it is.
    json = next((accepted[name] for name in ("application/json", "application/*", "*/*") if name in accepted), 0.0)
    return stream > 0 and stream >= json


def _accepted(header: str) -> dict[str, float]:
    """The media types of an Accept header, each with how welcome it is."""
    found: dict[str, float] = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        with suppress(ValueError):
            found[name] = min(max(float(weight), 0.0), 1.0)
    return found


async def stream(
    request: web.Request, source: AsyncGenerator[T, None], *, message: Callable[[T], Message]
) -> web.StreamResponse:
    """Sends what a source gives as it comes, each as a message."""
    if request.method == hdrs.METH_HEAD:
        return web.Response(headers={hdrs.CONTENT_TYPE: TYPE})
    async with sse_response(request, sep="\n", ping_interval=PING_INTERVAL, send_timeout=SEND_TIMEOUT) as response:
        with suppress(TimeoutError):  # The server shuts down: the stream ends as it should.
            async with request.app[WAITS].bounded(), aclosing(source) as found:
                async for one in found:
                    event, cursor = message(one)
                    try:
                        await response.send(msgspec.json.encode(event).decode(), id=cursor)
                    except TimeoutError:
                        log.info("a reader of %s took nothing for %g s and was cut", request.path, SEND_TIMEOUT)
                        raise
    return response
