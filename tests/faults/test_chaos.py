"""Chaos: for a while something breaks every second, and afterwards every invariant holds.

CHAOS_SECONDS (60) and CHAOS_SEED (drawn, and printed) choose how long and which.
"""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import history
import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, gone, until
from network_support import LOGGED
from proxy import Proxy, proxied

from damad import context, events, processes
from damad.context import EtlContext
from damad.errors import Unavailable
from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.pools import Database

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
AT_ONCE, PARTS = 20, 4
SETTINGS = {
    "DAMAD_GRACE": "500ms",
    "DAMAD_POLL_INTERVAL": "500ms",
    "DAMAD_LEASE": "2s",
    "DAMAD_QUEUE_DEFAULT_CONCURRENCY": str(AT_ONCE),
    "DAMAD_QUEUE_DEFAULT_RETRY_DELAY": "10ms",
    "DAMAD_QUEUE_DEFAULT_RETRY_DELAY_MAX": "500ms",
    "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "1000",
}

LOADS = (
    LOGGED
    + f"""
import asyncio
from damad import events

async def main(initial_event):
    with written_down():
        have = {{e["payload"] for e in await events.read() if e["type"] == ":CHECKPOINT"}}
        for part in range({PARTS}):
            if part in have:
                continue
            async with events.transaction() as db:
                await db.execute("INSERT INTO parts VALUES ($1, $2)", ctx.etl_context_id, part)
                await asyncio.sleep(0.5)
                await events.dispatch({{"type": ":CHECKPOINT", "payload": part}})
    return {{"parts": {PARTS}}}
"""
)

STRIKES = (
    ["daemon killed"] * 2 + ["daemon stopped", "postgres killed"]
    + ["runner killed"] * 3 + ["runner stopped"] + ["worker killed"] * 3 + ["worker stopped"]
    + ["network cut", "network reset before a commit", "network reset after a commit"]
    + ["network silence", "network delay", "network away"]
)  # fmt: skip
MENDED = ("daemon", "postgres", "network")
"""What all else needs: not struck again before it is mended and a `main` runs. Of processes there are always more."""


