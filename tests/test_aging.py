"""Whose turn it is in a queue with aging: after each such time of waiting a task's priority counts as one higher."""

from datetime import UTC, datetime, timedelta

import pytest
from test_queues import claim, claim_plainly, end, queued, retrying, schedule

from damad import queues
from damad.context import EtlContext
from damad.eventstore.schedule import Schedule
from damad.eventstore.store import EventStore

__all__ = ["schedule"]

BEGINNING = datetime(2020, 1, 31, tzinfo=UTC)
HOUR = timedelta(hours=1)


def since(waited_since: timedelta) -> str:
    """For `start_after`: a task could run since then, which was so long after the beginning."""
    return (BEGINNING + waited_since).isoformat()


@pytest.mark.parametrize(("later", "first"), [(timedelta(minutes=119), "high"), (timedelta(minutes=121), "low")])
async def test_a_task_that_waited_for_each_step_comes_before_a_higher_priority(
    ctx: EtlContext, store: EventStore, schedule: Schedule, later: timedelta, first: str
) -> None:
    await queues.change("etl", {"aging": "1h"})
    (low,) = await queued(store, None, start_after=since(0 * HOUR))
    (high,) = await queued(store, None, priority=2, start_after=since(later))
    assert await claim(schedule, 1) == [low if first == "low" else high]


async def test_without_aging_a_higher_priority_comes_first_however_long_others_waited(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"aging": "1h"})
    await queues.change("etl", {"aging": None, "global_concurrency": 9})
    low, high = [*await queued(store, None, start_after=since(0 * HOUR)), *await queued(store, None, priority=1)]
    assert await claim(schedule) == [high, low]


async def test_a_steady_stream_of_higher_priorities_keeps_nobody_waiting_for_ever(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"aging": "1h"})
    (low,) = await queued(store, None, priority=-3, start_after=since(0 * HOUR))
    claimed: list[int] = []
    for hour in range(1, 10):
        await queued(store, None, start_after=since(hour * HOUR))
        claimed += await claim(schedule, 1)
    assert claimed.index(low) == 2  # of those with three points more, only who came within three hours was before it


@pytest.mark.parametrize("slots", [1, 7, 100])
@pytest.mark.parametrize("limits", [{}, {"key_concurrency": 100}])
async def test_it_is_the_same_order_however_many_are_claimed_at_a_time(
    ctx: EtlContext, store: EventStore, schedule: Schedule, slots: int, limits: dict[str, int]
) -> None:
    await queues.change("etl", {"aging": "10m", **limits})
    turns = []
    for place in range(40):
        priority, waits_since = place * 7 % 5 - 2, timedelta(minutes=place * place % 3 + 3 * place)
        (id_,) = await queued(store, "a", priority=priority, start_after=since(waits_since))
        turns.append((waits_since - priority * timedelta(minutes=10), id_))
    claimed = []
    while ids := await claim(schedule, slots):
        claimed += ids
    assert claimed == [id_ for _, id_ in sorted(turns)]


async def test_a_retry_waits_since_it_is_due(ctx: EtlContext, store: EventStore, schedule: Schedule) -> None:
    await queues.change("etl", {"aging": "1h"})
    (again,) = await retrying(store, None, priority=1)  # at eight
    before, after = [
        *await queued(store, None, start_after=since(6.5 * HOUR)),
        *await queued(store, None, start_after=since(7.5 * HOUR)),
    ]
    assert await claim(schedule) == [before, again, after]


async def test_a_key_too_is_served_by_whose_turn_it_is_and_nobody_waits_behind_one_that_is_full(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"aging": "1h", "key_concurrency": 1})
    first, *_ = await queued(store, *["a"] * 1001, priority=3, start_after=since(0 * HOUR))
    (old,) = await queued(store, "b", start_after=since(0 * HOUR))
    (new,) = await queued(store, "b", priority=3, start_after=since(4 * HOUR))
    assert await claim(schedule) == [first, old]
    await end(store, old)
    assert await claim(schedule) == [new]


async def test_nothing_is_claimed_past_its_turn_by_who_does_not_know_of_it(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    ids = await queued(store, None)
    await queues.change("etl", {"aging": "1h"})
    assert await claim_plainly(schedule) == []
    assert await claim(schedule) == ids
