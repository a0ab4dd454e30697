"""Hints from Postgres: they wake whoever waits, and none that is lost stops anybody."""

import asyncio
from typing import Any

import pytest

from damad.backoff import Backoff
from damad.errors import Unavailable
from damad.eventstore import listener
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.model.event import SETTINGS_KEY, Event

LONG = 30.0
"""A wait that ends by a hint or makes the test fail."""


@pytest.fixture(autouse=True)
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is woken but by a hint, and the listener learns of nothing by a ping."""
    monkeypatch.setattr(listener, "DEAF_INTERVAL", LONG)
    monkeypatch.setattr(listener, "PING_INTERVAL", 10 * LONG)
    monkeypatch.setattr(listener, "PING_TIMEOUT", LONG)


async def context_with(store: EventStore, *types: str) -> int:
    id_ = await store.create_context()
    for type_ in types:
        await store.append([Append(etl_context_id=id_, event=Event(type=type_))])
    return id_


async def silent(bell: listener.Subscription) -> None:
    """Whatever rang before is over."""
    while await bell.wait(0):
        pass


async def test_an_event_wakes_those_who_wait_for_its_context_and_for_all(database: Database, store: EventStore) -> None:
    id_, other = await context_with(store, ":INITIAL"), await context_with(store, ":INITIAL")
    ear = database.listener()
    with (
        ear.subscribe(listener.EVENT, id_) as mine,
        ear.subscribe(listener.EVENT) as every,
        ear.subscribe(listener.EVENT, other) as others,
        ear.subscribe(listener.TASK) as task,
    ):
        assert await ear.proves(LONG)
        for bell in (mine, every, others, task):
            await silent(bell)
        await store.append([Append(etl_context_id=id_, event=Event(type=":A"))])
        assert await mine.wait(LONG) and await every.wait(LONG)
        assert not await others.wait(0) and not await task.wait(0)


async def test_what_a_scheduler_may_act_upon_wakes_it(database: Database, store: EventStore) -> None:
    id_ = await store.create_context()
    with database.listener().subscribe(listener.TASK) as bell:
        assert await database.listener().proves(LONG)
        await silent(bell)
        meta = {SETTINGS_KEY: {"worker": "ok.py"}}
        await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL", meta=meta))])
        assert await bell.wait(LONG)
        for types in (["dama/task:CANCEL_REQUESTED"], ["dama/task:CANCELLED"], ["dama/task:REQUEUED"], [":FINAL"]):
            await store.append([Append(etl_context_id=id_, event=Event(type=type_)) for type_ in types])
            assert await bell.wait(LONG), types


async def test_a_bell_that_rang_before_anybody_waited_is_heard_once(database: Database, store: EventStore) -> None:
    id_ = await context_with(store, ":INITIAL")
    with (
        database.listener().subscribe(listener.EVENT, id_) as bell,
        database.listener().subscribe(listener.EVENT, id_) as second,
    ):
        assert await database.listener().proves(LONG)
        await silent(bell)
        await silent(second)
        for _ in range(3):
            await store.append([Append(etl_context_id=id_, event=Event(type=":A"))])
        assert await second.wait(LONG)
        assert await bell.wait(LONG)


async def test_a_listener_whose_connection_ends_comes_back_and_wakes_everybody(
    database: Database, store: EventStore, plain: Any
) -> None:
    id_ = await context_with(store, ":INITIAL")
    with database.listener().subscribe(listener.EVENT, id_) as bell:
        assert await database.listener().proves(LONG)
        await silent(bell)
        # The listener's last statement is its own NOTIFY.
        killed = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE 'NOTIFY %DAMAD_PING%'"
        )
        assert await plain.fetchval(killed)
        assert await bell.wait(LONG), "a hint may have been lost meanwhile"
        await store.append([Append(etl_context_id=id_, event=Event(type=":A"))])
        assert await bell.wait(LONG)


async def test_a_listener_that_hears_again_pauses_but_briefly_the_next_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    story: list[str] = []
    again = asyncio.Event()

    class Told(Backoff):
        def reset(self) -> None:
            story.append("reset")
            again.set()
            super().reset()

        async def pause(self) -> None:
            story.append("pause")
            await super().pause()

    async def at_the_third_time() -> Any:
        if story.count("pause") < 2:
            raise Unavailable("not yet")
        return await database.connect()

    monkeypatch.setattr(listener, "Backoff", Told)
    ear = listener.Listener(at_the_third_time)
    try:
        with ear.subscribe(listener.EVENT):
            async with asyncio.timeout(LONG):
                await again.wait()  # and not only once the connection ends well
            assert story == ["pause", "pause", "reset"]
    finally:
        await ear.close()


async def test_a_listener_that_hears_nothing_knows_it_and_its_subscribers_poll(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that shares connections: LISTEN is taken and NOTIFY too, and no hint comes."""

    async def deaf() -> Any:
        connection = await database.connect()
        await connection.execute("BEGIN")  # what is listened to and notified inside takes effect when it commits
        return connection

    monkeypatch.setattr(listener, "PING_TIMEOUT", 0.2)
    ear = listener.Listener(deaf)
    try:
        with ear.subscribe(listener.EVENT) as bell:
            assert await bell.wait(LONG), "it was woken when the connection was there"
            assert not await ear.proves(1.0)
            monkeypatch.setattr(listener, "DEAF_INTERVAL", 0.2)
            async with asyncio.timeout(LONG):
                assert not await bell.wait(10 * LONG)
    finally:
        await ear.close()


async def test_what_is_rolled_back_wakes_nobody_and_progress_neither(
    database: Database, store: EventStore, plain: Any
) -> None:
    id_ = await context_with(store)
    meta = {SETTINGS_KEY: {"worker": "ok.py"}}
    claimed = {"fence": 1, "host_id": None}
    await store.append(
        [
            Append(etl_context_id=id_, event=Event(type=":INITIAL", meta=meta)),
            Append(etl_context_id=id_, event=Event(type="dama/task:CLAIMED", payload=claimed)),
            Append(etl_context_id=id_, event=Event(type="dama/task:STARTED", payload={"attempt": 1})),
        ]
    )
    heard: list[str] = []
    await plain.add_listener(listener.EVENT, lambda *said: heard.append(str(said[-1])))
    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as connection:
            event = Append(etl_context_id=id_, event=Event(type=":A"))
            await store.append([event], on=connection)
            raise ZeroDivisionError
    await store.append([Append(etl_context_id=id_, event=Event(type="dama/task:PROGRESS", payload={}))])
    other = await context_with(store, ":INITIAL")
    async with asyncio.timeout(LONG):
        while not heard:
            await plain.execute("SELECT 1")
    assert heard == [str(other)]


async def test_a_listener_that_is_closed_leaves_no_connection(database: Database, plain: Any) -> None:
    with database.listener().subscribe(listener.EVENT):
        assert await database.listener().proves(LONG)
    await database.close()
    listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with asyncio.timeout(LONG):
        while await plain.fetchval(listening):
            pass
