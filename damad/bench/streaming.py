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
_FEED: Final = f"/v1/{PG_ENV}/events"
_STREAM: Final = {"Accept": "text/event-stream"}
_WRITERS: Final = 16
_LONGEST_HELD: Final = 0.05
"""Seconds for which a writer's transaction stays open at most: those of others begin and end meanwhile."""


async def stream(ground: Ground) -> dict[str, float]:
    """Milliseconds from before an append over HTTP until one of those who read the feed has it, each time another."""
    site, number = await ground.site("stream"), ground.sizes.subscribers
    if "stream" not in ground.remembered:
        ground.remembered["stream"] = await opened(site)
    id_: int = ground.remembered["stream"]
    version, waits = (await site.store.state(id_)).version, []
    async with site.daemon() as daemon, _reading(daemon, [_FEED] * number) as (client, readers):
        for reader in readers:
            await _seen(reader, version)  # now each stands at the end of the log
        for place in range(version, version + ground.sizes.appends_seen):
            reader = readers[place * 7 % number]
            await _seen(reader, place)
            began = monotonic()
            async with client.post(_path(id_), json={"type": ":UPDATE", "payload": {"place": place}}) as answer:
                await _seen(reader, place + 1)
                waits.append((monotonic() - began) * 1000)
                if answer.status != 201:
                    raise MeasuringFailed(f"an append was answered with {answer.status}")
    return {"stream.p50": percentile(waits, 50), "stream.p99": percentile(waits, 99)}


async def feed(ground: Ground) -> dict[str, float]:
    """Milliseconds from before a commit until a reader of the feed has its event, of every event and every reader.

    Sixteen writers hold their transactions open, so that ids are not committed in their order.
    """
    site, number = await ground.site("feed"), ground.sizes.readers
    with site.here():
        ids = [await events.create_context() for _ in range(_WRITERS)]
    each = max(1, ground.sizes.appends_seen // _WRITERS)
    async with site.daemon() as daemon, _reading(daemon, [_FEED] * number) as (_, readers):
        seen = [asyncio.create_task(_arrivals(reader, {(id_, each) for id_ in ids})) for reader in readers]
        written = await asyncio.gather(*(_written(site, id_, each) for id_ in ids))
        committed = {place: at for writer in written for place, at in writer.items()}
        waits = [
            (at - committed[place]) * 1000
            for arrivals in await asyncio.gather(*seen)
            for place, at in arrivals.items()
            if place in committed  # and not of a run before
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


async def _arrivals(reader: "Reader", last: set[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """When each event arrived, by its context and version, until the last of each context is there."""
    arrived: dict[tuple[int, int], float] = {}
    while not last <= arrived.keys():
        event = await _next_event(reader.response)
        arrived[event["etl_context_id"], event["version"]] = monotonic()
    return arrived


class Reader:
    """Who reads a stream. version: of the last event that it was shown."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.version = 0


async def _seen(reader: Reader, version: int) -> None:
    """Returns once a reader has been shown this version of the one context that there is."""
    while reader.version < version:
        reader.version = (await _next_event(reader.response))["version"]


@asynccontextmanager
async def _reading(daemon: Daemon, paths: list[str]) -> AsyncIterator[tuple[aiohttp.ClientSession, list[Reader]]]:
    """A client of a daemon, and the streams that it has open."""
    client = aiohttp.ClientSession(
        f"http://{daemon.host}:{daemon.port}", headers={"Authorization": f"Bearer {daemon.token}"},
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None),
    )  # fmt: skip
    async with client, AsyncExitStack() as stack:
        yield client, [Reader(await stack.enter_async_context(client.get(path, headers=_STREAM))) for path in paths]


def _path(id_: int) -> str:
    return f"/v1/{PG_ENV}/contexts/{id_}/events"


async def _next_event(reader: aiohttp.ClientResponse) -> Any:
    async with asyncio.timeout(_PATIENCE):
        while not (line := await reader.content.readline()).startswith(b"data:"):
            if not line:
                raise MeasuringFailed(f"a stream ended, answered with {reader.status}")
        return orjson.loads(line.removeprefix(b"data:"))
