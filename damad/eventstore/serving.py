"""A daemon's word that it serves a pg_env: with the schema that it knows, so that no newer damad changes it underneath,
and as the host that it is, so that no other takes the same one's tasks for lost.

A session of its own holds two advisory locks for as long as the daemon serves: a shared one, (DAEMONS, version), and
one of its host alone. A migration takes the locks of all older versions for itself, or is refused: migrate.py. A second
daemon with the same host id (its state folder is a copy) is refused when it starts. The locks go with their session, so
an outage loses them; then the session is made again. A daemon that finds a newer schema there by now stops; one that
finds its host taken goes on, and says so.
Behind a pooler no lock is taken: it would stay with the pooler's session when the daemon has long gone, and stand in
the way of every migration. Who migrates there stops the daemons first; and whose host id is a copy, nobody can tell.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from damad.backoff import Backoff
from damad.errors import Conflict, Unavailable, unwrapped
from damad.eventstore.migrate import DAEMONS, VERSION, applied, refuse_newer
from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.refusals import translated

log = logging.getLogger(__name__)

_PATIENCE: Final = 10.0
"""Seconds until another session counts as a living daemon's: that of a killed or lost one ends a little after."""
_SAID_AFTER: Final = 1.0
"""Seconds until it is said what is waited for."""
_LOOK_PAUSE: Final = 0.25


class Host(msgspec.Struct, frozen=True):
    """Who serves: the id of the host, and the file that it comes from."""

    host_id: str
    file: Path


async def refuse_twin(database: Database, host: Host) -> None:
    """Raises Conflict where another daemon serves the pg_env as this same host, and Unavailable."""

    async def is_free() -> bool:
        return bool((await database.fetch("host_is_free", host.host_id, DAEMONS))[0]["free"])

    if not await _in_time(is_free, database.pg_env):
        raise Conflict(await _twin(database, host))


async def served(database: Database, hosts: Collection[str | None]) -> set[str | None]:
    """Those of some hosts as which a daemon serves the pg_env now; of None, whether any does. Behind a pooler, which
    hides that, all of them. Two statements, however many they are."""
    found: set[str | None] = set()
    if None in hosts and await database.fetch("serving_sessions", DAEMONS, VERSION + 1):
        found.add(None)
    if named := [host for host in hosts if host is not None]:
        found |= {row["host_id"] for row in await database.fetch("served_hosts", named, DAEMONS)}
    return set(hosts) if database.sessions.pooled else found


@asynccontextmanager
async def serving(database: Database, host: Host) -> AsyncIterator[None]:
    """Inside, this daemon counts as one that serves the pg_env. Waits for Postgres, and for a migration to end.

    What is inside is cancelled, and Conflict raised, where a newer damad has changed the schema during an outage.
    Conflict also where another daemon is this same host already.
    """
    counted = asyncio.Event()
    with unwrapped():
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(_count(database, host, counted), name=f"serving {database.pg_env}")
            await counted.wait()
            yield
            keeper.cancel()


async def _count(database: Database, host: Host, counted: asyncio.Event) -> None:
    backoff = Backoff()
    while True:
        try:
            connection = await database.connect()
            try:
                with translated():
                    if not database.sessions.pooled:
                        await connection.execute(query("serve"), DAEMONS, VERSION)
                    refuse_newer((await applied(connection))[0], database.pg_env)
                    await _be_the_host(connection, database, host, first=not counted.is_set())
                counted.set()
                backoff.reset()
                await _end_of(connection)
            finally:
                connection.terminate()
        except Unavailable as error:
            log.debug("the session that says who serves %s is lost: %s", database.pg_env, error)
        await backoff.pause()


async def _be_the_host(connection: "asyncpg.Connection[Any]", database: Database, host: Host, *, first: bool) -> None:
    """Takes the lock of the host. Only who begins is refused: who has served goes on, with the tasks that it has."""

    async def is_held() -> bool:
        return bool(await connection.fetchval(query("hold_host"), host.host_id, DAEMONS))

    if database.sessions.pooled:
        if first:
            log.warning("pg_env %s is behind a pooler: nobody can tell whether another daemon is this same host; see "
                        "to it that no other state folder has the id in %s", database.pg_env, host.file)  # fmt: skip
        return
    if not await _in_time(is_held, database.pg_env):
        twin = await _twin(database, host)
        if first:
            raise Conflict(twin)
        log.warning("%s", twin)
        while not await is_held():  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(_PATIENCE)


async def _in_time(condition: Callable[[], Awaitable[bool]], pg_env: str) -> bool:
    looks = int(_PATIENCE / _LOOK_PAUSE)
    for look in range(looks):
        if await condition():
            return True
        if look == int(_SAID_AFTER / _LOOK_PAUSE):
            log.warning("pg_env %s: another session serves it as this same host; it may be that of a daemon that was "
                        "killed a moment ago: waiting %g s for it to end", pg_env, _PATIENCE)  # fmt: skip
        await asyncio.sleep(_LOOK_PAUSE)
    return await condition()


async def _twin(database: Database, host: Host) -> str:
    rows = await database.fetch("host_sessions", host.host_id, DAEMONS)
    sessions = ", ".join(f"session {row['pid']}, from {row['client']}" for row in rows) or "it just went"
    return (
        f"another daemon serves pg_env {database.pg_env!r} as this same host ({sessions}): its state folder has the "
        f"same id. If this one is the copy, remove {host.file} and start again: a new id is drawn (or do so there)"
    )


async def _end_of(connection: "asyncpg.Connection[Any]") -> None:
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    if not connection.is_closed():
        await ended.wait()
