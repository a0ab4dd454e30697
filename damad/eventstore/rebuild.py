"""Writes the projections again out of the events, in place and under load: what `damad rebuild` does.

A slice of contexts at a time is locked as an append locks them, folded, and mended where the projection differs.
Whoever appends waits for one slice at most; nothing that is right is written.
"""

from typing import Any, Final

import asyncpg
import msgspec

from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.refusals import translated
from damad.eventstore.verify import Mismatch, StoredEvent, compare, fold, logged_events
from damad.model.lifecycle import Task

_SLICE: Final = 200
"""Contexts that are locked at a time."""


class Rebuilt(msgspec.Struct, frozen=True):
    """What was folded, how many contexts were mended, and what cannot be: events that break the rules themselves."""

    contexts: int
    events: int
    mended: int
    broken: list[Mismatch]


async def rebuild(database: Database) -> Rebuilt:
    """Makes every projection what its events say. Raises Unavailable; what was done by then is done."""
    contexts = events = mended = last = 0
    broken: list[Mismatch] = []
    async with database.connection() as connection:
        while True:
            with translated():
                async with connection.transaction():
                    locked = await _lock(connection, last)
                    if not locked:
                        return Rebuilt(contexts, events, mended, broken)
                    rows = await connection.fetch(query("projections"), last, _SLICE, locked)
                    first, last = last, locked[-1]
                    logged = await logged_events(connection, first, last)
                    for row in rows:
                        found = compare(row, logged.get(row["etl_context_id"], []))
                        unfoldable = [mismatch for mismatch in found if mismatch.field == "events"]
                        broken += unfoldable
                        if found and not unfoldable:
                            await _mend(connection, row["etl_context_id"], logged.get(row["etl_context_id"], []))
                            mended += 1
            contexts += len(rows)
            events += sum(map(len, logged.values()))


async def _lock(connection: "asyncpg.Connection[Any]", after: int) -> list[int]:
    """Holds a slice of contexts, which are read by another statement: this one, where it has to wait for a row, would
    see that as it is then, and what is joined to it as it was before."""
    return [row["etl_context_id"] for row in await connection.fetch(query("lock_contexts"), after, _SLICE)]


async def _mend(connection: "asyncpg.Connection[Any]", etl_context_id: int, events: list[StoredEvent]) -> None:
    folded = fold(events)
    await connection.execute(
        query("restore_context"),
        etl_context_id,
        folded.etl_status,
        folded.initial_event_id,
        folded.latest_event_id,
        folded.version,
    )
    if folded.task is None:
        await connection.execute(query("remove_task"), etl_context_id)
        return
    values = [getattr(folded.task, name) for name in Task.__struct_fields__]
    await connection.execute(query("restore_task"), etl_context_id, *values)
