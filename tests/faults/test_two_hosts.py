"""Two hosts on one database: each its own tasks, shared queues by both, and a lost host's tasks by the other."""

import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, gone, kill, site_of, until

from damad import queues

SHARED = {
    "DAMAD_QUEUE_COMMON_SHARED": "true",
    "DAMAD_QUEUE_COMMON_RETRY_DELAY": "10ms",
    "DAMAD_LEASE": "1s",
    "DAMAD_GRACE": "500ms",
    "DAMAD_POLL_INTERVAL": "300ms",
}

IN_A_TRANSACTION = """
import asyncio, os
from damad import context, events

async def main(initial_event):
    attempt = context.current().attempt
    if attempt == 1:
        async with events.transaction() as db:
            await db.execute("INSERT INTO written VALUES ('open', $1)", attempt)
            await events.dispatch({"type": ":WRITTEN", "payload": "in the open transaction"})
            await events.append(context.current_id(), [{"type": ":OPEN"}])
            await asyncio.sleep(3600 if not os.path.exists(initial_event["payload"]) else 0)
    async with events.transaction() as db:
        await db.execute("INSERT INTO written VALUES ('done', $1)", attempt)
        await events.dispatch({"type": ":WRITTEN", "payload": attempt})
    return {"attempt": attempt}
"""


HOLDS_ONCE = """
import time
from damad import context

def main(initial_event):
    time.sleep(1000 if context.current().attempt == 1 else 0)
    return {}
"""


