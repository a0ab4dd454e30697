"""How fast tasks run from claim to :FINAL, how soon one starts, and how long a slot stays free."""

import math
from time import monotonic
from typing import Final

from damad import events, queues, tasks
from damad.bench.figures import percentile
from damad.bench.ground import IN_DAEMON, IN_PROCESS, KEYED, Ground, MeasuringFailed, Site, until
from damad.bench.queueing import queue

_MOST_AT_ONCE: Final = 20_000
_FEWEST: Final = 20
_LONGEST: Final = 3
"""Times the seconds of a rate: until then tasks are started one after another, as many as are wanted or fit in."""
_SLOTS: Final = 4
"""Of the queues in processes (ground.py)."""
_OF_A_KEY: Final = 4
"""Tasks of a key that wait one behind the other: twice as many as may run at a time."""
_PAUSE: Final = 0.2
"""Seconds between looks whether all is drained: the look must not be what is measured."""


async def drain_daemon(ground: Ground) -> dict[str, float]:
    """Tasks a second in the daemon."""
    return {"drain.daemon": await long_enough(ground, "drain", IN_DAEMON, first=200)}


async def drain_process(ground: Ground) -> dict[str, float]:
    """Tasks a second, each in a process of its own."""
    return {"drain.process": await long_enough(ground, "drain", IN_PROCESS, first=20)}


async def long_enough(ground: Ground, name: str, queue_name: str, *, first: int) -> float:
    """Tasks a second of so many that draining them takes its time. How many that is, it remembers for the next run."""
    site, key, seconds = await ground.site(name), f"{name} {queue_name}", ground.sizes.seconds
    while True:
        count: int = ground.remembered.setdefault(key, max(2, math.ceil(first * min(1.0, seconds))))
        await queue(site, count, queue_name)
        _, took = await drained(site, count)
        if took >= seconds or count >= _MOST_AT_ONCE:
            return count / took
        ground.remembered[key] = min(_MOST_AT_ONCE, math.ceil(count * min(8.0, 1.5 * seconds / took)))


async def drained(site: Site, count: int) -> tuple[int, float]:
    """Has a daemon run what is queued until so many tasks are done. How many it did until it stopped, and how many
    seconds of Postgres' clock passed from the first claim to the :FINAL of the last of those that were asked for: what
    it needs to start and to stop is not counted.

    Raises MeasuringFailed where a task failed.
    """
    last = await site.last_event()

    async def are_done() -> bool:
        row = (await site.database.fetch("bench_drained", last, count))[0]
        if row["errors"]:
            raise MeasuringFailed(f"{row['errors']} tasks failed")
        return int(row["done"]) >= count

    async with site.daemon():
        await until(are_done, f"{count} tasks were not drained", pause=_PAUSE)
    row = (await site.database.fetch("bench_drained", last, count))[0]
    return row["done"], row["seconds"]


async def start_daemon(ground: Ground) -> dict[str, float]:
    """Milliseconds from before a task is queued until its `main` runs, in the daemon, with nothing else to do."""
    return await _start(ground, IN_DAEMON, "start.daemon")


async def start_process(ground: Ground) -> dict[str, float]:
    """The same in a process of its own."""
    return await _start(ground, IN_PROCESS, "start.process")


async def _start(ground: Ground, queue_name: str, key: str) -> dict[str, float]:
    site, count = await ground.site("start"), ground.sizes.started
    fewest, end = min(_FEWEST, count), monotonic() + _LONGEST * ground.sizes.seconds
    waits: list[float] = []
    async with site.daemon():
        with site.here():
            while len(waits) < fewest or (len(waits) < count and monotonic() < end):
                id_ = await tasks.queue("began.py", {"at": monotonic()}, queue=queue_name)
                waits.append((await events.final(id_, timeout=60))["payload"]["waited"] * 1000)
    return {f"{key}.p50": percentile(waits, 50), f"{key}.p99": percentile(waits, 99)}


async def slots(ground: Ground) -> dict[str, float]:
    """Milliseconds from the end of a task until the slot that it held is taken again, while others wait: p99."""
    site = await ground.site("slots")
    last = await site.last_event()
    await queue(site, ground.sizes.naps, IN_PROCESS, "nap.py")
    await drained(site, ground.sizes.naps)
    return {"slot.p99": await _free(site, last)}


async def slots_of_keys(ground: Ground) -> dict[str, float]:
    """The same where two of each key may run at a time, and four of each wait one behind the other: who takes a slot
    has to look past those whose key is full."""
    site, naps = await ground.site("keys"), ground.sizes.naps
    last = await site.last_event()
    with site.here():
        await queues.change(KEYED, {"key_concurrency": 2})
        await tasks.queue_many(
            [tasks.request("nap.py", queue=KEYED, concurrency_key=str(number // _OF_A_KEY)) for number in range(naps)]
        )
    await drained(site, naps)
    return {"slot.keys.p99": await _free(site, last)}


async def _free(site: Site, last: int) -> float:
    """p99 of the milliseconds for which slots were free after an event. The i-th end frees what the i-th claim takes
    after those that filled all slots; the last claims are left out, for which too few others may have waited."""
    row = (await site.database.fetch("bench_slots", last))[0]
    freed, taken = row["given_back"], row["taken"][_SLOTS:-_SLOTS]
    return percentile([(again - free) * 1000 for free, again in zip(freed, taken, strict=False)], 99)
