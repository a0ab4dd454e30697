"""A task names a worker that is queued if it fails for good: with its failure, once, in the same transaction."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from daemon_support import Site, daemon_on, site_of

from damad import queues
from damad.errors import InvalidInput, InvalidWorker, StaleFence
from damad.eventstore.store import Append, EventStore, NewTask, TaskState
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY, Event

ECHO = "def main(event):\n    return {'told': event['payload']}\n"
FAILS = "def main():\n    raise ValueError('no use')\n"
RUN = (("CLAIMED", {"fence": 1}), ("STARTED", {"attempt": 1}))
FAILED = (("ERROR", {"kind": "exception", "message": "no"}), ("FAILED", {"reason": "no attempts left"}))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("on_failure"), template) as site, daemon_on(site):
        site.worker(ECHO, "told.py")
        site.worker(FAILS, "fails.py")
        yield site
        await site.verified()


async def new(store: EventStore, payload: Any = None, **settings: Any) -> int:
    """A task that is queued by no host."""
    given = {"worker": "fails.py", "on_failure": "told.py", **settings}
    initial = Event(type=":INITIAL", payload=payload, meta={SETTINGS_KEY: given}, event_uuid=uuid4())
    return (await store.queue([NewTask(initial=initial)]))[0].etl_context_id


async def append(store: EventStore, id_: int, *events: tuple[str, Any], on: Any = None) -> None:
    appends = [
        Append(etl_context_id=id_, event=Event(type=f"dama/task:{name}", payload=payload, event_uuid=uuid4()))
        for name, payload in events
    ]
    await store.append(appends, on=on)


async def told_of(store: EventStore, id_: int) -> list[TaskState]:
    """The tasks that were queued for the failures of a task, oldest first, and nothing is amiss with any."""
    assert (await verify(store.database)).mismatches == []
    found = [state for state in await store.tasks(parent_context_id=id_) if isinstance(state, TaskState)]
    return [state for state in reversed(found) if state.settings.get("on_failure_of") == id_]


async def test_a_task_that_has_failed_for_good_queues_the_worker_that_it_names_with_its_failure(site: Site) -> None:
    given = {"on_failure": "told.py", "retry_limit": 1, "retry_delay": 0.01, "queue": "etl"}
    outcome = await site.run(FAILS, {"file": "a"}, **given)
    (told,) = await told_of(site.store(), outcome.id)
    assert (told.parent_context_id, told.worker, told.queue) == (outcome.id, "told.py", "etl")
    await site.ended(told.etl_context_id)
    (final,) = await site.events(told.etl_context_id, ":FINAL")
    assert final.payload["told"] == {
        "etl_context_id": outcome.id,
        "worker": outcome.task.worker,
        "reason": "no attempts left",
        "error": outcome.error,
        "payload": {"file": "a"},
    }


async def test_one_that_succeeds_or_is_cancelled_queues_none(site: Site) -> None:
    done = await site.run(ECHO, 7, on_failure="told.py")
    with site.gate() as gate:
        held = await site.hold(gate, on_failure="told.py", retry_limit=0)
        await site.cancel(held)
        assert (await site.ended(held)).state == "cancelled"
    assert await told_of(site.store(), done.id) == await told_of(site.store(), held) == []


async def test_what_is_queued_for_a_failure_queues_nothing_if_it_fails(site: Site) -> None:
    with site.here():
        await queues.change("sad", {"on_failure": "fails.py", "retry_limit": 0})
    first = await site.run(FAILS, queue="sad")
    (told,) = await told_of(site.store(), first.id)
    assert (await site.ended(told.etl_context_id)).state == "failed"
    assert await told_of(site.store(), told.etl_context_id) == []


async def test_each_time_that_it_has_failed_there_is_one(store: EventStore) -> None:
    id_ = await new(store)
    await append(store, id_, *RUN, *FAILED)
    await append(store, id_, ("REQUEUED", None), ("CLAIMED", {"fence": 2}), ("STARTED", {"attempt": 2}), *FAILED)
    assert len(await told_of(store, id_)) == 2


async def test_it_is_there_if_failed_is_and_else_it_is_not(store: EventStore) -> None:
    id_ = await new(store)
    await append(store, id_, *RUN)
    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as connection:
            await append(store, id_, *FAILED, on=connection)
            raise ZeroDivisionError
    assert await told_of(store, id_) == []
    late = [Append(etl_context_id=id_, event=Event(type=f"dama/task:{name}"), fence=7) for name, _ in FAILED]
    with pytest.raises(StaleFence):
        await store.append(late)
    assert await told_of(store, id_) == []


async def test_who_sends_the_failure_again_queues_no_second_one(store: EventStore) -> None:
    id_ = await new(store)
    await append(store, id_, *RUN)
    said = [
        Append(etl_context_id=id_, event=Event(type=f"dama/task:{name}", payload=payload, event_uuid=uuid4()), fence=1)
        for name, payload in FAILED
    ]
    for replayed in (False, True):
        assert [done.replayed for done in await store.append(said)] == [replayed, replayed]
    assert len(await told_of(store, id_)) == 1


async def test_of_many_that_fail_at_once_each_has_its_own(store: EventStore) -> None:
    late = "2020-01-31T08:00:00Z"
    ids = [await new(store, n, start_by=late) for n in range(5)]
    without = await new(store, start_by=late, on_failure=None)
    await store.database.fetch("fail_late", 1000, [])
    for n, id_ in enumerate(ids):
        (told,) = await told_of(store, id_)
        initial = (await store.read(told.etl_context_id))[0]
        assert (initial.payload["payload"], initial.payload["error"]["kind"]) == (n, "start_by")
    assert await told_of(store, without) == []


async def test_a_payload_that_is_nested_too_deep_to_be_in_another_is_left_out(store: EventStore) -> None:
    async with store.database.connection() as connection:
        deep = "[" * 128 + "]" * 128
        queued = "SELECT data_manager.queue_task('x.py', $1::text::jsonb, '{\"on_failure\": \"told.py\"}')"
        id_ = await connection.fetchval(queued, deep)
    await append(store, id_, *RUN, *FAILED)
    (told,) = await told_of(store, id_)
    payload = (await store.read(told.etl_context_id))[0].payload
    assert (payload["etl_context_id"], payload["payload"]) == (id_, None)


async def test_it_outlives_a_cancel_of_the_task_that_was_tried_again(store: EventStore) -> None:
    id_ = await new(store)
    await append(store, id_, *RUN, *FAILED)
    await append(store, id_, ("REQUEUED", None), ("CANCEL_REQUESTED", None), ("CANCELLED", None))
    (told,) = await told_of(store, id_)
    assert (told.state, await store.database.fetch("unheld_to_cancel")) == ("queued", [])


async def test_a_worker_that_is_not_there_is_refused_at_once(site: Site) -> None:
    with pytest.raises(InvalidWorker) as refused:
        await site.queue("told.py", on_failure="nowhere.py")
    assert refused.value.pointer == "/on_failure"
    with site.here(), pytest.raises(InvalidWorker):
        await queues.change("sadder", {"on_failure": "nowhere.py"})
    with pytest.raises(InvalidInput):
        await site.queue("told.py", on_failure="")


@pytest.mark.parametrize("wrong", [7, "", ["told.py"], {"worker": "told.py"}])
async def test_from_plain_sql_what_names_no_worker_is_refused_too(store: EventStore, wrong: Any) -> None:
    async with store.database.connection() as connection:
        with pytest.raises(Exception, match="on_failure"):
            settings = json.dumps({"on_failure": wrong})
            await connection.execute("SELECT data_manager.queue_task('x.py', NULL, $1::text::jsonb)", settings)
