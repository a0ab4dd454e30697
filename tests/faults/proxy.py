"""A TCP proxy of our own before a real Postgres, which does to connections what networks do, when the test says so.

It reads as much of the frontend protocol as it takes to see where a client's transaction ends: a statement outside of a
transaction ends one with its Sync, and `COMMIT;` is a simple Query. Such a `Batch` can be kept from the server, or its
answer from the client: the connection is reset just before the commit reaches the server, or just after it was done.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

SECRET_STARTS: Final = (80877103, 80877104)
"""SSLRequest and GSSENCRequest: answered with N, so that what follows can be read."""
_HELD_BACK: Final = b"PBDEC"
"""Messages that do nothing before a Sync, a Flush or a Query follows them."""
_WRITES: Final = ("append_events", "append_each", "queue_tasks", "claim_tasks")
_ENDS: Final = ("COMMIT", "ROLLBACK;")
_CHUNK: Final = 1 << 16

Moment = Literal["before", "after", "silence"]


class Batch(NamedTuple):
    """What a client sent up to a Sync or as a simple Query: its SQL, and all of its bytes.

    alone: it is executed outside of a transaction, so that it commits.
    """

    sql: str
    content: bytes
    alone: bool

    def commits(self) -> bool:
        """True for a COMMIT, and for a statement of damad's that writes and stands alone."""
        return self.sql.startswith("COMMIT") or (self.alone and any(name in self.sql for name in _WRITES))

    def commits_event(self, type_: str) -> bool:
        """True where it commits an event of this type and stands alone."""
        return self.commits() and type_.encode() in self.content


class Trap:
    """Waits for the first batch that fits: its connection is reset before or after it, or silent from it on."""

    def __init__(self, moment: Moment, fits: Callable[[Batch], bool]) -> None:
        self.moment = moment
        self.fits = fits
        self.sprung = asyncio.Event()


class Proxy:
    """The proxy. `port`: where it listens on loopback.

    resets, refused, swallowed: how many connections it cut and refused so far, and how many bytes vanished.
    """

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        self._server_socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._listening: asyncio.Server | None = None
        self._sessions: set[_Session] = set()
        self._traps: list[Trap] = []
        self.port = 0
        self.refusing = False
        self.silent = False
        self.delay = 0.0
        self.resets = 0
        self.refused = 0
        self.swallowed = 0

    async def start(self) -> None:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._listening is not None
        self._listening.close()
        self.cut_all()
        while self._sessions:
            await next(iter(self._sessions)).over.wait()

    def dsn(self, direct: str) -> str:
        """The DSN by which the database that `direct` names is reached through here."""
        parts = urlsplit(direct)
        return f"postgresql://{parts.username}@127.0.0.1:{self.port}{parts.path}"

    @property
    def connections(self) -> int:
        """How many clients are connected and have not lost their server."""
        return sum(not session.dead for session in self._sessions)

    # --- faults ---

    def cut_all(self) -> None:
        """Resets every connection on both sides."""
        for session in self._sessions.copy():
            session.cut()

    def go_away(self) -> None:
        """Postgres is gone: connections are reset, new ones are refused (reset when they come)."""
        self.refusing = True
        self.cut_all()

    def fall_silent(self) -> None:
        """Every byte vanishes and nothing is closed, on new connections too. Those there are now stay so for ever."""
        self.silent = True
        for session in self._sessions:
            session.dead = True

    def server_gives_up(self) -> None:
        """The server sees at last that nobody is there on the silent connections, and ends them on its side."""
        for session in self._sessions:
            if session.dead:
                session.gives_up.set()

    def heal(self) -> None:
        """Forwards again; connections that fell silent stay so."""
        self.refusing = self.silent = False
        self.delay = 0.0

    def trap(self, moment: Moment, fits: Callable[[Batch], bool] = Batch.commits) -> Trap:
        """Resets the connection of the next batch that fits, before or after the server executes it.

        Or it is half-open from then on, and the batch the first that vanishes.
        """
        trap = Trap(moment, fits)
        self._traps.append(trap)
        return trap

    # --- what sessions ask ---

    def trapped(self, batch: Batch) -> Trap | None:
        for trap in self._traps:
            if trap.fits(batch):
                self._traps.remove(trap)
                return trap
        return None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(self, reader, writer)
        self._sessions.add(session)
        try:
            await session.run(self._server_socket)
        finally:
            self._sessions.discard(session)
            session.over.set()


