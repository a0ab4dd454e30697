"""Long waits that end when the server does: streams of events, logs that are followed, long polls, slow bodies.

aiohttp waits for its handlers when it shuts down. So every wait without a near end is made inside `bounded`, and the
server's shutdown ends them all, each as if its time had run out: a stream then closes as it should.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web


class Waits:
    """The waits of one server."""

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()
        self.over = False

    def __len__(self) -> int:
        """How many wait now."""
        return len(self._scopes)

    @asynccontextmanager
    async def bounded(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Code inside ends with TimeoutError after so many seconds (None: never), or when the server shuts down."""
        async with asyncio.timeout(0 if self.over else seconds) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def end(self) -> None:
        """Ends all of them, and every later one as soon as it begins."""
        self.over = True
        for scope in self._scopes:
            scope.reschedule(asyncio.get_running_loop().time())


WAITS: Final = web.AppKey[Waits]("waits")


async def end_waits(app: web.Application) -> None:
    """For `on_shutdown`."""
    app[WAITS].end()
