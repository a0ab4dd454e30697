"""The daemon's end of the lines to its runners (damad/runner/line.py): a parent for each run, forked when none is idle.

What runs is known from the log and the records of the runs, never from here: a line that breaks costs the time that it
saved. Then the runner speaks to Postgres itself, and the next daemon has lines of its own.
"""

import asyncio
import socket
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, Protocol

import orjson
import structlog

from damad import config, failpoints
from damad.runner import line

log = structlog.get_logger()

Preload = tuple[str, ...]
"""Modules that a fork server imports beside damad's."""

_PATIENCE: Final = 30.0
"""Seconds in which a fork server has imported everything and a parent of it has taken a run."""
_IDLE: Final = 10.0
"""Seconds after which a parent that nobody needs is let go. One stays."""
_PAUSE: Final = 30.0
"""Seconds until another fork server is tried where the last one never ran anything."""
_LAST_WORDS: Final = 5.0
"""Seconds in which who is idle has ended once its line is closed."""


class Handler(Protocol):
    """Whoever had a run launched, and is told of it."""

    async def say(self, said: line.Say) -> line.Message:
        """Appends what the worker's process says, and returns what it is told."""
        ...

    def over(self) -> None:
        """The process has ended, and its exit is on record."""
        ...

    def hung_up(self) -> None:
        """Nothing is heard of this run any more."""
        ...


class Runners:
    """Parents, by what they have imported. One object serves every pg_env of a daemon."""

    def __init__(self, state_dir: Path, *, embedded: bool) -> None:
        self._log = state_dir / "forkserver.log"
        self._request = orjson.dumps({"state_dir": str(state_dir), "embedded": embedded})
        self._servers: dict[Preload, _ForkServer] = {}
        self._starting = asyncio.Lock()
        self._not_before: dict[Preload, float] = {}
        self._lines: set[_Line] = set()
        self._numbers = count(1)

    async def launch(self, assignment: int, handler: Handler, *, preload: Preload = ()) -> bool:
        """Has a parent run what the file `assignment` (a descriptor) says. Returns once it is on record, or failed.

        False where no parent took it: then it can be run in another way.
        """
        one = await self._idle_line(preload)
        if one is None:
            return False
        running = _Running(next(self._numbers), handler)
        if await one.run(running, assignment):
            one.server.served = True
            await running.on_record.wait()
            return True
        one.hang_up()
        self._give_up(preload, one.server)
        return False

    async def warm(self, preload: Preload) -> None:
        """Has a parent come up that is idle, so that the first run need not wait for all that is to be imported."""
        await self._idle_line(preload)

    def hang_up(self, handler: Handler) -> None:
        """Is not interested any more in the run of that handler: its line is not used again."""
        for one in [one for one in self._lines if one.running is not None and one.running.handler is handler]:
            one.hang_up()

    async def close(self) -> None:
        """Hangs up. Who is idle ends, and is waited for; who runs a worker goes on until that has ended."""
        leaving = [one.leave() for one in self._lines if one.running is None]
        ending = [server.end() for server in self._servers.values()]
        for one in [one for one in self._lines if one.running is not None]:
            one.hang_up()
        await asyncio.gather(*leaving, *ending)

    async def _idle_line(self, preload: Preload) -> "_Line | None":
        """An idle line, or a new one; None where no fork server comes up."""
        for one in self._lines:
            if one.running is None and one.server.preload == preload:
                return one
        if asyncio.get_running_loop().time() < self._not_before.get(preload, 0.0):
            return None
        try:
            async with self._starting:  # many who need the first one wait for the same
                if preload not in self._servers:
                    self._servers[preload] = await _ForkServer.start(preload, self._log)
            return _Line(self._servers[preload], self._request, self._lines)
        except OSError as error:
            log.warning("the fork server is gone", reason=str(error))
            self._give_up(preload, self._servers.get(preload))
            return None

    def _give_up(self, preload: Preload, server: "_ForkServer | None") -> None:
        """The next parent is of another fork server: this one is dead, or what it has imported was changed."""
        if server is None or not server.served:
            self._not_before[preload] = asyncio.get_running_loop().time() + _PAUSE
        if server is not None:
            server.hang_up()
            if self._servers.get(preload) is server:
                del self._servers[preload]


