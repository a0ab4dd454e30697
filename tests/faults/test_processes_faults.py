"""Processes that are stopped, killed or starved, workers that fight back: no task hangs, nothing is left running."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import pytest
from daemon_support import Daemon, Site, gone, kill, until
from resisting_workers import HERE, RESISTS
from test_crash_points import EXCLUSIVE, check

from damad import processes
from damad.processes import Process
from damad.runner import records

LEASE = 1.0
SETTINGS = {"DAMAD_GRACE": "300ms", "DAMAD_LEASE": f"{LEASE}s", "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0"}
MEMORY = 400 * 2**20
"""Enough for a daemon, a runner's parent and a worker that does nothing."""

HOLDS_ALONE = (
    EXCLUSIVE
    + HERE
    + """
import gate

def main(initial_event):
    here()
    gate.wait(initial_event["payload"]["gate"])
    return {}
"""
)


async def queue(site: Site, source: str, **settings: object) -> int:
    return await site.queue(site.worker(HERE + dedent(source)), **settings)


async def parent_of(site: Site, id_: int) -> Process:
    """The runner's parent of a task that runs."""
    (run,) = (site.state_dir / "runs" / "local").glob(f"{id_}.*")
    known = records.read_processes(run)
    assert known is not None
    return known.parent


# --- workers that fight back ---


@pytest.mark.fault(
    fault="a worker resists being stopped", injected="signals ignored or blocked, SIGSTOP, forks", invariants="I6 I10"
)
@pytest.mark.parametrize("way", RESISTS)
async def test_a_task_is_cancelled_whose_worker(daemon: Daemon, site: Site, way: str) -> None:
    id_ = await queue(site, RESISTS[way])
    await site.event(id_, ":HERE")
    worker = await site.process(id_)
    await site.cancel(id_)
    assert (await site.ended(id_)).state == "cancelled"
    assert not processes.alive(worker)
    await daemon.quiet()


@pytest.mark.fault(
    fault="a worker resists being stopped", injected="signals ignored or blocked, SIGSTOP, forks", invariants="I6 I10"
)
@pytest.mark.parametrize("way", RESISTS)
async def test_a_task_runs_out_of_time_whose_worker(daemon: Daemon, site: Site, way: str) -> None:
    id_ = await queue(site, RESISTS[way], expire_in=1.5)
    assert (await site.ended(id_)).error["kind"] == "timeout"
    await daemon.quiet()


@pytest.mark.fault(
    fault="the runner's parent is stopped by its own worker", injected="SIGSTOP to getppid()", invariants="I6 I10"
)
@pytest.mark.parametrize(
    ("end", "state", "kind"),
    [
        ("return {}", "done", None),
        ("raise ValueError", "failed", "exception"),
        ("os._exit(7)", "failed", "exit"),
        ("os.kill(os.getpid(), 9)", "failed", "signal"),
    ],
)
async def test_a_worker_that_stopped_its_parent_ends_all_the_same(
    daemon: Daemon, site: Site, end: str, state: str, kind: str | None
) -> None:
    id_ = await queue(site, f"def main():\n    os.kill(os.getppid(), signal.SIGSTOP)\n    {end}\n")
    ended = await site.ended(id_)
    assert (ended.state, ended.error and ended.error["kind"]) == (state, kind)
    await daemon.quiet()


@pytest.mark.fault(
    fault="a worker closes files that are not its own",
    injected="closerange(0, 1025), and files of the same sort under the same numbers; a lease that wakes nobody",
    invariants="I6",
)
@pytest.mark.parametrize("form", ["def", "async def"])
async def test_a_worker_that_closed_all_files_and_opened_others_is_recorded_without_waiting_for_its_lease(
    site: Site, form: str
) -> None:
    daemon = Daemon(site)
    await daemon.start(DAMAD_LEASE="10h")
    id_ = await queue(
        site,
        f"""
        import select, socket
        {form} main():
            os.closerange(0, 1025)
            global others
            others = [(select.epoll(), *socket.socketpair()) for _ in range(20)]
            return {{"n": 1}}
        """,
    )
    assert (await site.ended(id_)).state in ("done", "failed")  # an async main has no loop any more to return from
    await daemon.quiet()
    assert await daemon.stop() == 0