class _Session:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.client = (reader, writer)
        self.server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.dead = proxy.silent
        self.over = asyncio.Event()
        self._statements: dict[bytes, str] = {}
        self._in_transaction = False
        self._sprung: Trap | None = None
        self.gives_up = asyncio.Event()

    async def run(self, server_socket: str) -> None:
        reader, writer = self.client
        backwards = None
        try:
            if self.proxy.refusing:
                self.proxy.refused += 1
            elif self.dead:
                await self._swallow(reader)
            else:
                with suppress(asyncio.IncompleteReadError, OSError):  # also a server that is not there
                    self.server = await asyncio.open_unix_connection(server_socket)
                    backwards = asyncio.create_task(self._from_server(self.server[0]))
                    await self._from_client(reader)
                if self.dead:
                    await self.gives_up.wait()  # that the client is gone is not heard either
        finally:
            if backwards is not None:
                backwards.cancel()
            _reset(writer)
            if self.server is not None:
                self.server[1].transport.abort()

    def cut(self) -> None:
        """Both ends get an RST, and nothing that was on its way."""
        self.proxy.resets += 1
        self.gives_up.set()
        _reset(self.client[1])
        if self.server is not None:
            self.server[1].transport.abort()

    # --- client to server ---

    async def _from_client(self, reader: asyncio.StreamReader) -> None:
        await self._startup(reader)
        held = bytearray()
        sql = ""
        while True:
            head = await reader.readexactly(5)
            message = head + await reader.readexactly(int.from_bytes(head[1:]) - 4)
            held += message
            sql = self._sql(message) or sql
            if head[:1] in _HELD_BACK:
                continue
            await self._send(Batch(sql, bytes(held), not self._in_transaction), ends=head[:1] in b"SQ")
            held.clear()

    async def _startup(self, reader: asyncio.StreamReader) -> None:
        while True:
            length = await reader.readexactly(4)
            packet = length + await reader.readexactly(int.from_bytes(length) - 4)
            if int.from_bytes(packet[4:8]) not in SECRET_STARTS:
                break
            self.client[1].write(b"N")
        await self._to_server(packet)

    def _sql(self, message: bytes) -> str | None:
        """The statement that a message is about, if it says so."""
        sort, body = message[:1], message[5:]
        if sort == b"Q":
            said = body[:-1].decode(errors="replace")
            self._in_transaction = said.startswith("BEGIN") or (self._in_transaction and not said.startswith(_ENDS))
            return said
        if sort == b"P":
            name, sql, _ = body.split(b"\0", 2)
            self._statements[name] = sql.decode(errors="replace")
            return self._statements[name]
        if sort == b"B":
            _, name, _ = body.split(b"\0", 2)
            return self._statements.get(name, "")
        return None

    async def _send(self, batch: Batch, *, ends: bool) -> None:
        trap = self.proxy.trapped(batch) if ends and batch.content[:1] != b"S" and not self.dead else None
        if trap is None:
            await self._to_server(batch.content)
        elif trap.moment == "before":
            self.cut()
            trap.sprung.set()
        elif trap.moment == "silence":
            self.dead = True
            self.proxy.swallowed += len(batch.content)
            trap.sprung.set()
        else:
            self._sprung = trap  # from here on the server's answer is kept back
            await self._to_server(batch.content)

    async def _to_server(self, content: bytes) -> None:
        if self.proxy.delay:
            await asyncio.sleep(self.proxy.delay)
        if self.dead:
            self.proxy.swallowed += len(content)
            return
        assert self.server is not None
        self.server[1].write(content)
        await self.server[1].drain()

    # --- server to client ---

    async def _from_server(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                if self._sprung is not None:
                    await self._until_ready(chunk, reader)
                    self.cut()
                    self._sprung.sprung.set()
                    return
                if self.proxy.delay:
                    await asyncio.sleep(self.proxy.delay)
                if self.dead:
                    self.proxy.swallowed += len(chunk)
                    continue
                self.client[1].write(chunk)
                await self.client[1].drain()
        if not self.dead:
            self.client[1].close()

    async def _until_ready(self, begun: bytes, reader: asyncio.StreamReader) -> None:
        """Returns once the server has said ReadyForQuery: what it was asked is done and committed."""
        answer = bytearray(begun)
        while True:
            while len(answer) >= 5 and len(answer) > (end := int.from_bytes(answer[1:5])):
                if answer[:1] == b"Z":
                    return
                del answer[: end + 1]
            if not (chunk := await reader.read(_CHUNK)):
                return
            answer += chunk

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        """Reads what the client says for as long as it lives, and tells nobody."""
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                self.proxy.swallowed += len(chunk)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes a connection with an RST in place of a FIN."""
    own: socket.socket | None = writer.get_extra_info("socket")
    if own is not None and not writer.transport.is_closing():
        with suppress(OSError):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy before the server that a DSN names by its Unix socket."""
    proxy = Proxy(dsn)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
