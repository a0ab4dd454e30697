"""Streams of events (server-sent events): what is there, then each new one, until the reader or the server ends it.

`data` is one event, `id` its cursor, `event` is left unset, so that EventSource.onmessage gets it. While nothing
happens a comment goes out now and then, so that whoever stands between does not take the line for dead. The stream
stays open through an outage of Postgres, which `events.follow` waits out: EventSource gives up for good when its
reconnecting meets a 503.

Who takes nothing for `SEND_TIMEOUT` is cut. The last that is sent there is an event of its own, `cut`, whose data is a
problem document; it comes behind what was on its way, so whoever reads on after all is told why nothing follows.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp_sse import EventSourceResponse, sse_response

from damad.http import problems
from damad.http.shutdown import WAITS
from damad.model.event import RecordedEvent

PING_INTERVAL: Final = 15.0
"""Seconds between comments."""
SEND_TIMEOUT: Final = 30.0
"""Seconds until a reader is cut that takes nothing more. It may come back with its Last-Event-ID."""
_FRAMING: Final = 64
"""Bytes that go with messages at most, to frame them."""
FAREWELL: Final = 30.0
"""Seconds in which who is cut may still take what is on its way."""
TYPE: Final = "text/event-stream"

log = logging.getLogger(__name__)


class TooSlow(problems.Refusal):
    """Who reads a stream takes nothing more of it."""

    status = 408
    problem = "too-slow"
    title = "The stream was not read"


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


def message(event: RecordedEvent, cursor: str) -> bytes:
    """An event and the cursor behind it, as they go over the line. (JSON has no line breaks of its own.)"""
    return b"id: %b\ndata: %b\n\n" % (cursor.encode(), msgspec.json.encode(event))


async def stream(request: web.Request, source: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Sends what a source gives as it comes: messages, one or several at once."""
    if request.method == hdrs.METH_HEAD:
        return web.Response(headers={hdrs.CONTENT_TYPE: TYPE})
    # What the library and the kernel do to who is silent is for those who are gone; it comes after the cut.
    async with sse_response(request, sep="\n", ping_interval=PING_INTERVAL, send_timeout=3 * SEND_TIMEOUT) as response:
        with suppress(TimeoutError):  # The server shuts down: the stream ends as it should.
            async with request.app[WAITS].bounded(), aclosing(source) as found:
                async for messages in found:
                    if not await _sent(request, response, messages):
                        await _cut(request, response)
                        break
    return response


async def _sent(request: web.Request, response: EventSourceResponse, messages: bytes) -> bool:
    """False where the reader took nothing in its time. All of it is on its way all the same."""
    if _is_taken_at_once(request.transport, messages):
        await response.write(messages)
        return True
    try:
        async with asyncio.timeout(SEND_TIMEOUT) as patience:
            await response.write(messages)
    except TimeoutError:
        if not patience.expired():
            raise  # the server shuts down
        return False
    return True


def _is_taken_at_once(transport: asyncio.Transport | None, messages: bytes) -> bool:
    """True where so little is on its way that nobody has to wait: for most readers always.

    (Who had to wait, because there was more than the upper of the two limits, goes on at the lower one.)
    """
    if transport is None:
        return False
    low, _ = transport.get_write_buffer_limits()
    return transport.get_write_buffer_size() + len(messages) + _FRAMING <= low


async def _cut(request: web.Request, response: EventSourceResponse) -> None:
    """Says why, and closes. What is on its way may still arrive."""
    log.info("a reader of %s took nothing for %g s and was cut", request.path, SEND_TIMEOUT)
    farewell = msgspec.json.encode(problems.document(TooSlow(f"nothing was taken for {SEND_TIMEOUT:g} s")))
    with suppress(TimeoutError):  # it is handed over at once; that it is taken is not waited for
        async with asyncio.timeout(0):
            await response.write_eof(b"event: cut\ndata: %b\n\n" % farewell)
    if (transport := request.transport) is not None:
        transport.close()
        asyncio.get_running_loop().call_later(FAREWELL, transport.abort)
