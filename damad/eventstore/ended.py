"""The tasks that have ended, all that match at a time: which they are, what they failed of, and queueing them again."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from damad.errors import DamadError
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore, sent_as
from damad.eventstore.uuids import new_uuid
from damad.model.event import Event

_AT_A_TIME: Final = 1000


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks: those in one of these states and, where it is given, of this queue and with this text in their
    error's message."""

    states: Sequence[str]
    queue: str | None = None
    error: str | None = None


class Cause(msgspec.Struct, frozen=True):
    """What tasks failed of: its kind, the first line of its message, how many they are, and the newest of them."""

    kind: str | None
    message: str | None
    tasks: int
    newest: int


async def ids(database: Database, which: Ended) -> AsyncIterator[list[int]]:
    """The ids of the tasks that match, in their order, some at a time."""
    last = 0
    while True:
        rows = await database.fetch("ended_tasks", which.states, which.queue, which.error, last, _AT_A_TIME)
        if rows:
            yield [row["etl_context_id"] for row in rows]
            last = rows[-1]["etl_context_id"]
        if len(rows) < _AT_A_TIME:
            return


async def requeue(database: Database, etl_context_ids: Sequence[int]) -> dict[int, DamadError | None]:
    """Queues tasks again, each for itself: one that cannot be keeps no other. Returns why not, of each."""
    event = Event(type="dama/task:REQUEUED")
    calls = [
        [sent_as(Append(etl_context_id=id_, event=msgspec.structs.replace(event, event_uuid=new_uuid())))]
        for id_ in etl_context_ids
    ]
    answers = await EventStore(database).append_each(calls)
    return {
        id_: answer if isinstance(answer, DamadError) else None
        for id_, answer in zip(etl_context_ids, answers, strict=True)
    }


async def causes(database: Database, which: Ended, *, limit: int) -> list[Cause]:
    """What the tasks failed of, the commonest first. (The text of `which.error` does not count.)"""
    rows = await database.fetch("tasks_by_error", which.states, which.queue, limit)
    return [Cause(row["kind"], row["message"], row["tasks"], row["newest"]) for row in rows]
