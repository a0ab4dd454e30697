"""A runner's parent that is gone or was put off: its supervisor ends what the worker left, and hears how that ended."""

import os
import signal
from pathlib import Path

import pytest
from daemon_support import Daemon, Site, gone, until
from resisting_workers import HERE
from test_processes_faults import held, parent_of

from damad import processes
from damad.processes import Process

SETTINGS = {"DAMAD_GRACE": "300ms", "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0"}

LEAVES = (
    HERE
    + """
import gate
from damad import processes

def main(initial_event):
    told = initial_event["payload"]
    out = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if told["silent"] else {}
    child = processes.identify(subprocess.Popen(["sleep", "1000"], start_new_session=True, **out).pid)
    parent = processes.parent(processes.myself())
    processes.send(parent, signal.SIGKILL)
    while processes.alive(parent):
        time.sleep(0.01)
    events.dispatch_sync({"type": ":HERE", "payload": child._asdict()})
    gate.wait(told["gate"])
    return {}
"""
)


async def orphaned(site: Site, gate: Path, **settings: object) -> tuple[int, Process, Process]:
    """A task that runs and whose parent is gone, its worker, and a child of that in a session of its own."""
    silent = settings.pop("silent", False)
    id_ = await site.queue(site.worker(LEAVES), {"gate": str(gate), "silent": silent}, **settings)
    child = Process(**(await site.event(id_, ":HERE")).payload)
    return id_, await site.process(id_), child


ORPHANED = pytest.mark.fault(
    fault="a runner's parent is killed whose worker has children in sessions of their own",
    injected="SIGKILL to the parent; then the task is cancelled, runs out of time, ends, or its worker is killed too",
    invariants="I4 I6 I10",
)


@ORPHANED
@pytest.mark.parametrize("silent", [False, True], ids=["into the log", "into nothing"])
@pytest.mark.parametrize("way", ["cancelled", "too long"])
async def test_a_task_has_stopped_once_the_children_of_its_worker_are_dead(
    daemon: Daemon, site: Site, way: str, silent: bool
) -> None:
    with site.gate() as gate:
        late = {"expire_in": 2} if way == "too long" else {}
        id_, worker, child = await orphaned(site, gate.path, silent=silent, **late)
        if way == "cancelled":
            await site.cancel(id_)
        state = await site.ended(id_)
        assert not processes.alive(worker) and not processes.alive(child)
    assert state.state == "cancelled" or state.error["kind"] == "timeout"


@ORPHANED
@pytest.mark.parametrize("silent", [False, True], ids=["into the log", "into nothing"])
async def test_no_attempt_begins_while_children_of_the_one_before_live(
    daemon: Daemon, site: Site, silent: bool
) -> None:
    with site.gate() as gate:
        id_, worker, child = await orphaned(site, gate.path, silent=silent, retry_limit=1)
        lasts = "import time\n\ndef main():\n    time.sleep(1)\n    return {}\n"
        assert (await site.run(lasts)).state == "done"  # the daemon has been round meanwhile
        os.kill(worker.pid, signal.SIGKILL)
        error = await site.event(id_, "dama/task:ERROR")
        assert error.payload["kind"] == "lost"
        assert not processes.alive(child)
    assert ((state := await site.ended(id_)).state, state.attempt) == ("done", 2)


@ORPHANED
@pytest.mark.parametrize("end", ["its worker returned", "a :FINAL came from outside"])
@pytest.mark.parametrize("restart", [False, True], ids=["the same daemon", "another daemon"])
async def test_the_children_of_a_worker_end_with_its_task_when(
    daemon: Daemon, site: Site, end: str, restart: bool
) -> None:
    with site.gate() as gate:
        id_, worker, child = await orphaned(site, gate.path)
        if restart:
            await daemon.kill()
        if end.startswith("a :FINAL"):
            async with site.store().database.connection() as connection:
                await connection.execute(
                    "INSERT INTO data_manager.event_store (etl_context_id, type) VALUES ($1, ':FINAL')", id_
                )
        else:
            gate.open()
            await site.ended(id_)
            await gone(worker)
        if restart:
            await daemon.start()
        await gone(worker)
        await gone(child)
    assert (await site.state(id_)).state == "done"


