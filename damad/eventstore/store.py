"""Append and read: what the log of one pg_env can do. Every statement is a file in queries/."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from damad import failpoints
from damad.errors import ContextBusy, DamadError, NotFound, Unavailable
from damad.eventstore import refusals
from damad.eventstore.grouping import Grouping
from damad.eventstore.pools import Database
from damad.eventstore.uuids import new_uuid
from damad.model import json_value
from damad.model.event import Event, RecordedEvent, signed


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """One event on its way into a context. `fence`: of the run that appends it; None from outside a run."""

    etl_context_id: int
    event: Event
    fence: int | None = None
    expected_version: int | None = None


class Sent(NamedTuple):
    """An Append as its statement takes it, one column after another."""

    etl_context_id: int
    type: str
    payload: str | None
    meta: str | None
    error: bool | None
    event_uuid: UUID | None
    fence: int | None
    expected_version: int | None


class Appended(msgspec.Struct, frozen=True):
    """A recorded event. `replayed`: it was there already, under the same event_uuid."""

    event: RecordedEvent
    replayed: bool


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task on its way into the log: its :INITIAL event, whose meta holds the settings."""

    initial: Event
    parent_context_id: int | None = None
    source_id: int | None = None


class _SentTask(NamedTuple):
    """A NewTask as its statement takes it, one column after another."""

    parent_context_id: int | None
    source_id: int | None
    type: str
    payload: str | None
    meta: str | None
    event_uuid: UUID | None


class Queued(msgspec.Struct, frozen=True, omit_defaults=True):
    """The context of a task. `created` is False where it was there before; `suppressed` is the setting that says so:
    idempotency_key, singleton_key, debounce where it was put off as well, or throttle where it may have ended."""

    etl_context_id: int
    created: bool
    suppressed: str | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A context as everybody sees it (contract, section 5, "A state")."""

    etl_context_id: int
    parent_context_id: int | None
    source_id: int | None
    etl_status: str | None
    state: str
    version: int
    initial_event_id: int | None
    latest_event_id: int | None
    created_at: datetime
    updated_at: datetime


class TaskState(State, frozen=True, kw_only=True):
    """A state of a context that is a task. `held`: why it does not run though it could (`queues.explained` looks)."""

    worker: str
    queue: str
    priority: int
    attempt: int
    fence: int
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    host_id: UUID | None
    pid: int | None
    progress: Any
    error: Any
    schedule: str | None
    settings: dict[str, Any]
    held: str | None = None


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner needs to know of a claimed task. `attempt`: the number that its next run has · `at`: what time
    Postgres says that it is, for whatever is to be due in a while."""

    etl_context_id: int
    parent_context_id: int | None
    queue: str
    worker: str
    state: str
    fence: int
    attempt: int
    errors: int
    crashes: int
    settings: dict[str, Any]
    at: datetime
    initial_event: RecordedEvent


