"""How fast is appended and queued: over HTTP from many connections, one after another, in bulk."""

from typing import Final
from uuid import uuid4

import orjson

from damad import events, tasks
from damad.bench import load
from damad.bench.ground import PG_ENV, Ground, MeasuringFailed, Site
from damad.bench.yardsticks import PAYLOAD, repeated
from damad.eventstore.store import Append, NewTask
from damad.model.event import Event

CONNECTIONS: Final = 32
BATCH: Final = 1000


async def append_http(ground: Ground) -> dict[str, float]:
    """Durable appends a second over HTTP, each connection to a context of its own."""
    site = await ground.site("append")
    ids = [await opened(site) for _ in range(CONNECTIONS)]
    body = orjson.dumps({"type": ":UPDATE", "payload": PAYLOAD})
    before = await site.last_event()
    async with site.daemon() as daemon:
        requests = [load.request(daemon, "POST", f"/v1/{PG_ENV}/contexts/{id_}/events", body) for id_ in ids]
        rate = await load.rate(daemon.host, daemon.port, requests, ground.sizes.seconds)
    if await site.last_event() - before < rate * ground.sizes.seconds * 0.9:
        raise MeasuringFailed("more appends were acknowledged than are in the log")
    return {"append.http": rate}


async def queue_one(ground: Ground) -> dict[str, float]:
    """Tasks queued a second, each committed before the next."""
    site = await ground.site("queue")
    return {"queue.one": await queued_one_by_one(site, ground.sizes.seconds)}


async def queue_many(ground: Ground) -> dict[str, float]:
    """Tasks queued a second, many in a statement."""
    site = await ground.site("queue")
    with site.here():
        return {"queue.many": BATCH * await repeated(lambda: queue(site, BATCH, "bulk"), ground.sizes.seconds)}


async def queued_one_by_one(site: Site, seconds: float) -> float:
    """Tasks queued a second on this site, in a queue that no daemon of it is asked to run."""
    with site.here():
        return await repeated(lambda: tasks.queue("nothing.py", PAYLOAD, queue="single"), seconds)


async def appended_one_by_one(site: Site, seconds: float) -> float:
    """Events appended a second on this site to one context, each committed before the next."""
    id_ = await opened(site)
    with site.here():
        return await repeated(lambda: events.append(id_, [{"type": ":UPDATE", "payload": PAYLOAD}]), seconds)


async def queue(site: Site, count: int, queue_name: str, worker: str = "nothing.py", **settings: object) -> list[int]:
    """Queues so many tasks at once. Their ids."""
    asked = [tasks.request(worker, PAYLOAD, queue=queue_name, **settings) for _ in range(count)]
    with site.here():
        batches = [asked[at : at + BATCH] for at in range(0, count, BATCH)]
        return [queued.etl_context_id for batch in batches for queued in await tasks.queue_many(batch)]


async def opened(site: Site) -> int:
    """The id of a new open context that is no task."""
    with site.here():
        id_ = await events.create_context()
        await events.append(id_, [{"type": ":INITIAL"}])
    return id_


async def opened_many(site: Site, count: int, *, events_each: int = 1) -> None:
    """Makes open contexts that are no tasks, with so many events each, many in a statement."""
    for at in range(0, count, BATCH):
        new = [NewTask(initial=Event(type=":INITIAL", event_uuid=uuid4())) for _ in range(min(BATCH, count - at))]
        ids = [queued.etl_context_id for queued in await site.store.queue(new)]
        updates = [
            Append(etl_context_id=id_, event=Event(type=":UPDATE", payload=PAYLOAD, event_uuid=uuid4()))
            for id_ in ids
            for _ in range(events_each - 1)
        ]
        for first in range(0, len(updates), BATCH):
            await site.store.append(updates[first : first + BATCH])
