"""Calls that are made at the same time are answered together, each as if it had been alone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from damad import errors
from damad.errors import DamadError
from damad.eventstore.grouping import MOST_EVENTS, MOST_WAITING, Grouping
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, Appended, EventStore, NewTask, sent_as
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY, Event

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""
LOCK = "SELECT FROM data_manager.etl_contexts WHERE etl_context_id = $1 FOR NO KEY UPDATE"
MARKS = "SELECT count(DISTINCT txid) FROM data_manager.event_store WHERE type = ':MARK'"


@pytest_asyncio.fixture
async def grouped(database: Database) -> AsyncIterator[EventStore]:
    """A store of a database that groups."""
    own = Database("local", database.dsn, lock_timeout=0.2, groups=True)
    yield EventStore(own)
    await own.close()


@pytest_asyncio.fixture
async def other(database: Database) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection of somebody else."""
    connection = await asyncpg.connect(database.dsn)
    yield connection
    connection.terminate()


async def begun(store: EventStore) -> int:
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL"))])
    return id_


def call(id_: int, *types: str, uuid: UUID | None = None, **given: Any) -> list[Append]:
    return [Append(etl_context_id=id_, event=Event(type=type_, event_uuid=uuid), **given) for type_ in types]


async def append_each(store: EventStore, calls: Sequence[Sequence[Append]]) -> list[list[Appended] | DamadError]:
    return await store.append_each([[sent_as(append) for append in call] for call in calls])


def said(answer: Any) -> Any:
    """What an answer says, without ids and times."""
    if isinstance(answer, BaseException):
        return type(answer), str(answer), vars(answer)
    return [(done.event.type, done.event.version, done.event.error, done.replayed) for done in answer]


# --- many calls in one statement ---


async def test_each_call_of_many_has_its_own_answer(store: EventStore) -> None:
    one, two, three, over = [await begun(store) for _ in range(4)]
    uuid = uuid4()
    await store.append(call(one, ":A", uuid=uuid))
    await store.append(call(over, ":FINAL"))
    answers = await append_each(store, [
        call(one, ":B", ":C"),
        call(one, ":A", uuid=uuid),
        call(two, ":X", uuid=uuid),
        call(two, ":A", expected_version=7),
        call(two, ":A", expected_version=1),
        call(three, ":A", ":INITIAL"),
        call(three, ":FINAL"),
        call(over, ":LATE"),
        call(999, ":A"),
        call(three, ":A", fence=3),
    ])  # fmt: skip
    assert said(answers[0]) == [(":B", 3, None, False), (":C", 4, None, False)]
    assert said(answers[1]) == [(":A", 2, None, True)]
    assert said(answers[4]) == [(":A", 2, None, False)]
    assert said(answers[6]) == [(":FINAL", 2, None, False)]
    kinds = [type(answers[place]) for place in (2, 3, 5, 7, 8, 9)]
    assert kinds == [
        errors.EventUuidConflict, errors.VersionConflict, errors.IllegalTransition, errors.IllegalTransition,
        errors.NotFound, errors.StaleFence,
    ]  # fmt: skip
    assert isinstance(refused := answers[3], errors.VersionConflict)
    assert refused.values == {"etl_context_id": two, "version": 1, "expected_version": 7}
    assert (await verify(store.database)).mismatches == []


TYPES = [":A", ":A", "x:ERROR", ":INITIAL", ":FINAL", "dama/task:STEP", "dama/task:PROGRESS", "dama/task:CLAIMED"]


async def a_set(store: EventStore) -> tuple[list[int], list[UUID]]:
    """Two contexts, a task that runs with fence 1, a queued one, and uuids to take."""
    tasks = [NewTask(initial=Event(type=":INITIAL", meta={SETTINGS_KEY: {"worker": "ok.py"}})) for _ in range(2)]
    running, waiting = [queued.etl_context_id for queued in await store.queue(tasks)]
    for type_, payload in (("CLAIMED", {"fence": 1}), ("STARTED", {"attempt": 1})):
        event = Event(type=f"dama/task:{type_}", payload=payload)
        await store.append([Append(etl_context_id=running, event=event)])
    return [await begun(store), await begun(store), running, waiting], [uuid4() for _ in range(3)]


