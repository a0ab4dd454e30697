"""A worker holds its transaction open for as long as ETL does, with events dispatched in it: nobody waits for it.

HOLD_SECONDS (10) says for how long; 60 is for tests by hand.
"""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import history
import pytest
import pytest_asyncio
from daemon_support import PG_ENV, Daemon, Site, gone, site_of, until
from network_support import CRASHES_ONCE, GOOD, LOGGED, site_behind_proxy
from proxy import Proxy

from damad import processes

HOLD_SECONDS = float(os.environ.get("HOLD_SECONDS", "10"))

IN_A_TRANSACTION = (
    LOGGED
    + """
import asyncio, gate
from damad import events

async def main(initial_event):
    with written_down():
        async with events.transaction() as db:
            await db.execute("INSERT INTO rows VALUES ($1)", ctx.etl_context_id)
            for part in range(3):
                await events.dispatch({"type": ":PART", "payload": part})
            await asyncio.to_thread(gate.wait, initial_event["payload"]["gate"])
        return {}
"""
)


@pytest_asyncio.fixture
async def network(template: str, tmp_path: Path) -> AsyncIterator[tuple[Site, Proxy]]:
    async with site_behind_proxy(tmp_path, template) as found:
        yield found


@pytest_asyncio.fixture
async def many(template: str, tmp_path: Path) -> AsyncIterator[Site]:
    settings = {"DAMAD_POLL_INTERVAL": "500ms", "DAMAD_QUEUE_DEFAULT_CONCURRENCY": "20"}
    async with site_of(tmp_path, template, DAMAD_QUEUE_DEFAULT_RETRY_DELAY="10ms", **settings) as site:
        yield site


@pytest.mark.fault(
    fault="somebody holds the rows of a dozen contexts whose workers have died",
    injected="SELECT … FOR UPDATE in a session beside it, and SIGKILL to the workers",
    invariants="I3 I4 I6 I8",
)
async def test_contexts_that_somebody_holds_hold_up_no_other(many: Site) -> None:
    daemon = Daemon(many)
    await daemon.start()
    with many.gate() as gate:
        ids = [await many.hold(gate, retry_limit=1) for _ in range(12)]
        workers = [await many.process(id_) for id_ in ids]
        async with many.store().transaction() as connection:
            await connection.execute(
                "SELECT FROM data_manager.etl_contexts WHERE etl_context_id = ANY ($1) FOR UPDATE", ids
            )
            for worker in workers:
                processes.send(worker, signal.SIGKILL)
            for _ in range(3):  # each would have to wait for twelve others, several times over
                assert (await many.run("def main():\n    return {}\n")).state == "done"
    assert [((state := await many.ended(id_)).state, state.attempt) for id_ in ids] == [("done", 2)] * 12
    await daemon.quiet()
    await many.verified()
    assert await daemon.stop() == 0


@pytest.mark.fault(
    fault="two workers hold transactions with rows and dispatched events open for long",
    injected="workers that wait in events.transaction(); one of them is cancelled meanwhile",
    invariants="I2 I3 I4 I6 I8 I9 I11",
)
async def test_nobody_waits_for_a_worker_that_holds_its_transaction_open(network: tuple[Site, Proxy]) -> None:
    site, _ = network
    daemon = Daemon(site)
    await daemon.start()
    await query(site, "CREATE TABLE rows (task bigint)")
    with site.gate() as gate:
        worker = site.worker(IN_A_TRANSACTION)
        held, cancelled = [await site.queue(worker, {"gate": str(gate.path)}) for _ in range(2)]
        await until(lambda: in_transaction(site, held, cancelled))
        process = await site.process(cancelled)

        others, told = [], 0
        async with aiohttp.ClientSession(
            f"http://damad/v1/{PG_ENV}/", connector=aiohttp.UnixConnector(str(site.state_dir / "damad.sock"))
        ) as client:
            while not others or not await in_transaction(site, held, since=HOLD_SECONDS):
                for body in ({"type": ":TOLD", "payload": told}, {"type": ":TOLD", "event_uuid": str(uuid4())}):
                    async with client.post(f"contexts/{held}/events", json=body) as answer:
                        assert answer.status == 201, await answer.text()
                    told += 1
                others += [await site.queue(site.worker(source)) for source in (GOOD, CRASHES_ONCE)]
                for id_ in others[-2:]:
                    assert (await site.ended(id_)).state == "done"
                if await site.types(cancelled) == [":INITIAL", "CLAIMED", "STARTED"]:
                    async with client.post(f"contexts/{cancelled}/cancel") as answer:
                        assert answer.status == 202, await answer.text()
                    assert (await site.ended(cancelled)).state == "cancelled"
                    await gone(process)
            assert await in_transaction(site, held)
            assert await query(site, "SELECT FROM rows") == []
    assert (await site.ended(held)).state == "done"
    types = await site.types(held)
    assert types == [":INITIAL", "CLAIMED", "STARTED", *[":TOLD"] * told, *[":PART"] * 3, ":FINAL"]
    assert await site.types(cancelled) == [":INITIAL", "CLAIMED", "STARTED", "CANCEL_REQUESTED", "CANCELLED"]
    assert [row["task"] for row in await query(site, "SELECT task FROM rows")] == [held]
    await daemon.quiet()
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log
    await history.check(site, [held, cancelled, *others])


async def query(site: Site, statement: str, *arguments: Any) -> list[Any]:
    async with site.store().database.connection() as connection:
        return list(await connection.fetch(statement, *arguments))


async def in_transaction(site: Site, *ids: int, since: float = 0.0) -> bool:
    """True while the first attempts of these tasks sit in a transaction that is so many seconds old."""
    rows = await query(
        site,
        "SELECT FROM pg_stat_activity WHERE application_name = ANY ($1) AND datname = current_database()"
        " AND state = 'idle in transaction' AND xact_start + make_interval(secs => $2) <= clock_timestamp()",
        [f"damad/{id_}/1" for id_ in ids],
        since,
    )
    return len(rows) == len(ids)
