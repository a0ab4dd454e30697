"""What the log promises to whoever appends to it through damad (contract, section 2)."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from damad import errors, events, tasks
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore, NewTask
from damad.model.event import SETTINGS_KEY, Event

Here = Callable[..., AbstractContextManager[Any]]

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""


async def begun(store: EventStore, **meta: Any) -> int:
    """A context with its :INITIAL event."""
    id_ = await store.create_context()
    await append(store, id_, ":INITIAL", meta=meta or None)
    return id_


async def append(store: EventStore, id_: int, type_: str, payload: Any = None, **given: Any) -> Any:
    """One event, appended."""
    own = {name: given.pop(name) for name in ("fence", "expected_version") if name in given}
    event = Event(type=type_, payload=payload, **given)
    return (await store.append([Append(etl_context_id=id_, event=event, **own)]))[0]


async def outcomes(*attempts: Any) -> tuple[int, list[BaseException]]:
    """How many went through, and what the others raised."""
    done = await asyncio.gather(*attempts, return_exceptions=True)
    raised = [outcome for outcome in done if isinstance(outcome, BaseException)]
    return len(done) - len(raised), raised


async def test_versions_count_from_one_without_a_gap_however_many_append(store: EventStore) -> None:
    id_ = await begun(store)
    await asyncio.gather(*(append(store, id_, ":A", n) for n in range(100)))
    recorded = await store.read(id_)
    assert [event.version for event in recorded] == list(range(1, 102))
    assert sorted(event.payload for event in recorded[1:]) == list(range(100))


async def test_within_a_context_ids_and_times_grow_with_the_version(store: EventStore) -> None:
    id_ = await begun(store)
    await asyncio.gather(*(append(store, id_, ":A") for _ in range(50)))
    recorded = await store.read(id_)
    assert [event.event_id for event in recorded] == sorted(event.event_id for event in recorded)
    assert [event.created_timestamp for event in recorded] == sorted(event.created_timestamp for event in recorded)


async def test_a_refused_append_leaves_no_gap(store: EventStore) -> None:
    id_ = await begun(store)
    with pytest.raises(errors.IllegalTransition):
        await append(store, id_, ":INITIAL")
    assert (await append(store, id_, ":A")).event.version == 2


async def test_many_events_are_appended_in_order_or_none_is(store: EventStore) -> None:
    one, other = await begun(store), await begun(store)
    new = [Event(type=":A", payload=n) for n in range(3)]
    appends = [Append(etl_context_id=id_, event=event) for event in new for id_ in (other, one)]
    done = await store.append(appends)
    assert [(entry.event.etl_context_id, entry.event.payload) for entry in done] == [
        (other, 0), (one, 0), (other, 1), (one, 1), (other, 2), (one, 2)
    ]  # fmt: skip
    with pytest.raises(errors.IllegalTransition):
        await store.append([*appends, Append(etl_context_id=one, event=Event(type=":INITIAL"))])
    assert (await store.state(one)).version == (await store.state(other)).version == 4


async def test_appends_to_many_contexts_in_opposite_orders_do_not_deadlock(store: EventStore) -> None:
    ids = [await begun(store) for _ in range(8)]

    async def many(order: list[int]) -> None:
        await store.append([Append(etl_context_id=id_, event=Event(type=":A")) for id_ in order])

    await asyncio.gather(*(many(ids if turn % 2 else ids[::-1]) for turn in range(40)))
    assert {(await store.state(id_)).version for id_ in ids} == {41}


async def test_of_50_finals_at_once_one_is_accepted(store: EventStore) -> None:
    id_ = await begun(store)
    accepted, refused = await outcomes(*(append(store, id_, f"w{n}:FINAL") for n in range(50)))
    assert (accepted, {type(error) for error in refused}) == (1, {errors.IllegalTransition})
    assert len(refused) == 49 and (await store.state(id_)).state == "done"


async def test_of_50_initials_at_once_one_is_accepted(store: EventStore) -> None:
    id_ = await store.create_context()
    accepted, refused = await outcomes(*(append(store, id_, f"w{n}:INITIAL") for n in range(50)))
    assert (accepted, len(refused)) == (1, 49)
    assert [event.version for event in await store.read(id_)] == [1]


async def test_an_event_that_races_a_final_never_reopens_the_context(store: EventStore) -> None:
    for _ in range(20):
        id_ = await begun(store)
        others = [append(store, id_, ":A") for _ in range(4)]
        await outcomes(*others[:2], append(store, id_, ":FINAL"), *others[2:])
        last = (await store.read(id_))[-1]
        state = await store.state(id_)
        assert last.type == ":FINAL"
        assert (state.etl_status, state.latest_event_id, state.version) == ("DONE", last.event_id, last.version)


@pytest.mark.parametrize("type_", [":A", ":ERROR", ":FINAL", "dama/task:CLAIMED"])
async def test_the_first_event_is_an_initial(store: EventStore, type_: str) -> None:
    id_ = await store.create_context()
    with pytest.raises(errors.IllegalTransition, match="must be its :INITIAL"):
        await append(store, id_, type_, {"fence": 1})
    assert (await store.state(id_)).version == 0


async def test_nothing_follows_a_final(store: EventStore) -> None:
    id_ = await begun(store)
    await append(store, id_, ":FINAL")
    for type_ in (":A", ":ERROR", ":FINAL", ":INITIAL", "dama/task:REQUEUED"):
        with pytest.raises(errors.IllegalTransition):
            await append(store, id_, type_)


async def test_an_unknown_context_is_named(store: EventStore) -> None:
    with pytest.raises(errors.NotFound, match="no context 4711"):
        await append(store, 4711, ":A")
    with pytest.raises(errors.NotFound):
        await store.state(4711)


@pytest.mark.answered("asks who was first: an append that is sent again is answered as one that was there")
async def test_the_same_uuid_and_event_again_is_answered_with_the_first_row(store: EventStore) -> None:
    id_, uuid = await begun(store), uuid4()
    first = await append(store, id_, ":A", {"a": [1]}, event_uuid=uuid, meta={"m": 1})
    await append(store, id_, ":FINAL")
    again = await append(store, id_, ":A", {"a": [1]}, event_uuid=uuid, meta={"m": 1})
    assert not first.replayed and again.replayed and again.event == first.event


async def test_the_same_uuid_with_another_body_or_context_is_refused(store: EventStore) -> None:
    id_, other, uuid = await begun(store), await begun(store), uuid4()
    await append(store, id_, ":A", 1, event_uuid=uuid)
    for context, type_, payload in ((id_, ":A", 2), (id_, ":B", 1), (other, ":A", 1)):
        with pytest.raises(errors.EventUuidConflict):
            await append(store, context, type_, payload, event_uuid=uuid)


@pytest.mark.answered("asks who was first: an append that is sent again is answered as one that was there")
async def test_the_same_uuid_sent_by_many_at_once_is_recorded_once(store: EventStore) -> None:
    id_, uuid = await begun(store), uuid4()
    done = await asyncio.gather(*(append(store, id_, ":A", 1, event_uuid=uuid) for _ in range(20)))
    assert sum(not entry.replayed for entry in done) == 1
    assert len({entry.event.event_id for entry in done}) == 1
    assert (await store.state(id_)).version == 2


async def test_an_expected_version_that_is_not_there_is_refused(store: EventStore) -> None:
    id_ = await begun(store)
    await append(store, id_, ":A", expected_version=1)
    with pytest.raises(errors.VersionConflict) as refused:
        await append(store, id_, ":B", expected_version=1)
    assert refused.value.values == {"etl_context_id": id_, "version": 2, "expected_version": 1}


@pytest.mark.parametrize("payload", [None, [], [1, 2], [[1], [2, 3]], "text", 1, 1.5, True, {"a": None}, 1e300, "ü😀"])
async def test_any_json_comes_back_as_it_was_given(store: EventStore, payload: Any) -> None:
    id_ = await begun(store)
    await append(store, id_, ":A", payload)
    (event,) = await store.read(id_, after_version=1)
    assert event.payload == payload and type(event.payload) is type(payload)


@pytest.mark.parametrize(
    ("type_", "status"), [(":A", "OPEN"), ("x:ERROR", "ERROR"), ("x:FINAL", "DONE"), ("x:WARNING", "OPEN")]
)
async def test_etl_status_follows_the_type(store: EventStore, type_: str, status: str) -> None:
    id_ = await begun(store)
    await append(store, id_, "x:ERROR")
    assert (await append(store, id_, type_)).event.version == 3
    assert (await store.state(id_)).etl_status == status


async def claimed(store: EventStore, database: Database) -> tuple[int, int]:
    """A running task and its fence."""
    settings = {SETTINGS_KEY: {"worker": "ok.py"}}
    id_ = (await store.queue([NewTask(initial=Event(type=":INITIAL", meta=settings))]))[0].etl_context_id
    fence = await claim(database, id_)
    await append(store, id_, "dama/task:STARTED", {"attempt": 1, "pid": 1}, fence=fence)
    return id_, fence


async def claim(database: Database, id_: int) -> int:
    async with database.connection() as connection:
        await connection.execute("SELECT data_manager.claim_task($1, gen_random_uuid(), 'x', interval '1 min')", id_)
        return int(
            await connection.fetchval("SELECT fence FROM data_manager.dama_tasks WHERE etl_context_id = $1", id_)
        )


async def test_an_old_fence_is_refused(store: EventStore, database: Database) -> None:
    id_, fence = await claimed(store, database)
    await append(store, id_, "dama/task:RELEASED", fence=fence)
    assert await claim(database, id_) == fence + 1
    for old in (fence, fence + 2, 0):
        with pytest.raises(errors.StaleFence) as refused:
            await append(store, id_, ":A", fence=old)
        assert refused.value.values["current_fence"] == fence + 1


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_an_old_fence_is_refused_in_a_transaction_that_began_before_the_takeover(
    store: EventStore, database: Database, isolation: str
) -> None:
    id_, fence = await claimed(store, database)
    async with database.connection() as connection:
        transaction = connection.transaction(isolation=isolation)
        await transaction.start()
        assert await connection.fetchval("SELECT count(*) FROM data_manager.event_store WHERE etl_context_id = $1", id_)
        await append(store, id_, "dama/task:RELEASED", fence=fence)
        await claim(database, id_)
        with pytest.raises(errors.DamadError) as refused:
            await store.append([Append(etl_context_id=id_, event=Event(type=":A"), fence=fence)], on=connection)
        await transaction.rollback()
    assert isinstance(refused.value, errors.StaleFence) or refused.value.problem == "busy"
    assert [event.type for event in await store.read(id_)][-1] == "dama/task:CLAIMED"


async def test_an_error_stands_with_what_follows_from_it_or_not_at_all(store: EventStore, database: Database) -> None:
    id_, fence = await claimed(store, database)
    error = Append(etl_context_id=id_, fence=fence, event=Event(type="dama/task:ERROR", payload={"kind": "exit"}))
    with pytest.raises(errors.Conflict, match="stands in one statement"):
        await store.append([error])
    assert (await store.state(id_)).state == "running"
    failed = Append(etl_context_id=id_, fence=fence, event=Event(type="dama/task:FAILED"))
    await store.append([error, failed])
    assert (await store.state(id_)).state == "failed"


async def test_queueing_is_part_of_the_callers_transaction(store: EventStore, here: Here) -> None:
    with here():
        with pytest.raises(RuntimeError, match="undone"):
            async with events.transaction() as connection:
                await connection.execute("CREATE TABLE mine (n int)")
                undone = await tasks.queue("ok.py")
                raise RuntimeError("undone")
        async with events.transaction() as connection:
            await connection.execute("CREATE TABLE mine (n int)")
            kept = await tasks.queue("ok.py")
    with pytest.raises(errors.NotFound):
        await store.state(undone)
    assert (await store.state(kept)).state == "queued"


async def test_an_idempotency_key_queues_once_and_refuses_another_task(here: Here) -> None:
    with here():
        ask = tasks.request("ok.py", {"n": 1}, idempotency_key="k")
        queued = await asyncio.gather(*(tasks.queue_many([ask]) for _ in range(10)))
        assert len({entry.etl_context_id for (entry,) in queued}) == 1
        assert sum(entry.created for (entry,) in queued) == 1
        with pytest.raises(errors.IdempotencyConflict):
            await tasks.queue("ok.py", {"n": 2}, idempotency_key="k")


async def test_a_child_is_queued_while_somebody_holds_its_parents_row(here: Here, database: Database) -> None:
    with here():
        parent = await tasks.queue("ok.py")
        async with database.connection() as connection, connection.transaction():
            await connection.execute(
                "UPDATE data_manager.etl_contexts SET source_id = NULL WHERE etl_context_id = $1", parent
            )
            async with asyncio.timeout(SOON):
                await tasks.queue("ok.py", parent_context_id=parent)


async def test_a_context_that_somebody_holds_is_busy_and_others_are_not(dsn: str, store: EventStore) -> None:
    held, free = await begun(store), await begun(store)
    impatient = Database("local", dsn, lock_timeout=0.2)
    async with store.database.connection() as connection, connection.transaction():
        await store.append([Append(etl_context_id=held, event=Event(type=":A"))], on=connection)
        with pytest.raises(errors.ContextBusy):
            await append(EventStore(impatient), held, ":B")
        await append(EventStore(impatient), free, ":B")
    await impatient.close()
    assert [event.type for event in await store.read(held)] == [":INITIAL", ":A"]


async def test_a_final_is_announced_when_it_commits(store: EventStore, dsn: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(dsn)
    await connection.add_listener("ETL_CONTEXT_FINAL_EVENT", lambda *args: heard.put_nowait(args[-1]))
    id_, undone = await begun(store), await begun(store)
    async with store.database.connection() as other:
        transaction = other.transaction()
        await transaction.start()
        await store.append([Append(etl_context_id=undone, event=Event(type=":FINAL"))], on=other)
        await transaction.rollback()
    await append(store, id_, "x:FINAL")
    async with asyncio.timeout(SOON):
        assert await heard.get() == str(id_)
    assert heard.empty()
    await connection.close()


async def test_the_tree_holds_the_whole_family(store: EventStore, database: Database) -> None:
    root = await begun(store)
    child, sibling = [await store.create_context(parent_context_id=root) for _ in range(2)]
    grandchild = await store.create_context(parent_context_id=child)
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT * FROM data_manager.show_etl_context_tree($1)", grandchild)
    assert {row["etl_context_id"] for row in rows} == {root, child, sibling, grandchild}
    assert [state.etl_context_id for state in await store.tree(child)] == [root, child, grandchild]


async def test_a_family_that_goes_round_in_a_circle_is_shown_once(store: EventStore, database: Database) -> None:
    alone, one, other, child = [await store.create_context() for _ in range(4)]
    async with database.connection() as connection:
        set_parent = "UPDATE data_manager.etl_contexts SET parent_context_id = $2 WHERE etl_context_id = $1"
        await connection.executemany(set_parent, [(alone, alone), (one, other), (other, one), (child, one)])
        shown = "SELECT etl_context_id FROM data_manager.show_etl_context_tree($1)"
        trees = [[row[0] for row in await connection.fetch(shown, id_)] for id_ in (alone, one, child)]
    assert trees[0] == [alone] and sorted(trees[1]) == sorted(trees[2]) == [one, other, child]
    for id_, family in ((alone, {alone}), (one, {one, other, child}), (child, {child, one, other})):
        assert sorted(state.etl_context_id for state in await store.tree(id_)) == sorted(family)
        assert await store.read_tree(id_) == await store.read_line_since(id_, {}) == []
