"""Listens: on a TCP port, and on a Unix socket in the state folder that only its owner can open.

Connections are made by a protocol of our own, for three reasons: it knows by which of the two doors somebody came, it
answers what is no HTTP with a problem document and no traceback in the log, and it does not wait for ever for the other
half of a request's head.
"""

import asyncio
import fcntl
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from damad.config import Config
from damad.errors import ConfigError, DamadError
from damad.http import headers, limits, problems, tls
from damad.http.wire import SETTINGS

SOCKET_NAME: Final = "damad.sock"
IDLE_TIMEOUT: Final = 75.0
"""Seconds until a connection on which nothing arrives is closed."""
SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds that requests in hand have left when the server ends; long waits end at once (shutdown.py)."""
_LINGER: Final = 2.0
"""Seconds in which the rest of a refused body is read away, so that the refusal is read at all."""
_LONGEST_LINE: Final = 64 * 1024
"""Bytes of a request line or header: the cursor of a large tree is long."""
_LONGEST_SOCKET: Final = 107
"""Bytes of a path that sockaddr_un holds."""
_BACKLOG: Final = 512
_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""

log = logging.getLogger(__name__)


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server can be reached."""

    url: str
    host: str
    port: int
    socket: Path


class Protocol(web.RequestHandler):
    """A connection.

    trusted: it came by the Unix socket, from a process of the daemon's owner or of root. Nobody else can open that;
    where somebody has changed its mode, whoever comes needs a token as over TCP · uid: of that process · let_in: what
    was said by the last who was let in here for what they said (auth.py) · heard: when something came the last time.
    """

    __slots__ = ("_head_timeout", "_late", "_others", "_refused", "_room", "heard", "let_in", "trusted", "uid")

    def __init__(
        self,
        server: web.Server,
        *,
        head_timeout: float,
        others: "set[Protocol]",
        room: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`others`: the connections over TCP, of which there is room for so many."""
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=IDLE_TIMEOUT,
            lingering_time=_LINGER,
            auto_decompress=False,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
        )
        self.trusted = False
        self.uid: int | None = None
        self.let_in = b""
        self.heard = 0.0
        self._others, self._room, self._refused = others, room, False
        self._head_timeout = head_timeout
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has come."""
        super().connection_made(transport)
        self.uid = _uid_of(transport)
        self.trusted = self.uid in (os.geteuid(), 0)
        self.heard = self._loop.time()
        if self.uid is None:
            self._make_room()

    @property
    def idle(self) -> bool:
        """True while no request is in hand, be it that half of one has come."""
        return self._current_request is None and not self._messages

    def _make_room(self) -> None:
        if len(self._others) >= self._room:
            longest = limits.longest_idle(self._others)
            self._refused = longest is None
            if longest is not None:
                self._others.discard(longest)
                longest.force_close()
        if self._refused:
            # It is told so once it asks, for whoever is closed on with a request on its way may never read why.
            self._late = self._loop.call_later(_LINGER, self.force_close)
        else:
            self._others.add(self)

    def data_received(self, data: bytes) -> None:
        """Takes what arrives. From the first bytes of a head its time runs, however many more come one by one."""
        if self._refused:
            self._say_and_close(problems.TooManyConnections("all connections are in use; try again"))
            return
        self.heard = self._loop.time()
        super().data_received(data)
        if self._messages or self._current_request is not None:
            self._forget_the_time()
        elif self._late is None and (self._waiter is not None or not self._request_count):
            self._late = self._loop.call_later(self._head_timeout, self._say_that_it_is_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone."""
        self._others.discard(self)
        self._forget_the_time()
        super().connection_lost(exc)

    def _forget_the_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _say_that_it_is_late(self) -> None:
        self._late = None
        if self.transport is not None and not self._messages and self._current_request is None:
            self._say_and_close(
                problems.HeadTimeout(f"the head of the request did not arrive within {self._head_timeout:g} s")
            )

    def _say_and_close(self, error: DamadError) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(problems.as_bytes(error))
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what no handler could: a request that is no HTTP, or a fault of ours."""
        if isinstance(exc, ConnectionError):
            raise exc
        if status < 500:
            log.debug("what came from %s is no HTTP: %s", request.remote, message)
            error: DamadError = problems.BadRequest(" ".join((message or "this is no HTTP").split())[:200])
        else:
            log.error("%s %s failed: %s", request.method, request.path, exc, exc_info=exc)
            error = DamadError("damad failed")
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer has begun; it can only break off")
        answer = problems.response(error)
        answer.force_close()
        headers.add_to(answer)  # it is no request of the application, which would
        return answer


class Doors:
    """The port and the socket of a server. They are taken, and nobody listens there until `serve` opens them."""

    def __init__(self, path: Path, unix: socket.socket) -> None:
        self.path = path
        self.unix = unix
        self.tcp: asyncio.Server
        self.connect: Callable[[], Protocol]


@asynccontextmanager
async def taken(settings: Config) -> AsyncIterator[Doors]:
    """Takes the port and the socket while the code inside runs: what is wrong with them is known before all else.

    Raises ConfigError where one of them cannot be had, or would be open to other machines without TLS.
    """
    path = settings.state_dir / SOCKET_NAME
    with _claimed(path) as unix:
        doors = Doors(path, unix)
        doors.tcp = await _bound(doors, settings)
        try:
            yield doors
        finally:
            doors.tcp.close()


async def _bound(doors: Doors, settings: Config) -> asyncio.Server:
    host, port, secured = settings.host, settings.port, tls.context(settings)
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: doors.connect(), host, port, backlog=_BACKLOG, start_serving=False, ssl=secured,
            ssl_handshake_timeout=settings.body_timeout if secured else None,
        )  # fmt: skip
    except (OSError, UnicodeError) as error:  # UnicodeError: what can be no name of a host
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on host {host}, port {port}: {reason}") from None
    try:  # it is known only now which addresses a name has
        tls.refuse_strangers(settings, [taken.getsockname()[0] for taken in server.sockets])
    except ConfigError:
        server.close()
        raise
    return server


@asynccontextmanager
async def serve(app: web.Application, doors: Doors) -> AsyncIterator[Addresses]:
    """Listens while the code inside runs. At its end no new request is taken and streams end at once.

    Raises ConfigError where somebody else began to listen on the port meanwhile.
    """
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=SHUTDOWN_TIMEOUT)
    await runner.setup()
    server = runner.server
    assert server is not None
    settings = app[SETTINGS]
    room = limits.connections(settings.max_connections)
    connect = partial(Protocol, server, head_timeout=settings.body_timeout, others=set(), room=room, loop=loop)
    doors.connect = connect
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        unix = await loop.create_unix_server(connect, sock=doors.unix, backlog=_BACKLOG)
        stack.callback(unix.close)
        stack.callback(doors.tcp.close)
        host, port = doors.tcp.sockets[0].getsockname()[:2]
        try:
            await doors.tcp.start_serving()
        except OSError as error:
            raise ConfigError(f"cannot listen on host {host}, port {port}: {error.strerror}") from None
        yield Addresses(url=_url(settings, host, port), host=host, port=port, socket=doors.path)


