"""Tasks queued from plain SQL, by a program that does not know damad: one documented function."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from damad.eventstore.store import EventStore, TaskState
from damad.eventstore.verify import verify

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""


async def queue(plain: "asyncpg.Connection[Any]", worker: str, payload: Any = None, **settings: Any) -> int:
    given = [worker, json.dumps(payload), json.dumps(settings)]
    return int(await plain.fetchval("SELECT data_manager.queue_task($1, $2, $3)", *given))


async def test_it_queues_a_task_that_any_host_may_run(store: EventStore, plain: "asyncpg.Connection[Any]") -> None:
    id_ = int(await plain.fetchval("""SELECT data_manager.queue_task('load.py', '{"file": "stops.txt"}')"""))
    state = await store.state(id_)
    assert isinstance(state, TaskState)
    assert (state.worker, state.queue, state.state, state.host_id) == ("load.py", "default", "queued", None)
    (initial,) = await store.read(id_)
    assert (initial.type, initial.payload) == (":INITIAL", {"file": "stops.txt"})
    assert (await verify(store.database)).mismatches == []


async def test_it_takes_every_setting_and_what_stands_beside_them(
    store: EventStore, plain: "asyncpg.Connection[Any]"
) -> None:
    parent = await queue(plain, "all.py")
    settings = {"queue": "gtfs", "priority": 3, "start_after": "1h", "retry_limit": 0}
    id_ = await queue(plain, "one.py", None, **settings, parent_context_id=parent, meta={"by": "psql"})
    state = await store.state(id_)
    assert isinstance(state, TaskState)
    assert (state.parent_context_id, state.queue, state.priority, state.state) == (parent, "gtfs", 3, "scheduled")
    assert state.settings == {"worker": "one.py", **settings}
    (initial,) = await store.read(id_)
    assert isinstance(initial.meta, dict) and initial.meta["by"] == "psql"


async def test_it_is_queued_if_the_callers_transaction_commits(
    store: EventStore, plain: "asyncpg.Connection[Any]"
) -> None:
    await plain.execute("CREATE TABLE deliveries (file text, task bigint)")
    for commits in (False, True):
        transaction = plain.transaction()
        await transaction.start()
        id_ = await queue(plain, "load.py")
        await plain.execute("INSERT INTO deliveries VALUES ('stops.txt', $1)", id_)
        assert await store.tasks() == []
        await (transaction.commit() if commits else transaction.rollback())
        assert [task.etl_context_id for task in await store.tasks()] == ([id_] if commits else [])
    assert await plain.fetchval("SELECT array_agg(task) FROM deliveries") == [id_]


@pytest.mark.parametrize(
    ("worker", "settings", "named"),
    [
        ("", {}, "worker"),
        ("ok.py", {"priority": "high"}, "priority"),
        ("ok.py", {"start_after": "soon"}, "start_after"),
        ("ok.py", {"start_by": "soon"}, "start_by"),
        ("ok.py", {"singleton_key": 7}, "singleton_key"),
        ("ok.py", {"singleton_key": "k", "debounce": "2026-01-31T08:00:00Z"}, "debounce"),
        ("ok.py", {"debounce": "10s"}, "singleton_key"),
        ("ok.py", {"singleton_key": "k", "throttle": "often"}, "throttle"),
        ("ok.py", {"throttle": "10s"}, "singleton_key"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(
    store: EventStore, plain: "asyncpg.Connection[Any]", worker: str, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(asyncpg.PostgresError, match=f"the task setting {named} is missing or does not fit") as refused:
        await queue(plain, worker, None, **settings)
    assert refused.value.sqlstate == "DA007"
    assert await store.tasks() == []


@pytest.mark.parametrize("key", ["idempotency_key", "singleton_key"])
async def test_a_key_that_a_task_has_is_answered_with_that_one(plain: "asyncpg.Connection[Any]", key: str) -> None:
    first = await queue(plain, "ok.py", **{key: "k"})
    assert await queue(plain, "ok.py", **{key: "k"}) == first
    assert await queue(plain, "ok.py", **{key: "other"}) != first


@pytest.mark.parametrize("key", ["idempotency_key", "singleton_key"])
async def test_a_key_that_is_being_queued_is_waited_for(
    dsn: str, store: EventStore, plain: "asyncpg.Connection[Any]", key: str
) -> None:
    other = await asyncpg.connect(dsn)
    try:
        transaction = plain.transaction()
        await transaction.start()
        first = await queue(plain, "ok.py", **{key: "k"})
        second = asyncio.create_task(queue(other, "ok.py", **{key: "k"}))
        await _waits_for_a_lock(store, other.get_server_pid())
        await transaction.commit()
        async with asyncio.timeout(SOON):
            assert await second == first
    finally:
        await other.close(timeout=SOON)


async def _waits_for_a_lock(store: EventStore, pid: int) -> None:
    async with asyncio.timeout(SOON), store.database.connection() as connection:
        while not await connection.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
