"""A real daemon, real worker files and real commands for tests; and the promise that no process is left behind.

A `Site` is a state folder, a worker root and databases; a `Daemon` is a process that serves one. Whatever is started
for a site inherits a mark in its environment, by which every last process is found again.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple
from uuid import uuid4

import fast_paths
import lost_answers
from postgres_support import TEMPLATE, in_database, sql
from worker_support import GATE_MODULE, HOLD, Gate, Outcome

from damad import config, context, events, logs, processes, statefolder, tasks
from damad.context import EtlContext, Host
from damad.eventstore import listener
from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.pools import Database
from damad.eventstore.store import EventStore, State
from damad.eventstore.verify import Report, verify
from damad.model.event import RecordedEvent
from damad.model.lifecycle import ENDED
from damad.processes import Process

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""

DAMAD = [sys.executable, "-P", "-m", "damad"]
PG_ENV = "local"
_MARK = "TEST_SITE"
_numbers = count(1)


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


_WAITING = ("damad forks", "damad parent")
"""What the processes are named that fork runs: damad/runner/forkserver.py."""


class Site:
    """A state folder, a worker root and databases, and what a test asks of them."""

    def __init__(self, folder: Path, dsns: Mapping[str, str], **settings: str) -> None:
        self.folder, self.state_dir, self.workers = folder, folder / "state", folder / "workers"
        self.workers.mkdir(mode=0o755)
        (self.workers / "gate.py").write_text(GATE_MODULE)
        (self.workers / "hold.py").write_text(HOLD)
        self.databases = {name: Database(name, dsn) for name, dsn in dsns.items()}
        self._mark = uuid4().hex
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DAMAD_STATE_DIR": str(self.state_dir),
            "DAMAD_WORKER_ROOTS": str(self.workers),
            **{f"DAMAD_PG_ENV_{name.upper()}_DSN": dsn for name, dsn in dsns.items()},
            **fast_paths.variables(),
            **lost_answers.variables(),
            **settings,
            _MARK: self._mark,
        }

    # --- workers and gates ---

    def worker(self, source: str, name: str | None = None) -> str:
        """Writes a worker's file and returns how it is called."""
        name = name or f"worker_{next(_numbers)}.py"
        path = self.workers / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(source))
        return name

    @contextmanager
    def gate(self) -> Iterator[Gate]:
        """A gate that is shut, and open after the block at the latest."""
        gate = Gate(self.folder / f"gate_{next(_numbers)}")
        try:
            yield gate
        finally:
            gate.open()

    # --- the log, as code sees it that runs on this host ---

    @contextmanager
    def here(self, pg_env: str = PG_ENV) -> Iterator[EtlContext]:
        settings = config.load(environ=self.environment)
        host = Host.configured(settings, statefolder.make_host_id(self.state_dir))
        with context.run_in(EtlContext(pg_env=pg_env, database=self.databases[pg_env], host=host)) as entered:
            yield entered

    def store(self, pg_env: str = PG_ENV) -> EventStore:
        return EventStore(self.databases[pg_env])

    async def queue(self, worker: str, payload: Any = None, *, pg_env: str = PG_ENV, **settings: Any) -> int:
        with self.here(pg_env):
            return await tasks.queue(worker, payload, **settings)

    async def cancel(self, id_: int) -> State:
        with self.here():
            return await tasks.cancel(id_)

    async def retry(self, id_: int) -> State:
        with self.here():
            return await tasks.retry(id_)

    async def state(self, id_: int) -> Any:
        return await events.persist(lambda: self.store().state(id_))

    async def events(self, id_: int, *types: str, pg_env: str = PG_ENV) -> list[RecordedEvent]:
        """The events of a context, those of some types if they are named."""
        return await events.persist(lambda: self.store(pg_env).read(id_, types=types or None))

    async def types(self, id_: int) -> list[str]:
        """The types of a context's events; of damad's own without their prefix."""
        return [event.type.removeprefix("dama/task:") for event in await self.events(id_)]

    async def event(self, id_: int, type_: str, *, nth: int = 1) -> RecordedEvent:
        """The nth event of a type, once it is there."""
        with self.here():
            async with asyncio.timeout(SOON):
                async for event in events.follow(id_, types=[type_]):
                    nth -= 1
                    if nth == 0:
                        return event
        raise AssertionError("follow ends never by itself")

    async def reaches(self, id_: int, *states: str, pg_env: str = PG_ENV, within: float = SOON) -> Any:
        """The state of a task, once it is one of these."""
        store = self.store(pg_env)
        with store.database.listener().subscribe(listener.EVENT, id_) as bell:
            async with asyncio.timeout(within):
                while (state := await events.persist(lambda: store.state(id_))).state not in states:
                    await bell.wait(1.0)
        return state

    async def ended(self, id_: int, pg_env: str = PG_ENV) -> Any:
        """The state of a task, once it has ended."""
        return await self.reaches(id_, *ENDED, pg_env=pg_env)

    async def run(self, source: str, payload: Any = None, **settings: Any) -> Outcome:
        """Queues a task for a worker that is this text, and returns what became of it."""
        id_ = await self.queue(self.worker(source), payload, **settings)
        state = await self.ended(id_)
        return Outcome(id_, state.state, state, await self.events(id_))

    async def hold(self, gate: Gate, **settings: Any) -> int:
        """A task that runs, and waits for the gate."""
        id_ = await self.queue("hold.py", {"gate": str(gate.path)}, **settings)
        await self.event(id_, ":HERE")
        return id_

    async def process(self, id_: int, attempt: int = 1) -> Process:
        """The process that an attempt runs in, once it has started."""
        payload = (await self.event(id_, "dama/task:STARTED", nth=attempt)).payload
        return Process(payload["pid"], payload["start_time"], payload["boot_id"])

    async def log(self, id_: int, attempt: int | None = None) -> str:
        """What an attempt printed."""
        with self.here():
            return logs.find(id_, attempt).read_text()

    async def errors(self, *ids: int) -> list[str]:
        """The messages of every failed attempt of these tasks."""
        return [event.payload["message"] for id_ in ids for event in await self.events(id_, "dama/task:ERROR")]

    async def verified(self, pg_env: str = PG_ENV) -> Report:
        """What verify says, and it says nothing bad."""
        report = await verify(self.databases[pg_env])
        assert report.mismatches == []
        return report

    # --- commands ---

    async def damad(
        self,
        *words: str,
        stdin: str | None = None,
        folder: Path | None = None,
        patience: float = SOON,
        **environment: str,
    ) -> Done:
        """Runs a command to its end. `patience`: seconds that it has."""
        async with self.command(*words, folder=folder, **environment) as process, asyncio.timeout(patience):
            out, err = await process.communicate(None if stdin is None else stdin.encode())
        return Done(process.returncode or 0, out.decode(), err.decode())

    @asynccontextmanager
    async def command(
        self, *words: str, folder: Path | None = None, **environment: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command that runs; it is killed after the block if it still does."""
        process = await asyncio.create_subprocess_exec(
            *DAMAD, *words,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            cwd=folder or self.folder, env={**self.environment, **environment}, limit=1 << 24,
        )  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            async with asyncio.timeout(SOON):  # it ends when nobody holds its stdout and stderr any more
                await process.wait()

    # --- processes ---

    def processes(self) -> dict[int, str]:
        """Every living process that was started for this site, with its command line."""
        return {pid: _read(pid, "cmdline").replace("\0", " ") for pid in _pids() if self._is_mine(pid)}

    def _is_mine(self, pid: int) -> bool:
        return f"{_MARK}={self._mark}" in _read(pid, "environ").split("\0")

    def at_work(self, *but: int) -> dict[int, str]:
        """Every living process of this site but those, and but the fork servers and parents that wait for a run."""
        others = {pid: line for pid, line in self.processes().items() if pid not in but}
        return {pid: line for pid, line in others.items() if name_of(pid) not in _WAITING or _has_a_run(pid)}

    def runners(self) -> list[int]:
        """The processes that start runs, or wait beside one."""
        return [pid for pid in self.processes() if name_of(pid) in _WAITING]

    def at_main(self) -> list[int]:
        """The processes in which a `main` runs."""
        return [pid for pid in self.processes() if "/" in name_of(pid)]

    async def quiet(self, *but: int) -> None:
        """Returns once no process of this site is left but those, and what those keep waiting for a run."""
        await until(lambda: not (self.at_work(*but) if but else self.processes()), lambda: self.processes())

    async def close(self) -> None:
        """Ends every process of this site, and its embedded Postgres if it had one."""
        for database in self.databases.values():
            await database.close()
        kill(*self.processes())
        await self.quiet()
        if (self.state_dir / "postgres").exists():
            await asyncio.to_thread(_stop, EmbeddedPostgres(self.state_dir))


class Daemon:
    """`damad serve` as a process of its own."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.ready = ""
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return self.ready.split()[3]

    @property
    def log(self) -> str:
        """What all daemons of this site wrote to stderr."""
        return (self.site.folder / "daemon.log").read_text()

    async def start(self, *words: str, **environment: str) -> None:
        """Returns once the daemon has said that it is ready."""
        with (self.site.folder / "daemon.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *DAMAD, "serve", "--port", "0", *words,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
                cwd=self.site.folder, env={**self.site.environment, **lost_answers.of_a_daemon(), **environment},
            )  # fmt: skip
        assert self._process.stdout is not None
        self.ready = ""
        with suppress(TimeoutError):
            async with asyncio.timeout(SOON):
                self.ready = (await self._process.stdout.readline()).decode()
        assert self.ready.startswith("damad ready on "), f"exit code {self._process.returncode}: {self.log}"

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code: 0 for a clean end, -9 after a SIGKILL."""
        assert self._process is not None
        self._process.send_signal(number)
        async with asyncio.timeout(SOON):
            return await self._process.wait()

    async def exits(self) -> int:
        """The exit code of a daemon that ends without being asked to."""
        assert self._process is not None
        return await self._process.wait()

    async def kill(self) -> None:
        assert await self.stop(signal.SIGKILL) == -signal.SIGKILL

    async def quiet(self) -> None:
        """Returns once the daemon is the only process of its site."""
        await self.site.quiet(self.pid)


def name_of(pid: int) -> str:
    """What a process calls itself, or nothing once it has ended."""
    return _read(pid, "comm").strip()


def _has_a_run(pid: int) -> bool:
    """True for the parent of a run, until all is on record and its log is put short."""
    with suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(fd).endswith("/parent.log"):
                    return True
    return False


@asynccontextmanager
async def site_of(folder: Path, template: str, *pg_envs: str, **settings: str) -> AsyncIterator[Site]:
    """A site with a database of its own for each pg_env."""
    names = {pg_env: f"site_{uuid4().hex[:12]}" for pg_env in pg_envs or [PG_ENV]}
    for name in names.values():
        await sql(template, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    site = Site(folder, {pg_env: in_database(template, name) for pg_env, name in names.items()}, **settings)
    try:
        yield site
    finally:
        await site.close()
        for name in names.values():
            await sql(template, f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def daemon_on(site: Site) -> AsyncIterator[Daemon]:
    """A daemon that runs; at the end it stops clean, having left no process behind but itself."""
    daemon = Daemon(site)
    await daemon.start()
    yield daemon
    await daemon.quiet()
    assert await daemon.stop() == 0, daemon.log
    assert "Traceback" not in daemon.log, daemon.log


async def until(
    holds: Callable[[], bool | Awaitable[bool]], shown: Callable[[], Any] = lambda: None, *, within: float = SOON
) -> None:
    """Returns once a condition holds that nobody announces."""
    try:
        async with asyncio.timeout(within):
            while not (answer if isinstance(answer := holds(), bool) else await answer):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it did not happen within {within} s: {shown()}") from None


def kill(*pids: int) -> None:
    """Kills processes, any of which may come to its own end meanwhile."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def gone(process: Process) -> None:
    """Returns once a process has ended."""
    await until(lambda: not processes.alive(process), lambda: process)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _stop(server: EmbeddedPostgres) -> None:
    server.join()
    server.leave()
