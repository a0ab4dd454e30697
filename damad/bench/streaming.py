"""How soon a subscriber sees what was appended, with many of them connected."""

import asyncio
from contextlib import AsyncExitStack
from time import monotonic
from typing import Final

import aiohttp

from damad.bench.figures import percentile
from damad.bench.ground import PG_ENV, Daemon, Ground, MeasuringFailed
from damad.bench.queueing import opened

_PATIENCE: Final = 60.0
"""Seconds until an event that was appended should have been seen."""


async def stream(ground: Ground) -> dict[str, float]:
    """Milliseconds from before an append over HTTP until the subscriber of its context has it, one after another."""
    site = await ground.site("stream")
    ids: list[int] = ground.remembered.setdefault("stream", [])
    while len(ids) < ground.sizes.subscribers:
        ids.append(await opened(site))
    waits = []
    async with AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(site.daemon())
        client = await stack.enter_async_context(_client(daemon))
        readers = [await stack.enter_async_context(client.get(_path(id_), headers=_STREAM)) for id_ in ids]
        for reader in readers:
            await _next_event(reader)  # the :INITIAL that is there: now it stands at the end of the log
        for place in range(ground.sizes.appends_seen):
            at = place * 7 % len(ids)
            began = monotonic()
            async with client.post(_path(ids[at]), json={"type": ":UPDATE", "payload": {"place": place}}) as answer:
                await _next_event(readers[at])
                waits.append((monotonic() - began) * 1000)
                if answer.status != 201:
                    raise MeasuringFailed(f"an append was answered with {answer.status}")
    return {"stream.p50": percentile(waits, 50), "stream.p99": percentile(waits, 99)}


_STREAM: Final = {"Accept": "text/event-stream"}


def _client(daemon: Daemon) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        f"http://{daemon.host}:{daemon.port}", headers={"Authorization": f"Bearer {daemon.token}"},
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None),
    )  # fmt: skip


def _path(id_: int) -> str:
    return f"/v1/{PG_ENV}/contexts/{id_}/events"


async def _next_event(reader: aiohttp.ClientResponse) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not (line := await reader.content.readline()).startswith(b"data:"):
            if not line:
                raise MeasuringFailed(f"a stream ended, answered with {reader.status}")