def _uid_of(transport: asyncio.BaseTransport) -> int | None:
    """Whose process is at the other end of a Unix socket, as the kernel says; None over TCP."""
    unix = transport.get_extra_info("socket")
    if unix is None or unix.family != socket.AF_UNIX:
        return None
    _, uid, _ = _CREDENTIALS.unpack(unix.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def _url(settings: Config, host: str, port: int) -> str:
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@contextmanager
def _claimed(path: Path) -> Iterator[socket.socket]:
    """A Unix socket at the path, which is removed in the end if it is still ours.

    One that a dead daemon left is replaced; the folder is locked meanwhile, so that two who start do not take each
    other's. Raises ConfigError where a daemon listens there, or something that is no socket is in the way.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        name = _short(path, folder)
        _clear(path, name)
        unix = _bind(name)
        ours = path.stat()
    except OSError as error:
        raise ConfigError(f"cannot listen on {path}: {error.strerror or error}") from None
    finally:
        os.close(folder)
    try:
        yield unix
    finally:
        unix.close()
        _remove(path, ours)


def _short(path: Path, folder: int) -> str:
    """A name of the path that sockaddr_un can hold."""
    return str(path) if len(os.fsencode(path)) <= _LONGEST_SOCKET else f"/proc/self/fd/{folder}/{path.name}"


def _clear(path: Path, name: str) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} is in the way and is no socket; remove it")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigError(f"another damad listens on {path}; stop it, or choose another state_dir")


def _bind(name: str) -> socket.socket:
    unix = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        unix.bind(name)
    except OSError:
        unix.close()
        raise
    finally:
        os.umask(before)
    unix.setblocking(False)
    return unix


def _remove(path: Path, ours: os.stat_result) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
        path.unlink()
