"""The connection is reset just before a COMMIT reaches Postgres, or just after it was done: there is one result."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import history
import pytest
import pytest_asyncio
from daemon_support import PG_ENV, SOON, Daemon, Site
from network_support import CRASHES_ONCE, GOOD, LOGGED, site_behind_proxy
from proxy import Batch, Moment, Proxy

LOADS = (
    LOGGED
    + """
from damad import events

async def main(initial_event):
    with written_down():
        have = {event["payload"] for event in await events.read() if event["type"] == ":LOADED"}
        if "rows" not in have:
            async with events.transaction() as db:
                await db.execute("INSERT INTO rows VALUES ($1)", ctx.etl_context_id)
                await events.dispatch({"type": ":LOADED", "payload": "rows"})
        return {}
"""
)
MOMENTS: tuple[Moment, Moment] = ("before", "after")
STEPS = {
    "claim": lambda batch: batch.alone and "claim_tasks" in batch.sql,
    "start": lambda batch: batch.commits_event("dama/task:STARTED"),
    "conclusion": lambda batch: batch.commits_event(":FINAL"),
    "verdict": lambda batch: batch.commits_event("dama/task:RETRY"),
}


@pytest_asyncio.fixture
async def network(template: str, tmp_path: Path) -> AsyncIterator[tuple[Site, Proxy]]:
    async with site_behind_proxy(tmp_path, template) as found:
        yield found


async def ended_right(site: Site, daemon: Daemon, *ids: int) -> None:
    """The tasks end done, and the log and what the workers saw fit together."""
    for id_ in ids:
        state = await site.ended(id_)
        assert state.state == "done", state.error
    await daemon.quiet()
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log
    await history.check(site, ids)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.fault(
    fault="the COMMIT of queueing a task is lost, or its answer",
    injected="the proxy resets the daemon's connection before or after the statement of POST /tasks",
    invariants="I1 I3 I11",
)
async def test_a_task_is_queued_once_though_its_commit_is_lost(network: tuple[Site, Proxy], moment: Moment) -> None:
    site, proxy = network
    daemon = Daemon(site)
    await daemon.start()
    worker = site.worker(GOOD)
    trap = proxy.trap(moment, lambda batch: batch.alone and "queue_tasks" in batch.sql)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(site.state_dir / "damad.sock"))) as client,
        client.post(f"http://damad/v1/{PG_ENV}/tasks", json={"worker": worker}) as answer,
    ):
        assert answer.status == 201, await answer.text()
        id_ = (await answer.json())["etl_context_id"]
    await sprung(trap.sprung)
    assert [state.etl_context_id for state in await site.store().tasks()] == [id_]
    await ended_right(site, daemon, id_)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.fault(
    fault="the COMMIT of a claim, a start, a runner's conclusion or the daemon's verdict is lost, or its answer",
    injected="the proxy resets the connection before or after the statement that appends it",
    invariants="I1 I2 I3 I4 I6 I8 I12",
)
async def test_a_task_has_one_result_though_a_commit_on_its_way_is_lost(
    network: tuple[Site, Proxy], step: str, moment: Moment
) -> None:
    site, proxy = network
    daemon = Daemon(site)
    await daemon.start()
    trap = proxy.trap(moment, STEPS[step])
    id_ = await site.queue(site.worker(CRASHES_ONCE))
    await site.ended(id_)
    await sprung(trap.sprung)
    await ended_right(site, daemon, id_)
    types = await site.types(id_)
    assert types.count("STARTED") == 2 and types.count("RETRY") == types.count("ERROR") == 1, types


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.fault(
    fault="the COMMIT of a worker's own transaction is lost, or its answer",
    injected="the proxy resets the worker's connection before or after COMMIT",
    invariants="I1 I2 I8 I9",
)
async def test_rows_and_their_checkpoint_are_there_once_though_their_commit_is_lost(
    network: tuple[Site, Proxy], moment: Moment
) -> None:
    site, proxy = network
    async with site.store().database.connection() as connection:
        await connection.execute("CREATE TABLE rows (task bigint)")
    daemon = Daemon(site)
    await daemon.start()
    trap = proxy.trap(moment, is_commit)
    id_ = await site.queue(site.worker(LOADS))
    await site.ended(id_)
    await sprung(trap.sprung)
    await ended_right(site, daemon, id_)
    async with site.store().database.connection() as connection:
        assert [row["task"] for row in await connection.fetch("SELECT task FROM rows")] == [id_]
    assert len(await site.events(id_, ":LOADED")) == 1


def is_commit(batch: Batch) -> bool:
    return batch.sql.startswith("COMMIT")


async def sprung(event: asyncio.Event) -> None:
    """The fault was injected: a test whose trap never sprang has shown nothing."""
    async with asyncio.timeout(SOON):
        await event.wait()