def some_calls(random: Random, ids: list[int], uuids: list[UUID]) -> list[list[Append]]:
    """Calls of one to three events. The same random numbers make the same calls on another set."""

    def some() -> Append:
        fence, uuid, at = random.choice([None, None, 1, 2]), random.choice([None, None, *range(3)]), random.randrange(8)
        type_ = random.choice(TYPES)
        event = Event(
            type=type_,
            payload={"fence": 2} if type_.endswith("CLAIMED") else {"n": random.randrange(2)},
            event_uuid=None if uuid is None else uuids[uuid],
        )
        return Append(
            etl_context_id=random.choice(ids), event=event, fence=fence, expected_version=at if at < 3 else None
        )

    return [[some() for _ in range(random.choice([1, 1, 2, 3]))] for _ in range(random.choice([2, 8]))]


@pytest.mark.answered("compares two histories to the letter, with who was first")
@pytest.mark.parametrize("seed", range(12))
async def test_many_calls_in_one_statement_are_answered_as_one_after_another(store: EventStore, seed: int) -> None:
    outcomes = []
    for together in (False, True):
        random = Random(seed)
        ids, uuids = await a_set(store)
        said_then: list[Any] = []
        for _ in range(4):
            calls = some_calls(random, ids, uuids)
            if together:
                answers: list[Any] = list(await append_each(store, calls))
            else:
                answers = [(await asyncio.gather(store.append(one), return_exceptions=True))[0] for one in calls]
            said_then += [type(a) if isinstance(a, BaseException) else said(a) for a in answers]
        events = [[(e.version, e.type, e.payload) for e in await store.read(id_)] for id_ in ids]
        states = [msgspec.structs.asdict(await store.state(id_)) for id_ in ids]
        outcomes.append((said_then, events, [(s["state"], s["etl_status"], s.get("progress")) for s in states]))
    assert outcomes[0] == outcomes[1]
    assert (await verify(store.database)).mismatches == []


async def test_a_context_that_somebody_holds_is_left_out_and_the_others_are_not(
    store: EventStore, other: "asyncpg.Connection[Any]"
) -> None:
    held, free = await begun(store), await begun(store)
    async with other.transaction():
        await other.execute(LOCK, held)
        async with asyncio.timeout(SOON):
            busy, done, both = await append_each(
                store, [call(held, ":A"), call(free, ":A"), [*call(free, ":B"), *call(held, ":B")]]
            )
    assert isinstance(busy, errors.ContextBusy) and isinstance(both, errors.ContextBusy)
    assert said(done) == [(":A", 2, None, False)]


async def test_an_error_without_what_follows_from_it_fails_its_own_call_only(store: EventStore) -> None:
    ids = []
    for _ in range(2):
        initial = Event(type=":INITIAL", meta={SETTINGS_KEY: {"worker": "ok.py"}}, event_uuid=uuid4())
        id_ = (await store.queue([NewTask(initial=initial)]))[0].etl_context_id
        for type_, payload in (("CLAIMED", {"fence": 1}), ("STARTED", {"attempt": 1})):
            await store.append([Append(etl_context_id=id_, event=Event(type=f"dama/task:{type_}", payload=payload))])
        ids.append(id_)
    lone, whole, plain = await append_each(store, [
        call(ids[0], "dama/task:ERROR"), call(ids[1], "dama/task:ERROR", "dama/task:FAILED"), call(ids[0], ":A"),
    ])  # fmt: skip
    assert type(lone) is errors.Conflict
    assert said(whole) == [("dama/task:ERROR", 4, None, False), ("dama/task:FAILED", 5, None, False)]
    assert said(plain) == [(":A", 4, None, False)]
    assert (await verify(store.database)).mismatches == []


async def test_many_events_of_one_context_are_given_places_in_the_order_given(store: EventStore) -> None:
    one, two = await begun(store), await begun(store)
    types = [":A", "x:ERROR", ":B", "x:ERROR", ":C"]
    done = await store.append([append for type_ in types for id_ in (one, two) for append in call(id_, type_)])
    assert [(d.event.etl_context_id, d.event.version, d.event.type) for d in done] == [
        (id_, number, type_) for number, type_ in enumerate(types, 2) for id_ in (one, two)
    ]
    ids = [d.event.event_id for d in done]
    assert ids == sorted(ids)
    assert (await store.state(one)).etl_status == "OPEN"
    await store.append(call(two, ":D", "x:ERROR"))
    assert (await store.state(two)).etl_status == "ERROR"
    assert (await verify(store.database)).mismatches == []


