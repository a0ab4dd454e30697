"""Values in the log that nobody can read: they park their own context, and everybody else goes on."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from daemon_support import SOON, Daemon, Site, daemon_on, until
from stranger_support import a_stranger

from damad import processes
from damad.model.event import SETTINGS_KEY

BIG = '{"x": 1e500}'
DEEP = "[" * 3000 + "]" * 3000
HUGE = "[" + "1e131071," * 200 + "0]"
"""2 kB that read back as 26 MB."""

SETTINGS = {"DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0"}
OK = "def main(initial_event):\n    return {'n': 1}\n"

pytestmark = pytest.mark.fault(
    fault="a value in the log that Python cannot read",
    injected="written with triggers off, as a row of an older schema may be",
    invariants="I6 I7 I11",
)


@pytest_asyncio.fixture
async def daemon(site: Site) -> AsyncIterator[Daemon]:
    async with daemon_on(site) as daemon:  # and no more: the log is spoilt on purpose
        yield daemon


async def unjudged(site: Site, statement: str, *arguments: Any) -> None:
    """Runs a statement with all triggers off."""
    connection = await asyncpg.connect(site.store().database.dsn)
    try:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def spoil(site: Site, id_: int, type_: str, column: str, value: str) -> None:
    await unjudged(
        site, f"UPDATE data_manager.event_store SET {column} = $3 WHERE etl_context_id = $1 AND type = $2",
        id_, type_, value,
    )  # fmt: skip


async def queued_later(site: Site) -> int:
    """A task that waits until the test has spoilt it."""
    return await site.queue(site.worker(OK), {"n": 1}, start_after=3600)


async def let_run(site: Site, id_: int) -> None:
    await unjudged(site, "UPDATE data_manager.dama_tasks SET run_at = clock_timestamp() WHERE etl_context_id = $1", id_)


@pytest.mark.parametrize("value", [BIG, DEEP, HUGE], ids=["big", "deep", "huge"])
@pytest.mark.parametrize("column", ["payload", "meta"])
async def test_no_worker_runs_on_an_initial_event_that_cannot_be_read_and_others_go_on(
    daemon: Daemon, site: Site, value: str, column: str
) -> None:
    bad = await queued_later(site)
    await spoil(site, bad, ":INITIAL", column, value)
    await let_run(site, bad)
    state = await site.ended(bad)
    assert (state.state, state.error["kind"]) == ("failed", "load")
    assert f"event {state.initial_event_id}" in state.error["message"]
    assert (await site.run(OK)).state == "done"


@pytest.mark.parametrize("value", [BIG, '"a text"', "7", "[]", "{}", '{"worker": 7, "retry_limit": "x", "run_in": []}'])
async def test_settings_that_cannot_be_read_are_as_if_not_given(daemon: Daemon, site: Site, value: str) -> None:
    bad = await queued_later(site)
    await unjudged(site, "UPDATE data_manager.dama_tasks SET settings = $2 WHERE etl_context_id = $1", bad, value)
    await let_run(site, bad)
    assert (await site.run(OK)).state == "done"
    assert (await site.ended(bad)).state in ("done", "failed")


@pytest.mark.parametrize("queue", ["Ü", "../../etc", "a b\n", "q" * 3000, "'; DROP TABLE x; --", "%s", "\u202e"])
async def test_a_queue_with_an_odd_name_from_plain_sql_runs_too(daemon: Daemon, site: Site, queue: str) -> None:
    meta = {SETTINGS_KEY: {"worker": site.worker(OK), "queue": queue, "retry_limit": "0"}}
    async with site.store().database.connection() as connection:
        id_ = await connection.fetchval("INSERT INTO data_manager.etl_contexts DEFAULT VALUES RETURNING etl_context_id")
        await connection.execute(
            "INSERT INTO data_manager.event_store (etl_context_id, type, meta) VALUES ($1, ':INITIAL', $2)", id_, meta
        )
    assert (await site.ended(id_)).state == "done"


async def test_a_started_event_that_cannot_be_read_parks_nobody(daemon: Daemon, site: Site, tmp_path: Path) -> None:
    """The daemon reads it for all that it holds in one statement."""
    with site.gate() as gate, a_stranger(tmp_path) as stranger:
        held = await site.hold(gate)
        worker = await site.process(held)
        await spoil(site, held, "dama/task:STARTED", "payload", BIG)
        others = [await site.queue(site.worker(OK)) for _ in range(3)]
        assert {(await site.ended(id_)).state for id_ in others} == {"done"}
        await daemon.kill()
        await daemon.start()
        assert (await site.run(OK)).state == "done"
        assert (await site.state(held)).state == "running"
        await site.cancel(held)
        assert (await site.ended(held)).state == "cancelled"
        assert not processes.alive(worker)
        assert stranger.untouched()


async def test_every_command_says_which_event_it_is_and_shows_the_others(daemon: Daemon, site: Site) -> None:
    good, bad = [(await site.run(OK)).id for _ in range(2)]
    await spoil(site, bad, ":FINAL", "payload", BIG)
    for words in (["events", "--json"], ["tasks", "--json"], ["events", str(good)], ["show", str(good)]):
        done = await site.damad(*words)
        assert (done.code, "Traceback" in done.err) == (0, False), done
    for words in (
        ["events", str(bad)],
        ["show", str(bad)],
        ["events", str(bad), "--json"],
        ["show", str(bad), "--json"],
    ):
        done = await site.damad(*words)
        assert (done.code, "Traceback" in done.err) == (0, False), done
        assert "unreadable" in done.out
    verified = await site.damad("verify", "--json")
    assert verified.code == 1
    assert [one["etl_context_id"] for one in verified.json["mismatches"]] == [bad]
    assert verified.json["mismatches"][0]["projected"] == [(await site.state(bad)).latest_event_id]


@pytest.mark.parametrize("value", [BIG, DEEP, HUGE], ids=["big", "deep", "huge"])
async def test_pages_and_streams_go_on_over_such_an_event(daemon: Daemon, site: Site, value: str) -> None:
    good, bad = [(await site.run(OK)).id for _ in range(2)]
    await spoil(site, bad, ":FINAL", "payload", value)
    token = (site.state_dir / "token").read_text().strip()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as client:
        root = f"{daemon.url}/v1/local"
        for path in (f"/contexts/{bad}", f"/contexts/{bad}/events", f"/contexts/{bad}/tree", f"/contexts/{bad}/final",
                     f"/contexts/{bad}/events?tree=1", "/tasks", f"/contexts/{good}/final"):  # fmt: skip
            async with client.get(root + path) as answer:
                assert answer.status == 200, (path, await answer.text())
                await answer.json()
        live = root + f"/contexts/{bad}/events"
        async with asyncio.timeout(SOON), client.get(live, headers={"Accept": "text/event-stream"}) as stream:
            seen = await finals_until(stream, bad)
            assert seen[bad].keys() == {"unreadable"}


async def finals_until(stream: aiohttp.ClientResponse, id_: int) -> dict[int, Any]:
    """The payloads of the :FINAL events that a stream gives, by context, up to that of one context."""
    seen: dict[int, Any] = {}
    async for line in stream.content:
        if line.startswith(b"data:"):
            event = json.loads(line[5:])
            if event["type"] == ":FINAL":
                seen[event["etl_context_id"]] = event["payload"]
            if id_ in seen:
                return seen
    raise AssertionError("the stream ended")


@pytest.mark.fault(
    fault="a task that cannot be claimed", injected="a fence that no number follows", invariants="I6 I8 I11"
)
async def test_a_task_that_cannot_be_claimed_parks_its_own_queue_until_it_is_mended(site: Site) -> None:
    daemon = Daemon(site)
    await daemon.start()
    bad = await site.queue(site.worker(OK), queue="another", start_after=3600)
    await unjudged(
        site, "UPDATE data_manager.dama_tasks SET fence = $2 WHERE etl_context_id = $1", bad, 2**63 - 1
    )  # fmt: skip
    await let_run(site, bad)
    for _ in range(3):
        assert (await site.run(OK)).state == "done"
    await until(lambda: "queue=another" in daemon.log)
    assert (await site.damad("rebuild")).code == 0
    assert (await site.run(OK, queue="another")).state == "done"
    assert (await site.cancel(bad)).state == "cancelled"
    await site.verified()
    assert await daemon.stop() == 0
