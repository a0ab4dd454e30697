"""The exit codes of the runner's process, the claims that it refuses, and what reaches the log under a lost one.

No daemon runs here: the test claims, starts a runner itself and reads the exit record.
"""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from daemon_support import PG_ENV, Site, site_of, until

from damad import config, logs, processes, statefolder
from damad.eventstore.schedule import Schedule
from damad.eventstore.store import Append
from damad.model.event import Event
from damad.runner import records
from damad.runner.attempt import Claim
from damad.scheduler import launcher

OWN_FINAL = "events.dispatch_sync({'type': ':FINAL'})"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("codes")
    async with site_of(folder, template, DAMAD_QUEUE_DEFAULT_RETRY_LIMIT="0") as site:
        yield site
        await site.quiet()


@pytest.fixture
def runner(site: Site) -> "Runner":
    return Runner(site)


class Runner:
    """Starts runners as a scheduler does."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.settings = config.load(environ=site.environment)
        self.host_id = statefolder.make_host_id(site.state_dir)
        self.holder = processes.as_holder(processes.myself(), self.host_id)

    async def claim(self, id_: int) -> int:
        """Claims a task and returns the fence."""
        schedule = Schedule(self.site.databases[PG_ENV], self.host_id)
        await schedule.claim_one(id_, holder=self.holder, lease=30.0)
        return (await self.site.state(id_)).fence

    async def start(self, id_: int, fence: int, run: Path | None = None, **environment: str) -> Path:
        """Starts a runner and returns the folder of its records. `run`: another one than the claim's own."""
        claim = Claim(
            pg_env=PG_ENV, etl_context_id=id_, fence=fence, host_id=self.host_id,
            state_dir=self.site.state_dir, worker_roots=(self.site.workers,), queues={}, lease=30.0, max_result=1000,
        )  # fmt: skip
        database = self.site.databases[PG_ENV]
        task = await self.site.store().assignment(id_)
        assignment = launcher.assign(claim, task, database=database, settings=self.settings, terminal=False, debug=None)
        inherited = config.child_environment(self.site.environment) | environment
        assignment = msgspec.structs.replace(assignment, environment=inherited, run=run or assignment.run)
        await launcher.launch(assignment)
        return assignment.run

    async def code(self, run: Path) -> int | None:
        """The exit code that is on record, once it is."""
        await until(lambda: records.read_exit(run) is not None)
        exit_ = records.read_exit(run)
        assert exit_ is not None
        assert exit_.signal is None
        return exit_.exit_code

    async def run(self, source: str) -> int | None:
        """Queues, claims and runs a worker that is this text."""
        id_ = await self.site.queue(self.site.worker(source))
        return await self.code(await self.start(id_, await self.claim(id_)))


@pytest.mark.parametrize(
    ("code", "source"),
    [
        (0, "def main():\n    return {}\n"),
        (0, f"from damad import events\n\ndef main():\n    {OWN_FINAL}\n    raise ValueError\n"),
        (7, "import os\n\ndef main():\n    os._exit(7)\n"),
        (101, "def main():\n    raise ValueError\n"),
        (101, "def main():\n    raise SystemExit(0)\n"),
        (102, "def main():\n    return None\n"),
        (102, "def main():\n    return {'n': b''}\n"),
        (104, "def main(:\n"),
    ],
)
async def test_the_process_ends_with_the_code_that_says_what_became_of_it(
    runner: Runner, code: int, source: str
) -> None:
    assert await runner.run(source) == code


async def test_a_second_runner_of_the_same_claim_ends_with_100(runner: Runner, tmp_path: Path) -> None:
    site = runner.site
    with site.gate() as gate:
        id_ = await site.queue("hold.py", {"gate": str(gate.path)})
        fence = await runner.claim(id_)
        first = await runner.start(id_, fence)
        await site.event(id_, ":HERE")
        assert await runner.code(await runner.start(id_, fence, tmp_path / "second")) == 100
        assert (await site.state(id_)).state == "running"
    assert await runner.code(first) == 0
    assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":HERE", ":FINAL"]