class _ForkServer:
    """A fork server's process. served: a parent of it has run something."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket, preload: Preload) -> None:
        self._process = process
        self._control = control
        self.preload = preload
        self.served = False

    @classmethod
    async def start(cls, preload: Preload, log_path: Path) -> "_ForkServer":
        """Starts one, which will have imported everything in a moment. Raises OSError."""
        ours, theirs = line.pair()
        with log_path.open("ab") as output, theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "damad.runner.forkserver", str(theirs.fileno()), *preload,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                env=config.child_environment() | failpoints.environment(),
                pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        return cls(process, ours, preload)

    def fork(self, request: bytes) -> socket.socket:
        """Our end of the line to a new parent. Raises OSError where the fork server is dead."""
        ours, theirs = line.pair()
        with theirs:
            socket.send_fds(self._control, [request], [theirs.fileno()])
        ours.setblocking(False)
        return ours

    def hang_up(self) -> None:
        """It ends; its parents do not."""
        self._control.close()

    async def end(self) -> None:
        """It has ended, or something holds it up."""
        self.hang_up()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self._process.wait()


class _Running:
    """A run that a line was given. begun: whether its parent took it."""

    def __init__(self, number: int, handler: Handler) -> None:
        self.number = number
        self.handler = handler
        self.begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.on_record = asyncio.Event()


class _Line:
    """The line to one parent, among `lines` for as long as it can be used."""

    def __init__(self, server: _ForkServer, request: bytes, lines: "set[_Line]") -> None:
        self.server = server
        self.running: _Running | None = None
        self._lines = lines
        self._clock = asyncio.get_running_loop()
        self._end = server.fork(request)
        self._gone = asyncio.Event()
        self._reports: set[asyncio.Task[None]] = set()
        self._leave: asyncio.TimerHandle | None = None
        self._clock.add_reader(self._end.fileno(), self._readable)
        lines.add(self)

    async def run(self, running: _Running, assignment: int) -> bool:
        """Gives it a run. True once its parent has it."""
        if self._leave is not None:
            self._leave.cancel()
        self.running = running
        try:
            socket.send_fds(self._end, [line.encode(line.Run(running.number))], [assignment])
            async with asyncio.timeout(_PATIENCE):
                return await running.begun
        except (OSError, TimeoutError):
            return False

    def hang_up(self) -> None:
        """Closes it. Its parent ends, once its worker has."""
        if self not in self._lines:
            return
        self._lines.discard(self)
        self._clock.remove_reader(self._end.fileno())
        self._end.close()
        self._gone.set()
        if self.running is not None:
            if not self.running.begun.done():
                self.running.begun.set_result(False)
            self.running.on_record.set()
            self.running.handler.hung_up()

    async def leave(self) -> None:
        """Has its parent end, which is idle, and waits for that."""
        with suppress(TimeoutError, OSError):
            self._end.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_LAST_WORDS):
                await self._gone.wait()
        self.hang_up()

    def _readable(self) -> None:
        try:
            received = self._end.recv(line.LARGEST)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.hang_up()
            return
        message, running = line.decode(received), self.running
        if running is None or message is None or message.run != running.number:
            return  # of a process that a run has left behind
        match message:
            case line.Begun():
                if not running.begun.done():
                    running.begun.set_result(True)
            case line.Say():
                running.on_record.set()
                self._report(running, message)
            case line.Over():
                running.on_record.set()
                self.running = None
                self._leave = self._clock.call_later(_IDLE, self._leave_if_not_last)
                running.handler.over()

    def _report(self, running: _Running, said: line.Say) -> None:
        reporting = asyncio.create_task(self._answer(running, said))
        self._reports.add(reporting)
        reporting.add_done_callback(self._reports.discard)

    async def _answer(self, running: _Running, said: line.Say) -> None:
        try:
            answer = await running.handler.say(said)
        except Exception:  # a fault here is no reason to keep a run waiting, which can say so itself
            log.exception("what a run said could not be appended here")
            answer = line.Unsaid(running.number, said.conclusion)
        if running is self.running:
            with suppress(OSError):  # nobody waits for it any more
                self._end.send(line.encode(answer))

    def _leave_if_not_last(self) -> None:
        others = [one for one in self._lines if one is not self and one.server.preload == self.server.preload]
        if self.running is None and any(one.running is None for one in others):
            self.hang_up()
