"""What changes as the log grows: appends, queueing, claims, and what reads all of it."""

import asyncio
import subprocess
import sys
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

_EVENTS_EACH: Final = 100
_DRAINED: Final = 200
_PREFETCH: Final = 5000


async def growth(ground: Ground) -> dict[str, float]:
    """Rates in a grown log, beside the same in one that was just made."""
    small, grown = await _small(ground), await _grown(ground)
    seconds = ground.sizes.seconds
    found: dict[str, float] = {}
    for name, site in ((f"/{goals.SMALL}", small), ("", grown)):
        found[f"growth.append{name}"] = await appended_one_by_one(site, seconds)
        found[f"growth.queue{name}"] = await queued_one_by_one(site, seconds)
        count = max(2, int(_DRAINED * min(1.0, seconds)))
        await queue(site, count, IN_DAEMON, priority=1)
        done, took = await drained(site, count)
        found[f"growth.drain{name}"] = done / took
        if site is grown:
            await queue(site, done - count, IN_DAEMON)  # the queue is as long again as it was
    return found


async def reading(ground: Ground) -> dict[str, float]:
    """Events a second that verify and rebuild fold, beside reading them only; and both commands' peak memory."""
    small, grown = await _small(ground), await _grown(ground)
    began = perf_counter()
    report = await verify(grown.database)
    found = {"verify": report.events / (perf_counter() - began)}
    if report.mismatches:
        raise MeasuringFailed(f"verify found {len(report.mismatches)} mismatches: {report.mismatches[0]}")
    began = perf_counter()
    rebuilt = await rebuild(grown.database)
    found["rebuild"] = rebuilt.events / (perf_counter() - began)
    found[goals.READING] = await _read(grown)
    for command in ("verify", "rebuild"):
        found[f"{command}.memory"] = await _peak(grown, command)
        found[f"{command}.memory/{goals.SMALL}"] = await _peak(small, command)
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


async def _small(ground: Ground) -> Site:
    return await ground.site("small")


async def _grown(ground: Ground) -> Site:
    """A site whose log holds what was asked for, through damad's own functions: the daemon's queue is full too."""
    site, events = await ground.site("grown"), ground.sizes.events
    if "grown" not in ground.remembered:
        await queue(site, events // 10, IN_DAEMON)
        await opened_many(site, events * 9 // 10 // _EVENTS_EACH + 1, events_each=_EVENTS_EACH)
        await site.database.fetch("bench_analyze")
        ground.remembered["grown"] = True
    return site
