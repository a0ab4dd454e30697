"""What a supervisor asks the log of waits: which are over, whose tasks those are, and that each is resumed once."""

import asyncio
from typing import Any

import asyncpg
import pytest
from test_schedule import ELSEWHERE, HOST, SOON, append, queued

from damad import errors
from damad.eventstore import intents
from damad.eventstore.pools import Database
from damad.eventstore.schedule import Schedule
from damad.eventstore.store import EventStore
from damad.eventstore.verify import verify

LOCK = "SELECT FROM data_manager.etl_contexts WHERE etl_context_id = $1 FOR NO KEY UPDATE"
PAST, FUTURE = "2020-01-31T08:00:00Z", "2120-01-31T08:00:00Z"


@pytest.fixture
def schedule(database: Database) -> Schedule:
    return Schedule(database, HOST)


async def waiting(store: EventStore, payload: Any, **settings: Any) -> int:
    """A task that waits for what the payload says."""
    id_ = await queued(store, **settings)
    await append(store, id_, "dama/task:CLAIMED", payload={"fence": 1, "host_id": HOST})
    await append(store, id_, "dama/task:STARTED", payload={"attempt": 1})
    await append(store, id_, ":BEFORE")
    await append(store, id_, "dama/task:WAITING", payload=payload)
    return id_


async def resume(schedule: Schedule, *, shared: tuple[str, ...] = (), only: list[int] | None = None) -> list[int]:
    async with asyncio.timeout(SOON):  # it waits for nobody
        return await schedule.resume(shared=shared, only=only)


async def end(store: EventStore, id_: int) -> dict[str, Any]:
    """The payload of the RESUMED event of a task."""
    (event,) = await store.read(id_, types=["dama/task:RESUMED"])
    assert isinstance(event.payload, dict)
    return event.payload


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"name": "n", "until": PAST}, {"name": "n", "reason": "time"}),
        ({"name": "n", "until": FUTURE}, None),
        ({"name": "n", "event": ":A", "after_version": 0}, None),
        ({"name": "n", "event": ":A", "after_version": 0, "until": PAST}, {"name": "n", "reason": "timeout"}),
        ({"event": ":BEFORE", "after_version": 3}, {"name": None, "reason": "event", "version": 4}),
        ({"event": ":BEFORE", "after_version": 4}, None),
        ({"event": ":BEFORE", "after_version": 0, "until": PAST}, {"name": None, "reason": "event", "version": 4}),
        ({}, None),
        (None, None),
    ],
)
async def test_what_is_over_is_resumed_and_the_log_says_what_ended_it(
    store: EventStore, schedule: Schedule, payload: Any, reason: Any
) -> None:
    id_ = await waiting(store, payload)
    assert await resume(schedule) == ([] if reason is None else [id_])
    if reason is not None:
        assert await end(store, id_) == {"name": None, **reason}
        assert (await store.state(id_)).state == "queued"
    assert await resume(schedule) == []
    assert (await verify(store.database)).mismatches == []


@pytest.mark.parametrize("any_of_them", [False, True])
async def test_children_that_all_ended_or_one_of_them_end_a_wait(
    store: EventStore, schedule: Schedule, any_of_them: bool
) -> None:
    task, plain = await queued(store), await store.create_context()
    await append(store, plain, ":INITIAL")
    id_ = await waiting(store, {"children": [task, plain], **({"any": True} if any_of_them else {})})
    await append(store, plain, "their:ERROR")
    assert await resume(schedule) == []
    await append(store, plain, ":FINAL")
    assert await resume(schedule) == ([id_] if any_of_them else [])
    await append(store, task, "dama/task:CANCEL_REQUESTED", "dama/task:CANCELLED")
    assert await resume(schedule) == ([] if any_of_them else [id_])
    assert (await end(store, id_))["reason"] == "children"


async def test_a_host_resumes_its_own_tasks_and_those_of_shared_queues_and_of_nobody(
    store: EventStore, schedule: Schedule
) -> None:
    over = {"until": PAST}
    own = await waiting(store, over)
    nobodys = await waiting(store, over, host=None)
    theirs = await waiting(store, over, host=ELSEWHERE, queue="common")
    assert await resume(schedule, only=[nobodys, theirs]) == [nobodys]
    assert await resume(schedule) == [own]
    assert await resume(schedule, shared=("common",)) == [theirs]


async def test_a_task_that_somebody_wants_cancelled_is_not_resumed(store: EventStore, schedule: Schedule) -> None:
    id_ = await waiting(store, {"until": PAST})
    await intents.note_cancel(store.database, id_)
    assert await resume(schedule) == []


async def test_one_whose_context_is_held_is_left_out_and_no_other_waits_for_it(
    store: EventStore, schedule: Schedule, database: Database
) -> None:
    held, free = await waiting(store, {"until": PAST}), await waiting(store, {"until": PAST})
    other = await asyncpg.connect(database.dsn)
    try:
        async with other.transaction():
            await other.execute(LOCK, held)
            assert await resume(schedule) == [free]
    finally:
        await other.close()
    assert await resume(schedule) == [held]


async def test_of_two_who_ask_at_the_same_time_one_resumes_a_task(
    store: EventStore, schedule: Schedule, database: Database
) -> None:
    id_ = await waiting(store, {"until": PAST})
    other = await asyncpg.connect(database.dsn)
    try:
        async with other.transaction():
            ids = await other.fetchval("SELECT data_manager.resume_tasks($1, '{}', NULL, '{}')", HOST)
            assert (ids, await resume(schedule)) == ([id_], [])
    finally:
        await other.close()
    assert len(await store.read(id_, types=["dama/task:RESUMED"])) == 1


@pytest.mark.parametrize(
    "payload",
    [
        {"until": "soon"},
        {"until": 5},
        {"event": ":A"},
        {"event": ":A", "after_version": "x"},
        {"children": 5},
        {"children": [1.5]},
        {"children": ["x"]},
        {"children": {"a": 1}},
    ],
)
async def test_a_wait_that_nobody_could_end_is_refused(store: EventStore, schedule: Schedule, payload: Any) -> None:
    with pytest.raises(errors.InvalidInput):
        await waiting(store, payload)
    assert await resume(schedule) == []


async def test_who_cancels_a_task_notes_that_its_open_children_are_to_be_cancelled(
    store: EventStore, schedule: Schedule
) -> None:
    parent = await waiting(store, None)
    state = await store.state(parent)
    async with store.database.connection() as connection:
        ids = await connection.fetch(
            "INSERT INTO data_manager.etl_contexts (parent_context_id) SELECT $1 FROM generate_series(1, 3) "
            "RETURNING etl_context_id",
            state.etl_context_id,
        )
        plain, ended, open_ = (row["etl_context_id"] for row in ids)
        task = {"__dama_task_manager__": {"worker": "ok.py"}}
        insert = "INSERT INTO data_manager.event_store (etl_context_id, type, meta) VALUES ($1, $2, $3)"
        await connection.execute(insert, plain, ":INITIAL", None)
        for id_ in (ended, open_):
            await connection.execute(insert, id_, ":INITIAL", task)
        await connection.execute(insert, ended, ":FINAL", None)
    await append(store, parent, "dama/task:CANCEL_REQUESTED", "dama/task:CANCELLED")
    assert list(await schedule.unheld_to_cancel()) == [open_]
