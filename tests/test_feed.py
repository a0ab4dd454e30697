"""The feed over all contexts neither skips, nor repeats, nor stalls."""

import asyncio
import math
import random
from collections import defaultdict
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from damad.errors import CursorGone
from damad.eventstore.feed import Cursor, Feed
from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.store import Append, EventStore
from damad.model.event import Event, RecordedEvent

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""


async def begun(store: EventStore) -> int:
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL"))])
    return id_


async def rest(feed: Feed, cursor: Cursor | None, limit: int = 1000) -> tuple[list[RecordedEvent], Cursor]:
    """Everything after a cursor that is visible now."""
    events: list[RecordedEvent] = []
    while True:
        page = await feed.page(cursor, limit=limit)
        events += page.events
        cursor = page.cursor
        if not page.full:
            return events, cursor


async def test_an_event_that_commits_late_is_shown_late_and_not_skipped(store: EventStore) -> None:
    feed, early, late = Feed(store.database), await begun(store), await begun(store)
    _, cursor = await rest(feed, None)
    async with store.database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.append([Append(etl_context_id=late, event=Event(type=":LATE"))], on=connection)
        await store.append([Append(etl_context_id=early, event=Event(type=":EARLY"))])
        shown, cursor = await rest(feed, cursor)
        assert [event.type for event in shown] == [":EARLY"]
        assert (await rest(feed, cursor))[0] == []
        await transaction.commit()
    shown, cursor = await rest(feed, cursor)
    assert [event.type for event in shown] == [":LATE"]
    assert (await rest(feed, cursor))[0] == []


async def test_a_writer_that_stays_open_does_not_stall_the_others(store: EventStore, dsn: str) -> None:
    feed, id_ = Feed(store.database), await begun(store)
    _, cursor = await rest(feed, None)
    other = Database("local", dsn)
    async with other.connection() as connection, connection.transaction():
        await connection.execute("CREATE TABLE written_for_hours (n int)")
        for number in range(3):
            await store.append([Append(etl_context_id=id_, event=Event(type=":A", payload=number))])
            shown, cursor = await rest(feed, cursor)
            assert [event.payload for event in shown] == [number]
    await other.close()


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
async def test_pages_of_any_size_show_the_same(store: EventStore, limit: int) -> None:
    feed, ids = Feed(store.database), [await begun(store) for _ in range(4)]
    first, cursor = await rest(feed, None, limit)
    for _ in range(3):
        await store.append([Append(etl_context_id=id_, event=Event(type=":A")) for id_ in ids])
    second, _ = await rest(feed, cursor, limit)
    assert [event.etl_context_id for event in first] == ids
    assert [event.etl_context_id for event in second] == ids * 3


async def test_a_page_costs_what_it_shows_and_not_what_is_left(store: EventStore) -> None:
    """Once those are shown that committed late: they may be anywhere among what was written since."""
    feed, id_, behind = Feed(store.database), await begun(store), 400
    _, start = await rest(feed, None)
    for number in range(behind):
        await store.append([Append(etl_context_id=id_, event=Event(type=":A", payload=number))])
    page = await feed.page(start, limit=10)
    shown, showing, place = page.cursor.shown, page.cursor.showing, page.cursor
    assert shown is not None
    assert showing is not None
    arguments = (shown.snapshot, shown.last, showing.snapshot, showing.last, place.after, 10)
    assert await _touched(store, "feed_difference", *arguments) < behind // 2


@pytest.mark.parametrize("at_once", [1, 1000])
async def test_a_look_costs_what_is_new_and_not_the_log(store: EventStore, at_once: int) -> None:
    """However many events one transaction wrote: the planner takes that for what any other may have written."""
    feed, id_, long_ago = Feed(store.database), await begun(store), 2000
    for _ in range(long_ago // at_once):
        await store.append([Append(etl_context_id=id_, event=Event(type=":A")) for _ in range(at_once)])
    before = (await feed.now()).shown
    await store.append([Append(etl_context_id=id_, event=Event(type=":A"))])
    now = (await feed.now()).shown
    assert before is not None
    assert now is not None
    arguments = (before.snapshot, before.last, now.snapshot, now.last, 0, 1000)
    assert await _touched(store, "feed_difference", *arguments) < long_ago // 10
    assert await _touched(store, "appended_since", before.snapshot, before.last, [1.0]) < long_ago // 10


async def _touched(store: EventStore, statement: str, *arguments: Any) -> int:
    """How many rows a statement looks at, in all steps of its plan."""
    async with store.database.connection() as connection:
        await connection.execute("ANALYZE data_manager.event_store; SET enable_seqscan = off")
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query(statement)}", *arguments)
        await connection.execute("RESET enable_seqscan")
    return rows_of(explained[0]["Plan"])


