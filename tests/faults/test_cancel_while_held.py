"""A task is cancelled while somebody holds its context: it stops first, and the log says so once the row is free."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from daemon_support import PG_ENV, Daemon, Site, gone, site_of, until

from damad import processes

pytestmark = pytest.mark.fault(
    fault="a task is cancelled whose context somebody holds",
    injected="a client that did BEGIN; INSERT INTO event_store and sits there, until its task is seen dead",
    invariants="I3 I4 I6 I8 I11",
)

RAISES = """
    import signal
    from damad import events

    def main(event):
        events.dispatch_sync({"type": ":HERE"})
        signal.pause()
"""
"""A worker that SIGTERM ends with an exception, which it would say itself."""

IGNORES = """
    import signal
    from damad import events

    def main(event):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        events.dispatch_sync({"type": ":HERE"})
        while True:
            signal.pause()
"""

IN_THE_DAEMON = """
    import asyncio
    from damad import events

    async def main(event):
        await events.dispatch({"type": ":HERE"})
        await asyncio.sleep(1000)
"""


@pytest_asyncio.fixture
async def site(template: str, tmp_path: Path) -> AsyncIterator[Site]:
    settings = {"DAMAD_GRACE": "500ms", "DAMAD_POLL_INTERVAL": "10m", "DAMAD_QUEUE_INSIDE_RUN_IN": "daemon"}
    async with site_of(tmp_path, template, **settings, DAMAD_QUEUE_COMMON_SHARED="true", DAMAD_LEASE="1s") as site:
        yield site


@pytest_asyncio.fixture
async def daemon(site: Site) -> AsyncIterator[Daemon]:
    daemon = Daemon(site)
    yield daemon
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log


@asynccontextmanager
async def holding(site: Site, id_: int, type_: str = ":HELD", *, last: str = "COMMIT") -> AsyncIterator[None]:
    """Somebody holds the context in an open transaction, which ends after the block."""
    connection = await asyncpg.connect(site.databases[PG_ENV].dsn)
    try:
        await connection.execute("BEGIN")
        insert = "INSERT INTO data_manager.event_store (etl_context_id, type) VALUES ($1, $2)"
        await connection.execute(insert, id_, type_)
        yield
        await connection.execute(last)
    finally:
        await connection.close()


async def cancel(site: Site, id_: int) -> tuple[int, dict[str, Any], str | None]:
    connector = aiohttp.UnixConnector(str(site.state_dir / "damad.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as client,
        client.post(f"http://localhost/v1/{PG_ENV}/contexts/{id_}/cancel") as answer,
    ):
        return answer.status, await answer.json(), answer.headers.get("Retry-After")


async def is_noted(site: Site, id_: int) -> None:
    """Asks for the cancel, which is noted."""
    status, problem, retry_after = await cancel(site, id_)
    assert (status, problem["type"], retry_after) == (503, "urn:damad:problem:busy", "1")
    assert "The cancel is noted" in problem["detail"]


async def nothing_is_noted(site: Site) -> None:
    async def none() -> bool:
        async with site.databases[PG_ENV].connection() as connection:
            return not await connection.fetchval("SELECT count(*) FROM data_manager.cancel_intents")

    await until(none)


@pytest.mark.parametrize("source", [RAISES, IGNORES], ids=["raises", "ignores"])
@pytest.mark.parametrize("last", ["COMMIT", "ROLLBACK"])
async def test_what_runs_is_stopped_at_once_and_cancelled_when_the_row_is_free(
    daemon: Daemon, site: Site, source: str, last: str
) -> None:
    await daemon.start()
    id_ = await site.queue(site.worker(source), retry_limit=0)
    await site.event(id_, ":HERE")
    worker = await site.process(id_)
    async with holding(site, id_, last=last):
        await is_noted(site, id_)
        await gone(worker)
        assert (await site.state(id_)).state == "running"
        await is_noted(site, id_)
    assert (await site.ended(id_)).state == "cancelled"
    held = [":HELD"] if last == "COMMIT" else []
    begun = [":INITIAL", "CLAIMED", "STARTED", ":HERE"]
    assert await site.types(id_) == [*begun, *held, "CANCEL_REQUESTED", "CANCELLED"]
    await nothing_is_noted(site)
    await site.verified()
    assert (await site.retry(id_)).state in ("queued", "claimed", "running")  # it may be claimed at once
    await site.event(id_, ":HERE", nth=2)
    assert (await cancel(site, id_))[0] == 202
    assert (await site.ended(id_)).state == "cancelled"


async def test_what_runs_in_the_daemon_is_stopped_too(daemon: Daemon, site: Site) -> None:
    await daemon.start()
    id_ = await site.queue(site.worker(IN_THE_DAEMON), queue="inside")
    await site.event(id_, ":HERE")
    async with holding(site, id_):
        await is_noted(site, id_)
    assert (await site.ended(id_)).state == "cancelled"
    assert "RETRY" not in await site.types(id_)


async def test_what_has_not_begun_never_begins(daemon: Daemon, site: Site) -> None:
    id_ = await site.queue(site.worker(RAISES))
    async with holding(site, id_):
        await daemon.start()
        await is_noted(site, id_)
    assert (await site.ended(id_)).state == "cancelled"
    assert await site.types(id_) == [":INITIAL", ":HELD", "CANCEL_REQUESTED", "CANCELLED"]
    await nothing_is_noted(site)
    await site.verified()


async def test_without_a_daemon_the_next_one_acts_on_what_the_command_noted(daemon: Daemon, site: Site) -> None:
    await daemon.start()
    running, queued = await site.queue(site.worker(RAISES)), await site.queue(site.worker(RAISES), start_after="1h")
    await site.event(running, ":HERE")
    worker = await site.process(running)
    await daemon.kill()
    async with holding(site, running), holding(site, queued):
        for id_ in (running, queued):
            refused = await site.damad("cancel", str(id_))
            assert (refused.code, len(refused.err.splitlines())) == (2, 1)
            assert "The cancel is noted" in refused.err
        assert processes.alive(worker)
        await daemon.start()
        await gone(worker)
    for id_ in (running, queued):
        assert (await site.ended(id_)).state == "cancelled"
        assert (await site.types(id_))[-3:] == [":HELD", "CANCEL_REQUESTED", "CANCELLED"]
    await nothing_is_noted(site)


async def test_a_task_that_its_holder_ends_is_done_and_the_cancel_is_forgotten(daemon: Daemon, site: Site) -> None:
    await daemon.start()
    id_ = await site.queue(site.worker(RAISES))
    await site.event(id_, ":HERE")
    worker = await site.process(id_)
    async with holding(site, id_, "by:FINAL"):
        await is_noted(site, id_)
        await gone(worker)
    assert (await site.ended(id_)).state == "done"
    assert (await site.types(id_))[-1] == "by:FINAL"
    await nothing_is_noted(site)


async def test_the_daemon_of_another_host_leaves_what_runs_to_its_own(daemon: Daemon, site: Site) -> None:
    await daemon.start()
    (site.folder / "other").mkdir()
    other = Site(site.folder / "other", {PG_ENV: site.databases[PG_ENV].dsn}, DAMAD_POLL_INTERVAL="300ms")
    beside = Daemon(other)
    await beside.start()
    id_ = await site.queue(site.worker(RAISES))
    await site.event(id_, ":HERE")
    await daemon.kill()
    worker = await site.process(id_)
    async with holding(site, id_):
        await is_noted(other, id_)
    ran = await other.queue(other.worker("async def main(): return {}"))
    assert (await other.ended(ran)).state == "done"  # it has looked
    assert ((await site.state(id_)).state, processes.alive(worker)) == ("running", True)
    await daemon.start()
    assert (await site.ended(id_)).state == "cancelled"
    assert await beside.stop() == 0
    await other.close()


async def test_the_task_of_a_lost_host_in_a_shared_queue_is_cancelled_by_the_one_that_takes_over(
    daemon: Daemon, site: Site
) -> None:
    await daemon.start()
    (site.folder / "other").mkdir()
    settings = {"DAMAD_QUEUE_COMMON_SHARED": "true", "DAMAD_POLL_INTERVAL": "300ms"}
    other = Site(site.folder / "other", {PG_ENV: site.databases[PG_ENV].dsn}, **settings)
    id_ = await site.queue(site.worker(RAISES), queue="common")
    await site.event(id_, ":HERE")
    for pid in site.processes():
        processes.send(process, 9) if (process := processes.identify(pid)) else None
    await daemon.exits()
    beside = Daemon(other)
    async with holding(site, id_):
        await beside.start()
        await is_noted(other, id_)
    assert (await site.ended(id_)).state == "cancelled"
    types = await site.types(id_)
    assert (types[-2:], types.count("STARTED")) == (["CANCEL_REQUESTED", "CANCELLED"], 1)
    assert await beside.stop() == 0
    await other.close()
    await daemon.start()
