"""The connections of one pg_env: a pool for each event loop that asks, made when it first does.

A worker may run code on loops of its own (asyncio.run in a thread); a connection belongs to the loop that made it.

Behind a pooler that shares sessions (PgBouncer in transaction mode) a connection may meet another session of Postgres
in each transaction. What a session remembers is not there, or is somebody else's: settings, and prepared statements by
their names. So none are prepared by name there, and a setting that must hold is set in each transaction.
"""

import asyncio
import gc
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg
import orjson

from damad import failpoints
from damad.errors import ContextBusy, Unavailable
from damad.eventstore.listener import Listener
from damad.eventstore.queries import query
from damad.eventstore.refusals import Contention, translated
from damad.model import json_value

CONNECT_TIMEOUT: Final = 10.0
"""Seconds until a server that does not answer counts as away."""
_LAST_RELEASES: Final = 1.0
"""Seconds that connections have to be given back when all are closed; then they are cut."""
_TRIES: Final = 4
_PAUSE: Final = 0.05
"""Seconds before a statement is sent again. A server that is away for longer is the caller's to wait for."""


class Database:
    """One pg_env: its name, its DSN, and for each event loop a pool and a listener.

    lock_timeout: seconds until a statement of this pool gives up on a lock (None: never). The daemon sets it, so
    that a context held in somebody's open transaction keeps nobody else waiting.

    pooled: whether a pooler is in between; None until the first connection has asked, once.
    """

    def __init__(
        self,
        pg_env: str,
        dsn: str,
        *,
        application_name: str = "damad",
        max_size: int = 10,
        lock_timeout: float | None = None,
        pooled: bool | None = None,
    ) -> None:
        self.pg_env = pg_env
        self.dsn = dsn
        self.pooled = pooled
        self._name = {"application_name": application_name}
        self._lock_timeout = {} if lock_timeout is None else {"lock_timeout": f"{round(lock_timeout * 1000)}ms"}
        self._max_size = max_size
        self._pools: dict[asyncio.AbstractEventLoop, asyncpg.Pool[Any]] = {}
        self._farewells: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}
        self._listeners: dict[asyncio.AbstractEventLoop, Listener] = {}

    def __repr__(self) -> str:
        return f"<Database {self.pg_env}>"

    async def _pool(self) -> "asyncpg.Pool[Any]":
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            self._drop_closed_loops()
            self._pools[loop] = asyncpg.create_pool(
                self.dsn,
                min_size=0,
                max_size=self._max_size,
                timeout=CONNECT_TIMEOUT,
                connect=self._session,
                init=_set_codecs,
            )
            self._farewells[loop] = self._farewell()
            await anext(self._farewells[loop])
        return await self._pools[loop]  # awaiting an open pool is free; awaiting a new one opens it

    async def _farewell(self) -> AsyncGenerator[None, None]:
        """Closes what a loop opened when it ends: `asyncio.run` ends each async generator that was begun in it."""
        try:
            yield
        finally:
            await self.close()

    def _drop_closed_loops(self) -> None:
        """Forgets the loops that ended without a word: their connections go with them."""
        closed = [loop for loop in list(self._pools) if loop.is_closed()]  # other threads have loops of theirs
        for loop in closed:
            for opened in (self._pools, self._farewells, self._listeners):
                opened.pop(loop, None)
        if closed:
            gc.collect()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """A connection of this loop's pool. Raises Unavailable where Postgres is away."""
        with translated():
            pool = await self._pool()
            connection = await pool.acquire(timeout=CONNECT_TIMEOUT)
        try:
            yield connection
        finally:
            # One that Postgres ended meanwhile cannot be reset: the pool has dropped it then, and nothing is lost.
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                await pool.release(connection)

    async def fetch(
        self, name: str, *arguments: Any, on: "asyncpg.Connection[Any] | None" = None, repeatable: bool = True
    ) -> "list[asyncpg.Record]":
        """The rows of the statement in queries/NAME.sql, on a connection of the pool or inside a transaction (`on`).

        A statement that met another transaction is sent again, and so is a repeatable one whose outcome was lost with
        its connection. Raises damad's errors: refusals.py.
        """
        if on is not None:
            with translated():
                return list(await on.fetch(query(name), *arguments))
        for tries_left in reversed(range(_TRIES)):
            try:
                async with self.connection() as connection:
                    with translated():
                        async with self._bounded(connection):
                            rows = list(await connection.fetch(query(name), *arguments))
                if repeatable and failpoints.loses("database.executed"):
                    raise Unavailable("the answer was lost, as a test wants it")
                return rows
            except Unavailable as error:
                again = isinstance(error, Contention) or (repeatable and not isinstance(error, ContextBusy))
                if not (again and tries_left):
                    raise
            await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.0))
        raise AssertionError("the loop above returns or raises")

    async def connect(self) -> "asyncpg.Connection[Any]":
        """A connection of its own, outside the pool. The caller closes it."""
        with translated():
            connection = await self._session(self.dsn, timeout=CONNECT_TIMEOUT)
            await _set_codecs(connection)
        return connection

    async def _session(self, *arguments: Any, **given: Any) -> "asyncpg.Connection[Any]":
        """A new connection, made for what answers: Postgres itself, or a pooler.

        PgBouncer refuses settings that it does not know, or was told to ignore them; and the process that it names as
        the one that serves a connection is none of Postgres'.
        """
        settings = {**self._name, **self._lock_timeout, "client_connection_check_interval": "1s"}
        if not self.pooled:
            try:
                connection = await asyncpg.connect(*arguments, **given, server_settings=settings)
            except asyncpg.ProtocolViolationError as error:
                if "startup parameter" not in str(error):
                    raise
            else:
                if self.pooled is False or await _is_of_its_own(connection):
                    self.pooled = False
                    return connection
                connection.terminate()
            self.pooled = True
        return await asyncpg.connect(*arguments, **given, server_settings=self._name, statement_cache_size=0)

    async def bound(self, connection: "asyncpg.Connection[Any]") -> None:
        """Has lock_timeout hold in the transaction that this connection is in, also where no session remembers it."""
        if self.pooled:
            for name, value in self._lock_timeout.items():
                await connection.execute(f"SET LOCAL {name} = '{value}'")

    @asynccontextmanager
    async def _bounded(self, connection: "asyncpg.Connection[Any]") -> AsyncIterator[None]:
        if not (self.pooled and self._lock_timeout):
            yield
            return
        async with connection.transaction():
            await self.bound(connection)
            yield

    def listener(self) -> Listener:
        """This loop's listener. It connects when somebody subscribes."""
        loop = asyncio.get_running_loop()
        listener = self._listeners.get(loop)
        if listener is None:
            listener = self._listeners[loop] = Listener(self.connect)
        return listener

    async def close(self) -> None:
        """Closes what this loop opened. Connections in the middle of something are cut."""
        loop = asyncio.get_running_loop()
        if listener := self._listeners.pop(loop, None):
            await listener.close()
        self._farewells.pop(loop, None)
        if pool := self._pools.pop(loop, None):
            # Not cut at once: what is just being given back would say that it lost its connection.
            with suppress(Unavailable), translated():
                async with asyncio.timeout(_LAST_RELEASES):
                    await pool.close()


async def _is_of_its_own(connection: "asyncpg.Connection[Any]") -> bool:
    """True if the session is the one that the connection was told when it was made. One round trip."""
    found: str = await connection.execute(f"SELECT WHERE pg_backend_pid() = {connection.get_server_pid()}")
    return found == "SELECT 1"


async def _set_codecs(connection: "asyncpg.Connection[Any]") -> None:
    """orjson reads an integer beyond 64 bits as a double: here it is one, whose digits jsonb spelled out."""
    for name in ("jsonb", "json"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=_encode, decoder=orjson.loads, format="text")


def _encode(value: Any) -> str:
    return json_value.dumps(value).decode()
