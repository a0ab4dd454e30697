"""Chaos: for a while something dies every second, and afterwards every invariant holds.

CHAOS_SECONDS (30) and CHAOS_SEED (drawn, and printed) choose how long and which.
"""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from daemon_support import Daemon, Site, until
from test_crash_points import EXCLUSIVE, check

from damad.errors import Unavailable
from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.pools import Database

SECONDS = float(os.environ.get("CHAOS_SECONDS", "30"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
ATONCE = 20

LOADS = (
    EXCLUSIVE
    + """
import asyncio
from damad import events

async def main(initial_event):
    have = {e["payload"] for e in await events.read() if e["type"] == ":CHECKPOINT"}
    for part in range(5):
        if part in have:
            continue
        async with events.transaction() as db:
            await db.execute("INSERT INTO parts VALUES ($1, $2)", ctx.etl_context_id, part)
            await asyncio.sleep(0.15)
            await events.dispatch({"type": ":CHECKPOINT", "payload": part})
    return {"parts": 5}
"""
)


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with a Postgres of its own, which dies too."""
    settings = {
        "DAMAD_GRACE": "500ms",
        "DAMAD_POLL_INTERVAL": "500ms",
        "DAMAD_QUEUE_DEFAULT_CONCURRENCY": str(ATONCE),
        "DAMAD_QUEUE_DEFAULT_RETRY_DELAY": "10ms",
        "DAMAD_QUEUE_DEFAULT_RETRY_DELAY_MAX": "500ms",
        "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "1000",
    }
    site = Site(tmp_path, {}, **settings)
    site.databases["local"] = Database("local", EmbeddedPostgres(site.state_dir).dsn)
    try:
        yield site
    finally:
        await site.close()


async def persistently(site: Site, worker: str, number: int) -> int:
    """Queues a task however often Postgres goes away meanwhile: once, by its key."""
    while True:
        try:
            return await site.queue(worker, {"folder": str(site.folder)}, idempotency_key=f"task {number}")
        except Unavailable:
            await asyncio.sleep(0.1)


async def strike(site: Site, daemon: Daemon, dice: random.Random) -> str:
    """Kills something: the daemon (and starts it again), a worker, its parent, or Postgres."""
    running = site.processes()
    parents = [pid for pid, line in running.items() if "damad.runner.parent" in line]
    postmaster = site.state_dir / "postgres" / "data" / "postmaster.pid"
    what = dice.choice(["daemon", "daemon", "runner", "runner", "runner", "stop", "postgres"])
    if what == "daemon":
        await daemon.kill()
        await daemon.start()
    elif what == "postgres" and postmaster.exists():
        kill(int(postmaster.read_text().split()[0]), signal.SIGKILL)
    elif parents:
        victim = dice.choice(parents)
        if what == "stop":
            kill(victim, signal.SIGSTOP)
            asyncio.get_running_loop().call_later(1.5, kill, victim, signal.SIGCONT)
        else:
            kill(victim, signal.SIGKILL)
    return what


def kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


async def test_every_invariant_holds_after_chaos(site: Site) -> None:
    print(f"CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS}")
    dice, daemon, struck = random.Random(SEED), Daemon(site), Counter[str]()
    await daemon.start()
    async with site.store().database.connection() as connection:
        await connection.execute("CREATE TABLE parts (task bigint, part int)")
    worker = site.worker(LOADS)
    ids: list[int] = []
    async with asyncio.timeout(SECONDS + 60):
        end = asyncio.get_running_loop().time() + SECONDS
        while asyncio.get_running_loop().time() < end:
            ids += [await persistently(site, worker, len(ids) + n) for n in range(6)]
            struck[await strike(site, daemon, dice)] += 1
            await asyncio.sleep(dice.uniform(0.5, 1.5))

    await until(lambda: drained(site, ids), lambda: site.processes(), within=120)
    await daemon.quiet()
    runs = site.state_dir / "runs" / "local"
    await until(lambda: not list(runs.iterdir()), lambda: list(runs.iterdir()))
    assert await daemon.stop() == 0
    await verify_all(site, ids)
    print(f"{len(ids)} tasks, struck {dict(struck)}")


async def drained(site: Site, ids: list[int]) -> bool:
    """True once every task has ended."""
    try:
        states = await site.store().tasks(states=["queued", "scheduled", "claimed", "running", "retrying"], limit=1)
    except Unavailable:
        return False
    return not states


async def verify_all(site: Site, ids: list[int]) -> None:
    server = EmbeddedPostgres(site.state_dir)
    await asyncio.to_thread(server.join)
    try:
        await site.verified()
        assert len(set(ids)) == len(ids)
        for id_ in ids:
            history = await site.events(id_)
            check(history)
            assert history[-1].type == ":FINAL", [event.type for event in history]
            parts = [event.payload for event in history if event.type == ":CHECKPOINT"]
            assert sorted(parts) == list(range(5))
            assert "BlockingIOError" not in "".join(await site.errors(id_)), "two attempts lived at once"
        async with site.store().database.connection() as connection:
            rows = await connection.fetch("SELECT task, count(*), count(DISTINCT part) FROM parts GROUP BY task")
        assert {tuple(row) for row in rows} == {(id_, 5, 5) for id_ in ids}
    finally:
        await site.store().database.close()
        await asyncio.to_thread(server.leave)