# --- stopped and killed from outside ---


async def held(site: Site, gate: Path, many: int = 1) -> list[int]:
    """Tasks that run, each alone, and wait for the gate."""
    worker = site.worker(HOLDS_ALONE)
    ids = [await site.queue(worker, {"gate": str(gate), "folder": str(site.folder)}) for _ in range(many)]
    for id_ in ids:
        await site.event(id_, ":HERE")
    return ids


async def leases_are_over(site: Site, *ids: int) -> None:
    """Returns once the leases of these tasks are over."""
    statement = "SELECT count(*) FROM data_manager.leases WHERE until > clock_timestamp() AND etl_context_id = ANY ($1)"

    async def over() -> bool:
        async with site.store().database.connection() as connection:
            return await connection.fetchval(statement, list(ids)) == 0

    await until(over)


async def ended_in_one_attempt(site: Site, *ids: int) -> None:
    for id_ in ids:
        assert ((state := await site.ended(id_)).state, state.attempt) == ("done", 1)
        check(await site.events(id_))


@pytest.mark.fault(fault="a worker is stopped past its lease", injected="SIGSTOP, SIGCONT", invariants="I4 I6")
async def test_a_stopped_worker_goes_on_though_its_lease_was_over(daemon: Daemon, site: Site) -> None:
    with site.gate() as gate:
        ids = await held(site, gate.path, 3)
        workers = [await site.process(id_) for id_ in ids]
        for worker in workers:
            os.kill(worker.pid, signal.SIGSTOP)
        await leases_are_over(site, *ids)
        assert (await site.run("def main():\n    return {}\n")).state == "done"
        for worker in workers:
            os.kill(worker.pid, signal.SIGCONT)
    await ended_in_one_attempt(site, *ids)


@pytest.mark.fault(fault="a runner's parent is stopped", injected="SIGSTOP from outside", invariants="I6 I10")
@pytest.mark.parametrize("end", ["done", "killed"])
async def test_a_stopped_parent_holds_up_neither_the_end_nor_the_next_attempt(
    daemon: Daemon, site: Site, end: str
) -> None:
    with site.gate() as gate:
        (id_,) = await held(site, gate.path)
        os.kill((await parent_of(site, id_)).pid, signal.SIGSTOP)
        if end == "killed":
            os.kill((await site.process(id_)).pid, signal.SIGKILL)
    state = await site.ended(id_)
    assert state.state == ("done" if end == "done" else "failed")
    assert end == "done" or (state.error["kind"], state.error["signal"]) == ("signal", 9)
    await daemon.quiet()


@pytest.mark.fault(
    fault="the daemon is stopped past every lease", injected="SIGSTOP, SIGCONT after the leases", invariants="I4 I6 I12"
)
async def test_a_stopped_daemon_goes_on_and_nothing_ran_twice(daemon: Daemon, site: Site) -> None:
    with site.gate() as gate:
        running = await held(site, gate.path, 2)
        os.kill(daemon.pid, signal.SIGSTOP)
        source = EXCLUSIVE + "\ndef main():\n    return {}\n"
        queued = [await site.queue(site.worker(source), {"folder": str(site.folder)}) for _ in range(5)]
    await ended_in_one_attempt(site, *running)
    async with site.store().database.connection() as connection:
        await connection.execute("SELECT pg_sleep($1)", LEASE * 1.5)
    os.kill(daemon.pid, signal.SIGCONT)
    await ended_in_one_attempt(site, *queued)


