"""Folds every context and compares the result with the projections: what `damad verify` does.

Both are read in one snapshot, a slice of contexts at a time, so that memory stays flat and a busy log is no mismatch.
Events that the original wrote against the rules are marked legacy in the log: a fold passes them over, and they are
listed beside the mismatches, for they are none.
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
from damad.model.json_value import Unreadable
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


class Legacy(msgspec.Struct, frozen=True):
    """Events of one context that the original wrote against a rule, and which rule."""

    etl_context_id: int
    rule: str
    event_ids: list[int]


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was verified, every mismatch and, where the original left some, the events that no rule allows."""

    contexts: int
    events: int
    mismatches: list[Mismatch]
    legacy: list[Legacy] = []


class StoredEvent(LoggedEvent, frozen=True, kw_only=True):
    """A logged event with its mark: a legacy one is passed over."""

    legacy: bool


async def verify(database: Database) -> Report:
    """Compares a fold of all events with the projections. Raises Unavailable."""
    contexts, events = 0, 0
    mismatches: list[Mismatch] = []
    left: list[Legacy] = []
    async with database.connection() as connection:
        with translated():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                async for rows, logged in _slices(connection):
                    contexts += len(rows)
                    events += sum(map(len, logged.values()))
                    for row in rows:
                        mismatches += compare(row, logged.get(row["etl_context_id"], []))
                        left += legacy(row["etl_context_id"], logged.get(row["etl_context_id"], []))
    return Report(contexts, events, mismatches, left)


async def _slices(
    connection: "asyncpg.Connection[Any]",
) -> "AsyncIterator[tuple[list[asyncpg.Record], dict[int, list[StoredEvent]]]]":
    last = 0
    while rows := await connection.fetch(query("projections"), last, _SLICE, None):
        first, last = last, rows[-1]["etl_context_id"]
        yield rows, await logged_events(connection, first, last)


async def logged_events(connection: "asyncpg.Connection[Any]", first: int, last: int) -> dict[int, list[StoredEvent]]:
    """The events of the contexts after `first` up to `last`, by context, each in order."""
    logged: dict[int, list[StoredEvent]] = {}
    for event in await connection.fetch(query("logged_events"), first, last):
        logged.setdefault(event["etl_context_id"], []).append(_logged(event))
    return logged


def _logged(row: "asyncpg.Record") -> StoredEvent:
    return StoredEvent(
        event_id=row["event_id"],
        version=row["version"],
        type=row["type"],
        payload=row["payload"],
        meta=row["meta"],
        fence=row["fence"],
        created_timestamp=row["_created_timestamp"],
        legacy=row["legacy"],
    )


def fold(events: list[StoredEvent]) -> Context:
    """The projection out of the events that are not legacy. All of them count for its version."""
    folded = lifecycle.fold([event for event in events if not event.legacy])
    if events and events[-1].legacy:
        return msgspec.structs.replace(folded, version=events[-1].version)
    return folded


def legacy(etl_context_id: int, events: list[StoredEvent]) -> list[Legacy]:
    """The legacy events of one context, by the rule that each of them breaks."""
    broken: dict[str, list[int]] = {}
    begun = ended = False
    for event in events:
        if event.legacy:
            broken.setdefault(_rule(event, begun=begun, ended=ended), []).append(event.event_id)
        else:
            begun = True
            ended = event.type.endswith(":FINAL")
    return [Legacy(etl_context_id, rule, event_ids) for rule, event_ids in broken.items()]


def _rule(event: StoredEvent, *, begun: bool, ended: bool) -> str:
    if ended:
        return "nothing follows :FINAL"
    if not begun:
        return "the first event is :INITIAL"
    if event.type.endswith(":INITIAL"):
        return "only the first event is :INITIAL"
    return "dama/task:… are damad's own types"


def compare(row: "asyncpg.Record", events: list[StoredEvent]) -> list[Mismatch]:
    """The mismatches of one context between its projection and a fold of its events."""
    id_ = row["etl_context_id"]
    gaps = [event.version for place, event in enumerate(events, 1) if event.version != place]
    if gaps:
        return [Mismatch(id_, "events", "versions 1..n", gaps[:10])]
    unreadable = [event.event_id for event in events if isinstance(event.payload, Unreadable)
                  or isinstance(event.meta, Unreadable)]  # fmt: skip
    if unreadable:
        return [Mismatch(id_, "events", "events that can be read", unreadable[:10])]
    try:
        folded = fold(events)
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