async def test_a_runner_whose_claim_is_over_ends_with_103_and_never_starts(runner: Runner) -> None:
    site = runner.site
    id_ = await site.queue("hold.py")
    fence = await runner.claim(id_)
    await release(site, id_, fence)
    assert await runner.code(await runner.start(id_, fence)) == 103
    assert await site.types(id_) == [":INITIAL", "CLAIMED", "RELEASED"]


async def test_a_runner_that_was_taken_over_ends_with_103_and_what_it_returns_is_nowhere(runner: Runner) -> None:
    site = runner.site
    with site.gate() as gate:
        id_ = await site.queue("hold.py", {"gate": str(gate.path)})
        fence = await runner.claim(id_)
        run = await runner.start(id_, fence)
        await site.event(id_, ":HERE")
        await release(site, id_, fence)
        assert await runner.claim(id_) > fence
    assert await runner.code(run) == 103
    assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":HERE", "RELEASED", "CLAIMED"]


async def test_a_worker_hears_that_its_fence_is_old_when_it_dispatches(runner: Runner) -> None:
    site = runner.site
    worker = site.worker(
        """
        import gate
        from damad import errors, events

        def main(event):
            events.dispatch_sync({"type": ":HERE"})
            gate.wait(event["payload"]["gate"])
            try:
                events.dispatch_sync({"type": ":LATE"})
            except errors.StaleFence:
                print("refused", flush=True)
            return {}
        """
    )
    with site.gate() as gate:
        id_ = await site.queue(worker, {"gate": str(gate.path)})
        fence = await runner.claim(id_)
        run = await runner.start(id_, fence)
        await site.event(id_, ":HERE")
        await release(site, id_, fence)
        await runner.claim(id_)
    assert await runner.code(run) == 103
    assert await site.log(id_) == "refused\n"
    assert ":LATE" not in await site.types(id_)


async def test_the_exit_record_says_when_it_ended_and_who_ran(runner: Runner) -> None:
    site = runner.site
    id_ = await site.queue(site.worker("import os\n\ndef main():\n    os._exit(3)\n"))
    run = await runner.start(id_, await runner.claim(id_))
    await runner.code(run)
    known, exit_ = records.read_processes(run), records.read_exit(run)
    assert known is not None and exit_ is not None
    assert known.worker == await site.process(id_)
    assert known.parent.pid not in (known.worker.pid, os.getpid())
    assert exit_.ended_at > 0
    assert (exit_.oom, exit_.exit_code) == (False, 3)


async def release(site: Site, id_: int, fence: int) -> None:
    released = Event(type="dama/task:RELEASED", payload={"reason": "test"})
    await site.store().append([Append(etl_context_id=id_, event=released, fence=fence)])


async def test_a_worker_never_begins_whose_parent_died_before_it_was_on_record_who_runs(runner: Runner) -> None:
    site = runner.site
    id_ = await site.queue(site.worker("def main():\n    return {}\n"))
    run = await runner.start(id_, await runner.claim(id_), DAMAD_FAILPOINT="parent.forked:kill")
    await site.quiet()
    assert records.read_processes(run) is None
    assert not logs.path(site.state_dir, PG_ENV, id_, 1).exists(), "opening its log is the first thing it does"
    assert await site.types(id_) == [":INITIAL", "CLAIMED"]


async def test_once_its_exit_is_on_record_nothing_is_left_of_a_run(runner: Runner, tmp_path: Path) -> None:
    """Not even what left its session and its family: an orphan is the child of the run's parent."""
    site = runner.site
    source = """
        import os, signal
        from pathlib import Path

        def main(event):
            told, tell = os.pipe()
            if child := os.fork():
                os.waitpid(child, 0)
                pid = int(os.read(told, 16))
                Path(event["payload"]).write_text(str(pid))
                return {}
            os.setsid()
            if os.fork():
                os._exit(0)
            os.write(tell, str(os.getpid()).encode())
            signal.pause()
    """
    id_ = await site.queue(site.worker(source), str(tmp_path / "pid"))
    assert await runner.code(await runner.start(id_, await runner.claim(id_))) == 0
    left = processes.identify(int((tmp_path / "pid").read_text()))
    if left is not None:
        processes.send(left, signal.SIGKILL)
    assert left is None
