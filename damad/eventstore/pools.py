"""The connections of one pg_env: a pool for each event loop that asks, made when it first does.

A worker may run code on loops of its own (asyncio.run in a thread); a connection belongs to the loop that made it.
"""

import asyncio
import gc
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from damad import failpoints
from damad.errors import ContextBusy, Unavailable
from damad.eventstore.grouping import Answer, Asked, Grouping
from damad.eventstore.listener import Listener
from damad.eventstore.queries import query
from damad.eventstore.refusals import Contention, Unanswered, translated
from damad.eventstore.sessions import CONNECT_TIMEOUT, Sessions, cut, set_codecs

_A_ROW: Final = 0.005
"""Seconds more that a statement has to be answered, for each row that it brings."""
_LAST_RELEASES: Final = 1.0
"""Seconds that connections have to be given back when all are closed; then they are cut."""
_TRIES: Final = 4
_PAUSE: Final = 0.05
"""Seconds before a statement is sent again. A server that is away for longer is the caller's to wait for."""


class Database:
    """One pg_env: its name, its DSN, and for each event loop a pool and a listener.

    lock_timeout: seconds until a statement of this pool gives up on a lock (None: never). The daemon sets it, so
    that a context held in somebody's open transaction keeps nobody else waiting.
    answer_timeout: seconds until a statement that nobody answers is given up together with its connection (None:
    never). A half-open connection is not closed, so nothing else tells. In a transaction of the caller's it holds
    only beside a lock_timeout: what may wait for a lock for ever cannot be told from what is not answered.
    pooled: whether a pooler is in between, where that is known already.
    groups: whether calls that ask the same at the same time are answered together (grouping.py). For whoever serves
    many clients at once.
    """

    def __init__(
        self,
        pg_env: str,
        dsn: str,
        *,
        application_name: str = "damad",
        max_size: int = 10,
        lock_timeout: float | None = None,
        answer_timeout: float | None = None,
        pooled: bool | None = None,
        groups: bool = False,
    ) -> None:
        self.pg_env = pg_env
        self.groups = groups
        self.dsn = dsn
        self.sessions = Sessions(dsn, application_name, lock_timeout=lock_timeout, pooled=pooled)
        self._waits_for_locks = lock_timeout is None
        self._max_size = max_size
        self._answer_timeout = answer_timeout
        self._pools: dict[asyncio.AbstractEventLoop, asyncpg.Pool[Any]] = {}
        self._farewells: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}
        self._listeners: dict[asyncio.AbstractEventLoop, Listener] = {}
        self._groupings: dict[asyncio.AbstractEventLoop, dict[str, Grouping[Any, Any]]] = {}

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
                connect=self.sessions.open,
                init=set_codecs,
                reset=_as_it_is,
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
            for opened in (self._pools, self._farewells, self._listeners, self._groupings):
                opened.pop(loop, None)
        if closed:
            gc.collect()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """A connection of this loop's pool, which is lent: what is set in its session is gone afterwards.

        Raises Unavailable where Postgres is away.
        """
        async with self._connection() as connection:
            try:
                yield connection
            finally:
                with suppress(Unavailable), translated():  # one that is lost cannot be reset, nor used again
                    async with asyncio.timeout(self._answer_timeout):
                        await connection.reset()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """A connection for statements of ours, which leave nothing behind: no round trip is needed to reset it."""
        with translated():
            pool = await self._pool()
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await pool.acquire()
        try:
            yield connection
        finally:
            # One that Postgres ended meanwhile is dropped by the pool, and nothing is lost.
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                await pool.release(connection, timeout=CONNECT_TIMEOUT)

    async def fetch(
        self, name: str, *arguments: Any, on: "asyncpg.Connection[Any] | None" = None, repeatable: bool = True
    ) -> "list[asyncpg.Record]":
        """The rows of the statement in queries/NAME.sql, on a connection of the pool or inside a transaction (`on`).

        A statement that met another transaction is sent again, and so is a repeatable one whose outcome was lost with
        its connection; one that nobody answered is not, for it took its time. Raises damad's errors: refusals.py.
        """
        brought = max((len(each) for each in arguments if isinstance(each, list)), default=0)
        if on is not None:
            async with self.answers(on, rows=brought):
                return list(await on.fetch(query(name), *arguments))
        for tries_left in reversed(range(_TRIES)):
            try:
                async with self._connection() as connection:
                    with translated():
                        async with (
                            self.sessions.bounded(connection),
                            self.answers(connection, rows=brought, in_transaction=False),
                        ):
                            rows = list(await connection.fetch(query(name), *arguments))
                if (tries_left or not repeatable) and failpoints.loses(again=repeatable):
                    raise Unavailable("the answer was lost, as a test wants it")
                return rows
            except Unavailable as error:
                again = isinstance(error, Contention) or (
                    repeatable and not isinstance(error, ContextBusy | Unanswered)
                )
                if not (again and tries_left):
                    raise
            await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.0))
        raise AssertionError("the loop above returns or raises")

    @asynccontextmanager
    async def answers(
        self, connection: "asyncpg.Connection[Any]", *, rows: int = 0, in_transaction: bool = True
    ) -> AsyncIterator[None]:
        """What is asked inside raises damad's errors. What is not answered in its time ends the connection."""
        patience = self._answer_timeout
        if patience is not None:
            patience = None if in_transaction and self._waits_for_locks else patience + _A_ROW * rows
        try:
            with translated():
                async with asyncio.timeout(patience):
                    yield
        except Unanswered:
            cut(connection)
            raise

    async def connect(self) -> "asyncpg.Connection[Any]":
        """A connection of its own, outside the pool. The caller closes it."""
        with translated():
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await self.sessions.open()
                await set_codecs(connection)
        return connection

    def listener(self) -> Listener:
        """This loop's listener. It connects when somebody subscribes."""
        loop = asyncio.get_running_loop()
        listener = self._listeners.get(loop)
        if listener is None:
            listener = self._listeners[loop] = Listener(self.connect)
        return listener

    def pool_size(self) -> tuple[int, int]:
        """How many connections this loop's pool holds, and how many of them nobody uses now."""
        pool = self._pools.get(asyncio.get_running_loop())
        return (pool.get_size(), pool.get_idle_size()) if pool is not None else (0, 0)

    def grouping(self, name: str, make: Callable[[], Grouping[Asked, Answer]]) -> Grouping[Asked, Answer]:
        """This loop's grouping of the calls of one kind. Whoever asks first makes it."""
        groupings = self._groupings.setdefault(asyncio.get_running_loop(), {})
        if name not in groupings:
            groupings[name] = make()
        return groupings[name]

    async def close(self) -> None:
        """Closes what this loop opened. Connections in the middle of something are cut."""
        loop = asyncio.get_running_loop()
        for grouping in self._groupings.pop(loop, {}).values():
            await grouping.close()
        if listener := self._listeners.pop(loop, None):
            await listener.close()
        self._farewells.pop(loop, None)
        if pool := self._pools.pop(loop, None):
            # Not cut at once: what is just being given back would say that it lost its connection.
            with suppress(Unavailable), translated():
                async with asyncio.timeout(_LAST_RELEASES):
                    await pool.close()


async def _as_it_is(_: "asyncpg.Connection[Any]") -> None:
    """What a pool does to a connection that it gets back."""