@pytest.mark.fault(
    fault="the daemon is stopped between its claim and the launch, past the lease",
    injected="SIGSTOP while a failpoint delays it there; SIGCONT after the lease",
    invariants="I4 I6 I12",
)
async def test_a_daemon_that_was_stopped_with_claims_in_hand_still_runs_them_once(site: Site) -> None:
    daemon = Daemon(site)
    await daemon.start(DAMAD_FAILPOINT="supervisor.claimed:delay")
    ids = [await queue(site, "def main():\n    return {}\n") for _ in range(3)]
    await site.event(ids[0], "dama/task:CLAIMED")
    os.kill(daemon.pid, signal.SIGSTOP)
    await leases_are_over(site, *ids)
    os.kill(daemon.pid, signal.SIGCONT)
    await ended_in_one_attempt(site, *ids)
    await daemon.quiet()
    assert await daemon.stop() == 0


@pytest.mark.fault(
    fault="a runner's parent and its daemon are killed while the worker lives",
    injected="SIGKILL to both; another daemon",
    invariants="I4 I6 I10",
)
@pytest.mark.parametrize("end", ["done", "killed", "cancelled"])
async def test_a_worker_without_parent_and_daemon_is_taken_on_by_the_next(daemon: Daemon, site: Site, end: str) -> None:
    with site.gate() as gate:
        ids = await held(site, gate.path, 3)
        for id_ in ids:
            os.kill((await parent_of(site, id_)).pid, signal.SIGKILL)
        await daemon.kill()
        await daemon.start()
        for id_ in ids:
            worker = await site.process(id_)
            assert (await site.state(id_)).state == "running"
            if end == "killed":
                os.kill(worker.pid, signal.SIGKILL)
            elif end == "cancelled":
                await site.cancel(id_)
        if end != "done":
            states = [await site.ended(id_) for id_ in ids]
    if end == "done":
        await ended_in_one_attempt(site, *ids)
    elif end == "killed":
        assert {(state.state, state.error["kind"]) for state in states} == {("failed", "lost")}
    else:
        assert {state.state for state in states} == {"cancelled"}
        for id_ in ids:
            await gone(await site.process(id_))


# --- memory ---


@pytest.fixture
def memory() -> Iterator[Path]:
    """The file that takes processes into a cgroup whose memory is limited."""
    for root, limit in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
    ):
        group = Path(root) / f"damad_test_{uuid4().hex[:8]}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(MEMORY))
            (group / "cgroup.procs").stat()
        except OSError:
            group.rmdir()
            continue
        yield group / "cgroup.procs"
        group.rmdir()
        return
    pytest.skip("this machine lets nobody make a cgroup with a limit of memory")


@pytest.mark.fault(
    fault="memory runs out", injected="a cgroup with 400 MB, a worker that takes 2 GB", invariants="I6 I10 I11 I12"
)
async def test_a_worker_that_takes_all_memory_is_oom_and_the_others_go_on(
    daemon: Daemon, site: Site, memory: Path
) -> None:
    """The worker and its parent alone are in the group: whom else the kernel stops there is not what is asked here."""
    source = """
        import gate
        from damad import events

        def main(event):
            events.dispatch_sync({"type": ":HERE"})
            gate.wait(event["payload"]["gate"])
            return {"n": len(bytearray(1) * 2**31)}
    """
    with site.gate() as gate, site.gate() as full:
        others = await held(site, gate.path)
        memory.write_text(str(daemon.pid))
        kill(*set(site.runners()) - set(site.at_work(daemon.pid)))  # what is forked next has the daemon's group
        id_ = await site.queue(site.worker(source), {"gate": str(full.path)}, retry_limit=0)
        await site.event(id_, ":HERE")
        (memory.parent.parent / memory.name).write_text(str(daemon.pid))
        full.open()
        state = await site.ended(id_)
        assert (state.state, state.attempt, state.error["kind"]) == ("failed", 1, "oom")
    await ended_in_one_attempt(site, *others)
    await daemon.quiet()
