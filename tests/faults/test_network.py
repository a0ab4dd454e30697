"""The network between damad and Postgres breaks in every way that it can: what was acknowledged is there, once."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import history
import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, until
from history import Journal
from network_support import ASKS_A_CHILD, CRASHES_ONCE, GOOD, HOLDS, LEASE, site_behind_proxy
from proxy import Proxy

from damad.errors import Unavailable
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.model.event import Event
from damad.model.lifecycle import ENDED

SEED = 20
CLIENTS, EVENTS, CONTEXTS, RECONNECTS = 16, 10_000, 4, 200


@pytest_asyncio.fixture
async def network(template: str, tmp_path: Path) -> AsyncIterator[tuple[Site, Proxy]]:
    async with site_behind_proxy(tmp_path, template) as found:
        yield found


# --- appends ---


class Client:
    """Appends events one after another, each until it is acknowledged or, now and then, given up as unknown."""

    def __init__(self, site: Site, proxy: Proxy, name: str, dice: random.Random) -> None:
        self.database = Database("local", proxy.dsn(site.databases["local"].dsn), max_size=1)
        self.journal = Journal(site.folder / "history", name)
        self.dice = dice
        self.acknowledged = 0

    async def append(self, ids: list[int], count: int) -> None:
        store = EventStore(self.database)
        for number in range(count):
            id_, event = self.dice.choice(ids), Event(type=":COUNTED", payload=number, event_uuid=uuid4())
            assert event.event_uuid is not None
            self.journal.say("invoke", id_, event.event_uuid)
            while True:
                try:
                    await store.append([Append(etl_context_id=id_, event=event)])
                except Unavailable:
                    self.journal.say("unknown", id_, event.event_uuid)
                    if self.dice.random() < 0.2:
                        break
                else:
                    self.journal.say("ok", id_, event.event_uuid)
                    self.acknowledged += 1
                    break
        await self.database.close()
        self.journal.close()


@pytest.mark.fault(
    fault="200 connections lost under 16 clients that append 10,000 events",
    injected="the proxy cuts them, resets before and after COMMIT, and refuses new ones for a moment",
    invariants="I1 I2 I3 I8",
)
async def test_every_acknowledged_event_is_there_once_however_often_the_connection_is_lost(
    network: tuple[Site, Proxy],
) -> None:
    site, proxy = network
    ids = [await new_context(site) for _ in range(CONTEXTS)]
    clients = [Client(site, proxy, str(number), random.Random(SEED + number)) for number in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.append(ids, EVENTS // CLIENTS))
        breaking = group.create_task(break_connections(proxy, clients, random.Random(SEED)))
    assert breaking.result() >= RECONNECTS
    report = await history.check(site, ids)
    print(f"{report} {proxy.resets} resets, {proxy.refused} refused")
    assert report.acknowledged + report.unknown == EVENTS
    assert report.acknowledged > EVENTS * 0.9


async def new_context(site: Site) -> int:
    store = site.store()
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL", event_uuid=uuid4()))])
    return id_


async def break_connections(proxy: Proxy, clients: list[Client], dice: random.Random) -> int:
    """Breaks a connection each time that so many events more are acknowledged. Returns how many it broke."""
    for round_ in range(RECONNECTS):
        goal = round_ * EVENTS * 0.85 / RECONNECTS
        await until(lambda goal=goal: sum(client.acknowledged for client in clients) >= goal, within=120)  # type: ignore[misc]
        fault = dice.choice(["cut", "before", "before", "after", "after", "after", "away"])
        if fault == "cut":
            proxy.cut_all()
        elif fault == "away":
            before = proxy.refused
            proxy.go_away()
            await until(lambda before=before: proxy.refused > before + 4 * CLIENTS)  # type: ignore[misc]
            proxy.heal()
        else:
            await asyncio.wait_for(proxy.trap("after" if fault == "after" else "before").sprung.wait(), 60)
    return proxy.resets


# --- outages ---


@pytest.mark.parametrize("run_in", ["process", "daemon"])
@pytest.mark.fault(
    fault="Postgres is away for three leases while tasks of unshared queues run",
    injected="the proxy resets every connection and refuses new ones until the leases are over by two of their length",
    invariants="I1 I4 I6 I8 I12",
)
async def test_tasks_live_on_through_an_outage_of_three_leases_and_nothing_runs_twice(
    network: tuple[Site, Proxy], run_in: str
) -> None:
    site, proxy = network
    daemon = Daemon(site)
    await daemon.start()
    with site.gate() as gate:
        worker = site.worker(HOLDS)
        ids = [await site.queue(worker, {"gate": str(gate.path)}, run_in=run_in) for _ in range(3)]
        for id_ in ids:
            await site.event(id_, ":HERE")
        crashing = await site.queue(site.worker(CRASHES_ONCE))
        proxy.go_away()
        await until(lambda: leases_over_by(site, 2 * LEASE, ids))
        assert daemon.pid in site.processes()
        proxy.heal()
        gate.open()
    for id_ in ids:
        state = await site.ended(id_)
        assert (state.state, state.attempt) == ("done", 1), state.error
        assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":HERE", ":FINAL"]
    assert (await site.ended(crashing)).state == "done"
    await daemon.quiet()
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log
    report = await history.check(site, [*ids, crashing])
    assert report.attempts == 5


async def leases_over_by(site: Site, seconds: float, ids: list[int]) -> bool:
    """True once no lease of these tasks has been renewed for so long, by the database's clock."""
    async with site.store().database.connection() as connection:
        over = await connection.fetchval(
            "SELECT count(*) FROM data_manager.leases WHERE etl_context_id = ANY ($1)"
            " AND until + make_interval(secs => $2) < clock_timestamp()",
            ids, seconds,
        )  # fmt: skip
    return bool(over == len(ids))


# --- delay ---


@pytest.mark.fault(
    fault="every packet between damad and Postgres takes 200 ms",
    injected="the proxy holds back what either side says for so long",
    invariants="I1 I2 I3 I4 I6 I8 I11 I12",
)
async def test_everything_ends_right_though_each_packet_takes_200_milliseconds(network: tuple[Site, Proxy]) -> None:
    site, proxy = network
    daemon = Daemon(site)
    proxy.delay = 0.2
    await daemon.start()
    with site.gate() as gate:
        good, crashing, parent = [await site.queue(site.worker(text)) for text in (GOOD, CRASHES_ONCE, ASKS_A_CHILD)]
        cancelled = await site.queue(site.worker(HOLDS), {"gate": str(gate.path)})
        in_daemon = await site.queue(site.worker(GOOD), run_in="daemon")
        await until(lambda: says(site, cancelled, ":HERE"), within=120)
        await site.cancel(cancelled)
        ids = [good, crashing, parent, cancelled, in_daemon]
        await until(lambda: all_ended(site, ids), within=120)
    (child,) = [state for state in await site.store().tasks() if state.etl_context_id not in ids]
    states = [(await site.state(id_)).state for id_ in (*ids, child.etl_context_id)]
    assert states == ["done", "done", "done", "cancelled", "done", "done"]
    assert [(await site.state(id_)).attempt for id_ in ids] == [1, 2, 1, 1, 1]
    await until(lambda: not site.at_work(daemon.pid), within=120)
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log
    await history.check(site, [*ids, child.etl_context_id])


async def says(site: Site, id_: int, type_: str) -> bool:
    return type_ in await site.types(id_)


async def all_ended(site: Site, ids: list[int]) -> bool:
    return all([(await site.state(id_)).state in ENDED for id_ in ids])
