"""A daemon's word that it serves a pg_env with the schema that it knows, so that no newer damad changes it underneath.

A session of its own holds a shared advisory lock, (DAEMONS, version), for as long as the daemon serves. A migration
takes the locks of all older versions for itself, or is refused: migrate.py. The lock goes with its session, so an
outage loses it; then the session is made again, and a daemon that finds a newer schema there by now stops.
Behind a pooler no lock is taken: it would stay with the pooler's session when the daemon has long gone, and stand in
the way of every migration. Who migrates there stops the daemons first.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from damad.backoff import Backoff
from damad.errors import Unavailable, unwrapped
from damad.eventstore.migrate import DAEMONS, VERSION, applied, refuse_newer
from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.refusals import translated

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(database: Database) -> AsyncIterator[None]:
    """Inside, this daemon counts as one that serves the pg_env. Waits for Postgres, and for a migration to end.

    What is inside is cancelled, and Conflict raised, where a newer damad has changed the schema during an outage.
    """
    counted = asyncio.Event()
    with unwrapped():
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(_count(database, counted), name=f"serving {database.pg_env}")
            await counted.wait()
            yield
            keeper.cancel()


async def _count(database: Database, counted: asyncio.Event) -> None:
    backoff = Backoff()
    while True:
        try:
            connection = await database.connect()
            try:
                with translated():
                    if not database.sessions.pooled:
                        await connection.execute(query("serve"), DAEMONS, VERSION)
                    refuse_newer((await applied(connection))[0], database.pg_env)
                counted.set()
                backoff.reset()
                await _end_of(connection)
            finally:
                connection.terminate()
        except Unavailable as error:
            log.debug("the session that says who serves %s is lost: %s", database.pg_env, error)
        await backoff.pause()


async def _end_of(connection: "asyncpg.Connection[Any]") -> None:
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    if not connection.is_closed():
        await ended.wait()