def rows_of(node: dict[str, Any]) -> int:
    """How many rows a plan touched, those among them that it did not want."""
    own = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return math.ceil(own * node["Actual Loops"]) + sum(map(rows_of, node.get("Plans", ())))


async def test_of_overlapping_writers_every_event_is_shown_once_and_in_order(store: EventStore) -> None:
    feed, dice = Feed(store.database), random.Random(7)
    ids = [await begun(store) for _ in range(6)]
    shown: list[RecordedEvent] = []

    async def write(id_: int) -> None:
        for number in range(12):
            async with store.database.connection() as connection, connection.transaction():
                appends = [Append(etl_context_id=id_, event=Event(type=":A", payload=number))]
                await store.append(appends, on=connection)
                await asyncio.sleep(dice.uniform(0, 0.02))
                if dice.random() < 0.3:
                    await connection.execute("SELECT pg_sleep(0.02)")

    async def read() -> None:
        cursor = None
        while len(shown) < 6 * 13:
            page = await feed.page(cursor, limit=dice.randint(1, 5))
            shown.extend(page.events)
            cursor = page.cursor

    async with asyncio.timeout(3 * SOON):
        await asyncio.gather(read(), *(write(id_) for id_ in ids))
    assert len({event.event_id for event in shown}) == len(shown) == 6 * 13
    by_context = defaultdict(list)
    for event in shown:
        by_context[event.etl_context_id].append(event.version)
    assert all(versions == list(range(1, 14)) for versions in by_context.values())


async def test_a_cursor_of_another_cluster_is_gone(store: EventStore) -> None:
    feed = Feed(store.database)
    cursor = (await feed.page()).cursor
    for changed in ({"system_id": cursor.system_id + 1}, {"timeline": cursor.timeline + 1}):
        with pytest.raises(CursorGone):
            await feed.page(msgspec.structs.replace(cursor, **changed))


async def test_a_cursor_that_has_seen_an_event_that_is_not_there_is_gone(store: EventStore) -> None:
    """Older files were put back: neither the cluster nor its timeline tells."""
    feed, id_ = Feed(store.database), await begun(store)
    cursor = (await feed.page()).cursor
    assert cursor.shown is not None
    later = msgspec.structs.replace(cursor.shown, last=cursor.shown.last + 1000)
    other = msgspec.structs.replace(cursor.shown, event_uuid=uuid4())
    for changed in ({"shown": later}, {"shown": other}, {"showing": later}):
        with pytest.raises(CursorGone):
            await feed.page(msgspec.structs.replace(cursor, **changed))
    await store.append([Append(etl_context_id=id_, event=Event(type=":A"))])
    assert [event.type for event in (await feed.page(cursor)).events] == [":A"]


async def test_events_of_a_database_that_was_restored_are_shown_from_the_beginning(store: EventStore) -> None:
    feed, id_ = Feed(store.database), await begun(store)
    async with store.database.connection() as connection:
        await connection.execute("ALTER TABLE data_manager.event_store DISABLE TRIGGER USER")
        await connection.execute("UPDATE data_manager.event_store SET txid = '999999999999'")  # of another cluster
        await connection.execute("ALTER TABLE data_manager.event_store ENABLE TRIGGER USER")
        await connection.execute("UPDATE data_manager.feed_epochs SET up_to_event_id = 1000000")
        await connection.execute("SELECT setval('data_manager.event_store_event_id_seq', 1000000)")
    shown, cursor = await rest(feed, None)
    assert [event.etl_context_id for event in shown] == [id_]
    await store.append([Append(etl_context_id=id_, event=Event(type=":AFTER"))])
    assert [event.type for event in (await rest(feed, cursor))[0]] == [":AFTER"]
