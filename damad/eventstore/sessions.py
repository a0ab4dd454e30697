"""How one session with Postgres is made: settings, JSON, keepalive, and what is different behind a pooler.

Behind a pooler that shares sessions (PgBouncer in transaction mode) a connection may meet another session of Postgres
in each transaction. What a session remembers is not there, or is somebody else's: settings, and prepared statements by
their names. So none are prepared by name there, and a setting that must hold is set in each transaction.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any, Final

import asyncpg

from damad.errors import Unavailable
from damad.eventstore.refusals import translated
from damad.model import json_value

CONNECT_TIMEOUT: Final = 10.0
"""Seconds until a server that does not answer counts as away."""
_OF_ITS_OWN: Final = {
    "client_connection_check_interval": "1s",
    # After half a minute of silence both ends take a TCP connection for lost. By itself Postgres holds a session, and
    # its locks, for two hours after its client's machine or the network has gone.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": "30s",
}


class Sessions:
    """Makes sessions of one name on one database.

    pooled: whether a pooler is in between; None until the first connection has asked, once.
    """

    def __init__(self, dsn: str, application_name: str, *, lock_timeout: float | None, pooled: bool | None) -> None:
        self.dsn = dsn
        self.pooled = pooled
        self._name = {"application_name": application_name}
        self._lock_timeout = {} if lock_timeout is None else {"lock_timeout": f"{round(lock_timeout * 1000)}ms"}

    async def open(self, *_: Any, **given: Any) -> "asyncpg.Connection[Any]":
        """A new connection, made for what answers: Postgres itself, or a pooler. (asyncpg's pool gives what it needs.)

        PgBouncer refuses settings that it does not know, or was told to ignore them; and the process that it names as
        the one that serves a connection is none of Postgres'.
        """
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection = await self._connect(given)
        _keep_alive(connection)
        return connection

    async def _connect(self, given: dict[str, Any]) -> "asyncpg.Connection[Any]":
        if not self.pooled:
            settings = {**self._name, **self._lock_timeout, **_OF_ITS_OWN}
            try:
                connection = await asyncpg.connect(self.dsn, **given, server_settings=settings)
            except asyncpg.ProtocolViolationError as error:
                if "startup parameter" not in str(error):
                    raise
            else:
                if self.pooled is False or await _is_of_its_own(connection):
                    self.pooled = False
                    return connection
                connection.terminate()
            self.pooled = True
        return await asyncpg.connect(self.dsn, **given, server_settings=self._name, statement_cache_size=0)

    async def begin(self, connection: "asyncpg.Connection[Any]") -> Any:
        """Begins a transaction, in which lock_timeout holds also where no session remembers it.

        A pooler whose Postgres is away refuses nobody but has everybody wait, for minutes: here no longer than one
        waits for a connection. Raises TimeoutError; then the connection is closed.
        """
        transaction = connection.transaction()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await transaction.start()
                if self.pooled:
                    for name, value in self._lock_timeout.items():
                        await connection.execute(f"SET LOCAL {name} = '{value}'")
        except TimeoutError:
            cut(connection)
            raise
        return transaction

    def bounded(self, connection: "asyncpg.Connection[Any]") -> AbstractAsyncContextManager[None]:
        """lock_timeout holds inside, whoever answers: behind a pooler that takes a transaction."""
        return self._transaction(connection) if self.pooled else nullcontext()

    @asynccontextmanager
    async def _transaction(self, connection: "asyncpg.Connection[Any]") -> AsyncIterator[None]:
        transaction = await self.begin(connection)
        try:
            yield
        except BaseException:
            with suppress(Unavailable), translated():  # a connection that was lost is rolled back already
                await transaction.rollback()
            raise
        await transaction.commit()


def cut(connection: "asyncpg.Connection[Any]") -> None:
    """Ends a connection on which nobody answers, at once: asking the server to cancel would not be answered either."""
    with suppress(asyncpg.InterfaceError):  # it is cut already, and the pool has it back
        connection.terminate()


async def set_codecs(connection: "asyncpg.Connection[Any]") -> None:
    """JSON is a value to this connection, and an Unreadable where it is none: json_value.loads."""
    for name in ("jsonb", "json"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=_encode, decoder=json_value.loads, format="text"
        )


def _encode(value: Any) -> str:
    return json_value.dumps(value).decode()


async def _is_of_its_own(connection: "asyncpg.Connection[Any]") -> bool:
    """True if the session is the one that the connection was told when it was made. One round trip."""
    found: str = await connection.execute(f"SELECT WHERE pg_backend_pid() = {connection.get_server_pid()}")
    return found == "SELECT 1"


def _keep_alive(connection: "asyncpg.Connection[Any]") -> None:
    """Our side of keepalive, which asyncpg has no parameter for. Over a Unix socket there is nothing to lose."""
    own: socket.socket | None = connection._transport.get_extra_info("socket")
    if own is None or own.family == socket.AF_UNIX:
        return
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
