"""Answers are waited for, and not for ever; and both ends of a connection look whether the other is there."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from damad.errors import ContextBusy, Unavailable
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.model.event import Event


async def test_a_statement_that_is_not_answered_in_time_is_given_up_and_the_next_has_a_fresh_connection(
    store: EventStore,
) -> None:
    id_ = await store.create_context()
    impatient = Database("local", store.database.dsn, max_size=1, answer_timeout=0.3)
    append = Append(etl_context_id=id_, event=Event(type=":INITIAL", event_uuid=uuid4()))
    try:
        async with store.transaction() as connection:
            await connection.execute("SELECT FROM data_manager.etl_contexts FOR UPDATE")
            with pytest.raises(Unavailable, match="does not answer") as refused:
                await EventStore(impatient).append([append])
            assert not isinstance(refused.value, ContextBusy)
            impatient._answer_timeout = None  # what comes now has all the time that it needs
            await EventStore(impatient).ping()
        await EventStore(impatient).append([append])
    finally:
        await impatient.close()
    assert [event.version for event in await store.read(id_)] == [1]


async def test_a_transaction_of_the_callers_takes_the_time_that_it_needs(store: EventStore) -> None:
    impatient = Database("local", store.database.dsn, answer_timeout=0.1)
    try:
        async with EventStore(impatient).transaction() as connection:
            assert await connection.fetchval("SELECT 1 FROM pg_sleep(0.5)") == 1
    finally:
        await impatient.close()


async def test_the_more_rows_a_statement_brings_the_longer_it_is_waited_for(store: EventStore) -> None:
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL", event_uuid=uuid4()))])
    impatient = Database("local", store.database.dsn, answer_timeout=0.05)  # and 15 s for the rows
    many = [Append(etl_context_id=id_, event=Event(type=":A", payload=n, event_uuid=uuid4())) for n in range(3000)]
    try:
        assert len(await EventStore(impatient).append(many)) == 3000
    finally:
        await impatient.close()


async def test_both_ends_of_a_connection_look_whether_the_other_is_there(database: Database) -> None:
    async with over_tcp(database.dsn) as dsn:
        connection = await Database("local", dsn).connect()
        try:
            own: socket.socket = connection._transport.get_extra_info("socket")
            assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert 0 < own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000
            asked = await connection.fetch("SELECT name FROM pg_settings WHERE source = 'client'")
            assert {"tcp_keepalives_idle", "tcp_user_timeout"} <= {row["name"] for row in asked}
        finally:
            connection.terminate()


@asynccontextmanager
async def over_tcp(dsn: str) -> AsyncIterator[str]:
    """The DSN by which a server that listens on a Unix socket is reached over TCP."""
    parts = urlsplit(dsn)
    path = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer), return_exceptions=True)

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"postgresql://{parts.username}@127.0.0.1:{listening.sockets[0].getsockname()[1]}{parts.path}"
    finally:
        listening.close()
