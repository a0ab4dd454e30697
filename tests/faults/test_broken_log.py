"""A log that was written by hand, with the triggers off: it parks its own context, is said once, and others go on."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from daemon_support import PG_ENV, Daemon, Site, gone, site_of, until

pytestmark = pytest.mark.fault(
    fault="an event of damad's that nobody judged, in the log of a task",
    injected="inserted with the triggers off: CLAIMED without a fence, STARTED that is a text, any other",
    invariants="I6 I8 I11",
)

OK = "def main(initial_event):\n    return {'n': 1}\n"

INSERT = """
INSERT INTO data_manager.event_store
    (event_id, etl_context_id, version, event_uuid, type, payload, fence, txid, _created_timestamp)
  SELECT nextval('data_manager.event_store_event_id_seq'), c.etl_context_id, c.version + 1, gen_random_uuid(), $2,
         $3::jsonb, t.fence, pg_current_xact_id(), clock_timestamp()
    FROM data_manager.etl_contexts c JOIN data_manager.dama_tasks t USING (etl_context_id)
    WHERE c.etl_context_id = $1
"""
MEND = "DELETE FROM data_manager.event_store WHERE etl_context_id = $1 AND version > $2"
NONSENSE = pytest.mark.parametrize(
    ("type_", "payload"),
    [("dama/task:CLAIMED", "{}"), ("dama/task:STARTED", '"a text"'), (":PLAIN", "[]")],
    ids=["claimed", "started", "plain"],
)


@pytest_asyncio.fixture
async def site(template: str, tmp_path: Path) -> AsyncIterator[Site]:
    settings = {"DAMAD_GRACE": "300ms", "DAMAD_POLL_INTERVAL": "200ms", "DAMAD_QUEUE_DEFAULT_CONCURRENCY": "2"}
    async with site_of(tmp_path, template, **settings) as site:
        yield site


@pytest_asyncio.fixture
async def daemon(site: Site) -> AsyncIterator[Daemon]:
    daemon = Daemon(site)
    await daemon.start()
    yield daemon
    await daemon.quiet()
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log


async def unjudged(site: Site, statement: str, *arguments: Any) -> None:
    """Runs a statement with all triggers off."""
    connection = await asyncpg.connect(site.databases[PG_ENV].dsn)
    try:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def post(site: Site, path: str, body: Any = None) -> tuple[int, str]:
    """The status of the answer, and the problem that it names."""
    connector = aiohttp.UnixConnector(str(site.state_dir / "damad.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as client,
        client.post(f"http://localhost/v1/{PG_ENV}/contexts/{path}", json=body) as answer,
    ):
        return answer.status, (await answer.json()).get("type", "")


def said(daemon: Daemon, id_: int) -> list[str]:
    """What the daemon logged of a context that it left alone."""
    lines = daemon.log.splitlines()
    return [line for line in lines if "left alone until it is mended" in line and f"etl_context_id={id_} " in line]


async def others_go_on(site: Site) -> None:
    for _ in range(4):  # more than the queue has slots, each several rounds of the supervisor
        assert (await site.run(OK)).state == "done"


@NONSENSE
async def test_whoever_asks_for_something_is_told_so(daemon: Daemon, site: Site, type_: str, payload: str) -> None:
    with site.gate() as gate:
        running, queued = await site.hold(gate), await site.queue("hold.py", start_after="1h")
        versions = {id_: (await site.state(id_)).version for id_ in (running, queued)}
        for id_ in (running, queued):
            await unjudged(site, INSERT, id_, type_, payload)
            for path, body in ((f"{id_}/cancel", None), (f"{id_}/events", {"type": ":X"})):
                assert await post(site, path, body) == (409, "urn:damad:problem:broken-log")
            refused = await site.damad("cancel", str(id_))
            assert (refused.code, len(refused.err.splitlines())) == (2, 1)
            assert f"the log of context {id_} holds events that nobody judged" in refused.err
        verified = await site.damad("verify", "--json")
        assert {one["etl_context_id"] for one in verified.json["mismatches"]} == {running, queued}
        await others_go_on(site)
        for id_, version in versions.items():
            await unjudged(site, MEND, id_, version)
            assert (await post(site, f"{id_}/cancel"))[0] == 202
            assert (await site.ended(id_)).state == "cancelled"
    await site.verified()


@NONSENSE
async def test_runs_whose_end_cannot_be_written_hold_no_slot_and_are_said_once(
    daemon: Daemon, site: Site, type_: str, payload: str
) -> None:
    with site.gate() as gate:
        ids = [await site.hold(gate) for _ in range(2)]
        versions = [(await site.state(id_)).version for id_ in ids]
        workers = [await site.process(id_) for id_ in ids]
        for id_ in ids:
            await unjudged(site, INSERT, id_, type_, payload)
    for worker in workers:
        await gone(worker)
    await others_go_on(site)
    await until(lambda: all(said(daemon, id_) for id_ in ids), lambda: daemon.log)
    await others_go_on(site)
    assert [len(said(daemon, id_)) for id_ in ids] == [1, 1]
    for id_, version in zip(ids, versions, strict=True):
        await unjudged(site, MEND, id_, version)
        assert (await site.ended(id_)).state in ("failed", "done")
    await site.verified()


@NONSENSE
async def test_tasks_that_cannot_be_claimed_keep_none_of_their_queue(
    daemon: Daemon, site: Site, type_: str, payload: str
) -> None:
    ids = [await site.queue(site.worker(OK), start_after="1h", priority=9) for _ in range(3)]
    for id_ in ids:
        await unjudged(site, INSERT, id_, type_, payload)
        due = "UPDATE data_manager.dama_tasks SET run_at = clock_timestamp() WHERE etl_context_id = $1"
        await unjudged(site, due, id_)
    await others_go_on(site)
    await until(lambda: all(said(daemon, id_) for id_ in ids), lambda: daemon.log)
    await others_go_on(site)
    assert [len(said(daemon, id_)) for id_ in ids] == [1, 1, 1]


async def test_an_event_id_that_somebody_gave_by_hand_hurts_nobody(daemon: Daemon, site: Site) -> None:
    there = await site.queue(site.worker(OK), start_after="1h")
    ahead = INSERT.replace("nextval('data_manager.event_store_event_id_seq')", "last_value + 5").replace(
        "FROM data_manager.etl_contexts", "FROM data_manager.event_store_event_id_seq, data_manager.etl_contexts"
    )
    await unjudged(site, ahead, there, ":X", "[]")
    await others_go_on(site)
