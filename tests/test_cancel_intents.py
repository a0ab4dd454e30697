"""Cancels that are noted because somebody holds the context. (With real processes: tests/faults.)"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from damad import context, errors, tasks
from damad.eventstore import intents
from damad.eventstore.pools import Database
from damad.eventstore.schedule import FreeSlots, Schedule
from damad.eventstore.store import Append, EventStore, NewTask
from damad.model.event import SETTINGS_KEY, Event
from damad.scheduler.bulkhead import Bulkhead
from damad.scheduler.cancels import Cancels

Here = Callable[..., AbstractContextManager[Any]]
HOST, ELSEWHERE = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1", "0d9d5b5e-7d5b-4b37-a3a5-5a3a5d0c2c11"


async def queued(store: EventStore, host: str) -> int:
    initial = Event(type=":INITIAL", meta={SETTINGS_KEY: {"worker": "ok.py", "dama_host_id": host}}, event_uuid=uuid4())
    return (await store.queue([NewTask(initial=initial)]))[0].etl_context_id


async def test_a_task_that_somebody_wants_cancelled_is_not_claimed_and_is_cancelled_by_any_daemon(
    store: EventStore, database: Database
) -> None:
    schedule = Schedule(database, HOST)
    mine, theirs, held, other = [await queued(store, host) for host in (HOST, ELSEWHERE, HOST, HOST)]
    await schedule.claim_one(held, holder="me", lease=60.0)
    for id_ in (mine, theirs, held, held):
        await intents.note_cancel(database, id_)
    claimed = await schedule.claim([FreeSlots("default", 10, shared=True)], holder="me", lease=60.0)
    assert [task.etl_context_id for task in claimed] == [other]
    wanted = {task.etl_context_id: task.cancel_wanted for task in (await schedule.held()).tasks}
    assert wanted == {held: True, other: False}
    assert await Cancels(store, schedule, lambda _: True, Bulkhead()).write() == []
    assert [(await store.state(id_)).state for id_ in (mine, theirs, held)] == ["cancelled", "cancelled", "claimed"]
    assert [await intents.cancel_is_wanted(database, id_) for id_ in (mine, theirs, held)] == [False, False, True]
    assert (await schedule.held()).any_cancel
    await store.append([Append(etl_context_id=held, event=Event(type="dama/task:CANCEL_REQUESTED"))])
    await intents.forget_cancels(database)
    assert not (await schedule.held()).any_cancel


async def test_a_cancel_that_somebody_holds_up_is_noted_and_meets_nobody_who_retries_the_task(
    here: Here, database: Database
) -> None:
    brief = Database("local", database.dsn, lock_timeout=0.05)
    with here() as ambient:
        id_ = await tasks.queue("ok.py")
        async with EventStore(database).transaction() as holder:
            await holder.execute("SELECT FROM data_manager.etl_contexts WHERE etl_context_id = $1 FOR UPDATE", id_)
            with (
                context.run_in(msgspec.structs.replace(ambient, database=brief)),
                pytest.raises(errors.ContextBusy, match="The cancel is noted") as busy,
            ):
                await tasks.cancel(id_)
        assert busy.value.values == {"etl_context_id": id_, "state": "queued"}
        assert await intents.cancel_is_wanted(database, id_)
        assert (await tasks.cancel(id_)).state == "cancelled"
        assert (await tasks.retry(id_)).state == "queued"
        assert not await intents.cancel_is_wanted(database, id_)
    await brief.close()