ALONE = (
    HERE
    + """
import gate
from damad import processes

def main(initial_event):
    told, (read, write) = initial_event["payload"], os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(write, str(os.getpid()).encode())
        os.closerange(0, 1024)
        if told["starts"]:
            os.execlp("env", "env", "-i", "sleep", "1000")
        signal.pause()
    os.wait()
    child = processes.identify(int(os.read(read, 20)))
    events.dispatch_sync({"type": ":HERE", "payload": child._asdict()})
    gate.wait(told["gate"])
    if told["ends"]:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return {}
"""
)
"""Its child has left its session and its family, closed all files, and forgotten its environment if it is started."""


@pytest.mark.fault(
    fault="a worker and its runner's parent are killed at once, and a child in a session of its own is silent",
    injected="SIGKILL to both while the daemon is stopped or after it was killed, or by the worker itself",
    invariants="I4 I6 I10",
)
@pytest.mark.parametrize("fork_server", ["true", "false"], ids=["a fork server", "no fork server"])
@pytest.mark.parametrize("starts", [False, True], ids=["forked", "started"])
@pytest.mark.parametrize("by", ["itself", "others, the daemon stopped", "others, the daemon killed"])
async def test_no_attempt_begins_while_a_child_lives_that_nobody_saw_and_that_was_killed_by(
    site: Site, by: str, starts: bool, fork_server: str
) -> None:
    daemon = Daemon(site)
    await daemon.start(DAMAD_FORK_SERVER=fork_server)
    with site.gate() as gate:
        told = {"gate": str(gate.path), "starts": starts, "ends": by == "itself"}
        id_ = await site.queue(site.worker(ALONE), told, retry_limit=1)
        child = Process(**(await site.event(id_, ":HERE")).payload)
        parent, worker = await parent_of(site, id_), await site.process(id_)
        if by == "itself":
            gate.open()
        else:
            await (daemon.kill() if by.endswith("killed") else stopped(daemon))
            for one in (parent, worker):
                processes.send(one, signal.SIGKILL)
                await gone(one)
            assert processes.alive(child)
            if by.endswith("stopped"):
                os.kill(daemon.pid, signal.SIGCONT)
            else:
                await daemon.start(DAMAD_FORK_SERVER=fork_server)
        assert (await site.event(id_, "dama/task:ERROR")).payload["kind"] == "lost"
        assert not processes.alive(child)
    ended = await site.ended(id_)
    assert (ended.state, ended.attempt) == (("failed" if by == "itself" else "done"), 2)
    for here in await site.events(id_, ":HERE"):
        await gone(Process(**here.payload))
    await daemon.quiet()
    assert await daemon.stop() == 0


async def stopped(daemon: Daemon) -> None:
    """Returns once the daemon is stopped by a signal: it sees nothing of what happens then."""
    process = processes.identify(daemon.pid)
    assert process is not None
    os.kill(daemon.pid, signal.SIGSTOP)
    await until(lambda: processes.stopped(process))


@pytest.mark.fault(
    fault="a runner's parent is stopped whose record is spoilt, and its worker killed",
    injected="SIGSTOP, process.json written over, SIGKILL",
    invariants="I6",
)
async def test_how_a_worker_ended_is_waited_for_though_no_record_says_who_will_say_it(
    daemon: Daemon, site: Site
) -> None:
    with site.gate() as gate:
        (id_,) = await held(site, gate.path)
        parent, worker = await parent_of(site, id_), await site.process(id_)
        os.kill(parent.pid, signal.SIGSTOP)
        (run,) = (site.state_dir / "runs" / "local").glob(f"{id_}.*")
        (run / "process.json").write_text("{}")
        os.kill(worker.pid, signal.SIGKILL)
        error = (await site.ended(id_)).error
    assert (error["kind"], error["signal"]) == ("signal", 9)
