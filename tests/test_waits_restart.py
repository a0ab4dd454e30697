"""Waits that outlive processes: a daemon that stops, dies or is not there, and two that ask at the same time."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import SOON, Daemon, Site, site_of, until
from test_waits import APPROVED, RUN, signalled, waits, worker

from damad.eventstore.store import State

SETTINGS = {
    "DAMAD_WAIT_IN_PROCESS": "100ms",
    "DAMAD_GRACE": "500ms",
    "DAMAD_POLL_INTERVAL": "10m",
    "DAMAD_QUEUE_INSIDE_RUN_IN": "daemon",
    "DAMAD_QUEUE_COMMON_SHARED": "true",
    "DAMAD_QUEUE_COMMON_RUN_IN": "daemon",
}
SLEEPS = "await tasks.sleep(1.5)\nreturn {'slept': True}"
SLEEPS_LONG = SLEEPS.replace("1.5", "5")
"""Longer than it takes to see that it sleeps and to stop the daemon, however busy the machine is."""
WAITED = [":INITIAL", *RUN, "WAITING", "RESUMED", *RUN, ":FINAL"]


@pytest_asyncio.fixture
async def site(template: str, tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "site").mkdir()
    async with site_of(tmp_path / "site", template, **SETTINGS) as site:
        yield site
        await site.verified()


async def over(site: Site, id_: int) -> None:
    """Returns once the time of a waiting task has come."""
    state = await site.state(id_)
    assert state.state == "waiting"
    await until(lambda: datetime.now(UTC) > state.run_at)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_what_is_over_while_no_daemon_runs_goes_on_with_the_next_one(site: Site, number: int) -> None:
    first, second = Daemon(site), Daemon(site)
    await first.start()
    waiting = [await site.queue(site.worker(worker(APPROVED)), queue=queue) for queue in ("default", "inside")]
    for id_ in waiting:
        await waits(site, id_)
    sleeping = [await site.queue(site.worker(worker(SLEEPS_LONG)), queue=queue) for queue in ("default", "inside")]
    for id_ in sleeping:
        await waits(site, id_)
    await first.stop(number)
    for id_ in sleeping:
        await over(site, id_)
    for id_ in waiting:
        await signalled(site, id_, ":APPROVED", "me")
    assert {(await site.state(id_)).state for id_ in waiting} == {"waiting"}
    await second.start()
    for id_ in (*sleeping, *waiting):
        assert (await site.ended(id_)).state == "done"
        assert [type_ for type_ in await site.types(id_) if type_ != ":APPROVED"] == WAITED
    await second.quiet()
    assert await second.stop() == 0


async def test_a_sleep_goes_on_over_a_restart_to_the_moment_that_it_had(site: Site) -> None:
    first, second = Daemon(site), Daemon(site)
    await first.start()
    id_ = await site.queue(site.worker(worker(SLEEPS_LONG)))
    await waits(site, id_)
    await first.kill()
    await second.start()
    await site.ended(id_)
    assert await site.types(id_) == WAITED
    waiting, resumed = await site.events(id_, "dama/task:WAITING", "dama/task:RESUMED")
    assert resumed.created_timestamp >= datetime.fromisoformat(waiting.payload["until"])
    assert await second.stop() == 0


async def test_two_daemons_that_may_both_run_it_queue_a_task_again_once(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    dsns = {name: database.dsn for name, database in site.databases.items()}
    other = Site(tmp_path / "other", dsns, **SETTINGS, DAMAD_WORKER_ROOTS=str(site.workers))
    daemons = [Daemon(site), Daemon(other)]
    try:
        for daemon in daemons:
            await daemon.start()
        name = site.worker(worker(APPROVED))
        ids = [await site.queue(name, queue="common") for _ in range(40)]
        for id_ in ids:
            await waits(site, id_)
        await asyncio.gather(*[signalled(site, id_, ":APPROVED") for id_ in ids])
        for id_ in ids:
            assert (await site.ended(id_)).state == "done"
            assert (await site.types(id_)).count("RESUMED") == 1
        for daemon in daemons:
            assert await daemon.stop() == 0, daemon.log
    finally:
        await other.close()


async def test_a_host_resumes_no_task_of_another_one(site: Site, tmp_path: Path) -> None:
    daemon = Daemon(site)
    await daemon.start()
    id_ = await site.queue(site.worker(worker(APPROVED)))
    await waits(site, id_)
    assert await daemon.stop() == 0
    (tmp_path / "other").mkdir()
    dsns = {name: database.dsn for name, database in site.databases.items()}
    other = Site(tmp_path / "other", dsns, **SETTINGS, DAMAD_WORKER_ROOTS=str(site.workers))
    stranger = Daemon(other)
    try:
        await stranger.start()
        await signalled(site, id_, ":APPROVED")
        theirs = await other.queue(site.worker(worker(SLEEPS)))
        assert (await other.ended(theirs)).state == "done"
        assert (await site.state(id_)).state == "waiting"
        assert await stranger.stop() == 0
    finally:
        await other.close()


# --- without a daemon ---


async def test_run_waits_and_goes_on_without_a_daemon_and_so_do_its_subtasks(site: Site) -> None:
    site.worker(worker(SLEEPS), "sleeps.py")
    body = """
await tasks.sleep(0.2)
children = [await tasks.subtask(str(n), worker="sleeps.py") for n in range(2)]
print("gathers")
return {"slept": [child["slept"] for child in await tasks.gather(*children)]}
"""
    done = await site.damad("run", site.worker(worker(body)))
    assert (done.code, done.json) == (0, {"slept": [True, True]}), done.err
    assert done.err.count("gathers") == 2
    parent, *children = sorted(state.etl_context_id for state in await site.store().tasks())
    assert (await site.types(parent)).count("RESUMED") == 2
    for id_ in children:
        assert await site.types(id_) == WAITED


async def test_who_leaves_a_run_that_waits_leaves_it_waiting_and_takes_it_up_again(site: Site) -> None:
    async with site.command("run", site.worker(worker(APPROVED))) as command, asyncio.timeout(SOON):
        found: list[State] = []
        while not found:
            found = await site.store().tasks(limit=1)
        id_ = found[0].etl_context_id
        await waits(site, id_)
        os.kill(command.pid, signal.SIGINT)
        _, err = await command.communicate()
    assert command.returncode == 2
    assert f"damad run --context {id_}" in err.decode()
    assert (await site.state(id_)).state == "waiting"
    await signalled(site, id_, ":APPROVED", "me")
    again = await site.damad("run", "--context", str(id_))
    assert again.json == {"by": "me", "version": 5}
