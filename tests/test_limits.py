"""Limits that count over all hosts: two daemons on one shared queue, and what the log says afterwards."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, site_of, until

from damad import queues, tasks

SETTINGS = {"DAMAD_LEASE": "1m"}
BRIEF = """
import asyncio

async def main():
    await asyncio.sleep(0.001)
    return {}
"""
BEGIN_TOGETHER = """
import asyncio, os

async def main(event):
    while not os.path.exists(event["payload"]):
        await asyncio.sleep(0.05)
    return {}
"""
COURSE = """
SELECT e.etl_context_id AS id, e.type, t.settings ->> 'concurrency_key' AS key, t.host_id::text AS host
  FROM data_manager.event_store e JOIN data_manager.dama_tasks t USING (etl_context_id)
  WHERE t.queue = 'common' AND (e.type = 'dama/task:CLAIMED' OR e.type LIKE '%:FINAL')
  ORDER BY e.event_id
"""


@pytest_asyncio.fixture
async def hosts(template: str, tmp_path: Path) -> AsyncIterator[tuple[Site, Site]]:
    """Two state folders, one database, one worker root."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    async with site_of(tmp_path / "one", template, **SETTINGS) as one:
        other = Site(tmp_path / "other", {name: db.dsn for name, db in one.databases.items()}, **SETTINGS)
        other.environment["DAMAD_WORKER_ROOTS"] = str(one.workers)
        try:
            yield one, other
        finally:
            await other.close()


async def course(site: Site) -> Sequence[Mapping[str, Any]]:
    """What was claimed and what ended, in the order of the log: a claim's number is drawn under the queue's lock."""
    async with site.store().database.connection() as connection:
        return list(await connection.fetch(COURSE))


async def all_done(site: Site, ids: list[int]) -> None:
    async def are_done() -> bool:
        with site.here():
            (queue,) = [queue for queue in await queues.every() if queue.name == "common"]
        return not queue.states

    await until(are_done, within=300.0)
    assert len(await site.store().tasks(states=["done"], limit=len(ids) + 1)) == len(ids)


def most_at_a_time(events: Sequence[Mapping[str, Any]], by: str | None = None) -> int:
    """How many ran at a time at most, in all or of one key."""
    held, most = Counter[Any](), 0
    for event in events:
        held[event[by] if by else None] += 1 if event["type"] == "dama/task:CLAIMED" else -1
        most = max(most, *held.values())
    return most


async def run_on_both(
    hosts: tuple[Site, Site], keys: Sequence[str], *, at_first: int, **limits: int
) -> Sequence[Mapping[str, Any]]:
    """at_first: how many run before any ends, which are more than one host has slots for."""
    one, other = hosts
    flag = one.folder / "begun"
    worker = one.worker(BEGIN_TOGETHER, "together.py")
    with one.here():
        await queues.change("common", {"shared": True, "run_in": "daemon", **limits})
        requests = [tasks.request(worker, str(flag), queue="common", concurrency_key=key) for key in keys]
        ids = [queued.etl_context_id for queued in await tasks.queue_many(requests)]
    daemons = [Daemon(one), Daemon(other)]
    await asyncio.gather(*[daemon.start() for daemon in daemons])

    async def enough_have_begun() -> bool:
        return len(await one.store().tasks(states=["running"], limit=len(ids))) == at_first

    await until(enough_have_begun)
    flag.touch()
    await all_done(one, ids)
    assert [await daemon.stop() for daemon in daemons] == [0, 0]
    await one.verified()
    events = await course(one)
    assert len({event["id"] for event in events}) == len(ids)
    assert len({event["host"] for event in events}) == 2
    return events


async def test_a_thousand_tasks_of_fifty_keys_run_two_at_a_time_for_each_key_on_two_daemons(
    hosts: tuple[Site, Site],
) -> None:
    keys = [f"source {number % 50}" for number in range(1000)]
    events = await run_on_both(hosts, keys, at_first=60, concurrency=30, key_concurrency=2)
    assert most_at_a_time(events, "key") == 2


async def test_two_daemons_run_no_more_at_a_time_than_their_queue_says_for_all(hosts: tuple[Site, Site]) -> None:
    events = await run_on_both(hosts, ["one"] * 200, at_first=3, concurrency=2, global_concurrency=3)
    assert most_at_a_time(events) == 3


async def test_a_daemon_leaves_a_paused_queue_alone_and_takes_it_up_again_when_it_is_resumed(
    hosts: tuple[Site, Site],
) -> None:
    site, _ = hosts
    daemon = Daemon(site)
    await daemon.start(DAMAD_POLL_INTERVAL="1h")
    with site.here():
        await queues.pause("common")
    paused = await site.queue(site.worker(BRIEF), queue="common")
    other = await site.queue(site.worker(BRIEF))
    await site.ended(other)
    assert (await site.state(paused)).state == "queued"
    with site.here():
        await queues.resume("common")
    assert (await site.ended(paused)).state == "done"
    assert await daemon.stop() == 0


async def test_what_is_set_while_a_daemon_runs_counts_for_the_next_task(hosts: tuple[Site, Site]) -> None:
    site, _ = hosts
    daemon = Daemon(site)
    await daemon.start(DAMAD_POLL_INTERVAL="1h")
    with site.here():
        await queues.change("etl", {"concurrency": 0})
    worker = site.worker("import os\n\nasync def main():\n    return {'pid': os.getpid()}\n")
    held = await site.queue(worker, queue="etl")
    await site.ended(await site.queue(worker))
    assert (await site.state(held)).state == "queued"
    with site.here():
        await queues.change("etl", {"concurrency": 1, "run_in": "daemon"})
    await site.ended(held)
    (final,) = await site.events(held, ":FINAL")
    assert final.payload == {"pid": daemon.pid}
    assert await daemon.stop() == 0


@pytest.mark.parametrize("rate", ["rate", "key_rate"])
async def test_a_rate_is_looked_at_again_when_the_next_token_is_there(hosts: tuple[Site, Site], rate: str) -> None:
    site, _ = hosts
    daemon = Daemon(site)
    await daemon.start(DAMAD_POLL_INTERVAL="1h")
    with site.here():
        await queues.change("common", {rate: "1/500ms"})
    ids = [await site.queue(site.worker(BRIEF), queue="common", concurrency_key="a") for _ in range(3)]
    for id_ in ids:
        await site.ended(id_)
    assert await daemon.stop() == 0
