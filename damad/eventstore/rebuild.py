"""Writes the projections again out of the events, in place and under load: what `damad rebuild` does.

It looks at all contexts as verify does, which holds nobody up. Those that are not what their events say are locked as
an append locks them, looked at again, and mended: who appends to another waits for nothing, and nothing that is right
is written.
"""

from typing import Any

import asyncpg
import msgspec

from damad.eventstore.folding import Folding, Mismatch, fold, some_at_a_time
from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.sweep import Slice, sweep
from damad.model.lifecycle import Context, Task


class Rebuilt(msgspec.Struct, frozen=True):
    """What was folded, how many contexts were mended, and what cannot be: events that break the rules themselves."""

    contexts: int
    events: int
    mended: int
    broken: list[Mismatch]


async def rebuild(database: Database) -> Rebuilt:
    """Makes every projection what its events say. Raises Unavailable; what was done by then is done."""
    contexts = events = mended = 0
    broken: list[Mismatch] = []

    async def mend(connection: "asyncpg.Connection[Any]", looked_at: Slice) -> None:
        nonlocal contexts, events, mended
        contexts += looked_at.contexts
        events += looked_at.events
        wrong = [findings.etl_context_id for findings in looked_at.found if findings.mismatches]
        for some in some_at_a_time(wrong):
            async with connection.transaction():
                for folding in await _held(connection, some):
                    mismatches = folding.mismatches()
                    unfoldable = [mismatch for mismatch in mismatches if mismatch.field == "events"]
                    if mismatches and not unfoldable:
                        unfoldable = await _mend(connection, folding)
                        mended += not unfoldable
                    broken.extend(unfoldable)

    await sweep(database, mend)
    return Rebuilt(contexts, events, mended, sorted(broken, key=lambda mismatch: mismatch.etl_context_id))


async def _held(connection: "asyncpg.Connection[Any]", etl_context_ids: list[int]) -> list[Folding]:
    """Locks contexts, which are read by another statement: this one, where it has to wait for a row, would see that
    as it is then, and what is joined to it as it was before."""
    await connection.execute(query("lock_contexts"), etl_context_ids)
    return await fold(connection, etl_context_ids)


async def _mend(connection: "asyncpg.Connection[Any]", folding: Folding) -> list[Mismatch]:
    """Writes a projection. Where no column takes what events say that no judge has seen, that is what is wrong."""
    try:
        async with connection.transaction():
            await write_projection(connection, folding.etl_context_id, folding.folded)
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
        return [Mismatch(folding.etl_context_id, "events", f"values that fit ({error})", None)]
    return []


async def write_projection(connection: "asyncpg.Connection[Any]", etl_context_id: int, folded: Context) -> None:
    """Makes the rows of a context what was folded, inside a transaction that holds it."""
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
