"""Two transactions at a time, each brought exactly to where it is in the other's way."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from damad import errors
from damad.eventstore.pools import Database
from damad.eventstore.schedule import Schedule
from damad.eventstore.store import Append, EventStore, NewTask
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY, Event

T = TypeVar("T")
HOST = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1"
SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""
INSERT = "INSERT INTO data_manager.event_store (etl_context_id, type, payload) VALUES ($1, $2, $3)"
LOCK = "SELECT FROM data_manager.etl_contexts WHERE etl_context_id = $1 FOR NO KEY UPDATE"

Plain = "asyncpg.Connection[Any]"


@pytest_asyncio.fixture
async def other(database: Database) -> AsyncIterator[Plain]:
    """A second connection of a program that does not know damad."""
    connection = await asyncpg.connect(database.dsn)
    yield connection
    connection.terminate()


@pytest.fixture
def schedule(database: Database) -> Schedule:
    return Schedule(database, HOST)


async def in_the_way(database: Database, first: Callable[[], Awaitable[None]], second: Awaitable[T]) -> T:
    """What `second` returns, if it waits for a lock (or has ended) before `first` is done."""
    late = asyncio.ensure_future(second)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(SOON):
        async with database.connection() as connection:
            while not late.done() and not await connection.fetchval(waiting):
                pass
        await first()
        return await late


async def begun(store: EventStore) -> int:
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL"))])
    return id_


def new_task(**settings: Any) -> NewTask:
    return NewTask(
        initial=Event(type=":INITIAL", meta={SETTINGS_KEY: {"worker": "ok.py", **settings}}, event_uuid=uuid4())
    )


async def claimed(store: EventStore, schedule: Schedule, *, lease: float) -> int:
    """A task that HOST has claimed with fence 1."""
    (queued,) = await store.queue([new_task()])
    await schedule.claim_one(queued.etl_context_id, holder="claimer", lease=lease)
    return queued.etl_context_id


async def take_over(store: EventStore, schedule: Schedule, id_: int, fence: int) -> None:
    async with store.transaction() as connection:
        await schedule.take_over(id_, fence, on=connection)


# --- appends ---


@pytest.mark.parametrize("type_", [":FINAL", ":A"])
async def test_who_inserts_while_another_has_not_committed_is_judged_after_it(
    store: EventStore, plain: Plain, other: Plain, type_: str
) -> None:
    id_ = await begun(store)
    first = plain.transaction()
    await first.start()
    await plain.execute(INSERT, id_, ":FINAL", None)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await in_the_way(store.database, first.commit, other.execute(INSERT, id_, type_, None))
    assert refused.value.sqlstate == "DA001", "it is told that nothing follows a :FINAL, and not that it was unlucky"
    assert [event.type for event in await store.read(id_)] == [":INITIAL", ":FINAL"]


async def test_the_same_event_sent_again_before_the_first_has_committed_is_the_same(store: EventStore) -> None:
    id_ = await begun(store)
    append = [Append(etl_context_id=id_, event=Event(type=":A", event_uuid=uuid4()))]
    async with store.database.connection() as connection:
        first = connection.transaction()
        await first.start()
        (recorded,) = await store.append(append, on=connection)
        (again,) = await in_the_way(store.database, first.commit, store.append(append))
    assert (recorded.replayed, again.replayed) == (False, True)
    assert again.event == recorded.event


@pytest.mark.parametrize("expected", [None, 1], ids=["at once", "one by one"])
async def test_an_append_to_many_contexts_locks_the_lowest_first(
    store: EventStore, plain: Plain, expected: int | None
) -> None:
    """So two of them cannot wait for each other: who waits for one has none that comes after it."""
    low, high = await begun(store), await begun(store)
    first = plain.transaction()
    await first.start()
    await plain.execute(LOCK, low)

    async def then() -> None:
        await plain.execute(f"{LOCK} NOWAIT", high)
        await first.commit()

    appends = [Append(etl_context_id=id_, event=Event(type=":A"), expected_version=expected) for id_ in (high, low)]
    await in_the_way(store.database, then, store.append(appends))
    assert [(await store.state(id_)).version for id_ in (low, high)] == [2, 2]


async def test_of_two_who_queue_with_one_key_at_once_the_second_gets_the_first_ones_task(store: EventStore) -> None:
    async with store.database.connection() as connection:
        first = connection.transaction()
        await first.start()
        (mine,) = await store.queue([new_task(idempotency_key="k")], on=connection)
        (theirs,) = await in_the_way(store.database, first.commit, store.queue([new_task(idempotency_key="k")]))
    assert (mine.created, theirs.created) == (True, False)
    assert theirs.etl_context_id == mine.etl_context_id


# --- claims and takeovers ---


async def test_a_claim_that_waited_for_another_takes_the_fence_after_it(
    store: EventStore, schedule: Schedule, plain: Plain
) -> None:
    (queued,) = await store.queue([new_task()])
    id_ = queued.etl_context_id
    first = plain.transaction()
    await first.start()
    await plain.execute(INSERT, id_, "dama/task:CLAIMED", json.dumps({"fence": 1, "host_id": HOST}))
    await plain.execute(INSERT, id_, "dama/task:RELEASED", None)
    await in_the_way(store.database, first.commit, schedule.claim_one(id_, holder="me", lease=60.0))
    assert [event.payload["fence"] for event in await store.read(id_, types=["dama/task:CLAIMED"])] == [1, 2]


async def test_a_lease_that_is_not_over_is_not_taken_over(store: EventStore, schedule: Schedule) -> None:
    id_ = await claimed(store, schedule, lease=60.0)
    with pytest.raises(errors.StaleFence):
        await take_over(store, schedule, id_, 1)


async def test_a_task_that_went_on_is_not_taken_over(store: EventStore, schedule: Schedule) -> None:
    id_ = await claimed(store, schedule, lease=0.0)
    await store.append([Append(etl_context_id=id_, event=Event(type="dama/task:RELEASED"), fence=1)])
    await schedule.claim_one(id_, holder="claimer", lease=0.0)
    with pytest.raises(errors.StaleFence):
        await take_over(store, schedule, id_, 1)
    await take_over(store, schedule, id_, 2)


async def test_a_takeover_that_waited_for_the_context_asks_again(
    store: EventStore, schedule: Schedule, plain: Plain
) -> None:
    id_ = await claimed(store, schedule, lease=0.0)
    first = plain.transaction()
    await first.start()
    await plain.execute(INSERT, id_, "dama/task:RELEASED", None)
    with pytest.raises(errors.StaleFence):
        await in_the_way(store.database, first.commit, take_over(store, schedule, id_, 1))


async def test_a_takeover_ends_the_sessions_of_that_run_and_no_others(store: EventStore, schedule: Schedule) -> None:
    """One of them may hold the very row that the takeover waits for: a worker that was stopped in a transaction."""
    id_ = await claimed(store, schedule, lease=0.0)
    names = [f"damad/{id_}/1", f"damad/{id_}0/1"]
    old, strange = [
        await asyncpg.connect(store.database.dsn, server_settings={"application_name": name}) for name in names
    ]
    await old.execute("BEGIN")
    await old.execute(LOCK, id_)
    async with asyncio.timeout(SOON):
        await take_over(store, schedule, id_, 1)
        there = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
        while await strange.fetchval(there, names[0]):
            pass
    old.terminate()
    await strange.close()
    assert (await verify(store.database)).mismatches == []
