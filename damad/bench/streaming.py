"""How soon who listens sees what was written: with many of them connected, and with writers who overlap."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any, Final

import aiohttp
import orjson

from damad import events
from damad.bench.figures import percentile
from damad.bench.ground import PG_ENV, Daemon, Ground, MeasuringFailed, Site
from damad.bench.queueing import opened
from damad.eventstore.queries import query

_PATIENCE: Final = 60.0
"""Seconds until an event that was appended should have been seen."""
_STREAM: Final = {"Accept": "text/event-stream"}
_WRITERS: Final = 16
_LONGEST_HELD: Final = 0.05
"""Seconds for which a writer's transaction stays open at most: those of others begin and end meanwhile."""


async def stream(ground: Ground) -> dict[str, float]:
    """Milliseconds from before an append over HTTP until the subscriber of its context has it, one after another."""
    site = await ground.site("stream")
    ids: list[int] = ground.remembered.setdefault("stream", [])
    while len(ids) < ground.sizes.subscribers:
        ids.append(await opened(site))
    waits = []
    async with site.daemon() as daemon, _reading(daemon, [_path(id_) for id_ in ids]) as (client, readers):
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


async def feed(ground: Ground) -> dict[str, float]:
    """Milliseconds from before a commit until a reader has its event, of every event and every reader.

    Sixteen writers hold their transactions open, so that ids are not committed in their order. All write into one
    tree: its stream is what damad has for who wants the events of many contexts.
    """
    site, number = await ground.site("feed"), ground.sizes.readers
    with site.here():
        root = await events.create_context()
        ids = [await events.create_context(parent_context_id=root) for _ in range(_WRITERS)]
    each = max(1, ground.sizes.appends_seen // _WRITERS)
    async with site.daemon() as daemon, _reading(daemon, [f"{_path(root)}?tree=1"] * number) as (_, readers):
        seen = [asyncio.create_task(_arrivals(reader, _WRITERS * each)) for reader in readers]
        written = await asyncio.gather(*(_written(site, id_, each) for id_ in ids))
        committed = {place: at for writer in written for place, at in writer.items()}
        waits = [
            (at - committed[place]) * 1000 for arrivals in await asyncio.gather(*seen) for place, at in arrivals.items()
        ]
    return {"feed.p50": percentile(waits, 50), "feed.p99": percentile(waits, 99)}


async def _written(site: Site, id_: int, count: int) -> dict[tuple[int, int], float]:
    """Writes so many events, each in a transaction of its own that stays open for a while. When each was committed, by
    its context and version."""
    committed = {}
    async with site.database.connection() as connection:
        for place in range(count):
            async with connection.transaction():
                type_ = ":UPDATE" if place else ":INITIAL"
                await connection.execute(query("bench_insert_event"), id_, type_, {"place": place})
                await asyncio.sleep(_LONGEST_HELD * ((place * 7 + id_ * 3) % 10) / 10)
                committed[id_, place + 1] = monotonic()
            await asyncio.sleep(_LONGEST_HELD)
    return committed


async def _arrivals(reader: aiohttp.ClientResponse, count: int) -> dict[tuple[int, int], float]:
    """When each of so many events arrived, by its context and version."""
    arrived = {}
    for _ in range(count):
        event = await _next_event(reader)
        arrived[event["etl_context_id"], event["version"]] = monotonic()
    return arrived


@asynccontextmanager
async def _reading(
    daemon: Daemon, paths: list[str]
) -> AsyncIterator[tuple[aiohttp.ClientSession, list[aiohttp.ClientResponse]]]:
    """A client of a daemon, and the streams that it has open."""
    client = aiohttp.ClientSession(
        f"http://{daemon.host}:{daemon.port}", headers={"Authorization": f"Bearer {daemon.token}"},
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None),
    )  # fmt: skip
    async with client, AsyncExitStack() as stack:
        yield client, [await stack.enter_async_context(client.get(path, headers=_STREAM)) for path in paths]


def _path(id_: int) -> str:
    return f"/v1/{PG_ENV}/contexts/{id_}/events"


async def _next_event(reader: aiohttp.ClientResponse) -> Any:
    async with asyncio.timeout(_PATIENCE):
        while not (line := await reader.content.readline()).startswith(b"data:"):
            if not line:
                raise MeasuringFailed(f"a stream ended, answered with {reader.status}")
        return orjson.loads(line.removeprefix(b"data:"))
