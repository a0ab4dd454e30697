"""A site that reaches Postgres through a proxy, and workers that write down what they did."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import history
from daemon_support import PG_ENV, Site, site_of
from proxy import Proxy, proxied

LEASE = 1.0
SETTINGS = {
    "DAMAD_GRACE": "500ms",
    "DAMAD_POLL_INTERVAL": "500ms",
    "DAMAD_QUEUE_DEFAULT_RETRY_DELAY": "10ms",
    "DAMAD_LEASE": f"{LEASE}s",
    "DAMAD_QUEUE_COMMON_SHARED": "true",
    "DAMAD_QUEUE_COMMON_RETRY_DELAY": "10ms",
}

LOGGED = """
from attempt_log import written_down
from damad import context

ctx = context.current()
"""

GOOD = (
    LOGGED
    + """
async def main(initial_event):
    with written_down():
        return {"attempt": ctx.attempt}
"""
)

CRASHES_ONCE = (
    LOGGED
    + """
import os

def main(initial_event):
    with written_down():
        if ctx.attempt == 1:
            os._exit(7)
        return {"attempt": ctx.attempt}
"""
)

HOLDS = (
    LOGGED
    + """
import asyncio, gate
from damad import events

async def main(initial_event):
    with written_down():
        await events.dispatch({"type": ":HERE"})
        await asyncio.to_thread(gate.wait, initial_event["payload"]["gate"])
        return {"attempt": ctx.attempt}
"""
)

ASKS_A_CHILD = (
    LOGGED
    + """
from damad import tasks

async def main(initial_event):
    with written_down():
        child = await tasks.subtask("one", worker="child.py")
        await tasks.step("two", lambda: 2)
        return {"children": await tasks.gather(child)}
"""
)


@asynccontextmanager
async def site_behind_proxy(folder: Path, template: str) -> AsyncIterator[tuple[Site, Proxy]]:
    """The site and the proxy. What the test itself asks of the database goes past the proxy."""
    async with proxied(template) as proxy, site_of(folder, template, **SETTINGS) as site:
        site.environment[f"DAMAD_PG_ENV_{PG_ENV.upper()}_DSN"] = proxy.dsn(site.databases[PG_ENV].dsn)
        history.prepare(site)
        site.worker(GOOD, "child.py")
        yield site, proxy
