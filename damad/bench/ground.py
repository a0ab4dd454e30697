"""What a bench stands on: sites, each a scratch database with a state folder and workers, and daemons that serve them.

Each part of a bench has a site of its own, so that none measures what another one left. Databases lie on the server
that is configured, folders in the state folder: the same disks that damad works on. At the end all is removed again.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from time import monotonic
from typing import Any, Final

import msgspec

from damad import config, context, processes, statefolder
from damad.bench.sizes import Sizes
from damad.errors import DamadError
from damad.eventstore.pools import Database
from damad.eventstore.scratch import scratch
from damad.eventstore.store import EventStore

PG_ENV: Final = "damad_bench"
IN_DAEMON, IN_PROCESS, KEYED, PARKED = "in_daemon", "in_process", "keyed", "parked"
"""The queues: 50 tasks at a time in the daemon, 4 at a time in processes of their own, the same again for tasks with
keys, and one that nobody runs."""
_PATIENCE: Final = 120.0
"""Seconds until something that should have happened counts as failed: nothing that is measured takes as long."""
_MARK: Final = "BENCH_SITE"
"""A variable that everything inherits that is started for a site: by it the last process is found again."""
_CONNECTIONS: Final = 20
_WORKERS: Final = {
    "nothing.py": "async def main():\n    return {}\n",
    "began.py": "import time\n\n\nasync def main(initial_event):\n"
                "    return {'waited': time.monotonic() - initial_event['payload']['at']}\n",
    "nap.py": "import asyncio\n\n\nasync def main():\n    await asyncio.sleep(0.02)\n    return {}\n",
    "sleep.py": "import asyncio\n\n\nasync def main():\n    await asyncio.sleep(3600)\n",
}  # fmt: skip
_CONFIGURATION: Final = """\
worker_roots = ["workers"]
[pg_env.{pg_env}]
dsn = {dsn}
[queue.{in_daemon}]
concurrency = 50
run_in = "daemon"
[queue.{in_process}]
concurrency = 4
[queue.{keyed}]
concurrency = 4
[queue.crowd]
concurrency = 8
[queue.parked]
concurrency = 0
"""


class MeasuringFailed(DamadError):
    """What was to be measured did not happen as it should: a figure of it would say nothing."""


class Daemon(msgspec.Struct, frozen=True):
    """A daemon that serves a site. `began`: monotonic seconds when it was started."""

    pid: int
    host: str
    port: int
    token: str
    began: float


class Site:
    """A scratch database with a state folder of its own and the workers of a bench."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.state_dir = folder, folder / "state"
        self.database, self.store = database, EventStore(database)
        self._write_workers()
        (folder / "damad.toml").write_text(
            _CONFIGURATION.format(
                pg_env=PG_ENV, dsn=msgspec.json.encode(database.dsn).decode(), in_daemon=IN_DAEMON,
                in_process=IN_PROCESS,
                keyed=KEYED,
            )
        )  # fmt: skip
        self._host = context.Host(
            host_id=statefolder.make_host_id(self.state_dir),
            state_dir=self.state_dir,
            worker_roots=(folder / "workers",),
        )

    def _write_workers(self) -> None:
        workers = self.folder / "workers"
        workers.mkdir(mode=0o755)
        workers.chmod(0o755)
        for name, text in _WORKERS.items():
            (workers / name).write_text(text)
            (workers / name).chmod(0o644)

    @contextmanager
    def here(self) -> Iterator[context.EtlContext]:
        """The code inside runs on this site, as a front has it."""
        with context.run_in(context.EtlContext(pg_env=PG_ENV, database=self.database, host=self._host)) as entered:
            yield entered

    def command(self, *words: str) -> list[str]:
        """A command of damad on this site."""
        return [sys.executable, "-P", "-m", "damad", *words, "--pg-env", PG_ENV, "--state-dir", str(self.state_dir)]

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[Daemon]:
        """A daemon that serves this site; it is ready, and stops clean at the end. Its workers outlive it."""
        began = monotonic()
        with (self.folder / "daemon.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.command("serve", "--port", "0"), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=log, cwd=self.folder,
                env={**config.own_environment(), _MARK: str(self.folder)},
            )  # fmt: skip
        try:
            yield await self._ready(process, began)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), _PATIENCE)
            finally:
                with suppress(ProcessLookupError):
                    process.kill()

    async def _ready(self, process: asyncio.subprocess.Process, began: float) -> Daemon:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), _PATIENCE)).decode()
        if not line.startswith("damad ready on http://"):
            said = (self.folder / "daemon.log").read_text().strip().splitlines()
            raise MeasuringFailed(f"a daemon did not start: {said[-1] if said else 'it said nothing'}")
        host, _, port = line.split()[3].removeprefix("http://").rpartition(":")
        return Daemon(process.pid, host, int(port), (self.state_dir / "token").read_text().strip(), began)

    def living(self) -> list[processes.Process]:
        """What runs of this site, of whomever it descends."""
        return processes.marked(_MARK, str(self.folder))

    async def last_event(self) -> int:
        """Where the log ends now."""
        return int((await self.database.fetch("bench_last_event"))[0]["event_id"])

    async def running(self) -> list[processes.Process]:
        """The processes of the tasks that run."""
        started = [row["payload"] for row in await self.database.fetch("bench_running")]
        found = [processes.named(said["pid"], said["start_time"], said["boot_id"]) for said in started]
        return [process for process in found if process is not None and processes.alive(process)]

    async def run_out(self) -> None:
        """Kills what still runs of this site, also what is only just being started, until nothing does."""

        def nobody_is_left() -> bool:
            left = self.living()
            for process in left:
                processes.send(process, signal.SIGKILL)
            return not left

        await until(nobody_is_left, "the workers of a bench did not end")


class Ground:
    """The sites of a bench, each made when it is first asked for."""

    def __init__(self, beside: Database, folder: Path, sizes: Sizes, stack: AsyncExitStack) -> None:
        self.sizes = sizes
        self.folder = folder
        self.remembered: dict[str, Any] = {}
        self.beside, self._stack = beside, stack
        self._sites: dict[str, Site] = {}

    async def site(self, name: str) -> Site:
        """The site of that name."""
        if name not in self._sites:
            self._sites[name] = await self._stack.enter_async_context(self.fresh())
        return self._sites[name]

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Site]:
        """A site of whose log nothing is there yet, and that is removed again at once."""
        async with scratch(self.beside, PG_ENV, max_size=_CONNECTIONS) as database:
            site = Site(Path(mkdtemp(prefix="site-", dir=self.folder)), database)
            try:
                yield site
            finally:
                await site.run_out()


@asynccontextmanager
async def ground(beside: Database, state_dir: Path, sizes: Sizes) -> AsyncIterator[Ground]:
    """A ground on the server of a database and in a state folder, removed at the end with all that runs on it."""
    statefolder.prepare(state_dir)
    with TemporaryDirectory(prefix="bench-", dir=state_dir, ignore_cleanup_errors=True) as folder:
        async with AsyncExitStack() as stack:
            yield Ground(beside, Path(folder), sizes, stack)


async def until(holds: Any, otherwise: str, *, pause: float = 0.05) -> None:
    """Returns once a condition holds, sync or async. Raises MeasuringFailed where it takes too long."""
    deadline = monotonic() + _PATIENCE
    while not (await answer if asyncio.iscoroutine(answer := holds()) else answer):
        if monotonic() > deadline:
            raise MeasuringFailed(f"{otherwise} within {_PATIENCE:.0f} s")
        await asyncio.sleep(pause)
