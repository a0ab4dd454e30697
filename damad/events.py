"""What can be done with events. Workers call these in their ambient context; fronts name the context they mean.

`dispatch` is the workers' word for append. Inside `transaction()` it appends with the worker's own rows or not at all.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from damad import background, context
from damad.backoff import Backoff
from damad.errors import InvalidInput, TaskCancelled, TaskFailed, Unavailable
from damad.eventstore import listener
from damad.eventstore.feed import Cursor, Feed, Page
from damad.eventstore.store import Append, Appended
from damad.eventstore.uuids import new_uuid
from damad.model import trace
from damad.model.event import TASK_PREFIX, Event, RecordedEvent, check_meta, check_type, parse

T = TypeVar("T")

_PAGE: Final = 1000
_LAST_VERSION: Final = 2**63 - 1

log = logging.getLogger(__name__)

_open_transaction: ContextVar["_Transaction | None"] = ContextVar("damad_transaction", default=None)


class _Transaction:
    """A worker's transaction, and the events that will be appended just before it commits.

    over: it takes no more. Tasks and threads that were started inside may live longer, and still see it.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.events: list[Event] = []
        self.over = False


async def dispatch(event: dict[str, Any]) -> dict[str, Any]:
    """Appends an event to the current context and returns it as recorded.

    Inside `transaction()` it is appended just before COMMIT, and only its event_uuid is returned.
    In a run it waits for a Postgres that is away, however long; the event is recorded once all the same.
    Raises InvalidInput, IllegalTransition (after the :FINAL, say), StaleFence (another run holds the task now).
    """
    new = from_worker(event)
    if leave_to_transaction(new):
        return {"event_uuid": str(new.event_uuid)}
    return (await record([new]))[0].as_dict()


def leave_to_transaction(event: Event) -> bool:
    """Inside `transaction()`: has the event appended just before COMMIT, and returns True."""
    transaction_ = _transaction_here()
    if transaction_ is None:
        return False
    transaction_.events.append(event)
    return True


def left_to_transaction() -> Sequence[Event]:
    """The events that the transaction which this code is in will append."""
    transaction_ = _transaction_here()
    return () if transaction_ is None else transaction_.events


def dispatch_sync(event: dict[str, Any]) -> dict[str, Any]:
    """`dispatch`, for sync code; not inside a transaction."""
    return background.run(dispatch(event))


async def record(new: Sequence[Event]) -> list[RecordedEvent]:
    """Appends events, damad's own too, to the current context under its fence, in one statement.

    In a run (with a fence) it outlives an outage of Postgres; each event carries its event_uuid, so that one whose
    outcome was lost is not recorded twice.
    """
    ctx = context.current()
    appends = [
        Append(
            etl_context_id=context.current_id(),
            fence=ctx.fence,
            event=_with_uuid(event),
        )
        for event in new
    ]
    store = ctx.store
    if ctx.fence is None:
        return [done.event for done in await store.append(appends)]
    return [done.event for done in await persist(lambda: store.append(appends))]


async def persist(operation: Callable[[], Awaitable[T]]) -> T:
    """The result of an operation that is safe to repeat, repeated until Postgres is there to answer.

    It says so once, however long that takes: the line is there when somebody looks, and not a thousand of it.
    """
    backoff = Backoff()
    try:
        return await operation()
    except Unavailable as error:
        log.warning("%s; trying again until it answers", error)
    while True:
        await backoff.pause()
        with suppress(Unavailable):
            return await operation()


async def append(
    etl_context_id: int,
    given: Sequence[dict[str, Any] | Event],
    *,
    expected_versions: Sequence[int | None] = (),
    pointer: str = "",
) -> list[Appended]:
    """Appends events from outside to a context, all or none.

    `given`: plain objects, or Events that a front took from JSON which it has checked.
    `expected_versions`: the version of the context before each of them. Who names that of the first alone has named
    them all, so that of events that are sent again none is appended twice.

    To the context of a run, in that run, it appends under its fence.

    Raises InvalidInput (also for damad's own types, which nobody else may append), NotFound, Conflict, Unavailable.
    """
    new = []
    for place, event in enumerate(given):
        where = f"{pointer}/{place}" if len(given) > 1 else pointer
        new.append(traced(_not_reserved(_event(event, where), where)))
    ctx = context.current()
    fence = ctx.fence if ctx.etl_context_id == etl_context_id else None
    done = await ctx.store.append(
        [
            Append(etl_context_id=etl_context_id, event=_with_uuid(event), expected_version=expected, fence=fence)
            for event, expected in zip(new, _counted(expected_versions, len(new)), strict=True)
        ]
    )
    # One whose uuid was drawn here can only have been recorded by a first try whose answer was lost.
    return [
        one if event.event_uuid or not one.replayed else Appended(one.event, False)
        for one, event in zip(done, new, strict=True)
    ]


