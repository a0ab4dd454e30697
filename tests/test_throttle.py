"""One task of a singleton_key in a time at most: whoever asks for another gets the last one, and why."""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from test_locks import in_the_way, new_task
from test_singleton_key import ENDED, OPEN, asked, led

from damad import errors, tasks
from damad.eventstore.store import Append, EventStore, Queued
from damad.eventstore.verify import verify
from damad.model.event import Event

pytestmark = pytest.mark.usefixtures("ctx")


async def end(store: EventStore, id_: int, state: str = "done", *, on: Any = None) -> None:
    if state == "done":
        await store.append([Append(etl_context_id=id_, event=Event(type=":FINAL"))], on=on)
    else:
        await led(store, id_, ENDED[state])


async def made_earlier(plain: "asyncpg.Connection[Any]", id_: int, how_much: timedelta) -> None:
    """The same as if its :INITIAL had been appended so much earlier. (Nobody else changes events.)"""
    async with plain.transaction():
        await plain.execute("SET LOCAL session_replication_role = replica")
        await plain.execute(
            "UPDATE data_manager.event_store SET _created_timestamp = _created_timestamp - $2::interval"
            " WHERE etl_context_id = $1 AND version = 1", id_, how_much,
        )  # fmt: skip


@pytest.mark.parametrize("state", ["done", *ENDED])
async def test_for_so_long_after_a_task_was_queued_another_is_answered_with_it_whatever_became_of_it(
    store: EventStore, plain: "asyncpg.Connection[Any]", state: str
) -> None:
    first = await asked(1, throttle="1h")
    await end(store, first.etl_context_id, state)
    assert await asked(2, throttle="1h") == Queued(first.etl_context_id, False, "throttle")
    assert (await asked(2, key="another", throttle="1h")).created
    await made_earlier(plain, first.etl_context_id, timedelta(minutes=59))
    assert await asked(2, throttle="1h") == Queued(first.etl_context_id, False, "throttle")
    await made_earlier(plain, first.etl_context_id, timedelta(minutes=1))
    second = await asked(3, throttle="1h")
    assert second.created and second.etl_context_id != first.etl_context_id
    await end(store, second.etl_context_id)
    assert await asked(4, throttle="1h") == Queued(second.etl_context_id, False, "throttle")


async def test_the_last_one_counts_by_the_throttle_of_who_asks_whether_it_had_one_or_not(
    store: EventStore, plain: "asyncpg.Connection[Any]"
) -> None:
    first = await asked()
    await end(store, first.etl_context_id)
    await made_earlier(plain, first.etl_context_id, timedelta(minutes=30))
    assert await asked(throttle="1h") == Queued(first.etl_context_id, False, "throttle")
    assert (await asked(throttle="30m")).created


@pytest.mark.parametrize("state", OPEN)
async def test_while_the_last_one_is_open_it_is_the_singleton_key_that_says_so(store: EventStore, state: str) -> None:
    first = await asked(throttle="1h")
    await led(store, first.etl_context_id, OPEN[state])
    assert await asked(throttle="1h") == Queued(first.etl_context_id, False, "singleton_key")


async def test_with_debounce_what_has_not_begun_is_put_off_and_what_has_ended_is_not_followed(
    store: EventStore,
) -> None:
    first = await asked(debounce="1h", throttle="1h")
    assert await asked(debounce="2h", throttle="1h") == Queued(first.etl_context_id, False, "debounce")
    await tasks.cancel(first.etl_context_id)
    before = await store.state(first.etl_context_id)
    assert await asked(debounce="1h", throttle="1h") == Queued(first.etl_context_id, False, "throttle")
    assert await store.state(first.etl_context_id) == before
    assert (await verify(store.database)).mismatches == []


async def test_of_many_that_are_queued_together_the_first_of_each_key_is_the_one(store: EventStore) -> None:
    ended = await asked(key="b")
    await end(store, ended.etl_context_id)
    requests = [tasks.request("ok.py", place, singleton_key=key, throttle="1h") for place, key in enumerate("aabca")]
    done = await tasks.queue_many([*requests, tasks.request("ok.py")])
    assert [queued.created for queued in done] == [True, False, False, True, False, True]
    assert done[2] == Queued(ended.etl_context_id, False, "throttle")
    assert done[4] == Queued(done[0].etl_context_id, False, "singleton_key")


async def test_of_two_who_ask_at_once_the_second_sees_the_first_ones_task_though_it_has_ended(
    store: EventStore,
) -> None:
    async with store.database.connection() as connection:
        first = connection.transaction()
        await first.start()
        (mine,) = await store.queue([new_task(singleton_key="k", throttle="1h")], on=connection)
        await end(store, mine.etl_context_id, on=connection)
        theirs = await in_the_way(store.database, first.commit, asked(throttle="1h"))
    assert mine.created
    assert theirs == Queued(mine.etl_context_id, False, "throttle")


async def test_of_50_who_ask_at_once_for_two_keys_each_makes_one_task(store: EventStore) -> None:
    requests = [
        [tasks.request("ok.py", singleton_key=key, throttle="1h") for key in ("ab" if place % 2 else "ba")]
        for place in range(50)
    ]
    done = await asyncio.gather(*(tasks.queue_many(each) for each in requests))
    assert sum(queued.created for each in done for queued in each) == 2


async def test_throttle_needs_a_key() -> None:
    with pytest.raises(errors.InvalidInput, match="singleton_key") as refused:
        await tasks.queue("ok.py", throttle="1h")
    assert refused.value.pointer == "/throttle"
