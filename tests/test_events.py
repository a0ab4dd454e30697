"""What a worker and a front can do with events (contract, section 3)."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from damad import context, errors, events, tasks
from damad.eventstore import listener
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.model.event import Event

Here = Callable[..., AbstractContextManager[Any]]

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""


async def run_of(database: Database, id_: int) -> int:
    """Claims and starts a task as a scheduler and a runner do, and returns the fence of the run."""
    async with database.connection() as connection:
        await connection.execute("SELECT data_manager.claim_task($1, gen_random_uuid(), 'x', interval '1 min')", id_)
        fence = await connection.fetchval("SELECT fence FROM data_manager.dama_tasks WHERE etl_context_id = $1", id_)
    started = Event(type="dama/task:STARTED", payload={"attempt": 1, "pid": 1})
    await EventStore(database).append([Append(etl_context_id=id_, event=started, fence=fence)])
    return int(fence)


@pytest.fixture
async def running(here: Here, database: Database) -> dict[str, Any]:
    """A running task: what its context knows."""
    with here():
        id_ = await tasks.queue("ok.py")
    return {"etl_context_id": id_, "fence": await run_of(database, id_), "attempt": 1}


async def test_dispatch_returns_the_recorded_event(here: Here, running: dict[str, Any]) -> None:
    with here(**running):
        event = await events.dispatch({"type": ":LOADED", "payload": {"n": 1}})
        assert (event["type"], event["payload"], event["version"]) == (":LOADED", {"n": 1}, 4)
        assert event["etl_context_id"] == running["etl_context_id"] and event["_created_timestamp"].endswith("Z")
        assert (await events.read())[-1] == event


async def test_dispatch_sync_is_dispatch_for_sync_code(here: Here, running: dict[str, Any]) -> None:
    with here(**running):
        event = await asyncio.to_thread(events.dispatch_sync, {"type": ":LOADED"})
        assert (await events.read())[-1] == event


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"payload": 1},
        {"type": "no colon"},
        {"type": ":lower"},
        {"type": "dama/task:FAILED"},
        {"type": "x" * 256 + ":A"},
        {"type": ":A", "payload": float("nan")},
        {"type": ":A", "payload": b"bytes"},
        {"type": ":A", "payload": "\0"},
        {"type": ":A", "payload": 2**64},
        {"type": ":A", "meta": {"__dama_task_manager__": {}}},
        {"type": ":A", "extra": 1},
        "not an object",
        None,
    ],
)
async def test_what_is_no_event_is_refused_and_leaves_nothing(here: Here, running: dict[str, Any], event: Any) -> None:
    with here(**running):
        with pytest.raises(errors.InvalidInput):
            await events.dispatch(event)
        assert len(await events.read()) == 3


async def test_without_a_context_nothing_is_dispatched(here: Here) -> None:
    with pytest.raises(errors.NoContext):
        await events.dispatch({"type": ":A"})
    with here(), pytest.raises(errors.NoContext):
        await events.dispatch({"type": ":A"})


async def test_rows_and_events_of_a_transaction_exist_together(here: Here, running: dict[str, Any]) -> None:
    with here(**running):
        async with events.transaction() as db:
            await db.execute("CREATE TABLE mine (n int)")
            said = await events.dispatch({"type": ":MADE"})
            assert set(said) == {"event_uuid"}
            assert [event["type"] for event in await events.read()][-1] == "dama/task:STARTED"
        last = (await events.read())[-1]
        assert (last["type"], last["event_uuid"]) == (":MADE", said["event_uuid"])
        with pytest.raises(ZeroDivisionError):
            async with events.transaction() as db:
                await db.execute("INSERT INTO mine VALUES (1)")
                await events.dispatch({"type": ":INSERTED"})
                raise ZeroDivisionError
        async with events.transaction() as db:
            assert await db.fetchval("SELECT count(*) FROM mine") == 0
        assert (await events.read())[-1] == last


async def test_a_transaction_does_not_hold_its_context_before_its_end(here: Here, running: dict[str, Any]) -> None:
    with here(**running):
        async with events.transaction():
            await events.dispatch({"type": ":INSIDE"})
            async with asyncio.timeout(SOON):
                await events.append(running["etl_context_id"], [{"type": ":OUTSIDE"}])
        assert [event["type"] for event in await events.read()][-2:] == [":OUTSIDE", ":INSIDE"]


async def test_rows_of_a_run_that_lost_its_task_are_rolled_back(
    here: Here, running: dict[str, Any], database: Database
) -> None:
    with here(**running):
        with pytest.raises(errors.StaleFence):
            async with events.transaction() as db:
                await db.execute("CREATE TABLE mine (n int)")
                await events.dispatch({"type": ":MADE"})
                async with database.connection() as other:
                    id_, fence = running["etl_context_id"], running["fence"]
                    released = Event(type="dama/task:RELEASED")
                    await EventStore(database).append(
                        [Append(etl_context_id=id_, event=released, fence=fence)], on=other
                    )
                    await other.execute(
                        "SELECT data_manager.claim_task($1, gen_random_uuid(), 'y', interval '1 min')", id_
                    )
        async with events.transaction() as db:
            assert await db.fetchval("SELECT to_regclass('mine')") is None


async def test_final_waits_and_says_how_it_ended(here: Here, running: dict[str, Any], database: Database) -> None:
    id_, fence = running["etl_context_id"], running["fence"]
    store = EventStore(database)
    with here():
        with pytest.raises(TimeoutError):
            await events.final(id_, timeout=0.05)
        waiting = asyncio.create_task(events.final(id_, timeout=SOON))
        await store.append([Append(etl_context_id=id_, event=Event(type="x:FINAL", payload=1), fence=fence)])
        assert (await waiting)["payload"] == 1
        with pytest.raises(errors.NotFound):
            await events.final(4711)
        failed, cancelled = await tasks.queue("ok.py"), await tasks.queue("ok.py")
        await tasks.cancel(cancelled)
        with pytest.raises(errors.TaskCancelled):
            await events.final(cancelled, timeout=SOON)
        fence = await run_of(database, failed)
        ends = [Event(type="dama/task:ERROR", payload={"kind": "exception"}), Event(type="dama/task:FAILED")]
        await store.append([Append(etl_context_id=failed, event=event, fence=fence) for event in ends])
        with pytest.raises(errors.TaskFailed):
            await events.final(failed, timeout=SOON)


async def test_follow_gives_each_event_once_in_order_however_they_come(here: Here, store: EventStore) -> None:
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL"))])
    seen: list[int] = []

    async def read() -> None:
        async for event in events.follow(id_):
            seen.append(event.version)
            if event.type == ":FINAL":
                return

    with here():
        reading = asyncio.create_task(read())
        new = [Append(etl_context_id=id_, event=Event(type=":A", event_uuid=uuid4())) for _ in range(200)]
        await asyncio.gather(*(store.append([one]) for one in new))
        await store.append([Append(etl_context_id=id_, event=Event(type=":FINAL"))])
        async with asyncio.timeout(SOON):
            await reading
    assert seen == list(range(1, 203))


async def test_everything_gives_the_events_of_all_contexts_and_goes_on_live(here: Here, store: EventStore) -> None:
    ids = [await store.create_context() for _ in range(3)]
    for id_ in ids:
        await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL"))])
    with here():
        assert [event.etl_context_id async for event in events.everything()] == ids
        live = events.everything(live=True)
        for _ in ids:
            await anext(live)
        upcoming = asyncio.create_task(anext(live))
        await store.append([Append(etl_context_id=ids[0], event=Event(type=":LATE"))])
        async with asyncio.timeout(SOON):
            assert (await upcoming).type == ":LATE"


async def test_who_comes_back_after_the_last_event_that_was_there_waits_for_nothing_that_is_there_by_then(
    here: Here, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(*_: Any) -> bool:
        raise AssertionError("it waits for a hint or for a poll")

    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL"))])
    with here():
        async with aclosing(events.everything_after(live=True)) as shown:
            _, place = await anext(shown)
        await store.append([Append(etl_context_id=id_, event=Event(type=":LATE"))])
        monkeypatch.setattr(listener.Subscription, "wait", wait)
        async with aclosing(events.everything_after(place, live=True)) as shown:
            assert (await anext(shown))[0].type == ":LATE"


async def test_each_of_many_tasks_in_one_process_writes_to_its_own_context(here: Here, database: Database) -> None:
    with here():
        ids = [await tasks.queue("ok.py") for _ in range(10)]

    async def work(id_: int) -> None:
        with here(etl_context_id=id_):
            for _ in range(5):
                await asyncio.gather(
                    events.dispatch({"type": ":A", "payload": id_}),
                    asyncio.to_thread(events.dispatch_sync, {"type": ":A", "payload": id_}),
                )

    await asyncio.gather(*(work(id_) for id_ in ids))
    with here():
        for id_ in ids:
            assert {event["payload"] for event in (await events.read(id_))[1:]} == {id_}
    with pytest.raises(errors.NoContext):
        context.current()


async def test_a_task_that_outlives_the_transaction_it_was_started_in_loses_no_event(
    here: Here, running: dict[str, Any]
) -> None:
    go = asyncio.Event()

    async def late() -> dict[str, Any]:
        await go.wait()
        return await events.dispatch({"type": "x:LATE"})

    with here(**running):
        async with events.transaction():
            await events.dispatch({"type": "x:IN"})
            task = asyncio.create_task(late())
        go.set()
        assert (await task)["version"] == 5
        with pytest.raises(ZeroDivisionError):
            async with events.transaction():
                go.clear()
                task = asyncio.create_task(late())
                raise ZeroDivisionError
        go.set()
        await task
        assert [event["type"] for event in await events.read(after_version=3)] == ["x:IN", "x:LATE", "x:LATE"]


async def test_a_commit_that_is_refused_or_lost_says_so_in_damads_words(here: Here, running: dict[str, Any]) -> None:
    with here(**running):
        with pytest.raises(errors.DamadError, match="Postgres refused"):
            async with events.transaction() as db:
                await db.execute("CREATE TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
                await db.execute("INSERT INTO t VALUES (1), (1)")
        with pytest.raises(errors.Unavailable):
            async with events.transaction() as db:
                await events.dispatch({"type": "x:LOADED"})
                async with context.current().store.database.connection() as other:
                    await other.execute("SELECT pg_terminate_backend($1, 10000)", db.get_server_pid())
        assert (await tasks.status()).version == 3


async def test_what_a_worker_raises_in_a_transaction_arrives_as_it_was_raised(
    here: Here, running: dict[str, Any]
) -> None:
    with here(**running):
        with pytest.raises(asyncpg.UndefinedTableError):
            async with events.transaction() as db:
                await events.dispatch({"type": "x:LOADED"})
                await db.execute("SELECT * FROM nowhere")
        assert (await tasks.status()).version == 3


async def test_a_task_queued_in_a_transaction_is_queued_if_it_commits(here: Here, running: dict[str, Any]) -> None:
    with here(**running):
        async with events.transaction():
            kept = await tasks.queue("ok.py")
            with pytest.raises(errors.NotFound):
                await tasks.status(kept)
        assert (await tasks.status(kept)).state == "queued"
        with pytest.raises(ZeroDivisionError):
            async with events.transaction():
                gone = await tasks.queue("ok.py")
                raise ZeroDivisionError
        with pytest.raises(errors.NotFound):
            await tasks.status(gone)


async def test_an_unknown_context_has_no_end_to_wait_for(here: Here) -> None:
    with here(), pytest.raises(errors.NotFound):
        await events.final(4711, timeout=SOON)
