"""/contexts/{id}/logs: what a worker printed, as text; with `follow` while it prints."""

from contextlib import suppress
from typing import Annotated

import msgspec
from aiohttp import hdrs, web

from damad import logs
from damad.http import wire
from damad.http.shutdown import WAITS


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whose log: of an attempt, the last one unless named."""

    attempt: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    follow: bool = False


async def read_log(request: web.Request) -> web.StreamResponse:
    """GET: the text up to now, or until the attempt has ended."""
    asked = wire.query(request, LogQuery)
    live = asked.follow and request.method != hdrs.METH_HEAD  # a head has no end to wait for
    printed = await logs.printed(wire.context_id(request), asked.attempt, live=live)
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    await response.prepare(request)
    # The server may shut down, or whoever reads be gone.
    with suppress(TimeoutError, ConnectionError):
        async with request.app[WAITS].bounded():
            async for chunk in printed:
                await response.write(chunk)
    return response
