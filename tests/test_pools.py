"""The connections of one pg_env: a pool for each event loop, and none left over from loops that have ended."""

import asyncio
import subprocess
import sys
from textwrap import dedent
from typing import Any

import pytest

from damad.eventstore.pools import Database

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""
SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cancelled' AND wait_event = 'PgSleep'"


async def ask(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval(SESSIONS))


async def at_most(many: int, plain: Any) -> None:
    """Returns once there are no more sessions than that: Postgres hears of an end when it comes to it."""
    async with asyncio.timeout(SOON):
        while await plain.fetchval(SESSIONS) > many:
            pass


async def test_a_loop_that_has_ended_leaves_no_connection_behind(database: Database, plain: Any) -> None:
    before = await plain.fetchval(SESSIONS)
    for _ in range(10):
        await asyncio.to_thread(asyncio.run, ask(database))
    await at_most(before, plain)


async def test_a_loop_that_was_closed_without_a_word_leaves_at_most_its_own(database: Database, plain: Any) -> None:
    def rudely() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask(database))
        loop.close()

    before = await plain.fetchval(SESSIONS)
    for _ in range(10):
        await asyncio.to_thread(rudely)
    await at_most(before + 1, plain)


@pytest.mark.parametrize("how_often", [1, 2])
async def test_who_is_cancelled_keeps_no_connection(dsn: str, plain: Any, how_often: int) -> None:
    """Cancelled twice, it is so while it gives back what it asked on."""
    database = Database("local", dsn, application_name="cancelled", max_size=2)

    async def sleep() -> None:
        async with database._connection() as connection:
            await connection.fetch("SELECT pg_sleep(600)")

    async with asyncio.timeout(SOON):
        for _ in range(3):
            asleep = [asyncio.create_task(sleep()) for _ in range(2)]
            while await plain.fetchval(ASLEEP) < len(asleep):
                pass
            for _ in range(how_often):
                for one in asleep:
                    one.cancel()
                await asyncio.sleep(0)
            ends = await asyncio.gather(*asleep, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        async with database._connection() as one, database._connection() as other:
            assert await one.fetchval("SELECT 1") == await other.fetchval("SELECT 1")
        assert database.pool_size()[1] == database.pool_size()[0] <= 2
    await database.close()


async def test_each_loop_has_a_pool_of_its_own_and_keeps_it(database: Database) -> None:
    async def pools() -> set[int]:
        found = set()
        for _ in range(3):
            async with database.connection():
                found.add(id(database._pools[asyncio.get_running_loop()]))
        return found

    first, second = await pools(), await asyncio.to_thread(asyncio.run, pools())
    assert len(first) == len(second) == 1


@pytest.mark.parametrize("runner", ["asyncio.run", "uvloop.run"])
def test_a_program_that_ends_its_loop_says_goodbye_to_postgres_in_silence(dsn: str, runner: str) -> None:
    program = f"""
    import asyncio, sys, uvloop
    from damad.eventstore.pools import Database

    async def ask(database):
        async with database.connection() as connection:
            return await connection.fetchval("SELECT 1")

    database = Database("local", sys.argv[1])
    print([{runner}(ask(database)) for _ in range(3)])
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", dedent(program), dsn],
        capture_output=True, text=True, timeout=SOON, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[1, 1, 1]\n", "")