class EventStore:
    """The log of one pg_env. Methods raise damad's errors; with `on` they run inside the caller's transaction.

    actor: who appends, if that is to stand in the meta of each event.
    """

    def __init__(self, database: Database, *, actor: str | None = None) -> None:
        self.database = database
        self.actor = actor

    async def append(self, appends: Sequence[Append], *, on: "asyncpg.Connection[Any] | None" = None) -> list[Appended]:
        """Appends all of them in one statement, in order, or none.

        Raises IllegalTransition, StaleFence, VersionConflict, EventUuidConflict, NotFound (no such context),
        ContextBusy, Unavailable. After Unavailable the outcome is unknown: the same again, with the same
        event_uuid, is safe.
        """
        if not appends:
            return []
        if on is None and self.database.groups:
            return await self._append_with_others(appends)
        return await self._append([sent_as(append, self.actor) for append in appends], on=on)

    async def append_each(self, calls: Sequence[Sequence[Sent]]) -> list[list[Appended] | DamadError]:
        """Appends the events of calls that know nothing of each other, in one statement: what `append` would return or
        raise for each. A call whose context somebody holds is answered with ContextBusy at once.
        """
        numbers = [number for number, call in enumerate(calls) for _ in call]
        every = [sent for call in calls for sent in call]
        rows = await self.database.fetch("append_each", *_columns(every), numbers, repeatable=_has_uuids(every))
        answers: list[list[Appended] | DamadError] = [[] for _ in calls]
        for row in rows:
            match row["outcome"], answers[row["call"]]:
                case "recorded", list() as appended:
                    appended.append(Appended(event_of(row), row["replayed"]))
                case "refused", _:
                    said = refusals.Said(row["code"], row["message"], row["detail"], row["broken"])
                    answers[row["call"]] = refusals.refusal(said)
                case _:
                    answers[row["call"]] = ContextBusy("somebody holds this context in an open transaction; try again")
        return answers

    async def _append(self, sent: Sequence[Sent], *, on: "asyncpg.Connection[Any] | None" = None) -> list[Appended]:
        rows = await self.database.fetch("append", *_columns(sent), on=on, repeatable=_has_uuids(sent))
        return [Appended(event_of(row), row["replayed"]) for row in rows]

    async def _append_with_others(self, appends: Sequence[Append]) -> list[Appended]:
        grouping = self.database.grouping("append", lambda: Grouping(self.append_each, self._append))
        named = [_named(append, self.actor) for append in appends]
        done: list[Appended] = await grouping.ask(named, events=len(named), size=_size(named))
        # An event that was not named by who appends it is new to them, also where we had to send it twice.
        return [
            recorded if append.event.event_uuid or not recorded.replayed else Appended(recorded.event, False)
            for append, recorded in zip(appends, done, strict=True)
        ]

    async def queue(self, tasks: Sequence[NewTask], *, on: "asyncpg.Connection[Any] | None" = None) -> list[Queued]:
        """Queues all of them in one statement, or none. Raises IdempotencyConflict, InvalidInput, Unavailable."""
        if not tasks:
            return []
        sent = [_sent_task(task, self.actor) for task in tasks]
        if on is not None or not self.database.groups:
            return await self._queue(sent, on=on)
        grouping = self.database.grouping("queue", lambda: Grouping(self._queue_each, self._queue))
        done: list[Queued] = await grouping.ask(sent, events=len(sent), size=_size(sent))
        return done

    async def _queue(self, sent: Sequence[_SentTask], *, on: "asyncpg.Connection[Any] | None" = None) -> list[Queued]:
        rows = await self.database.fetch("queue", *_columns(sent), on=on, repeatable=_has_uuids(sent))
        return [Queued(row["etl_context_id"], row["created"], row["suppressed"]) for row in rows]

    async def _queue_each(self, calls: Sequence[Sequence[_SentTask]]) -> list[list[Queued]]:
        done = iter(await self._queue([task for call in calls for task in call]))
        return [[next(done) for _ in call] for call in calls]

    async def create_context(self, *, parent_context_id: int | None = None, source_id: int | None = None) -> int:
        """A new context without events. Raises InvalidInput for an unknown parent or source."""
        rows = await self.database.fetch("create_context", parent_context_id, source_id, repeatable=False)
        return int(rows[0]["etl_context_id"])

    async def read(
        self,
        etl_context_id: int,
        *,
        after_version: int = 0,
        types: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[RecordedEvent]:
        """The events of a context after a version, in order."""
        rows = await self.database.fetch("read", etl_context_id, after_version, types, limit)
        return [event_of(row) for row in rows]

    async def read_tree(
        self,
        etl_context_id: int,
        *,
        after_event_id: int = 0,
        types: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[RecordedEvent]:
        """The events of a context, its ancestors and its descendants after an event, in order of their ids."""
        rows = await self.database.fetch("read_tree", etl_context_id, after_event_id, types, limit)
        return [event_of(row) for row in rows]

    async def read_line_since(
        self,
        etl_context_id: int,
        seen: Mapping[int, int],
        *,
        types: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[RecordedEvent]:
        """The events of a context, its ancestors and its descendants, each after the version that was seen of it."""
        rows = await self.database.fetch(
            "read_line_since", etl_context_id, list(seen), list(seen.values()), types, limit
        )
        return [event_of(row) for row in rows]

    async def end_event(self, etl_context_id: int) -> RecordedEvent | None:
        """The :FINAL, FAILED or CANCELLED event that a context ended with, or None while it is open."""
        ended = await self.end_events([etl_context_id])
        return ended[0] if ended else None

    async def end_events(self, etl_context_ids: Sequence[int]) -> list[RecordedEvent]:
        """The events that the contexts named ended with, of those that ended."""
        return [event_of(row) for row in await self.database.fetch("end_events", list(etl_context_ids))]

    async def first_end(self, etl_context_id: int) -> RecordedEvent | None:
        """The first event of a context whose type ends in :FINAL or :ERROR, be it an attempt's; or None."""
        rows = await self.database.fetch("first_end", etl_context_id)
        return event_of(rows[0]) if rows else None

    async def named_event(self, etl_context_id: int, type_: str, name: str) -> RecordedEvent | None:
        """The first event of a type whose payload carries this name, or None."""
        rows = await self.database.fetch("named_event", etl_context_id, type_, name)
        return event_of(rows[0]) if rows else None

    async def state(self, etl_context_id: int, *, on: "asyncpg.Connection[Any] | None" = None) -> State:
        """The state of a context, a TaskState if it is a task. Raises NotFound."""
        rows = await self.database.fetch("state", etl_context_id, on=on)
        if not rows:
            raise NotFound(f"there is no context {etl_context_id}", etl_context_id=etl_context_id)
        return _state(rows[0])

    async def tree(self, etl_context_id: int) -> list[State]:
        """The states of ancestors, self and descendants, ancestors first."""
        return [_state(row) for row in await self.database.fetch("tree", etl_context_id)]

    async def tasks(
        self,
        *,
        states: Sequence[str] | None = None,
        queue: str | None = None,
        parent_context_id: int | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[State]:
        """A page of tasks, newest first, with ids below `before`."""
        rows = await self.database.fetch("tasks", states, queue, parent_context_id, before, limit)
        return [_state(row) for row in rows]

    async def assignment(self, etl_context_id: int) -> Assignment:
        """What a runner needs to know of a task. Raises NotFound where the context is no task."""
        rows = await self.database.fetch("assignment", etl_context_id)
        if not rows:
            raise NotFound(f"there is no task {etl_context_id}", etl_context_id=etl_context_id)
        return assignment_of(rows[0])

    async def ping(self) -> None:
        """Raises Unavailable unless Postgres answers."""
        await self.database.fetch("ping")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """A connection inside a transaction: committed at the end, rolled back by an exception.

        BEGIN and COMMIT raise damad's errors, as statements do. After Unavailable from COMMIT the outcome is unknown.
        """
        async with self.database.connection() as connection:
            async with self.database.answers(connection):
                transaction = await self.database.sessions.begin(connection)
            try:
                yield connection
            except BaseException:
                with suppress(Unavailable):  # a connection that was lost is rolled back already
                    async with self.database.answers(connection):
                        await transaction.rollback()
                raise
            async with self.database.answers(connection):
                await transaction.commit()
            if failpoints.loses(again=False):
                raise Unavailable("the answer to COMMIT was lost, as a test wants it")


def _has_uuids(events: Sequence[Sent | _SentTask]) -> bool:
    """True where the same again is seen to be the same."""
    return all(event.event_uuid is not None for event in events)


def sent_as(append: Append, actor: str | None = None) -> Sent:
    """An Append as its statement takes it. `actor`: who appends, for its meta."""
    event = signed(append.event, actor)
    return Sent(
        append.etl_context_id,
        event.type,
        _json(event.payload),
        _json(event.meta),
        event.error,
        event.event_uuid,
        append.fence,
        append.expected_version,
    )


def _named(append: Append, actor: str | None) -> Sent:
    """It with an event_uuid, so that it may be sent twice."""
    sent = sent_as(append, actor)
    return sent if sent.event_uuid is not None else sent._replace(event_uuid=new_uuid())


def _size(sent: Sequence[Sent | _SentTask]) -> int:
    return sum(len(one.payload or "") + len(one.meta or "") for one in sent)


def _sent_task(task: NewTask, actor: str | None) -> _SentTask:
    initial = signed(task.initial, actor)
    return _SentTask(
        task.parent_context_id,
        task.source_id,
        initial.type,
        _json(initial.payload),
        _json(initial.meta),
        initial.event_uuid,
    )


def _columns(sent: Sequence[Sent | _SentTask]) -> list[list[Any]]:
    return [list(column) for column in zip(*sent, strict=True)]


def _json(value: Any) -> str | None:
    """The value on its way into a jsonb[], as text: that is sent in C, and a list is no dimension of the array."""
    return None if value is None else json_value.dumps(value).decode()


def event_of(row: "asyncpg.Record") -> RecordedEvent:
    """The event in a row that has its columns."""
    return RecordedEvent(
        event_id=row["event_id"],
        etl_context_id=row["etl_context_id"],
        version=row["version"],
        event_uuid=row["event_uuid"],
        type=row["type"],
        payload=row["payload"],
        meta=row["meta"],
        error=row["error"],
        created_timestamp=row["_created_timestamp"],
    )


def assignment_of(row: "asyncpg.Record") -> Assignment:
    """The assignment in a row of assignment.sql or claim.sql."""
    own = {name: row[name] for name in Assignment.__struct_fields__ if name != "initial_event"}
    return Assignment(**own, initial_event=event_of(row))


def _state(row: "asyncpg.Record") -> State:
    shape = TaskState if row["is_task"] else State
    return shape(**{name: row[name] for name in shape.__struct_fields__ if name != "held"})