class Chaos:
    """A site behind a proxy before a Postgres of its own, and everything that can be done to them."""

    def __init__(self, site: Site, proxy: Proxy, server: EmbeddedPostgres) -> None:
        self.site = site
        self.proxy = proxy
        self.server = server
        self.daemon = Daemon(site)
        self.dice = random.Random(SEED)
        self.struck: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.mended: set[str] = set()
        self.over = False
        self.ids: list[int] = []

    async def top_up(self, worker: str) -> None:
        """Keeps as many tasks open as run at once and a few more, however often Postgres goes away meanwhile."""
        while not self.over:
            for _ in range(AT_ONCE + 4 - len(await open_tasks(self.site))):
                key = f"task {len(self.ids)}"
                self.ids.append(await self._queue(worker, key))
            await asyncio.sleep(0.1)

    async def _queue(self, worker: str, key: str) -> int:
        while True:
            try:
                return await self.site.queue(worker, {}, idempotency_key=key)
            except Unavailable:
                await asyncio.sleep(0.1)

    async def break_things(self, seconds: float) -> None:
        """As much as seconds by the clock, whether or not what was broken before is mended already. Where nothing works
        that could be struck, it is struck as soon as something does."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as mending:
            for second in range(int(seconds)):
                await asyncio.sleep(begun + second - loop.time())
                while self.struck.total() <= second and (strikes := self._strikes()):
                    what, pid = self.dice.choice(strikes)
                    self.struck[what] += 1
                    mending.create_task(self._strike(what, pid))
                    await asyncio.sleep(0)
        self.over = True

    def _strikes(self) -> list[tuple[str, int]]:
        """What can be struck now, and which process it would hit, if any."""
        hit = {
            "daemon": [self.daemon.pid],
            "postgres": [0],
            "network": [0],
            "runner": self.site.runners(),
            "worker": self.site.at_main(),
        }
        if hit["worker"]:
            self.mended.clear()
        subjects = [(what, what.split()[0]) for what in STRIKES]
        return [
            (what, self.dice.choice(hit[subject]))
            for what, subject in subjects
            if hit[subject] and subject not in self.broken | self.mended
        ]

    async def _strike(self, what: str, pid: int) -> None:
        """Breaks something, and mends it a moment later where it would not mend itself."""
        subject, _, how = what.partition(" ")
        if subject in MENDED:
            self.broken.add(subject)
        match subject, how:
            case "postgres", _:
                await self._kill_postgres()
            case "network", _:
                await self._strike_network(how)
            case "daemon", "killed":
                await self.daemon.kill()
                await self.daemon.start()
            case _:
                await strike_process(pid, how)
        if subject in MENDED:
            self.broken.remove(subject)
            self.mended.add(subject)

    async def _kill_postgres(self) -> None:
        postmaster = processes.identify(int((self.server.data / "postmaster.pid").read_text().split()[0]))
        assert postmaster is not None
        processes.send(postmaster, signal.SIGKILL)
        await gone(postmaster)
        await asyncio.to_thread(self.server.join)

    async def _strike_network(self, how: str) -> None:
        match how:
            case "cut":
                self.proxy.cut_all()
            case "reset before a commit":
                self.proxy.trap("before")
            case "reset after a commit":
                self.proxy.trap("after")
            case "away":
                self.proxy.go_away()
            case "silence":
                self.proxy.fall_silent()
            case "delay":
                self.proxy.delay = 0.1
        await asyncio.sleep(1.0)
        self.proxy.heal()
        if how == "silence":
            self.proxy.cut_all()  # what keepalive does on both sides, sooner


class Reader:
    """Follows the feed over all contexts through everything."""

    def __init__(self, dsn: str) -> None:
        self.database = Database("local", dsn, max_size=2, answer_timeout=2.0)
        self.seen: list[int] = []
        self.versions: dict[int, int] = {}

    async def follow(self) -> None:
        with context.run_in(EtlContext(pg_env="local", database=self.database)):
            while True:
                try:
                    async for event in events.everything(live=True):
                        self._take(event)
                except Unavailable:  # it was away at the very beginning: nothing was shown yet
                    assert not self.seen
                    await asyncio.sleep(0.1)

    def _take(self, event: Any) -> None:
        assert event.version == self.versions.get(event.etl_context_id, 0) + 1, event
        self.versions[event.etl_context_id] = event.version
        self.seen.append(event.event_id)


async def strike_process(pid: int, how: str) -> None:
    """Kills it, or stops it for as long as three quarters of a lease."""
    if how == "killed":
        kill(pid, signal.SIGKILL)
        return
    kill(pid, signal.SIGSTOP)
    await asyncio.sleep(1.5)
    kill(pid, signal.SIGCONT)


def kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


async def open_tasks(site: Site) -> list[Any]:
    while True:
        try:
            states = ["queued", "scheduled", "claimed", "running", "retrying"]
            return await site.store().tasks(states=states, limit=100)
        except Unavailable:
            await asyncio.sleep(0.1)


@pytest_asyncio.fixture
async def chaos(tmp_path: Path) -> AsyncIterator[Chaos]:
    server = EmbeddedPostgres(tmp_path / "pg")
    server.join()
    async with proxied(server.dsn) as proxy:
        site = Site(tmp_path, {"local": server.dsn}, **SETTINGS)
        site.environment["DAMAD_PG_ENV_LOCAL_DSN"] = proxy.dsn(server.dsn)
        history.prepare(site)
        try:
            yield Chaos(site, proxy, server)
        finally:
            await site.close()
    server.leave()


@pytest.mark.fault(
    fault="everything at once, every second: daemon, runners, workers, Postgres, the network",
    injected="by the clock: SIGKILL, SIGSTOP of a process; the proxy cuts, delays, is silent, resets around COMMIT",
    invariants="I1 I2 I3 I4 I5 I6 I7 I8 I9 I10 I12",
)
async def test_every_invariant_holds_after_chaos(chaos: Chaos, record_property: Callable[[str, Any], None]) -> None:
    print(f"CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS}")
    site = chaos.site
    await chaos.daemon.start()
    async with site.store().database.connection() as connection:
        await connection.execute("CREATE TABLE parts (task bigint, part int)")
    reader = Reader(site.environment["DAMAD_PG_ENV_LOCAL_DSN"])
    reading = asyncio.create_task(reader.follow())
    worker = site.worker(LOADS)
    async with asyncio.timeout(SECONDS + 120), asyncio.TaskGroup() as group:
        group.create_task(chaos.top_up(worker))
        group.create_task(chaos.break_things(SECONDS))
    await settle(chaos)
    await verify_all(chaos, reader, reading)
    record_property("injected", sum(chaos.struck.values()))
    print(f"{len(chaos.ids)} tasks, struck {dict(chaos.struck)}")


async def settle(chaos: Chaos) -> None:
    """Nothing breaks any more: every task ends, and nothing is left of them."""

    async def drained() -> bool:
        return not await open_tasks(chaos.site)

    await until(drained, chaos.site.processes, within=180)
    await chaos.daemon.quiet()
    runs = chaos.site.state_dir / "runs" / "local"
    await until(lambda: not list(runs.iterdir()), lambda: list(runs.iterdir()))
    assert await chaos.daemon.stop() == 0
    assert "Traceback" not in chaos.daemon.log, chaos.daemon.log[-5000:]


async def verify_all(chaos: Chaos, reader: Reader, reading: "asyncio.Task[None]") -> None:
    site = chaos.site
    report = await history.check(site, chaos.ids)
    assert report.attempts >= len(chaos.ids) == report.contexts
    async with site.store().database.connection() as connection:
        rows = await connection.fetch("SELECT task, count(*), count(DISTINCT part) FROM parts GROUP BY task")
        recorded = {row["event_id"] for row in await connection.fetch("SELECT event_id FROM data_manager.event_store")}
    assert {tuple(row) for row in rows} == {(id_, PARTS, PARTS) for id_ in chaos.ids}
    for id_ in chaos.ids:
        events = await site.events(id_)
        assert events[-1].type == ":FINAL", [event.type for event in events]
        assert sorted(e.payload for e in events if e.type == ":CHECKPOINT") == list(range(PARTS))

    await until(lambda: reading.done() or len(reader.seen) >= len(recorded), within=60)
    assert not reading.done() and sorted(reader.seen) == sorted(recorded)
    reading.cancel()
    await asyncio.wait([reading])
    await reader.database.close()