@pytest_asyncio.fixture
async def hosts(template: str, tmp_path: Path) -> AsyncIterator[tuple[Site, Site]]:
    """Two state folders, one database, one worker root."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    async with site_of(tmp_path / "one", template, **SHARED) as one:
        other = Site(tmp_path / "other", {name: db.dsn for name, db in one.databases.items()}, **SHARED)
        other.environment["DAMAD_WORKER_ROOTS"] = str(one.workers)
        try:
            yield one, other
        finally:
            await other.close()


async def sql(site: Site, statement: str) -> list[tuple[object, ...]]:
    async with site.store().database.connection() as connection:
        return [tuple(row) for row in await connection.fetch(statement)]


@pytest.mark.fault(
    fault="two hosts on one database",
    injected="two daemons with two state folders",
    invariants="I4 I6",
)
async def test_a_task_runs_on_the_host_that_queued_it_unless_its_queue_is_shared(hosts: tuple[Site, Site]) -> None:
    one, other = hosts
    daemon = Daemon(other)
    worker = one.worker("async def main(): return {}")
    own = await one.queue(worker)
    shared = await one.queue(worker, queue="common")
    theirs = await other.queue(worker)
    await daemon.start()
    assert [(await one.ended(id_)).state for id_ in (shared, theirs)] == ["done", "done"]
    assert (await one.state(own)).state == "queued"
    assert await daemon.stop() == 0


@pytest.mark.fault(
    fault="a worker of a shared queue stands still past its lease, a transaction open",
    injected="SIGSTOP; SIGCONT after the other host has taken over and finished",
    invariants="I1 I3 I4 I5 I8 I9",
)
async def test_a_stopped_worker_whose_task_was_taken_over_writes_nothing_when_it_goes_on(
    hosts: tuple[Site, Site],
) -> None:
    one, other = hosts
    first, second = Daemon(one), Daemon(other)
    await sql(one, "CREATE TABLE written (what text, attempt int)")
    await first.start(DAMAD_GRACE="1m")  # its worker goes on before it makes sure of it
    id_ = await one.queue(one.worker(IN_A_TRANSACTION), "/nowhere", queue="common")
    await one.event(id_, ":OPEN")
    stopped = await one.process(id_)
    os.kill(stopped.pid, signal.SIGSTOP)
    await second.start()
    assert (await one.ended(id_)).state == "done"
    os.kill(stopped.pid, signal.SIGCONT)
    await gone(stopped)

    types = [type_ for type_ in await one.types(id_) if type_ not in ("CLAIMED", "RELEASED")]
    assert types == [":INITIAL", "STARTED", ":OPEN", "ERROR", "RETRY", "STARTED", ":WRITTEN", ":FINAL"]
    (error,) = await one.events(id_, "dama/task:ERROR")
    assert (error.payload["kind"], error.payload["attempt"]) == ("lost", 1)
    assert [event.payload for event in await one.events(id_, ":WRITTEN")] == [2]
    assert await sql(one, "SELECT * FROM written") == [("done", 2)]
    await one.verified()
    assert [await daemon.stop() for daemon in (first, second)] == [0, 0]


@pytest.mark.fault(
    fault="a host could claim a task again whose stopped process still lives on it",
    injected="SIGSTOP past the lease; the other host says what became of it and has no slot",
    invariants="I1 I4 I6",
)
async def test_a_host_claims_nothing_that_it_still_has_a_process_of(hosts: tuple[Site, Site]) -> None:
    one, other = hosts
    first, second = Daemon(one), Daemon(other)
    await first.start(DAMAD_GRACE="10m")
    stuck = await one.queue(one.worker(HOLDS_ONCE), queue="common")
    stopped = await one.process(stuck)
    os.kill(stopped.pid, signal.SIGSTOP)
    await second.start(DAMAD_QUEUE_COMMON_CONCURRENCY="0")
    retry = (await one.event(stuck, "dama/task:RETRY")).payload
    later = await one.queue(one.worker("def main(): return {}"), queue="common", start_after=retry["run_at"])
    assert (await one.ended(later)).state == "done"
    assert (await one.types(stuck))[-1] == "RETRY"
    os.kill(stopped.pid, signal.SIGKILL)
    assert ((state := await one.ended(stuck)).state, state.attempt) == ("done", 2)
    await one.verified()
    assert [await daemon.stop() for daemon in (first, second)] == [0, 0]


@pytest.mark.fault(
    fault="a host of a shared queue is lost",
    injected="SIGKILL to each of its processes",
    invariants="I3 I5 I6 I8",
)
@pytest.mark.parametrize("queue", ["common", "set_in_the_database"])
async def test_the_tasks_of_a_lost_host_are_taken_over_whatever_they_were_at(
    hosts: tuple[Site, Site], queue: str
) -> None:
    one, other = hosts
    first, second = Daemon(one), Daemon(other)
    await first.start()
    with one.here():
        await queues.change("set_in_the_database", {"shared": True, "retry_delay": "10ms"})
    running, cancelling = [await one.queue(one.worker(HOLDS_ONCE), queue=queue) for _ in range(2)]
    for id_ in (running, cancelling):
        await one.event(id_, "dama/task:STARTED")
    kill(*one.processes())  # the whole machine is gone
    await first.exits()
    await one.cancel(cancelling)
    await second.start()
    assert [(await one.ended(id_)).state for id_ in (running, cancelling)] == ["done", "cancelled"]
    await one.verified()
    assert await second.stop() == 0


@pytest.mark.fault(
    fault="two hosts claim from one queue",
    injected="two daemons with two state folders",
    invariants="I3 I4 I8",
)
async def test_two_daemons_share_a_queue_and_no_task_runs_twice(hosts: tuple[Site, Site]) -> None:
    one, other = hosts
    daemons = [Daemon(one), Daemon(other)]
    for daemon in daemons:
        await daemon.start(DAMAD_LEASE="1m")
    worker = one.worker("async def main(): return {}")
    with one.gate() as gate:  # as many as both have slots for: one alone could not run them at the same time
        held = [await one.queue("hold.py", {"gate": str(gate.path)}, queue="common") for _ in range(8)]
        for id_ in held:
            await one.event(id_, ":HERE")
        ids = [await one.queue(worker, queue="common") for _ in range(30)]
    for id_ in (*held, *ids):
        await one.ended(id_)
    assert len({(await one.state(id_)).host_id for id_ in held}) == 2
    for id_ in (*held, *ids):  # a claim that did not start within its lease is released, and says so
        types = [type_ for type_ in await one.types(id_) if type_ not in ("CLAIMED", "RELEASED", ":HERE")]
        assert types == [":INITIAL", "STARTED", ":FINAL"]
    await until(lambda: not (one.at_work(daemons[0].pid) or other.at_work(daemons[1].pid)))
    assert [await daemon.stop() for daemon in daemons] == [0, 0]


@pytest.mark.fault(
    fault="a worker and its daemon lose a shared task to another host, and the worker goes on computing",
    injected="SIGSTOP past its lease, SIGKILL of its daemon, SIGCONT",
    invariants="I4 I5 I6 I8",
)
async def test_a_stopped_worker_that_never_looks_at_the_log_ends_when_its_task_was_taken_over(
    hosts: tuple[Site, Site],
) -> None:
    one, other = hosts
    first, second = Daemon(one), Daemon(other)
    await first.start()
    id_ = await one.queue(one.worker(HOLDS_ONCE), queue="common")
    stopped = await one.process(id_)
    os.kill(stopped.pid, signal.SIGSTOP)
    await first.kill()  # nobody is left on this host to end it
    await second.start()
    assert (await one.ended(id_)).state == "done"
    os.kill(stopped.pid, signal.SIGCONT)
    await gone(stopped)
    assert (await one.state(id_)).attempt == 2
    await one.verified()
    assert await second.stop() == 0


@pytest.mark.fault(
    fault="two state folders with one host id on one database",
    injected="a copy of dama_host_id, and a daemon beside the one that serves",
    invariants="I4 I6 I11",
)
async def test_the_daemon_of_a_copied_state_folder_is_refused_with_one_line_that_says_what_to_remove(
    hosts: tuple[Site, Site],
) -> None:
    site, copy = hosts
    daemon, beside = Daemon(site), Daemon(copy)
    await daemon.start()
    copy.state_dir.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(site.state_dir / "dama_host_id", copy.state_dir)
    held = await site.queue(site.worker(HOLDS_ONCE))
    await site.event(held, "dama/task:STARTED")
    refused = await copy.damad("serve", "--port", "0")
    assert (refused.code, refused.out) == (2, "")
    (line,) = [line for line in refused.err.splitlines() if line.startswith("damad: ")]
    assert f"remove {copy.state_dir / 'dama_host_id'} and start again" in line
    assert "Traceback" not in refused.err
    ran = await copy.damad("run", site.worker("def main():\n    return {}\n"))
    assert (ran.code, ran.out) == (0, "{}\n")
    (copy.state_dir / "dama_host_id").unlink()
    await beside.start()
    assert (await site.state(held)).state == "running"
    assert (await site.cancel(held)).state == "cancelling"
    assert (await site.ended(held)).state == "cancelled"
    assert await beside.stop() == 0
    assert await daemon.stop() == 0
