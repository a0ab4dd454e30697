"""Folds every context and compares the result with the projections: what `damad verify` does.

Both are read in one snapshot, a slice of contexts at a time, so that memory stays flat and a busy log is no mismatch.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import msgspec

from damad.errors import IllegalTransition
from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.refusals import translated
from damad.model import lifecycle
from damad.model.lifecycle import Context, LoggedEvent, Task

_SLICE: Final = 1000
"""Contexts that are read and compared at a time."""

_TASK_FIELDS: Final = tuple(name for name in Task.__struct_fields__ if name != "initial_event_id")


class Mismatch(msgspec.Struct, frozen=True):
    """A value that is not what the events say. `field` is `events` where the events themselves break the rules."""

    etl_context_id: int
    field: str
    folded: Any
    projected: Any


class Report(msgspec.Struct, frozen=True):
    """What was verified, and every mismatch."""

    contexts: int
    events: int
    mismatches: list[Mismatch]


async def verify(database: Database) -> Report:
    """Compares a fold of all events with the projections. Raises Unavailable."""
    contexts, events, mismatches = 0, 0, []
    async with database.connection() as connection:
        with translated():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                async for rows, logged in _slices(connection):
                    contexts += len(rows)
                    events += sum(map(len, logged.values()))
                    for row in rows:
                        mismatches += compare(row, logged.get(row["etl_context_id"], []))
    return Report(contexts, events, mismatches)


async def _slices(
    connection: "asyncpg.Connection[Any]",
) -> "AsyncIterator[tuple[list[asyncpg.Record], dict[int, list[LoggedEvent]]]]":
    last = 0
    while rows := await connection.fetch(query("projections"), last, _SLICE):
        first, last = last, rows[-1]["etl_context_id"]
        yield rows, await logged_events(connection, first, last)


async def logged_events(connection: "asyncpg.Connection[Any]", first: int, last: int) -> dict[int, list[LoggedEvent]]:
    """The events of the contexts after `first` up to `last`, by context, each in order."""
    logged: dict[int, list[LoggedEvent]] = {}
    for event in await connection.fetch(query("logged_events"), first, last):
        logged.setdefault(event["etl_context_id"], []).append(_logged(event))
    return logged


def _logged(row: "asyncpg.Record") -> LoggedEvent:
    return LoggedEvent(
        event_id=row["event_id"],
        version=row["version"],
        type=row["type"],
        payload=row["payload"],
        meta=row["meta"],
        fence=row["fence"],
        created_timestamp=row["_created_timestamp"],
    )


def compare(row: "asyncpg.Record", events: list[LoggedEvent]) -> list[Mismatch]:
    """The mismatches of one context between its projection and a fold of its events."""
    id_ = row["etl_context_id"]
    gaps = [event.version for place, event in enumerate(events, 1) if event.version != place]
    if gaps:
        return [Mismatch(id_, "events", "versions 1..n", gaps[:10])]
    try:
        folded = lifecycle.fold(events)
    except (IllegalTransition, KeyError, TypeError, ValueError) as error:
        return [Mismatch(id_, "events", str(error), None)]
    return [
        Mismatch(id_, field, _plain(expected), _plain(found))
        for field, expected, found in _fields(folded, row)
        if expected != found
    ]


def _fields(folded: Context, row: "asyncpg.Record") -> list[tuple[str, Any, Any]]:
    pairs = [
        (field, getattr(folded, field), row[field])
        for field in ("etl_status", "initial_event_id", "latest_event_id", "version")
    ]
    if folded.task is None:
        return [*pairs, ("task", None, row["state"])]
    pairs.append(("task.initial_event_id", folded.task.initial_event_id, row["task_initial_event_id"]))
    return pairs + [(f"task.{field}", getattr(folded.task, field), row[field]) for field in _TASK_FIELDS]


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)