# --- calls that meet ---


async def test_calls_at_the_same_time_share_a_transaction(store: EventStore, grouped: EventStore) -> None:
    ids = [await begun(store) for _ in range(50)]
    done = await asyncio.gather(*(grouped.append(call(id_, ":MARK")) for id_ in ids))
    assert [said(answer) for answer in done] == [[(":MARK", 2, None, False)]] * 50
    async with store.database.connection() as connection:
        assert await connection.fetchval(MARKS) <= 3


async def test_grouped_calls_are_answered_as_single_ones_are(store: EventStore, grouped: EventStore) -> None:
    """The same calls, of which each depends on nobody else's, made one by one here and all at once there."""
    uuid, answers = uuid4(), []
    for through in (store, grouped):
        open_, over = await begun(through), await begun(through)
        await through.append(call(over, ":FINAL"))
        known = uuid if through is store else uuid4()
        await through.append(call(open_, ":A", uuid=known))
        asked: list[Sequence[Append]] = [
            call(open_, ":A", uuid=known), call(over, ":B"), call(open_, ":INITIAL"), call(10**12, ":A"),
            call(await begun(through), ":A", fence=1), call(await begun(through), ":A", ":B", ":FINAL"),
            call(await begun(through), ":A", expected_version=5), call(await begun(through), "x:ERROR"), [],
        ]  # fmt: skip
        made = [through.append(each) for each in asked]
        if through is store:
            answers.append([await asyncio.gather(one, return_exceptions=True) for one in made])
        else:
            answers.append([[answer] for answer in await asyncio.gather(*made, return_exceptions=True)])
    for alone, together in zip(*answers, strict=True):
        if isinstance(alone[0], BaseException):
            assert type(together[0]) is type(alone[0])
            assert getattr(together[0], "values", {}).keys() == getattr(alone[0], "values", {}).keys()
        else:
            assert said(together[0]) == said(alone[0])


async def test_who_appends_one_after_another_keeps_the_order(grouped: EventStore) -> None:
    ids = [await begun(grouped) for _ in range(10)]

    async def caller(id_: int) -> None:
        for number in range(10):
            await grouped.append(call(id_, f":N{number}"))

    await asyncio.gather(*(caller(id_) for id_ in ids))
    for id_ in ids:
        assert [event.type for event in await grouped.read(id_, after_version=1)] == [f":N{n}" for n in range(10)]


async def test_a_busy_context_keeps_only_its_own_callers_waiting(
    grouped: EventStore, other: "asyncpg.Connection[Any]"
) -> None:
    held, *free = [await begun(grouped) for _ in range(9)]
    async with other.transaction():
        await other.execute(LOCK, held)
        late = asyncio.ensure_future(grouped.append(call(held, ":A")))
        async with asyncio.timeout(SOON):
            await asyncio.gather(*(grouped.append(call(id_, ":A")) for id_ in free))
        with pytest.raises(errors.ContextBusy):
            await late
    assert said(await grouped.append(call(held, ":A"))) == [(":A", 2, None, False)]


async def test_a_caller_that_goes_away_harms_no_other(grouped: EventStore) -> None:
    ids = [await begun(grouped) for _ in range(20)]
    calls = [asyncio.ensure_future(grouped.append(call(id_, ":A"))) for id_ in ids]
    await asyncio.sleep(0)
    for gone in calls[::2]:
        gone.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [said(answer) for answer in done[1::2]] == [[(":A", 2, None, False)]] * 10
    assert all(isinstance(answer, asyncio.CancelledError) for answer in done[::2])


