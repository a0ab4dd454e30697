"""Half-open connections: what is sent to Postgres vanishes, nothing is closed. Who waits for an answer notices."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import history
import pytest
import pytest_asyncio
from daemon_support import PG_ENV, Daemon, Site, until
from network_support import GOOD, HOLDS, LOGGED, SETTINGS, site_behind_proxy
from proxy import Proxy

from damad import processes

PATIENCE = 120.0
"""Seconds in which damad has noticed that nobody answers, and has begun anew."""


@pytest_asyncio.fixture
async def network(template: str, tmp_path: Path) -> AsyncIterator[tuple[Site, Proxy]]:
    async with site_behind_proxy(tmp_path, template) as found:
        yield found


@pytest_asyncio.fixture
async def client(network: tuple[Site, Proxy]) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(network[0].state_dir / "damad.sock"))
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(f"http://damad/v1/{PG_ENV}/", connector=connector, timeout=timeout) as client:
        yield client


async def ask(client: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and body of an answer; one that is 503 says when to ask again, and none is another 5xx."""
    async with client.request(method, path, **({} if body is None else {"json": body})) as answer:
        said = await answer.json(content_type=None)
        assert answer.status < 500 or answer.status == 503, said
        assert answer.status != 503 or int(answer.headers["Retry-After"]) >= 1, said
        return answer.status, said


@pytest.mark.fault(
    fault="every connection to Postgres is half-open, the daemon's and its workers', new ones too",
    injected="the proxy drops every byte and closes nothing; connections of that time stay silent for ever",
    invariants="I1 I4 I6 I8 I11 I12",
)
async def test_the_daemon_says_503_while_nobody_answers_it_and_all_tasks_end_when_somebody_does(
    network: tuple[Site, Proxy], client: aiohttp.ClientSession
) -> None:
    site, proxy = network
    daemon = Daemon(site)
    await daemon.start()
    with site.gate() as gate:
        holds = [
            await site.queue(site.worker(HOLDS), {"gate": str(gate.path)}, run_in=run_in)
            for run_in in ("process", "daemon")
        ]
        for id_ in holds:
            await site.event(id_, ":HERE")
        proxy.fall_silent()
        event = {"type": ":TOLD", "event_uuid": str(uuid4())}
        task = {"worker": site.worker(GOOD), "idempotency_key": "once"}
        asked = [("GET", "tasks", None), ("GET", f"contexts/{holds[0]}", None), ("POST", "tasks", task)]
        asked += [("POST", f"contexts/{holds[0]}/events", event), ("POST", f"contexts/{holds[0]}/cancel", None)]
        answers = await asyncio.gather(*(ask(client, *one) for one in asked * 4))
        assert [status for status, _ in answers] == [503] * len(answers)
        assert daemon.pid in site.processes()
        proxy.heal()

        for body, path in ((task, "tasks"), (event, f"contexts/{holds[0]}/events")):
            await until(lambda body=body, path=path: taken(client, path, body), within=PATIENCE)  # type: ignore[misc]
    (queued,) = [state.etl_context_id for state in await site.store().tasks() if state.etl_context_id not in holds]
    for id_ in (*holds, queued):
        await until(lambda id_=id_: has_ended(site, id_), within=PATIENCE)  # type: ignore[misc]
        assert ((await site.state(id_)).state, (await site.state(id_)).attempt) == ("done", 1)
    assert len(await site.events(holds[0], ":TOLD")) == 1
    await until(lambda: not site.at_work(daemon.pid), within=PATIENCE)
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log
    await history.check(site, [*holds, queued])


async def taken(client: aiohttp.ClientSession, path: str, body: Any) -> bool:
    status, said = await ask(client, "POST", path, body)
    assert status in (200, 201, 503), said
    return status != 503


async def has_ended(site: Site, id_: int) -> bool:
    return (await site.state(id_)).state in ("done", "failed", "cancelled")


