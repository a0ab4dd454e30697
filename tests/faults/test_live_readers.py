"""Everybody writes at once and out of order, one for as long as ETL does, while those who read live come and go.

HOLD_SECONDS (10) says for how long; 60 is for tests by hand.
"""

import asyncio
import random
from collections import Counter
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from daemon_support import PG_ENV, SOON, Daemon, Site, until
from http_support import Stream
from test_open_transaction import HOLD_SECONDS

from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.model.event import Event

WRITERS, READERS, EACH = 16, 20, 8
LAST = ":LAST"
AGE = "SELECT extract(epoch FROM clock_timestamp() - transaction_timestamp())"


class Reader:
    """Who reads the feed, and goes and comes back whenever the dice say so. shown: each event that it was sent."""

    def __init__(self, number: int) -> None:
        self.dice = random.Random(number)
        self.shown: list[tuple[int, int]] = []
        self.visits = 0

    async def read(self, client: aiohttp.ClientSession, path: str) -> None:
        """Returns once it has seen the last event."""
        headers = {"Accept": "text/event-stream"}
        while True:
            self.visits += 1
            async with client.get(path, headers=headers) as response:
                assert response.status == 200, await response.text()
                for _ in range(self.dice.randint(1, 40)):
                    headers["Last-Event-ID"], event = await Stream(response).next()
                    self.shown.append((event["etl_context_id"], event["version"]))
                    if event["type"] == LAST:
                        return


@pytest.mark.fault(
    fault="writers overlap, one keeps its transaction open, and those who read the feed live reconnect at random",
    injected="16 writers whose transactions commit in another order than they began; one that commits last of all",
    invariants="I2 I7 I11",
)
async def test_each_reader_sees_each_committed_event_exactly_once(
    daemon: Daemon, site: Site, record_property: Any
) -> None:
    database = Database(PG_ENV, site.databases[PG_ENV].dsn, max_size=WRITERS + 2)
    store, dice = EventStore(database), random.Random(16)
    ids = [await _opened(store) for _ in range(WRITERS)]
    slow, end = await _opened(store), await _opened(store)
    readers = [Reader(number) for number in range(READERS)]
    visible = WRITERS + 2

    token = (site.state_dir / "token").read_text().strip()
    client = aiohttp.ClientSession(
        daemon.url, headers={"Authorization": f"Bearer {token}"},
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None),
    )  # fmt: skip
    async with client, asyncio.timeout(HOLD_SECONDS + 8 * SOON), asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.read(client, f"/v1/{PG_ENV}/events"))
        async with store.transaction() as held:
            for number in range(3):
                await store.append([_append(slow, ":SLOW", number)], on=held)
            while await held.fetchval(AGE) < HOLD_SECONDS:
                await asyncio.gather(*(_write(store, id_, dice) for id_ in ids))
                visible += WRITERS * EACH
            await until(lambda: all(len(r.shown) >= visible for r in readers), within=4 * SOON)
        await store.append([_append(end, LAST)])
    await database.close()

    async with site.databases[PG_ENV].connection() as connection:
        rows = await connection.fetch("SELECT etl_context_id, version FROM data_manager.event_store")
    committed = Counter((row["etl_context_id"], row["version"]) for row in rows)
    assert len(committed) == visible + 3 + 1
    for reader in readers:
        assert Counter(reader.shown) == committed
        for id_ in (*ids, slow):
            versions = [version for of, version in reader.shown if of == id_]
            assert versions == sorted(versions)
    record_property("injected", sum(reader.visits for reader in readers))


async def _opened(store: EventStore) -> int:
    id_ = await store.create_context()
    await store.append([_append(id_, ":INITIAL")])
    return id_


def _append(id_: int, type_: str, payload: Any = None) -> Append:
    return Append(etl_context_id=id_, event=Event(type=type_, payload=payload, event_uuid=uuid4()))


async def _write(store: EventStore, id_: int, dice: random.Random) -> None:
    for number in range(EACH):
        async with store.transaction() as connection:
            await store.append([_append(id_, ":A", number)], on=connection)
            await asyncio.sleep(dice.uniform(0, 0.05))  # those of others begin and end meanwhile
