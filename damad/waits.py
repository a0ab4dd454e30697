"""Waits of a task: for a moment, for an event, for other tasks. Who waits holds no slot of its queue.

A wait that is over within `wait_in_process` stays in the process and appends nothing. A longer one ends the run, which
says in its WAITING event what for (damad/model/memory.py); a supervisor queues the task again once that is over, also
where it was over before (schema/227_resume_tasks.sql), and `main` runs again from its start.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn, TypeVar

import msgspec

from damad import background, context, events, units
from damad.errors import InvalidInput, TaskCancelled, TaskFailed
from damad.eventstore import leases, listener
from damad.model import memory, shape
from damad.model.event import RecordedEvent, check_type
from damad.model.memory import Memory

T = TypeVar("T")


class Subtask(msgspec.Struct, frozen=True):
    """A child task, as its parent holds it."""

    name: str
    etl_context_id: int


async def sleep(duration: float | str, *, name: str | None = None) -> None:
    """Returns after so many seconds, or "10m"; once in the life of a task, however often it runs again meanwhile.

    A sleep that is longer than `wait_in_process` is known again by its place among them, or by its name.
    """
    seconds = units.duration(duration, pointer="/duration")
    remembered = await _memory()
    named = remembered.name("sleep", _checked(name))
    if remembered.ended(named) is not None:
        return
    if seconds > remembered.in_process:
        raise remembered.suspend(named, seconds=seconds)
    async with _holding_no_slot():
        await asyncio.sleep(seconds)


async def wait_for(type_: str, *, timeout: float | str | None = None, name: str | None = None) -> dict[str, Any]:
    """The next event of a type in this context, whoever appends it, as recorded.

    One that came before anybody waited counts too: the first wait for a type returns the first event of it, the second
    the second. Raises TimeoutError; where the process has ended meanwhile, again each time that `main` comes here.
    """
    check_type(type_)
    seconds = None if timeout is None else units.duration(timeout, pointer="/timeout")
    remembered = await _memory()
    named = remembered.name(f"wait_for {type_}", _checked(name))
    ended = remembered.ended(named)
    if ended is None:
        event = await _awaited(type_, seconds, named, remembered)
    elif ended.version is None:
        _time_out(type_, timeout)
    else:
        event = await _recorded(ended.version)
    if event is None:
        remembered.times_out(named)
        _time_out(type_, timeout)
    remembered.takes(type_, event.version)
    return event.as_dict()


def _time_out(type_: str, timeout: float | str | None) -> NoReturn:
    raise TimeoutError(f"no {type_} came within {timeout} s" if timeout is not None else f"no {type_} came in time")


async def _awaited(type_: str, seconds: float | None, named: str, remembered: Memory) -> RecordedEvent | None:
    """The event, or None where the timeout is over. Raises Suspended."""
    store, id_, after = context.current().store, context.current_id(), remembered.after(type_)
    begun = asyncio.get_running_loop().time()

    async def look() -> RecordedEvent | None:
        found = await store.read(id_, after_version=after, types=[type_], limit=1)
        return found[0] if found else None

    found = await _stayed(look, min(remembered.in_process, math.inf if seconds is None else seconds), hears=id_)
    if found is None and (seconds is None or seconds > remembered.in_process):
        left = None if seconds is None else max(0.0, seconds - (asyncio.get_running_loop().time() - begun))
        raise remembered.suspend(named, seconds=left, event=type_, after_version=after)
    return found


async def _recorded(version: int) -> RecordedEvent:
    store, id_ = context.current().store, context.current_id()
    return (await events.persist(partial(store.read, id_, after_version=version - 1, limit=1)))[0]


async def gather(*children: Subtask | int, return_exceptions: bool = False) -> list[Any]:
    """The :FINAL payloads of the children, in their order, once all have ended.

    Raises TaskFailed or TaskCancelled for the first child that ended so; with `return_exceptions` they stand in
    the list instead.
    """
    ids = await _known(children)
    ends = await _ends(ids)
    outcomes = [await _outcome(ends[id_]) for id_ in ids]
    return outcomes if return_exceptions else [_raised(outcome) for outcome in outcomes]


async def first(*children: Subtask | int) -> Any:
    """The :FINAL payload of the child that ended first, once one has. The others go on; `tasks.cancel` stops them.

    Raises TaskFailed or TaskCancelled where the first one ended so.
    """
    async for _, outcome in as_completed(*children):
        return outcome
    raise InvalidInput("first needs a child to wait for")


async def as_completed(
    *children: Subtask | int, return_exceptions: bool = False
) -> AsyncGenerator[tuple[Subtask | int, Any], None]:
    """Each child with its :FINAL payload, as they end. Where `main` runs again, all that have ended come at once.

    Raises TaskFailed or TaskCancelled for a child that ended so; with `return_exceptions` it stands in place of the
    payload.
    """
    ids = await _known(children)
    pending = dict(zip(ids, children, strict=True))
    while pending:
        ends = await _ends(list(pending), any_of_them=True)
        for event in sorted(ends.values(), key=lambda event: event.event_id):
            outcome = await _outcome(event)
            yield pending.pop(event.etl_context_id), outcome if return_exceptions else _raised(outcome)


async def _known(children: Sequence[Subtask | int]) -> list[int]:
    """Their ids. Raises NotFound: one that does not exist would be waited for for ever."""
    for child in children:
        if not isinstance(child, Subtask):
            await events.persist(partial(context.current().store.state, child))
    return [child.etl_context_id if isinstance(child, Subtask) else child for child in children]


async def _ends(ids: Sequence[int], *, any_of_them: bool = False) -> dict[int, RecordedEvent]:
    """The events that they ended with, once all or any of them have. Raises Suspended."""
    remembered = await _memory()
    store = context.current().store
    ends: dict[int, RecordedEvent] = {}

    def pending() -> list[int]:
        return [id_ for id_ in dict.fromkeys(ids) if id_ not in ends]

    async def look() -> bool | None:
        ends.update({event.etl_context_id: event for event in await store.end_events(pending())})
        return True if not pending() or (any_of_them and ends) else None

    if await _stayed(look, remembered.in_process) is None:
        raise remembered.suspend(None, children=pending(), **({"any": True} if any_of_them else {}))
    return ends


async def _outcome(event: RecordedEvent) -> Any:
    try:
        return (await events.persist(partial(events.result_of, event))).payload
    except (TaskFailed, TaskCancelled) as error:
        return error


def _raised(outcome: Any) -> Any:
    if isinstance(outcome, TaskFailed | TaskCancelled):
        raise outcome
    return outcome


async def _stayed(look: Callable[[], Awaitable[T | None]], seconds: float, *, hears: int | None = None) -> T | None:
    """What `look` finds, once it does; None after so many seconds. hears: the context whose events it looks for."""
    found = await events.persist(look)
    if found is not None or seconds <= 0:
        return found
    clock = asyncio.get_running_loop()
    until = clock.time() + seconds
    bells = context.current().store.database.listener()
    with bells.subscribe(listener.EVENT, hears) as bell:
        async with _holding_no_slot():
            while (found := await events.persist(look)) is None and (left := until - clock.time()) > 0:
                await bell.wait(min(left, listener.POLL_INTERVAL))
    return found


@asynccontextmanager
async def _holding_no_slot() -> AsyncIterator[None]:
    ctx = context.current()
    if ctx.fence is None:
        yield
        return
    id_, fence, database = context.current_id(), ctx.fence, ctx.store.database
    await events.persist(lambda: leases.set_waiting(database, id_, fence, True))
    try:
        yield
    finally:
        await asyncio.shield(events.persist(lambda: leases.set_waiting(database, id_, fence, False)))


async def _memory() -> Memory:
    """What this run remembers; outside a run nothing, and every wait stays where it is."""
    if events.open_connection() is not None:
        raise InvalidInput("who waits inside events.transaction() holds it open; wait before it or after")
    ctx = context.current()
    if ctx.memory is None:
        return Memory(math.inf, lambda: datetime.now(UTC))
    if not ctx.memory.read:
        read = partial(ctx.store.read, context.current_id(), types=memory.TYPES)
        ctx.memory.learn(await events.persist(read))
    return ctx.memory


def _checked(name: str | None) -> str | None:
    if name is not None:
        shape.check_json(name, "the name", pointer="/name")
        if not isinstance(name, str):
            raise InvalidInput(f"{name!r} is no name", pointer="/name")
    return name


def sleep_sync(duration: float | str, *, name: str | None = None) -> None:
    """`sleep`, for sync code."""
    background.run(sleep(duration, name=name))


def wait_for_sync(type_: str, *, timeout: float | str | None = None, name: str | None = None) -> dict[str, Any]:
    """`wait_for`, for sync code."""
    return background.run(wait_for(type_, timeout=timeout, name=name))


def gather_sync(*children: Subtask | int, return_exceptions: bool = False) -> list[Any]:
    """`gather`, for sync code."""
    return background.run(gather(*children, return_exceptions=return_exceptions))