@pytest.mark.fault(
    fault="Postgres does not answer when the daemon starts, nor when it is asked to stop",
    injected="the proxy drops every byte and closes nothing",
    invariants="I6 I10 I11",
)
async def test_a_daemon_starts_and_stops_though_nobody_answers(network: tuple[Site, Proxy]) -> None:
    site, proxy = network
    id_ = await site.queue(site.worker(GOOD))
    proxy.fall_silent()
    daemon = Daemon(site)
    await daemon.start()
    assert await daemon.stop() == 0
    proxy.heal()
    await daemon.start()
    assert (await site.ended(id_)).state == "done"
    await daemon.quiet()
    proxy.fall_silent()
    assert await daemon.stop() == 0
    await site.quiet()
    await history.check(site, [id_])


HOLDS_THE_FIRST_TIME = (
    LOGGED
    + """
import time
from damad import events

def main(initial_event):
    with written_down():
        events.dispatch_sync({"type": ":HERE"})
        time.sleep(1000 if ctx.attempt == 1 else 0)
        return {"attempt": ctx.attempt}
"""
)


@pytest.mark.fault(
    fault="the connection on which a worker of a shared queue renews its lease is half-open",
    injected="the proxy drops every byte and closes nothing",
    invariants="I4 I6 I8",
)
async def test_a_worker_of_a_shared_queue_ends_with_its_lease_though_its_renewal_waits_for_an_answer(
    network: tuple[Site, Proxy],
) -> None:
    site, proxy = network
    daemon = Daemon(site)
    await daemon.start()
    id_ = await site.queue(site.worker(HOLDS_THE_FIRST_TIME), queue="common")
    await site.event(id_, ":HERE")
    worker = await site.process(id_)
    await renewed(site, id_)
    proxy.fall_silent()
    await until(lambda: not processes.alive(worker), within=20)  # an answer is waited for longer
    proxy.heal()
    await until(lambda: has_ended(site, id_), within=PATIENCE)
    (error,) = await site.events(id_, "dama/task:ERROR")
    assert (error.payload["kind"], error.payload["exit_code"]) == ("exit", 103)
    assert (await site.state(id_)).state == "done"
    await until(lambda: not site.at_work(daemon.pid), within=PATIENCE)
    assert await daemon.stop() == 0
    await history.check(site, [id_])


@pytest.mark.parametrize("place", ["BEGIN", "take_over", "append_events", "COMMIT"])
@pytest.mark.fault(
    fault="the connection on which a daemon takes over the task of a lost host falls silent in that transaction",
    injected="the proxy drops every byte from one of its statements on; later the server ends its side",
    invariants="I4 I5 I6 I8",
)
async def test_a_task_of_a_lost_host_is_taken_over_though_its_taking_over_was_not_answered(
    network: tuple[Site, Proxy], tmp_path: Path, place: str
) -> None:
    site, proxy = network
    (tmp_path / "lost").mkdir()
    lost = Site(tmp_path / "lost", {PG_ENV: site.databases[PG_ENV].dsn}, **SETTINGS)
    lost.environment["DAMAD_WORKER_ROOTS"] = str(site.workers)
    daemon, victim = Daemon(site), Daemon(lost)
    try:
        await victim.start()
        id_ = await lost.queue(site.worker(HOLDS_THE_FIRST_TIME), queue="common")
        await lost.event(id_, ":HERE")
        await daemon.start()
        trap = proxy.trap("silence", lambda batch: place in batch.sql and (place == "COMMIT" or not batch.alone))
    finally:
        await lost.close()  # as a machine is lost: every process at once
    await victim.exits()
    async with asyncio.timeout(PATIENCE):
        await trap.sprung.wait()
    proxy.server_gives_up()
    await until(lambda: has_ended(site, id_), within=PATIENCE)
    assert ((await site.state(id_)).state, (await site.state(id_)).attempt) == ("done", 2)
    await until(lambda: not site.at_work(daemon.pid), within=PATIENCE)
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log
    await history.check(site, [id_])


async def renewed(site: Site, id_: int) -> None:
    """Returns once the lease of a task has been prolonged since: whoever renews it has a connection for that."""

    async def end() -> Any:
        async with site.store().database.connection() as connection:
            return await connection.fetchval("SELECT until FROM data_manager.leases WHERE etl_context_id = $1", id_)

    first = await end()

    async def is_later() -> bool:
        return bool(await end() > first)

    await until(is_later)