def _counted(expected: Sequence[int | None], count: int) -> list[int | None]:
    first = expected[0] if expected else None
    if first is None:
        return list(expected) or [None] * count
    counted = [min(first + place, _LAST_VERSION) for place in range(count)]
    return [own if own is not None else after for own, after in zip(expected, counted, strict=True)]


def traced(event: Event) -> Event:
    """The event with the trace of whoever appends it, if that belongs to one, in its meta."""
    traceparent = context.current().traceparent
    return event if traceparent is None else msgspec.structs.replace(event, meta=trace.kept(event.meta, traceparent))


def _with_uuid(event: Event) -> Event:
    return event if event.event_uuid else msgspec.structs.replace(event, event_uuid=new_uuid())


async def create_context(*, parent_context_id: int | None = None, source_id: int | None = None) -> int:
    """A new context, without events yet. Its first event must be an :INITIAL."""
    return await context.current().store.create_context(parent_context_id=parent_context_id, source_id=source_id)


async def read(
    etl_context_id: int | None = None, *, after_version: int = 0, types: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The events of a context, the current one unless named, after a version, in order."""
    ctx = context.current()
    id_ = context.current_id() if etl_context_id is None else etl_context_id
    recorded = await ctx.store.read(id_, after_version=after_version, types=types)
    return [event.as_dict() for event in recorded]


async def final(etl_context_id: int, timeout: float | None = None) -> dict[str, Any]:
    """The :FINAL event of a context, once it is there.

    Raises TaskFailed or TaskCancelled where the task ended so, NotFound, and TimeoutError after `timeout` seconds.
    """
    async with asyncio.timeout(timeout):
        return (await result_of(await ended(etl_context_id))).as_dict()


async def ended(etl_context_id: int) -> RecordedEvent:
    """The :FINAL, FAILED or CANCELLED event that a context ended with, once it ended."""
    store = context.current().store
    await store.state(etl_context_id)
    with store.database.listener().subscribe(listener.EVENT, etl_context_id) as bell:
        while (event := await store.end_event(etl_context_id)) is None:
            await bell.wait()
    return event


async def result_of(event: RecordedEvent) -> RecordedEvent:
    """The event that ended a context, if that is its :FINAL. Raises TaskFailed or TaskCancelled if it is not."""
    id_ = event.etl_context_id
    if event.type == "dama/task:FAILED":
        error: dict[str, Any] = getattr(await context.current().store.state(id_), "error", None) or {}
        why = f" ({error.get('kind')}): {error.get('message')}" if error else ""
        raise TaskFailed(f"task {id_} failed{why}", etl_context_id=id_, event=event.as_dict(), error=error)
    if event.type == "dama/task:CANCELLED":
        raise TaskCancelled(f"task {id_} was cancelled", etl_context_id=id_, event=event.as_dict())
    return event


async def follow(
    etl_context_id: int, *, after_version: int = 0, types: Sequence[str] | None = None
) -> AsyncGenerator[RecordedEvent, None]:
    """The events of a context after a version: those that are there, then each new one. Ends never by itself.

    An outage of Postgres is waited out: who looks on is the last who should have to begin again after it.
    """
    store = context.current().store
    with store.database.listener().subscribe(listener.EVENT, etl_context_id) as bell:
        while True:
            read = partial(store.read, etl_context_id, after_version=after_version, types=types, limit=_PAGE)
            page = await persist(read)
            for event in page:
                after_version = event.version
                yield event
            if len(page) < _PAGE:
                await bell.wait()


async def follow_tree(
    etl_context_id: int, *, seen: Mapping[int, int] | None = None, types: Sequence[str] | None = None
) -> AsyncGenerator[RecordedEvent, None]:
    """`follow` for a context, its ancestors and its descendants, those to come too. `seen`: the last version of each.

    It goes by versions, not by event_ids: those of different contexts commit in another order than they are drawn.
    """
    store = context.current().store
    seen = dict(seen or {})
    with store.database.listener().subscribe(listener.EVENT) as bell:
        while True:
            page = await persist(partial(store.read_line_since, etl_context_id, seen, types=types, limit=_PAGE))
            for event in page:
                seen[event.etl_context_id] = event.version
                yield event
            if len(page) < _PAGE:
                await bell.wait()


async def everything(*, live: bool = False) -> AsyncIterator[RecordedEvent]:
    """The events of all contexts, each once; `live`: and then each new one, however their writers overlap.

    Raises Unavailable where Postgres is away at the beginning; an outage after that is waited out.
    """
    async with aclosing(everything_after(live=live)) as shown:
        async for event, _ in shown:
            yield event


async def everything_after(
    cursor: Cursor | None = None, *, live: bool = False
) -> AsyncGenerator[tuple[RecordedEvent, Cursor], None]:
    """`everything` after a cursor, or from the beginning of the log: each event with the cursor behind it.

    Raises CursorGone for a cursor of another cluster or past, also where the log is put back meanwhile.
    """
    database = context.current().store.database
    feed = Feed(database)
    with database.listener().subscribe(listener.EVENT) if live else nullcontext() as bell:
        page = await feed.page(cursor)
        more = cursor is not None and cursor.showing is not None  # what was being shown then may be all shown
        while True:
            for event in page.events:
                yield event, page.after(event)
            if not (page.full or more):
                if bell is None:
                    return
                await bell.wait()
            more = False
            page = await persist(partial(feed.page, page.cursor))


async def feed_page(cursor: Cursor | None = None, *, limit: int) -> Page:
    """A page of the events of all contexts, after a cursor or from the beginning; empty only where nothing is there.

    Raises CursorGone, Unavailable.
    """
    feed = Feed(context.current().store.database)
    page = await feed.page(cursor, limit=limit)
    if not page.events and cursor is not None and cursor.showing is not None:  # what was being shown then is all shown
        page = await feed.page(page.cursor, limit=limit)
    return page


@asynccontextmanager
async def transaction() -> AsyncIterator[Any]:
    """A transaction of the worker's own: an asyncpg connection of the current pg_env.

    Events dispatched inside are appended as its last statement before COMMIT, under the run's fence: rows and events
    exist together or not at all, and the context's row is held for that moment only.
    """
    ctx = context.current()
    store = ctx.store
    async with store.transaction() as connection:
        mine = _Transaction(connection)
        token = _open_transaction.set(mine)
        try:
            yield connection
        finally:
            mine.over = True
            _open_transaction.reset(token)
        if mine.events:
            id_ = context.current_id()
            appends = [Append(etl_context_id=id_, event=event, fence=ctx.fence) for event in mine.events]
            await store.append(appends, on=connection)


def open_connection() -> Any:
    """The connection of the transaction that this code is in, or None."""
    transaction_ = _transaction_here()
    return transaction_.connection if transaction_ else None


def _transaction_here() -> _Transaction | None:
    transaction_ = _open_transaction.get()
    return None if transaction_ is None or transaction_.over else transaction_


def from_worker(event: Any) -> Event:
    """An event as a worker gives it, with an event_uuid. Raises InvalidInput, also for damad's own types."""
    return _with_uuid(_not_reserved(parse(event), ""))


def _event(given: dict[str, Any] | Event, pointer: str) -> Event:
    if not isinstance(given, Event):
        return parse(given, pointer=pointer)
    check_type(given.type, pointer=f"{pointer}/type")
    return given


def _not_reserved(event: Event, pointer: str) -> Event:
    if event.type.startswith(TASK_PREFIX):
        raise InvalidInput(f"types that begin with {TASK_PREFIX} are damad's own", pointer=f"{pointer}/type")
    check_meta(event.meta, pointer=f"{pointer}/meta")
    return event
