"""An aiohttp server that answers everything with nothing, as fast as aiohttp can: `python -m damad.bench.empty`.

It prints its port, and ends when its stdin does.
"""

import asyncio
import sys

import uvloop
from aiohttp import web


async def _answer(_: web.BaseRequest) -> web.Response:
    return web.Response()


async def serve() -> None:
    """Serves until stdin ends."""
    app = web.Application()
    app.router.add_get("/", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(serve())
