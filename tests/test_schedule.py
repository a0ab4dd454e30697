"""Claims and leases: who may run a task, in which order, and until when."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from damad import config, errors
from damad.eventstore import leases
from damad.eventstore.pools import Database
from damad.eventstore.schedule import FreeSlots, Schedule
from damad.eventstore.store import Append, EventStore, NewTask
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY, Event
from damad.scheduler import decisions
from damad.scheduler.observation import held_task as held
from damad.scheduler.supervisor import Supervisor

HOST, ELSEWHERE = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1", "0d9d5b5e-7d5b-4b37-a3a5-5a3a5d0c2c11"
SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""


@pytest.fixture
def schedule(database: Database) -> Schedule:
    """The tasks as HOST sees them."""
    return Schedule(database, HOST)


async def queued(store: EventStore, host: str | None = HOST, **settings: Any) -> int:
    given = {"worker": "ok.py", **settings} | ({} if host is None else {"dama_host_id": host})
    initial = Event(type=":INITIAL", meta={SETTINGS_KEY: given}, event_uuid=uuid4())
    return (await store.queue([NewTask(initial=initial)]))[0].etl_context_id


async def retrying(store: EventStore, host: str | None = HOST) -> int:
    """A task that failed once and whose time has come again."""
    id_ = await queued(store, host)
    await append(store, id_, "dama/task:CLAIMED", payload={"fence": 1, "host_id": host})
    await append(store, id_, "dama/task:STARTED", payload={"attempt": 1})
    failed = Event(type="dama/task:ERROR", payload={"kind": "exit"})
    again = Event(type="dama/task:RETRY", payload={"run_at": "2020-01-31T08:00:00Z"})
    await store.append([Append(etl_context_id=id_, event=event, fence=1) for event in (failed, again)])
    return id_


async def claim(schedule: Schedule, slots: int = 10, *, queue: str = "default", **given: Any) -> list[int]:
    free = FreeSlots(queue, slots, given.pop("shared", False))
    return [task.etl_context_id for task in await schedule.claim([free], **{"holder": "me", "lease": 60.0, **given})]


async def append(store: EventStore, id_: int, *types: str, payload: Any = None, fence: int | None = None) -> None:
    events = [Event(type=type_, payload=payload) for type_ in types]
    await store.append([Append(etl_context_id=id_, event=event, fence=fence) for event in events])


async def test_higher_priority_is_claimed_first_and_the_oldest_of_equal_ones(
    store: EventStore, schedule: Schedule
) -> None:
    ids = [await queued(store, priority=priority) for priority in (0, 5, 0, 5, -1, 7)]
    order = [ids[place] for place in (5, 1, 3, 0, 2, 4)]
    assert [(await claim(schedule, 1))[0] for _ in range(3)] == order[:3]
    assert set(await claim(schedule, 2)) == set(order[3:5])
    assert await claim(schedule) == order[5:]
    assert await claim(schedule) == []


async def test_a_retry_that_is_due_stands_in_one_order_with_the_queued(store: EventStore, schedule: Schedule) -> None:
    ids = [await made(store) for made in (queued, retrying, queued, retrying, queued)]
    assert [(await claim(schedule, 1))[0] for _ in range(2)] == ids[:2]
    assert await claim(schedule) == ids[2:]


@pytest.mark.parametrize("ready", [queued, retrying])
async def test_a_task_runs_on_the_host_that_queued_it_unless_its_queue_is_shared(
    store: EventStore, schedule: Schedule, ready: Callable[..., Awaitable[int]]
) -> None:
    mine, theirs, anyones = [await ready(store, host) for host in (HOST, ELSEWHERE, None)]
    assert set(await claim(schedule)) == {mine, anyones}
    assert await claim(schedule) == []
    assert await claim(schedule, shared=True) == [theirs]


async def test_each_queue_is_claimed_for_itself(store: EventStore, schedule: Schedule) -> None:
    first, second = await queued(store, queue="one"), await queued(store, queue="two")
    assert {work.queue for work in await schedule.queues_with_work()} == {"one", "two"}
    assert await claim(schedule, queue="one") == [first]
    assert [work.queue for work in await schedule.queues_with_work()] == ["two"]
    assert await claim(schedule, queue="two") == [second]
    assert await schedule.queues_with_work() == []


async def test_a_task_waits_for_its_time(store: EventStore, schedule: Schedule) -> None:
    now = (await schedule.held()).at
    assert await schedule.next_due(looked_at=now) is None
    for seconds in (7200, 3600):
        await queued(store, start_after=seconds)
    due = await schedule.next_due(looked_at=now)
    assert due is not None and due <= 3600
    soon = await queued(store, start_after=0.2)
    async with asyncio.timeout(SOON):
        while not (claimed := await claim(schedule)):
            assert (await schedule.next_due(looked_at=now) or 0) <= 3600
    assert claimed == [soon]


@pytest.mark.parametrize("ready", [queued, retrying])
async def test_a_context_that_somebody_holds_is_left_out_and_not_waited_for(
    store: EventStore,
    schedule: Schedule,
    plain: "asyncpg.Connection[Any]",
    ready: Callable[..., Awaitable[int]],
) -> None:
    held, free = await ready(store), await ready(store)
    async with plain.transaction():
        await plain.execute("SELECT FROM data_manager.etl_contexts WHERE etl_context_id = $1 FOR NO KEY UPDATE", held)
        async with asyncio.timeout(SOON):
            assert await claim(schedule, 1) == [free]
    assert await claim(schedule, 1) == [held]


async def test_many_who_claim_at_once_claim_each_task_once(store: EventStore, schedule: Schedule) -> None:
    ids = {await queued(store) for _ in range(30)}
    claimed = await asyncio.gather(*(claim(schedule, 7, holder=f"h{n}") for n in range(10)))
    together = [id_ for some in claimed for id_ in some]
    assert sorted(together) == sorted(set(together))
    together += await claim(schedule, 30)
    assert set(together) == ids and len(together) == 30
    assert (await verify(store.database)).mismatches == []


async def test_a_claim_raises_the_fence_and_gives_a_lease(store: EventStore, schedule: Schedule) -> None:
    id_ = await queued(store)
    for fence in (1, 2):
        await claim(schedule)
        assert [(task.fence, task.holder) for task in (await schedule.held()).tasks] == [(fence, "me")]
        claimed = (await store.read(id_))[-1]
        assert claimed.type == "dama/task:CLAIMED"
        assert (claimed.payload["fence"], claimed.payload["host_id"]) == (fence, HOST)
        assert claimed.payload["lease_until"] > claimed.created_timestamp.isoformat()
        await append(store, id_, "dama/task:RELEASED", fence=fence)
        assert not await leases.renew(store.database, id_, fence, 60.0)


async def test_a_lease_is_renewed_by_its_fence_only(store: EventStore, schedule: Schedule) -> None:
    id_, database = await queued(store), store.database
    await claim(schedule, lease=0.0)

    async def over() -> bool | None:
        (held,) = (await schedule.held()).tasks
        return held.lease_over

    await leases.renew_all(database, [(id_, 2), (id_ + 1, 1)], 60.0)
    assert not await leases.renew(database, id_, 2, 60.0)
    assert await over()
    await leases.renew_all(database, [(id_ + 1, 1), (id_, 1)], 60.0)
    assert not await over()
    assert await leases.renew(database, id_, 1, 0.0)
    assert await over()
    await append(store, id_, ":FINAL")
    assert not await leases.renew(database, id_, 1, 60.0)


async def test_a_lease_is_renewed_while_somebody_holds_the_context(
    store: EventStore, schedule: Schedule, plain: "asyncpg.Connection[Any]"
) -> None:
    id_ = await queued(store)
    await claim(schedule)
    async with plain.transaction():
        await plain.execute("SELECT FROM data_manager.etl_contexts FOR NO KEY UPDATE")
        async with asyncio.timeout(SOON):
            assert await leases.renew(store.database, id_, 1, 60.0)
            await leases.set_waiting(store.database, id_, 1, True)
            assert [task.waiting for task in (await schedule.held()).tasks] == [True]


async def test_what_a_host_holds_is_known_with_how_it_started(store: EventStore, schedule: Schedule) -> None:
    id_ = await queued(store)
    await claim(schedule, lease=0.0)
    started = {"attempt": 1, "pid": 4711, "start_time": 7, "boot_id": "b"}
    await append(store, id_, "dama/task:STARTED", payload=started, fence=1)
    (held,) = (await schedule.held()).tasks
    assert (held.etl_context_id, held.state, held.fence, held.attempt) == (id_, "running", 1, 1)
    assert (held.started, held.holder, held.lease_over) == (started, "me", True)
    assert (await Schedule(store.database, ELSEWHERE).held()).tasks == []


async def test_one_task_may_be_claimed_by_name_where_its_state_allows_it(store: EventStore, schedule: Schedule) -> None:
    id_ = await queued(store, ELSEWHERE, start_after=3600)
    await schedule.claim_one(id_, holder="me", lease=60.0)
    with pytest.raises(errors.IllegalTransition):
        await schedule.claim_one(id_, holder="me", lease=60.0)
    with pytest.raises(errors.DamadError):
        await schedule.claim_one(4711, holder="me", lease=60.0)
    context = await store.create_context()
    await append(store, context, ":INITIAL")
    with pytest.raises(errors.Conflict):
        await schedule.claim_one(context, holder="me", lease=60.0)


async def test_a_claim_says_what_a_runner_needs_to_know(store: EventStore, schedule: Schedule) -> None:
    first, second = await queued(store), await queued(store, queue="other", priority=3)
    tasks = await schedule.claim([FreeSlots("default", 5), FreeSlots("other", 5)], holder="me", lease=60.0)
    assert [task.etl_context_id for task in tasks] == [first, second]
    for task in tasks:
        assert msgspec.structs.replace(await store.assignment(task.etl_context_id), at=task.at) == task
    assert await schedule.claim([FreeSlots("default", 5), FreeSlots("other", 5)], holder="me", lease=60.0) == []


async def test_who_is_left_out_is_claimed_by_nobody_and_keeps_no_other(store: EventStore, schedule: Schedule) -> None:
    left_out, other = await queued(store), await queued(store)
    assert await claim(schedule, leave_out=[left_out]) == [other]
    assert await claim(schedule) == [left_out]


LOST = decisions.Observed(process=decisions.LOST)


async def test_a_claim_that_began_after_it_was_looked_at_is_not_released(
    store: EventStore, schedule: Schedule, tmp_path: Path
) -> None:
    id_ = await queued(store)
    await claim(schedule)
    settings = config.load(environ={"DAMAD_STATE_DIR": str(tmp_path), "DAMAD_PG_ENV_LOCAL_DSN": store.database.dsn})
    supervisor = Supervisor(store.database, settings, HOST)
    (seen,) = (await schedule.held()).tasks
    await append(store, id_, "dama/task:STARTED", payload={"attempt": 1}, fence=seen.fence)
    with pytest.raises(errors.VersionConflict):
        await supervisor._perform(decisions.Release("it looked dead", 0.0), seen, held(seen, "other", HOST), LOST)
    assert (await store.state(id_)).state == "running"
