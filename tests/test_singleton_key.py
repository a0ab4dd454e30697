"""One open task with a singleton_key at a time: whoever asks for another gets that one, and why."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from test_locks import in_the_way

from damad import context, errors, tasks
from damad.eventstore.store import Append, EventStore, NewTask, Queued, TaskState
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY, Event

pytestmark = pytest.mark.usefixtures("ctx")

Here = Callable[..., AbstractContextManager[context.EtlContext]]

RUNS: list[tuple[str, Any]] = [("CLAIMED", {"fence": 1}), ("STARTED", {"attempt": 1})]
FAILS: list[tuple[str, Any]] = [*RUNS, ("ERROR", {"kind": "exception"}), ("FAILED", None)]
OPEN: dict[str, list[tuple[str, Any]]] = {
    "queued": [],
    "claimed": RUNS[:1],
    "running": RUNS,
    "waiting": [*RUNS, ("WAITING", None)],
    "retrying": [*RUNS, ("ERROR", {"kind": "exception"}), ("RETRY", {"run_at": "2030-01-31T08:00:00Z"})],
    "cancelling": [*RUNS, ("CANCEL_REQUESTED", None)],
}
ENDED: dict[str, list[tuple[str, Any]]] = {
    "failed": FAILS,
    "cancelled": [("CANCEL_REQUESTED", None), ("CANCELLED", None)],
}


async def asked(payload: Any = None, *, key: str = "k", **settings: Any) -> Queued:
    (queued,) = await tasks.queue_many([tasks.request("ok.py", payload, singleton_key=key, **settings)])
    return queued


def new_task() -> NewTask:
    settings = {"worker": "ok.py", "singleton_key": "k"}
    return NewTask(initial=Event(type=":INITIAL", meta={SETTINGS_KEY: settings}, event_uuid=uuid4()))


async def led(store: EventStore, id_: int, way: list[tuple[str, Any]]) -> None:
    events = [Event(type=f"dama/task:{kind}", payload=payload) for kind, payload in way]
    await store.append([Append(etl_context_id=id_, event=event) for event in events])


async def the_state(store: EventStore, id_: int) -> TaskState:
    state = await store.state(id_)
    assert isinstance(state, TaskState)
    return state


@pytest.mark.parametrize("state", OPEN)
async def test_while_a_task_is_open_another_is_answered_with_it(store: EventStore, state: str) -> None:
    first = await asked(1)
    await led(store, first.etl_context_id, OPEN[state])
    assert (await store.state(first.etl_context_id)).state == state
    assert await asked(2) == Queued(first.etl_context_id, False, "singleton_key")
    assert (await asked(2, key="another")).created
    assert len(await store.tasks()) == 2
    assert (await verify(store.database)).mismatches == []


@pytest.mark.parametrize("state", ["done", *ENDED])
async def test_once_it_has_ended_another_is_queued(store: EventStore, state: str) -> None:
    first = await asked()
    if state == "done":
        await store.append([Append(etl_context_id=first.etl_context_id, event=Event(type=":FINAL"))])
    else:
        await led(store, first.etl_context_id, ENDED[state])
    second = await asked()
    assert second.created and second.etl_context_id != first.etl_context_id
    assert (await verify(store.database)).mismatches == []


async def test_of_many_that_are_queued_together_the_first_is_the_one(store: EventStore) -> None:
    keys = ["a", "b", "a", None, "a", None, "b"]
    requests = [tasks.request("ok.py", place, **({"singleton_key": key} if key else {})) for place, key in
                enumerate(keys)]  # fmt: skip
    done = await tasks.queue_many(requests)
    assert [queued.created for queued in done] == [True, True, False, True, False, True, False]
    assert done[2].etl_context_id == done[4].etl_context_id == done[0].etl_context_id
    assert done[6] == Queued(done[1].etl_context_id, False, "singleton_key")
    assert len(await store.tasks()) == 4


async def test_of_50_who_ask_at_once_one_makes_the_task_and_all_get_it(store: EventStore) -> None:
    done = await asyncio.gather(*(asked(place) for place in range(50)))
    assert sum(queued.created for queued in done) == 1
    assert len({queued.etl_context_id for queued in done}) == 1
    assert {queued.suppressed for queued in done if not queued.created} == {"singleton_key"}
    assert len(await store.tasks()) == 1


async def test_of_two_who_ask_at_once_the_second_gets_the_first_ones_task(store: EventStore) -> None:
    async with store.database.connection() as connection:
        first = connection.transaction()
        await first.start()
        (mine,) = await store.queue([new_task()], on=connection)
        (theirs,) = await in_the_way(store.database, first.commit, store.queue([new_task()]))
    assert mine.created
    assert theirs == Queued(mine.etl_context_id, False, "singleton_key")


@pytest.mark.parametrize("ended", ENDED)
async def test_one_that_ended_is_not_retried_while_another_is_open(store: EventStore, ended: str) -> None:
    first = await asked()
    await led(store, first.etl_context_id, ENDED[ended])
    second = await asked()
    with pytest.raises(errors.SingletonConflict, match="which another open task has") as refused:
        await tasks.retry(first.etl_context_id)
    assert refused.value.values["open_etl_context_id"] == second.etl_context_id
    await tasks.cancel(second.etl_context_id)
    assert (await tasks.retry(first.etl_context_id)).state == "queued"
    assert await asked() == Queued(first.etl_context_id, False, "singleton_key")


async def test_an_idempotency_key_is_looked_at_first(store: EventStore) -> None:
    first = await asked(idempotency_key="i")
    assert await asked(idempotency_key="i") == Queued(first.etl_context_id, False, "idempotency_key")
    with pytest.raises(errors.IdempotencyConflict):
        await asked("something else", idempotency_key="i")
    assert await asked(idempotency_key="j") == Queued(first.etl_context_id, False, "singleton_key")
    assert len(await store.tasks()) == 1


# --- debounce ---


async def test_a_task_with_debounce_starts_so_long_after_it_was_asked_for(store: EventStore) -> None:
    state = await the_state(store, (await asked(debounce="1h")).etl_context_id)
    assert state.state == "scheduled"
    assert state.run_at == state.created_at + timedelta(hours=1)
    assert (await verify(store.database)).mismatches == []


@pytest.mark.answered("counts events: what is sent again puts off once more, by the time in between")
async def test_who_asks_again_meanwhile_puts_its_start_off(store: EventStore) -> None:
    first = await asked("the first", debounce="1h")
    before = await the_state(store, first.etl_context_id)
    assert await asked("the second", debounce="2h") == Queued(first.etl_context_id, False, "debounce")
    state = await the_state(store, first.etl_context_id)
    assert state.state == "scheduled"
    assert timedelta(minutes=59) < state.run_at - before.run_at < timedelta(minutes=62)
    initial, released = await store.read(first.etl_context_id)
    assert (initial.payload, released.type) == ("the first", "dama/task:RELEASED")
    assert isinstance(released.payload, dict) and released.payload["reason"] == "debounced"
    assert len(await store.tasks()) == 1
    assert (await verify(store.database)).mismatches == []


async def test_it_is_never_put_forward(store: EventStore) -> None:
    first = await asked(start_after="3h", debounce="1h")
    before = await the_state(store, first.etl_context_id)
    assert before.run_at == before.created_at + timedelta(hours=3)
    assert (await asked(debounce="1s")).suppressed == "debounce"
    assert (await the_state(store, first.etl_context_id)).run_at == before.run_at


@pytest.mark.parametrize("state", OPEN)
async def test_one_that_waits_for_its_time_no_more_is_left_as_it_is(store: EventStore, state: str) -> None:
    first = await asked()
    await led(store, first.etl_context_id, OPEN[state])
    before = await store.state(first.etl_context_id)
    assert await asked(debounce="1h") == Queued(first.etl_context_id, False, "singleton_key")
    assert await store.state(first.etl_context_id) == before


async def test_a_task_that_is_claimed_at_this_moment_is_not_put_off(store: EventStore) -> None:
    first = await asked(debounce="1h")
    async with store.database.connection() as connection:
        claim = connection.transaction()
        await claim.start()
        claimed = Append(
            etl_context_id=first.etl_context_id, event=Event(type="dama/task:CLAIMED", payload={"fence": 1})
        )
        await store.append([claimed], on=connection)
        again = await in_the_way(store.database, claim.commit, asked(debounce="1h"))
    assert again == Queued(first.etl_context_id, False, "singleton_key")
    assert (await store.state(first.etl_context_id)).state == "claimed"


async def test_debounce_needs_a_key() -> None:
    with pytest.raises(errors.InvalidInput) as refused:
        await tasks.queue("ok.py", debounce="1h")
    assert refused.value.pointer == "/debounce"
