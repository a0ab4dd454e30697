"""What can be done with tasks (contract, sections 3 and 4)."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_events import SOON, run_of

from damad import context, errors, events, tasks
from damad.config import Queue
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.model.event import Event

Here = Callable[..., AbstractContextManager[Any]]


async def ended(store: EventStore, id_: int, *types: str) -> None:
    """Ends a running task in that way, from within its run."""
    fence = (await store.state(id_)).fence  # type: ignore[attr-defined]
    new = [Event(type=type_, payload={"kind": "exit"}) for type_ in types]
    await store.append([Append(etl_context_id=id_, event=event, fence=fence) for event in new])


@pytest.fixture
async def parent(here: Here, database: Database) -> dict[str, Any]:
    """A running task in the queue `family`."""
    with here():
        id_ = await tasks.queue("ok.py", queue="family")
    return {"etl_context_id": id_, "fence": await run_of(database, id_), "attempt": 1, "queue": "family"}


async def test_a_task_is_queued_with_the_settings_that_were_given(here: Here) -> None:
    with here():
        id_ = await tasks.queue("ok.py", {"a": 1}, queue="q", priority=5, retry_delay="250ms", meta={"m": 1})
        state: Any = await tasks.status(id_)
        (initial,) = await events.read(id_)
    assert (state.state, state.queue, state.priority, state.attempt) == ("queued", "q", 5, 0)
    settings = {"worker": "ok.py", "queue": "q", "priority": 5, "retry_delay": 0.25}
    assert {name: state.settings[name] for name in settings} == settings
    assert (initial["type"], initial["payload"], initial["meta"]["m"]) == (":INITIAL", {"a": 1}, 1)


async def test_a_task_may_bring_its_own_initial_event(here: Here) -> None:
    with here():
        id_ = await tasks.queue("ok.py", initial_event={"type": "gtfs:INITIAL", "payload": 1, "meta": {"m": 2}})
        (initial,) = await events.read(id_)
    assert (initial["type"], initial["payload"], initial["meta"]["m"]) == ("gtfs:INITIAL", 1, 2)


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"worker": "missing.py"}, "/worker"),
        ({"worker": "../ok.py"}, "/worker"),
        ({"nonsense": 1}, "/nonsense"),
        ({"priority": "high"}, "/priority"),
        ({"priority": 2**31}, "/priority"),
        ({"queue": "No Name"}, "/queue"),
        ({"retry_limit": -1}, "/retry_limit"),
        ({"retry_delay": "soon"}, "/retry_delay"),
        ({"expire_in": 0}, "/expire_in"),
        ({"start_after": "2026-01-01T00:00:00"}, "/start_after"),
        ({"run_in": "space"}, "/run_in"),
        ({"idempotency_key": ""}, "/idempotency_key"),
        ({"payload": float("inf")}, "/payload"),
        ({"payload": {"a": [b"bytes"]}}, "/payload/a/0"),
        ({"payload": 1, "initial_event": {"type": ":INITIAL"}}, "/payload"),
        ({"initial_event": {"type": ":A"}}, "/initial_event/type"),
        ({"meta": {"__dama_task_manager__": {}}}, "/meta/__dama_task_manager__"),
        ({"parent_context_id": 4711}, "/parent_context_id"),
        ({"source_id": 4711}, "/source_id"),
    ],
)
async def test_what_does_not_fit_is_named_and_nothing_is_queued(
    here: Here, store: EventStore, given: dict[str, Any], pointer: str
) -> None:
    with here(), pytest.raises(errors.InvalidInput) as refused:
        await tasks.queue(given.pop("worker", "ok.py"), **given)
    assert refused.value.pointer == pointer
    assert await store.tasks() == []


async def test_a_task_that_starts_later_is_scheduled_until_then(here: Here) -> None:
    with here():
        later, soon = await tasks.queue("ok.py", start_after="1h"), await tasks.queue("ok.py", start_after=0.05)
        assert (await tasks.status(later)).state == "scheduled"
        async with asyncio.timeout(SOON):
            while (await tasks.status(soon)).state != "queued":
                pass


async def test_a_task_that_holds_no_process_is_cancelled_at_once(here: Here) -> None:
    with here():
        for given in ({}, {"start_after": "1h"}):
            id_ = await tasks.queue("ok.py", **given)
            assert (await tasks.cancel(id_)).state == "cancelled"
            assert [event["type"] for event in await events.read(id_)][1:] == [
                "dama/task:CANCEL_REQUESTED",
                "dama/task:CANCELLED",
            ]


async def test_a_running_task_is_cancelling_until_it_is_seen_dead(here: Here, parent: dict[str, Any]) -> None:
    with here():
        assert (await tasks.cancel(parent["etl_context_id"])).state == "cancelling"
        with pytest.raises(errors.Conflict, match="is cancelling"):
            await tasks.cancel(parent["etl_context_id"])


async def test_what_has_ended_or_is_no_task_is_not_cancelled(
    here: Here, store: EventStore, parent: dict[str, Any]
) -> None:
    plain = await store.create_context()
    await ended(store, parent["etl_context_id"], ":FINAL")
    with here():
        for id_ in (plain, parent["etl_context_id"]):
            with pytest.raises(errors.Conflict):
                await tasks.cancel(id_)
        with pytest.raises(errors.NotFound):
            await tasks.cancel(4711)


async def test_a_cancel_that_races_a_claim_never_says_cancelled_of_a_task_that_is_held(
    here: Here, database: Database
) -> None:
    with here():
        for _ in range(20):
            id_ = await tasks.queue("ok.py")
            await asyncio.gather(tasks.cancel(id_), run_of(database, id_), return_exceptions=True)
            kinds = [event["type"].removeprefix("dama/task:") for event in await events.read(id_)]
            assert ("CLAIMED" in kinds) != ("CANCELLED" in kinds), kinds


async def test_a_failed_task_is_retried_in_the_same_context(
    here: Here, store: EventStore, parent: dict[str, Any]
) -> None:
    id_ = parent["etl_context_id"]
    with here():
        with pytest.raises(errors.Conflict, match="only a failed or cancelled"):
            await tasks.retry(id_)
        await ended(store, id_, "dama/task:ERROR", "dama/task:FAILED")
        state: Any = await tasks.retry(id_)
    assert (state.state, state.error, state.finished_at, state.attempt) == ("queued", None, None, 1)


async def test_a_step_runs_once_however_often_it_is_asked_for(here: Here, parent: dict[str, Any]) -> None:
    calls: list[Any] = []

    async def load(count: int) -> dict[str, int]:
        calls.append(count)
        return {"rows": count}

    with here(**parent):
        assert [await tasks.step("load", load, n) for n in (1, 2)] == [{"rows": 1}] * 2
        assert await tasks.step("sync", lambda: None) is None
        with pytest.raises(errors.InvalidInput):
            await tasks.step("bad", lambda: {1, 2})
        with pytest.raises(ZeroDivisionError):
            await tasks.step("raises", lambda: 1 / 0)
        assert await tasks.step("raises", lambda: "now") == "now"
    assert calls == [1]


async def test_progress_is_an_event_and_stands_in_the_state(here: Here, parent: dict[str, Any]) -> None:
    with here(**parent):
        await tasks.progress(0.4, "stop_times")
        state: Any = await tasks.status()
        assert state.progress == {"fraction": 0.4, "note": "stop_times"}
        assert (await events.read())[-1]["type"] == "dama/task:PROGRESS"


async def test_a_subtask_is_queued_once_per_name_in_its_parents_queue(here: Here, parent: dict[str, Any]) -> None:
    with here(**parent):
        first = await tasks.subtask("publish", worker="ok.py", payload={"n": 1})
        again = await tasks.subtask("publish", worker="ok.py", payload={"n": 2})
        other = await tasks.subtask("other", worker="ok.py", queue="elsewhere")
        states: list[Any] = [await tasks.status(child.etl_context_id) for child in (first, other)]
    assert first == again and first != other
    assert [state.queue for state in states] == ["family", "elsewhere"]
    assert {state.parent_context_id for state in states} == {parent["etl_context_id"]}


async def test_steps_and_subtasks_in_a_transaction_are_there_if_it_commits(
    here: Here, parent: dict[str, Any], database: Database
) -> None:
    async def both(fails: bool) -> tuple[Any, ...]:
        async with events.transaction():
            made = [(await tasks.step("s", lambda: "done"), await tasks.subtask("c", worker="ok.py")) for _ in range(2)]
            assert made[0] == made[1]
            if fails:
                raise ValueError
        return made[0]

    with here(**parent):
        with pytest.raises(ValueError):
            await both(fails=True)
        assert [event["type"] for event in await events.read()][-1] == "dama/task:STARTED"
        assert [state.etl_context_id for state in await tasks.context.current().store.tasks()] == [
            parent["etl_context_id"]
        ]
        step, child = await both(fails=False)
        assert [event["type"] for event in await events.read()][-2:] == ["dama/task:STEP", "dama/task:SUBTASK"]
        assert (await tasks.step("s", lambda: "again"), await tasks.subtask("c", worker="ok.py")) == (step, child)
        assert (await tasks.status(child.etl_context_id)).state == "queued"


async def test_the_same_calls_at_once_queue_one_child_and_record_one_step(
    here: Here, parent: dict[str, Any], database: Database
) -> None:
    steps = iter(range(20))
    with here(**parent):
        children = await asyncio.gather(*(tasks.subtask("one", worker="ok.py", payload=n) for n in range(20)))
        results = await asyncio.gather(*(tasks.step("count", lambda: next(steps)) for _ in range(20)))
        recorded = [event["type"] for event in await events.read()]
    assert len(set(children)) == len(set(results)) == 1
    assert (recorded.count("dama/task:SUBTASK"), recorded.count("dama/task:STEP")) == (1, 1)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM data_manager.etl_contexts") == 2


async def test_gather_returns_the_results_in_order(
    here: Here, store: EventStore, database: Database, parent: dict[str, Any]
) -> None:
    with here(**parent):
        children = [await tasks.subtask(f"child {n}", worker="ok.py") for n in range(3)]
        gathering = asyncio.create_task(tasks.gather(*children))
        for number, child in reversed(list(enumerate(children))):
            fence = await run_of(database, child.etl_context_id)
            final = Event(type=":FINAL", payload={"n": number})
            await store.append([Append(etl_context_id=child.etl_context_id, event=final, fence=fence)])
        async with asyncio.timeout(SOON):
            assert await gathering == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_childs_end_in_failure_is_raised_or_stands_in_the_list(
    here: Here, store: EventStore, database: Database, parent: dict[str, Any]
) -> None:
    with here(**parent):
        good, bad, gone = [await tasks.subtask(name, worker="ok.py") for name in ("good", "bad", "gone")]
        for child, types in ((good, [":FINAL"]), (bad, ["dama/task:ERROR", "dama/task:FAILED"])):
            await run_of(database, child.etl_context_id)
            await ended(store, child.etl_context_id, *types)
        await tasks.cancel(gone.etl_context_id)
        with pytest.raises(errors.TaskFailed, match=rf"task {bad.etl_context_id} failed \(\w+\): "):
            await tasks.gather(good, bad, gone)
        with pytest.raises(errors.TaskCancelled):
            await tasks.gather(gone, good)
        results = await tasks.gather(good, bad, gone, return_exceptions=True)
    assert [type(result) for result in results] == [dict, errors.TaskFailed, errors.TaskCancelled]


async def test_a_parent_that_waits_holds_no_slot(
    here: Here, database: Database, store: EventStore, parent: dict[str, Any]
) -> None:
    async def waits() -> bool:
        async with database.connection() as connection:
            return bool(await connection.fetchval("SELECT waiting FROM data_manager.leases"))

    with here(**parent):
        child = await tasks.subtask("child", worker="ok.py")
        gathering = asyncio.create_task(tasks.gather(child))
        async with asyncio.timeout(SOON):
            while not await waits():
                pass
            await tasks.cancel(child.etl_context_id)
            with pytest.raises(errors.TaskCancelled):
                await gathering
        assert not await waits()


async def test_a_worker_that_became_writable_by_others_is_refused_at_once(here: Here, workers: Path) -> None:
    (workers / "ok.py").chmod(0o666)
    with here(), pytest.raises(errors.InvalidWorker, match="chmod o-w"):
        await tasks.queue("ok.py")


@pytest.mark.parametrize("fraction", [float("nan"), float("inf"), -0.1, 1.1, "half", None])
async def test_a_progress_that_is_no_fraction_is_refused(here: Here, parent: dict[str, Any], fraction: Any) -> None:
    with here(**parent), pytest.raises(errors.InvalidInput) as refused:
        await tasks.progress(fraction)
    assert refused.value.pointer == "/fraction"


async def test_a_note_or_a_name_that_the_log_cannot_hold_is_refused(here: Here, parent: dict[str, Any]) -> None:
    with here(**parent):
        for note in ("\0", {1, 2}):
            with pytest.raises(errors.InvalidInput):
                await tasks.progress(0.5, note)  # type: ignore[arg-type]
        for name in ("\0", "\ud800", 7):
            with pytest.raises(errors.InvalidInput):
                await tasks.step(name, dict)  # type: ignore[arg-type]
            with pytest.raises(errors.InvalidInput):
                await tasks.subtask(name, worker="ok.py")  # type: ignore[arg-type]
        assert (await tasks.status()).version == 3


async def test_gathering_what_does_not_exist_does_not_wait_for_ever(here: Here, parent: dict[str, Any]) -> None:
    with here(**parent):
        async with asyncio.timeout(SOON):
            assert await tasks.gather() == []
            with pytest.raises(errors.NotFound):
                await tasks.gather(4711)


async def test_a_child_may_be_named_twice(here: Here, parent: dict[str, Any], store: EventStore) -> None:
    with here(**parent):
        child = await tasks.subtask("one", worker="ok.py")
        final = Event(type=":FINAL", payload={"n": 1})
        await store.append([Append(etl_context_id=child.etl_context_id, event=final)])
        assert await tasks.gather(child, child.etl_context_id) == [{"n": 1}, {"n": 1}]


@pytest.mark.parametrize("given", [{"settings": {}}, {"dama_host_id": "x"}, {"heart": 1}])
async def test_a_setting_that_does_not_exist_is_named(here: Here, given: dict[str, Any]) -> None:
    with here(), pytest.raises(errors.InvalidInput, match=next(iter(given))):
        await tasks.queue("ok.py", **given)


@pytest.mark.parametrize(
    "given",
    [
        {"parent_context_id": "seven"},
        {"parent_context_id": 4711},
        {"parent_context_id": 2**63},
        {"source_id": 4711},
        {"source_id": 1.5},
    ],
)
async def test_a_parent_or_source_that_is_none_is_refused(
    here: Here, database: Database, given: dict[str, Any]
) -> None:
    with here(), pytest.raises(errors.InvalidInput):
        await tasks.queue("ok.py", **given)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM data_manager.etl_contexts") == 0


async def test_an_idempotency_key_answers_any_host_and_refuses_another_parent(here: Here, host: context.Host) -> None:
    other = msgspec.structs.replace(host, host_id="6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1")
    with here():
        first = await tasks.queue("ok.py", {"n": 1}, idempotency_key="k")
        assert await tasks.queue("ok.py", {"n": 1}, idempotency_key="k") == first
        for given in ({"parent_context_id": first}, {"priority": 1}, {"meta": {"a": 1}}):
            with pytest.raises(errors.IdempotencyConflict):
                await tasks.queue("ok.py", {"n": 1}, idempotency_key="k", **given)
        with pytest.raises(errors.IdempotencyConflict):
            await tasks.queue("ok.py", {"n": 2}, idempotency_key="k")
    with here(host=other):
        assert await tasks.queue("ok.py", {"n": 1}, idempotency_key="k") == first


async def test_an_idempotency_key_is_asked_after_again_though_the_queues_defaults_have_changed(
    here: Here, host: context.Host
) -> None:
    def configured(**defaults: Any) -> context.Host:
        return msgspec.structs.replace(host, queues={"default": Queue(defaults=defaults)})

    with here(host=configured(retry_limit=7)):
        first = await tasks.queue("ok.py", idempotency_key="k", priority=1)
        state: Any = await tasks.status(first)
        assert state.settings["retry_limit"] == 7
    with here(host=configured(retry_limit=8, expire_in=60.0)):
        assert await tasks.queue("ok.py", idempotency_key="k", priority=1) == first
        with pytest.raises(errors.IdempotencyConflict):
            await tasks.queue("ok.py", idempotency_key="k", priority=2)
    with here(host=configured(priority=1)), pytest.raises(errors.IdempotencyConflict):
        await tasks.queue("ok.py", idempotency_key="k")


async def test_many_at_once_with_one_idempotency_key_queue_one_task(here: Here) -> None:
    with here():
        ids = await asyncio.gather(*(tasks.queue("ok.py", idempotency_key="k") for _ in range(20)))
    assert len(set(ids)) == 1


async def test_the_first_events_uuid_is_as_good_as_a_key(here: Here) -> None:
    initial = {"type": "x:INITIAL", "event_uuid": "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1"}
    with here():
        first = await tasks.queue("ok.py", initial_event=initial)
        assert await tasks.queue("ok.py", initial_event=initial) == first
        with pytest.raises(errors.EventUuidConflict):
            await tasks.queue("ok.py", initial_event=initial, priority=1)
