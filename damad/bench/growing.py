"""What changes as the log grows: appends, queueing, claims, and what reads all of it."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final

from damad import config
from damad.bench import goals
from damad.bench.draining import drained
from damad.bench.ground import IN_DAEMON, Ground, MeasuringFailed, Site
from damad.bench.queueing import appended_one_by_one, opened_many, queue, queued_one_by_one
from damad.eventstore.queries import query
from damad.eventstore.rebuild import rebuild
from damad.eventstore.verify import verify

_EVENTS_EACH: Final = 20
"""Of a context. Few enough that even the log of a hundred thousand has more contexts than verify holds at once."""
_DRAINED: Final = 3200
"""Tasks a second of measuring. Of two hundred in a tenth of a second a third was the first use of each statement."""
_BACKLOG: Final = 1000
"""Tasks that are queued in a small log too: no slot is free for want of them. What is measured adds a few thousand
events to it."""
_PREFETCH: Final = 5000
_READ: Final = 100_000
"""Events that are enough to say how fast they are read."""


CURVES: Final = ("growth.append", "growth.queue", "growth.drain")


async def growth(ground: Ground) -> dict[str, float]:
    """Rates in grown logs, each beside the same in one that was just made: before and after, so that a machine that
    becomes slower meanwhile is slower for both."""
    found: dict[str, float] = {}
    async with ground.fresh() as small:
        await queue(small, _BACKLOG, IN_DAEMON)
        for measure in _MEASURED:
            await measure(small, 0)  # what is used for the first time is slower, in whichever log
        for events in ground.sizes.grown:
            grown = await _grown(ground, events)
            for key, measure in zip(CURVES, _MEASURED, strict=True):
                rates = [await measure(site, ground.sizes.seconds / 4) for site in (small, grown, grown, small)]
                found[key] = found[f"{key}@{events}"] = (rates[1] + rates[2]) / 2
                found[f"{key}/{goals.SMALL}"] = found[f"{key}@{events}/{goals.SMALL}"] = (rates[0] + rates[3]) / 2
    return found


async def _drained(site: Site, seconds: float) -> float:
    """Tasks a second that are drained first, while others are queued."""
    count = max(2, int(_DRAINED * min(1.0, seconds)))
    await queue(site, count, IN_DAEMON, priority=1)
    done, took = await drained(site, count)
    await queue(site, done - count, IN_DAEMON)  # the queue is as long again as it was
    return count / took


_MEASURED: Final[tuple[Callable[[Site, float], Awaitable[float]], ...]] = (
    appended_one_by_one, queued_one_by_one, _drained,
)  # fmt: skip


async def reading(ground: Ground) -> dict[str, float]:
    """Events a second that verify and rebuild fold, beside reading them only."""
    grown = await _grown(ground, max(events for events in ground.sizes.grown if events <= _READ))
    began = perf_counter()
    report = await verify(grown.database)
    found = {"verify": report.events / (perf_counter() - began)}
    if report.mismatches:
        raise MeasuringFailed(f"verify found {len(report.mismatches)} mismatches: {report.mismatches[0]}")
    began = perf_counter()
    rebuilt = await rebuild(grown.database)
    return found | {"rebuild": rebuilt.events / (perf_counter() - began), goals.READING: await _read(grown)}


async def reading_memory(ground: Ground) -> dict[str, float]:
    """The peak memory of verify and rebuild in the largest log, beside what it is in the one that is a tenth of it."""
    tenth, grown = [await _grown(ground, events) for events in (ground.sizes.grown * 2)[-2:]]
    found = {}
    for command in ("verify", "rebuild"):
        found[f"{command}.memory"] = await _peak(grown, command)
        found[f"{command}.memory/{goals.TENTH}"] = await _peak(tenth, command)
    return found


async def _read(site: Site) -> float:
    began, count = perf_counter(), 0
    async with site.database.connection() as connection, connection.transaction(readonly=True):
        async for _ in connection.cursor(query("bench_every_event"), prefetch=_PREFETCH):
            count += 1
    return count / (perf_counter() - began)


async def _peak(site: Site, command: str) -> float:
    """The most memory that a command ever held, in MB."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-P", "-m", "damad.bench.peak", *site.command(command, "--json")],
        cwd=site.folder, env=config.own_environment(), stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise MeasuringFailed(f"damad {command} ended with {done.returncode}")
    return float(done.stdout)


async def _grown(ground: Ground, events: int) -> Site:
    """A site whose log holds so many events, through damad's own functions: the daemon's queue is full too."""
    site, name = await ground.site(f"grown {events}"), f"grown {events}"
    if name not in ground.remembered:
        await queue(site, events // 10, IN_DAEMON)
        await opened_many(site, events * 9 // 10 // _EVENTS_EACH + 1, events_each=_EVENTS_EACH)
        async with site.database.connection() as connection:  # as long as it takes
            await connection.execute(query("bench_vacuum"))
        ground.remembered[name] = True
    return site