async def test_tasks_queued_at_the_same_time_are_queued_once_each(grouped: EventStore) -> None:
    def task(key: str | None, worker: str = "ok.py") -> NewTask:
        settings = {"worker": worker} | ({"idempotency_key": key} if key else {})
        return NewTask(initial=Event(type=":INITIAL", meta={SETTINGS_KEY: settings}, event_uuid=uuid4()))

    asked = [*(task(None) for _ in range(10)), *(task("same") for _ in range(5)), task("same", "other.py")]
    done = await asyncio.gather(*(grouped.queue([one]) for one in asked), return_exceptions=True)
    ids = [answer[0].etl_context_id for answer in done[:15] if not isinstance(answer, BaseException)]
    assert len(ids) == 15 and len(set(ids)) == 11
    assert isinstance(done[15], errors.IdempotencyConflict)
    assert (await verify(grouped.database)).mismatches == []


async def test_what_cannot_be_sent_fails_its_own_call_only(grouped: EventStore) -> None:
    good, bad = await begun(grouped), await begun(grouped)
    done = await asyncio.gather(
        grouped.append(call(bad, ":\ud800A")), grouped.append(call(good, ":A")), return_exceptions=True
    )
    assert isinstance(done[0], DamadError) and said(done[1]) == [(":A", 2, None, False)]


# --- the grouping by itself ---


class Counter:
    """Answers calls with themselves, once it may; says how they came."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.groups: list[list[int]] = []
        self.alone: list[int] = []
        self.may = asyncio.Event()
        self.fault: Exception | None = None

    async def many(self, asked: Sequence[int]) -> list[int | DamadError]:
        self.groups.append(list(asked))
        self.asked.set()
        await self.may.wait()
        if self.fault is not None:
            raise self.fault
        return list(asked)

    async def one(self, asked: int) -> int:
        self.alone.append(asked)
        return asked


async def test_what_comes_while_a_group_is_on_its_way_is_the_next_group_within_bounds() -> None:
    counter = Counter()
    grouping = Grouping(counter.many, counter.one)
    first = asyncio.ensure_future(grouping.ask(0, events=1, size=10))
    await counter.asked.wait()
    others = [asyncio.ensure_future(grouping.ask(n, events=MOST_EVENTS // 2, size=10)) for n in range(1, 6)]
    large = asyncio.ensure_future(grouping.ask(6, events=1, size=10**9))
    await asyncio.sleep(0)
    counter.may.set()
    assert await asyncio.gather(first, *others, large) == list(range(7))
    assert counter.groups == [[0], [1, 2], [3, 4], [5], [6]]


async def test_who_comes_when_it_is_full_waits_for_room() -> None:
    counter = Counter()
    grouping = Grouping(counter.many, counter.one)
    number = MOST_WAITING + 5
    calls = [asyncio.ensure_future(grouping.ask(n, events=MOST_EVENTS, size=10)) for n in range(number)]
    await counter.asked.wait()
    assert len(grouping._waiting) <= MOST_WAITING
    counter.may.set()
    async with asyncio.timeout(SOON):
        assert await asyncio.gather(*calls) == list(range(number))


async def test_after_a_fault_of_the_program_nobody_waits_for_ever_and_the_next_group_goes() -> None:
    counter = Counter()
    counter.may.set()
    grouping = Grouping(counter.many, counter.one)
    counter.fault = KeyError("a fault")
    done = await asyncio.gather(*(grouping.ask(n, events=1, size=1) for n in range(3)), return_exceptions=True)
    assert [type(answer) for answer in done] == [errors.Unavailable] * 3
    counter.fault = None
    assert await grouping.ask(7, events=1, size=1) == 7


async def test_after_a_group_whose_outcome_is_unknown_each_call_is_made_alone() -> None:
    counter = Counter()
    counter.fault = errors.Unavailable("away")
    counter.may.set()
    grouping = Grouping(counter.many, counter.one)
    assert await asyncio.gather(*(grouping.ask(n, events=1, size=1) for n in range(3))) == [0, 1, 2]
    assert sorted(counter.alone) == [0, 1, 2]


async def test_who_waits_when_it_is_closed_is_told_so() -> None:
    counter = Counter()
    grouping = Grouping(counter.many, counter.one)
    number = MOST_WAITING + 3  # some of which wait for room
    calls = [asyncio.ensure_future(grouping.ask(n, events=MOST_EVENTS, size=1)) for n in range(number)]
    await counter.asked.wait()
    await grouping.close()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, errors.Unavailable) for answer in done)
    with pytest.raises(errors.Unavailable):
        await grouping.ask(9, events=1, size=1)
