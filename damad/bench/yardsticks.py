"""What this machine and this Postgres can do at best, with nothing of damad in the way: what damad is divided by."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Final

from damad import config
from damad.bench import goals, load
from damad.bench.figures import percentile
from damad.bench.ground import Ground, Site
from damad.eventstore.queries import query

PAYLOAD: Final = {"n": 1, "msg": "hello", "rows": 12345}
_IMPORTS: Final = "import asyncio, asyncpg, orjson, msgspec"
_HEARD: Final = 100
_SPAWNED: Final = 4


async def _table(ground: Ground) -> Site:
    site = await ground.site("yardsticks")
    await site.database.fetch("bench_make_table")
    return site


async def one(ground: Ground) -> float:
    """Inserts a second, each committed before the next begins."""
    site = await _table(ground)
    async with site.database.connection() as connection:
        statement = await connection.prepare(query("bench_insert_one"))
        return await repeated(lambda: statement.fetchval(1, PAYLOAD), ground.sizes.seconds)


async def sixteen(ground: Ground) -> float:
    """Inserts a second on 16 connections at once."""
    site = await _table(ground)

    async def insert(context: int) -> float:
        async with site.database.connection() as connection:
            statement = await connection.prepare(query("bench_insert_one"))
            return await repeated(lambda: statement.fetchval(context, PAYLOAD), ground.sizes.seconds)

    return sum(await asyncio.gather(*map(insert, range(16))))


async def batches(ground: Ground) -> float:
    """Inserts a second, 100 in a statement."""
    site = await _table(ground)
    contexts, payloads = list(range(100)), [PAYLOAD] * 100
    async with site.database.connection() as connection:
        statement = await connection.prepare(query("bench_insert_many"))
        return 100 * await repeated(lambda: statement.fetch(contexts, payloads), ground.sizes.seconds)


async def heard(ground: Ground) -> tuple[float, float]:
    """Milliseconds from before an insert until a listener has heard of it: p50, p99."""
    site = await _table(ground)
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    async with site.database.connection() as connection:
        listener = await site.database.connect()
        try:
            await listener.add_listener("damad_bench", lambda *_: arrived.put_nowait(None))
            statement = await connection.prepare(query("bench_insert_and_notify"))
            waits = []
            for _ in range(min(_HEARD, ground.sizes.started)):
                began = perf_counter()
                await statement.fetch("")
                await arrived.get()
                waits.append((perf_counter() - began) * 1000)
        finally:
            await listener.close()
    return percentile(waits, 50), percentile(waits, 99)


async def empty(ground: Ground) -> float:
    """Answers a second of an aiohttp server that has nothing to say, over 32 connections."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "damad.bench.empty", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stdin is not None and server.stdout is not None
    try:
        port = int(await server.stdout.readline())
        request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        return (await load.answers("127.0.0.1", port, [request] * 32, ground.sizes.seconds)).rate
    finally:
        server.stdin.close()
        await server.wait()


async def fork(ground: Ground) -> float:
    """Processes a second that are forked and exit."""
    return await _forked("nothing", ground)


async def fork_loop(ground: Ground) -> float:
    """Processes a second that are forked and run an event loop for a moment."""
    return await _forked("loop", ground)


async def _forked(child: str, ground: Ground) -> float:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-P", "-m", "damad.bench.forks", child, str(ground.sizes.seconds)],
        check=True, capture_output=True,
    )  # fmt: skip
    return float(done.stdout)


async def spawn(ground: Ground) -> float:
    """Pythons a second that are started, import what damad imports, and end; 4 at a time."""

    async def start_and_end() -> float:
        return await repeated(_one_python, ground.sizes.seconds)

    return sum(await asyncio.gather(*(start_and_end() for _ in range(_SPAWNED))))


async def spawn_ms(ground: Ground) -> float:
    """Milliseconds of the start and end of one such Python."""
    return 1000 / await repeated(_one_python, ground.sizes.seconds / 2)


async def _one_python() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", _IMPORTS, stdin=asyncio.subprocess.DEVNULL, env=config.own_environment()
    )
    await process.wait()


async def repeated(act: Callable[[], Awaitable[Any]], seconds: float) -> float:
    """How often a second something can be done, one time after another; at least once."""
    began, done = perf_counter(), 0
    while not done or perf_counter() - began < seconds:
        await act()
        done += 1
    return done / (perf_counter() - began)


Measure = Callable[[Ground], Awaitable[Mapping[str, float]]]
"""A step of a bench: what it measured, by name."""


async def _heard(ground: Ground) -> Mapping[str, float]:
    p50, p99 = await heard(ground)
    return {goals.HEARD_P50: p50, goals.HEARD_P99: p99}


def _named(name: str, measure: Callable[[Ground], Awaitable[float]]) -> Measure:
    async def named(ground: Ground) -> Mapping[str, float]:
        return {name: await measure(ground)}

    return named


YARDSTICKS: Final[tuple[tuple[frozenset[str], Measure], ...]] = (
    (frozenset({goals.HEARD_P50, goals.HEARD_P99}), _heard),
    *(
        (frozenset({name}), _named(name, measure))
        for name, measure in (
            (goals.ONE, one), (goals.SIXTEEN, sixteen), (goals.BATCHES, batches), (goals.EMPTY, empty),
            (goals.FORK, fork), (goals.FORK_LOOP, fork_loop), (goals.SPAWN, spawn), (goals.SPAWN_MS, spawn_ms),
        )
    ),
)  # fmt: skip
"""What each yardstick measures, by the names of its figures. (Others are measured by the part that they belong to.)"""
