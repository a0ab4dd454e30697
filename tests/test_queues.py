"""What is claimed from a queue for which limits are set, or that is paused; and what is in it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from daemon_support import until

from damad import queues, tasks
from damad.config import Config
from damad.context import EtlContext
from damad.eventstore import intents, leases
from damad.eventstore.pools import Database
from damad.eventstore.schedule import FreeSlots, Schedule
from damad.eventstore.store import Append, EventStore, NewTask, TaskState
from damad.model.event import SETTINGS_KEY, Event
from damad.scheduler.bulkhead import Bulkhead
from damad.scheduler.claims import Claims
from damad.scheduler.clock import Clock

HOST, ELSEWHERE = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1", "0d9d5b5e-7d5b-4b37-a3a5-5a3a5d0c2c11"


@pytest.fixture
def schedule(database: Database) -> Schedule:
    """The tasks as HOST sees them."""
    return Schedule(database, HOST)


async def queued(store: EventStore, *keys: str | None, **settings: Any) -> list[int]:
    """A task of queue `etl` for each of these concurrency_keys."""
    given = [
        {"worker": "ok.py", "queue": "etl", **settings} | ({} if key is None else {"concurrency_key": key})
        for key in keys
    ]
    initials = [Event(type=":INITIAL", meta={SETTINGS_KEY: each}, event_uuid=uuid4()) for each in given]
    return [done.etl_context_id for done in await store.queue([NewTask(initial=initial) for initial in initials])]


async def retrying(store: EventStore, *keys: str | None, **settings: Any) -> list[int]:
    """Tasks that failed once and whose time has come again."""
    ids = await queued(store, *keys, **settings)
    for id_ in ids:
        course = [
            Event(type="dama/task:CLAIMED", payload={"fence": 1}),
            Event(type="dama/task:STARTED", payload={"attempt": 1}),
            Event(type="dama/task:ERROR", payload={"kind": "exit"}),
            Event(type="dama/task:RETRY", payload={"run_at": "2020-01-31T08:00:00Z"}),
        ]
        await store.append([Append(etl_context_id=id_, event=event) for event in course])
    return ids


async def append(store: EventStore, id_: int, type_: str, payload: Any) -> None:
    event = Event(type=f"dama/task:{type_}", payload=payload)
    await store.append([Append(etl_context_id=id_, event=event)])


async def claim(schedule: Schedule, slots: int = 100) -> list[int]:
    claimed = await schedule.claim_within_limits(FreeSlots("etl", slots), holder="me", lease=60.0)
    return [task.etl_context_id for task in claimed]


async def claim_plainly(schedule: Schedule) -> list[int]:
    """As whoever does not know that anything is set for the queue."""
    claimed = await schedule.claim([FreeSlots("etl", 100)], holder="me", lease=60.0)
    return [task.etl_context_id for task in claimed]


async def end(store: EventStore, *ids: int) -> None:
    for id_ in ids:
        await store.append([Append(etl_context_id=id_, event=Event(type=":FINAL"))])


async def test_of_each_key_no_more_run_at_a_time_than_its_queue_says(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"key_concurrency": 2})
    a = await queued(store, *"aaaa")
    b = await queued(store, *"bbb")
    free = await queued(store, None, None, None)
    assert set(await claim(schedule)) == {*a[:2], *b[:2], *free}
    assert await claim(schedule) == []
    await end(store, a[0], b[1])
    assert set(await claim(schedule)) == {a[2], b[2]}


async def test_a_key_is_served_in_the_order_of_priority_and_age(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"key_concurrency": 1})
    (late,) = await queued(store, "a")
    (first,) = await queued(store, "a", priority=5)
    (beside,) = await queued(store, "b", priority=1)
    assert await claim(schedule, 1) == [first]
    assert await claim(schedule, 1) == [beside]
    assert await claim(schedule, 1) == []
    await end(store, first)
    assert await claim(schedule, 1) == [late]


async def test_nobody_waits_behind_a_key_that_is_full_however_many_wait_for_it(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"key_concurrency": 1})
    first, *_ = await queued(store, *["a"] * 1001)
    behind = await queued(store, "b", "c", "c")
    assert await claim(schedule) == [first, *behind[:2]]


async def test_a_retry_that_is_due_counts_with_the_queued_of_its_key(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"key_concurrency": 2})
    due = await retrying(store, *"aaa")
    await queued(store, "a")
    await queued(store, *"aa", start_after=3600)
    assert await claim(schedule) == due[:2]
    await end(store, *due[:2])
    assert len(await claim(schedule)) == 2


async def test_the_limit_of_a_queue_counts_over_all_hosts(
    ctx: EtlContext, store: EventStore, schedule: Schedule, database: Database
) -> None:
    await queues.change("etl", {"global_concurrency": 3})
    ids = await queued(store, *[None] * 6)
    assert len(await claim(schedule, 2)) == 2
    assert len(await claim(Schedule(database, ELSEWHERE))) == 1
    assert await claim(schedule) == await claim(Schedule(database, ELSEWHERE)) == []
    await end(store, ids[0])
    assert await claim(schedule) == [ids[3]]


async def test_many_that_claim_at_once_never_pass_a_limit(
    ctx: EtlContext, store: EventStore, database: Database
) -> None:
    await queues.change("etl", {"global_concurrency": 5, "key_concurrency": 2})
    await queued(store, *"abcd" * 10)
    hosts = [Schedule(database, str(uuid4())) for _ in range(12)]
    claimed = await asyncio.gather(*[claim(host, 3) for host in hosts])
    assert len([id_ for ids in claimed for id_ in ids]) == 5
    held = [state for state in await store.tasks(states=["claimed"]) if isinstance(state, TaskState)]
    keys = [state.settings["concurrency_key"] for state in held]
    assert max(keys.count(key) for key in keys) <= 2


async def test_whoever_claims_waits_for_the_claim_before_and_counts_it(
    ctx: EtlContext, store: EventStore, schedule: Schedule, plain: "asyncpg.Connection[Any]"
) -> None:
    await queues.change("etl", {"global_concurrency": 1})
    first, _ = await queued(store, None, None)
    arguments = "'etl', 1, 1, false, $1, 'me', interval '1 minute', '{}', NULL"
    async with plain.transaction():
        rows = await plain.fetch(f"SELECT * FROM data_manager.claim_within_limits({arguments})", ELSEWHERE)
        assert [row["etl_context_id"] for row in rows] == [first]
        second = asyncio.create_task(claim(schedule))
        await waits_for_a_lock(store.database)
    assert await second == []


async def waits_for_a_lock(database: Database) -> None:
    """Returns once some session of the database waits for a lock."""
    waiting = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    async with database.connection() as connection:
        await until(lambda: connection.fetchval(waiting))


async def test_a_run_that_waits_for_others_counts_for_no_limit(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"global_concurrency": 1, "key_concurrency": 1})
    parent, child = await queued(store, "a", "a")
    assert await claim(schedule) == [parent]
    assert await claim(schedule) == []
    await leases.set_waiting(store.database, parent, 1, True)
    assert await claim(schedule) == [child]


async def test_what_somebody_holds_is_passed_by_within_limits(
    ctx: EtlContext, store: EventStore, schedule: Schedule, plain: "asyncpg.Connection[Any]"
) -> None:
    await queues.change("etl", {"key_concurrency": 1})
    held, free = await queued(store, "a", "a")
    async with plain.transaction():
        await plain.execute("SELECT FROM data_manager.etl_contexts WHERE etl_context_id = $1 FOR NO KEY UPDATE", held)
        assert await claim(schedule) == [free]


@pytest.mark.parametrize("make", [queued, retrying])
async def test_within_limits_too_a_task_runs_on_its_own_host_and_where_nobody_wants_it_cancelled(
    ctx: EtlContext, store: EventStore, schedule: Schedule, make: Callable[..., Awaitable[list[int]]]
) -> None:
    await queues.change("etl", {"key_concurrency": 9})
    await make(store, "a", dama_host_id=ELSEWHERE)
    mine, cancelled, left_out, anyones = [
        *await make(store, "a", "a", "a", dama_host_id=HOST), *await make(store, "a")
    ]  # fmt: skip
    await intents.note_cancel(store.database, cancelled)
    claimed = await schedule.claim_within_limits(FreeSlots("etl", 9), holder="me", lease=60.0, leave_out=[left_out])
    assert [task.etl_context_id for task in claimed] == [mine, anyones]
    shared = FreeSlots("etl", 1, shared=True)
    assert len(await schedule.claim_within_limits(shared, holder="me", lease=60.0)) == 1


async def test_a_queue_that_somebody_holds_keeps_no_other_waiting(
    ctx: EtlContext, store: EventStore, dsn: str, tmp_path: Path, plain: "asyncpg.Connection[Any]"
) -> None:
    await queues.change("etl", {"rate": "9/1h"})
    await queued(store, None)
    (free,) = await queued(store, None, queue="zoo")
    impatient = Database("local", dsn, lock_timeout=0.2)
    claims = claims_of(impatient, tmp_path)
    async with plain.transaction():
        await plain.execute("SELECT FROM data_manager.dama_queues WHERE name = 'etl' FOR UPDATE")
        assert [task.etl_context_id for task in await claims.fill({}, [])] == [free]
    await impatient.close()


async def test_a_rate_lets_as_many_begin_as_it_says_and_then_one_after_another_by_the_clock_of_postgres(
    ctx: EtlContext, store: EventStore, schedule: Schedule, plain: "asyncpg.Connection[Any]"
) -> None:
    await queues.change("etl", {"rate": "3/1h"})
    ids = await queued(store, *[None] * 9)
    assert await claim(schedule, 2) == ids[:2]
    assert await claim(schedule) == ids[2:3]
    assert await claim(schedule) == []
    (work,) = await schedule.queues_with_work()
    assert work.wait is not None and 1100 < work.wait <= 1200
    await later(plain, "20 minutes")
    (work,) = await schedule.queues_with_work()
    assert work.wait is None
    assert await claim(schedule) == ids[3:4]
    await later(plain, "10 hours")
    assert await claim(schedule) == ids[4:7]  # the bucket holds no more than the rate says


async def test_a_key_rate_lets_as_many_of_each_key_begin_as_it_says_and_then_one_after_another(
    ctx: EtlContext, store: EventStore, schedule: Schedule, plain: "asyncpg.Connection[Any]"
) -> None:
    await queues.change("etl", {"key_rate": "2/1h"})
    a, b, free = await queued(store, *"aaaaaa"), await queued(store, *"bbb"), await queued(store, None, None, None)
    assert await claim(schedule, 1) == a[:1]
    assert set(await claim(schedule)) == {a[1], *b[:2], *free}
    assert await claim(schedule) == []
    (work,) = await schedule.queues_with_work()
    assert work.wait is None
    assert work.key_wait is not None and 1700 < work.key_wait <= 1800
    await later(plain, "30 minutes")
    (work,) = await schedule.queues_with_work()
    assert work.key_wait is None
    assert set(await claim(schedule)) == {a[2], b[2]}
    await later(plain, "10 hours")
    assert await claim(schedule) == a[3:5]  # the bucket of a key holds no more than the rate says


async def test_the_rate_of_a_key_counts_what_begins_on_any_host_and_a_retry_too(
    ctx: EtlContext, store: EventStore, schedule: Schedule, database: Database
) -> None:
    await queues.change("etl", {"key_rate": "3/1h", "key_concurrency": 2, "rate": "100/1h"})
    due = await retrying(store, "a")
    ids = await queued(store, *"aaa")
    assert await claim(schedule, 1) == due
    assert await claim(Schedule(database, ELSEWHERE)) == ids[:1]
    assert await claim(schedule) == []  # two of the key run
    await end(store, due[0], ids[0])
    assert await claim(schedule) == ids[1:2]  # and three began


async def test_nobody_waits_behind_a_key_whose_rate_is_used_up_however_many_wait_for_it(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"key_rate": "1/1h"})
    first, *_ = await queued(store, *["a"] * 1001)
    behind = await queued(store, "b", "c", "c")
    assert await claim(schedule) == [first, *behind[:2]]


async def test_a_key_that_nothing_was_claimed_of_for_long_is_forgotten(
    ctx: EtlContext, store: EventStore, schedule: Schedule, plain: "asyncpg.Connection[Any]"
) -> None:
    await queues.change("etl", {"key_rate": "4/1h"})
    await queued(store, *"aaab")
    assert len(await claim(schedule, 2)) == 2
    await later(plain, "15 minutes")
    assert len(await claim(schedule, 1)) == 1
    left = await plain.fetch("SELECT key, round(tokens) AS tokens FROM data_manager.dama_key_tokens")
    assert [(row["key"], row["tokens"]) for row in left] == [("a", 2)]
    await later(plain, "1 hour")
    assert len(await claim(schedule)) == 1
    left = await plain.fetch("SELECT key, round(tokens) AS tokens FROM data_manager.dama_key_tokens")
    assert [(row["key"], row["tokens"]) for row in left] == [("b", 3)]


async def test_who_waits_for_the_rate_of_a_key_keeps_no_other_waiting_and_knows_when_to_look(
    ctx: EtlContext, store: EventStore, database: Database, tmp_path: Path
) -> None:
    await queues.change("etl", {"key_rate": "1/1h"})
    used, _ = await queued(store, *"aa")
    claims = claims_of(database, tmp_path)
    assert [task.etl_context_id for task in await claims.fill({}, [])] == [used]
    (other,) = await queued(store, "b")
    moments: list[float] = []
    assert [task.etl_context_id for task in await claims.fill({}, moments)] == [other]
    (moment,) = moments
    assert 3500 < moment <= 3600


async def later(connection: "asyncpg.Connection[Any]", how_much: str) -> None:
    """The same as if so much time had gone by since the last claim."""
    for table in ("dama_queues", "dama_key_tokens"):
        await connection.execute(
            f"UPDATE data_manager.{table} SET tokens_at = tokens_at - $1::text::interval", how_much
        )


async def test_nothing_is_claimed_from_a_paused_queue_however_it_is_asked_for(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    ids = await queued(store, None, None)
    await queues.pause("etl")
    assert await claim(schedule) == await claim_plainly(schedule) == []
    await queues.resume("etl")
    assert await claim_plainly(schedule) == ids


@pytest.mark.parametrize(
    "limit", [{"global_concurrency": 1}, {"key_concurrency": 1}, {"rate": "1/1h"}, {"key_rate": "1/1h"}]
)
@pytest.mark.parametrize("due", [False, True])
async def test_who_does_not_know_of_a_limit_claims_nothing(
    ctx: EtlContext, store: EventStore, schedule: Schedule, limit: dict[str, Any], due: bool
) -> None:
    if due:
        await retrying(store, "a", "a")
    else:
        await queued(store, "a", "a")
    await queues.change("etl", limit)
    assert await claim_plainly(schedule) == []
    assert len(await claim(schedule)) == 1


def claims_of(database: Database, folder: Path, host: str | None = HOST) -> Claims:
    """What a supervisor claims with."""
    return Claims(
        EventStore(database), Schedule(database, host or HOST), settings=Config(state_dir=folder), holder="me",
        clock=Clock(), bulkhead=Bulkhead(),
    )  # fmt: skip


async def test_subtasks_that_run_without_a_daemon_keep_to_what_is_set_for_their_queues(
    ctx: EtlContext, store: EventStore, schedule: Schedule, tmp_path: Path
) -> None:
    for name, fields in {
        "etl": {"key_concurrency": 1},
        "still": {"paused": True},
        "narrow": {"concurrency": 2},
    }.items():
        await queues.change(name, fields)
    parent = await tasks.queue("ok.py")
    (other,) = await queued(store, "b")
    here = {"parent_context_id": parent}
    of_a_key = [await tasks.queue("ok.py", queue="etl", concurrency_key="a", **here) for _ in range(2)]
    await tasks.queue("ok.py", queue="still", **here)
    narrow = [await tasks.queue("ok.py", queue="narrow", **here) for _ in range(3)]
    claims = claims_of(store.database, tmp_path, ctx.here.host_id)
    claims.learn((await schedule.held()).queues)
    assert await claims.descendants(parent, []) == {of_a_key[0], *narrow[:2]}
    assert other not in await claims.descendants(parent, [])


async def test_a_queue_tells_what_is_in_it(ctx: EtlContext, store: EventStore, schedule: Schedule) -> None:
    await queued(store, None, None, None)
    await queued(store, None, start_after=3600)
    waits, _ = await schedule.claim([FreeSlots("etl", 2)], holder="me", lease=60.0)
    await append(store, waits.etl_context_id, "STARTED", {"attempt": 1})
    await append(store, waits.etl_context_id, "WAITING", {"for": "sleep", "until": "2150-01-31T08:00:00Z"})
    default, etl = await queues.every()
    assert (default.name, default.depth, default.running, default.states) == ("default", 0, 0, {})
    assert (etl.name, etl.depth, etl.running) == ("etl", 1, 1)
    assert etl.states == {"queued": 1, "scheduled": 1, "claimed": 1, "waiting": 1}
    assert etl.oldest_age is not None and etl.oldest_age >= 0
    await queues.change("other", {})
    assert [queue.name for queue in await queues.every()] == ["default", "etl", "other"]
