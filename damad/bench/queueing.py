"""How fast is appended and queued: over HTTP from many connections, one after another, in bulk."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final
from uuid import uuid4

import orjson

from damad import events, tasks
from damad.bench import load
from damad.bench.ground import PARKED, PG_ENV, Ground, MeasuringFailed, Site
from damad.bench.yardsticks import PAYLOAD, repeated
from damad.eventstore.store import NewTask
from damad.model.event import Event

CONNECTIONS: Final = 32
BATCH: Final = 1000
_LANES: Final = 4
"""How many at once fill a log that is only to be full."""
_FILLED: Final = 5000
"""Events that are written in one statement."""


async def append_http(ground: Ground) -> dict[str, float]:
    """Durable appends a second over HTTP, each connection to a context of its own."""
    site = await ground.site("append")
    ids = [await opened(site) for _ in range(CONNECTIONS)]
    body = orjson.dumps({"type": ":UPDATE", "payload": PAYLOAD})
    before = await site.last_event()
    async with site.daemon() as daemon:
        requests = [load.request(daemon, "POST", f"/v1/{PG_ENV}/contexts/{id_}/events", body) for id_ in ids]
        acknowledged = await load.answers(daemon.host, daemon.port, requests, ground.sizes.seconds)
    if await site.last_event() - before < acknowledged.number:
        raise MeasuringFailed("more appends were acknowledged than are in the log")
    return {"append.http": acknowledged.rate}


async def queue_one(ground: Ground) -> dict[str, float]:
    """Tasks queued a second, each committed before the next."""
    site = await ground.site("queue")
    return {"queue.one": await queued_one_by_one(site, ground.sizes.seconds)}


async def queue_many(ground: Ground) -> dict[str, float]:
    """Tasks queued a second, many in a statement."""
    site = await ground.site("queue")
    with site.here():
        return {"queue.many": BATCH * await repeated(lambda: queue(site, BATCH, PARKED), ground.sizes.seconds)}


async def queue_http(ground: Ground) -> dict[str, float]:
    """Tasks queued a second by one connection to the daemon: one after another, and many in a request."""
    site, seconds = await ground.site("queue"), ground.sizes.seconds
    asked = {"worker": "nothing.py", "payload": PAYLOAD, "queue": PARKED}
    path = f"/v1/{PG_ENV}/tasks"
    async with site.daemon() as daemon:
        one = load.request(daemon, "POST", path, orjson.dumps(asked))
        many = load.request(daemon, "POST", path, orjson.dumps([asked] * BATCH))
        return {
            "http.one": (await load.answers(daemon.host, daemon.port, [one], seconds)).rate,
            "http.many": BATCH * (await load.answers(daemon.host, daemon.port, [many], seconds)).rate,
        }


async def queued_one_by_one(site: Site, seconds: float) -> float:
    """Tasks queued a second on this site, which no daemon of it runs."""
    with site.here():
        return await repeated(lambda: tasks.queue("nothing.py", PAYLOAD, queue=PARKED), seconds)


async def appended_one_by_one(site: Site, seconds: float) -> float:
    """Events appended a second on this site to one context, each committed before the next."""
    id_ = await opened(site)
    with site.here():
        return await repeated(lambda: events.append(id_, [{"type": ":UPDATE", "payload": PAYLOAD}]), seconds)


async def queue(site: Site, count: int, queue_name: str, worker: str = "nothing.py", **settings: object) -> list[int]:
    """Queues so many tasks at once. Their ids."""
    asked = tasks.request(worker, PAYLOAD, queue=queue_name, **settings)
    ids: list[int] = []

    async def batch(size: int) -> None:
        ids.extend(queued.etl_context_id for queued in await tasks.queue_many([asked] * size))

    with site.here():
        await _in_lanes(partial(batch, min(BATCH, count - at)) for at in range(0, count, BATCH))
    return ids


async def opened(site: Site) -> int:
    """The id of a new open context that is no task."""
    with site.here():
        id_ = await events.create_context()
        await events.append(id_, [{"type": ":INITIAL"}])
    return id_


async def opened_many(site: Site, count: int, *, events_each: int = 1) -> None:
    """Makes open contexts that are no tasks, with so many events each, many in a statement."""

    async def batch(size: int) -> None:
        new = [NewTask(initial=Event(type=":INITIAL", event_uuid=uuid4())) for _ in range(size)]
        ids = [queued.etl_context_id for queued in await site.store.queue(new)]
        step = max(1, _FILLED // events_each)
        for at in range(0, len(ids), step) if events_each > 1 else ():
            await site.database.fetch("bench_fill", ids[at : at + step], events_each - 1, PAYLOAD)

    await _in_lanes(partial(batch, min(BATCH, count - at)) for at in range(0, count, BATCH))


async def _in_lanes(acts: Iterable[Callable[[], Awaitable[Any]]]) -> None:
    """Does all of them, a few at a time."""
    left = iter(acts)

    async def lane() -> None:
        for act in left:
            await act()

    await asyncio.gather(*(lane() for _ in range(_LANES)))
