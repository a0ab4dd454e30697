"""Whole ended trees of contexts: which there are, how they read as lines, removing them and putting them back.

What they leave behind is nothing: uuids and idempotency keys are forgotten with their rows. What is put back has the
ids, versions, uuids and times that it had; its projections are folded out of its events again.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import msgspec

from damad import failpoints
from damad.errors import Conflict, ContextBusy, Unavailable
from damad.eventstore.folding import fold, some_at_a_time
from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.rebuild import write_projection
from damad.eventstore.refusals import Contention, Unanswered, translated

OUTCOMES: Final = ("done", "failed", "cancelled")
"""The states in which a context has ended."""
_AT_A_TIME: Final = 1000
"""Contexts that are removed in one transaction; trees are not torn apart for it."""
_READ_AHEAD: Final = 500
"""Lines that are fetched at a time."""


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """Trees whose root ended so (None: in any way) and was of this queue (None: any), `older_than` seconds after the
    last event of each of their contexts; `limit` of them at most, the oldest first (None: all)."""

    states: Sequence[str] | None = None
    queue: str | None = None
    older_than: float = 0.0
    limit: int | None = None


class Archivable(msgspec.Struct, frozen=True):
    """The contexts of whole ended trees, tree by tree and parents first: their roots, ids and versions."""

    roots: list[int]
    ids: list[int]
    versions: list[int]

    @property
    def events(self) -> int:
        """How many they have: versions have no gap."""
        return sum(self.versions)


class Snapshot:
    """One moment of the log, which is read as lines."""

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self._connection = connection

    async def archivable(self, which: Which) -> Archivable:
        """The contexts that may go."""
        rows = await self._connection.fetch(
            query("archivable"), which.states, which.queue, which.older_than, which.limit
        )
        return Archivable(*([row[name] for row in rows] for name in ("root", "etl_context_id", "version")))

    async def lines(self, found: Archivable) -> AsyncIterator[str]:
        """Each context as a line of JSON, and then each event."""
        for name in ("archived_contexts", "archived_events"):
            async for row in self._connection.cursor(query(name), found.ids, prefetch=_READ_AHEAD):
                yield row["line"]


@asynccontextmanager
async def snapshot(database: Database) -> AsyncIterator[Snapshot]:
    """The log as it is now. Raises Unavailable."""
    async with database.connection() as connection:
        with translated():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield Snapshot(connection)


async def require_owner(database: Database) -> None:
    """Raises Conflict unless this is the owner of the log, who alone removes and puts back."""
    (row,) = await database.fetch("owns_log")
    if not row["owns"]:
        raise Conflict("only the owner of the log archives what has ended; connect as that role")


async def remove(database: Database, found: Archivable) -> int:
    """Removes the trees that are still as they were found, and returns how many contexts those had. Raises Unavailable;
    what was removed by then is."""
    removed = 0
    first = 0
    while first < len(found.ids):
        last = min(first + _AT_A_TIME, len(found.ids))
        while last < len(found.ids) and found.roots[last] == found.roots[last - 1]:
            last += 1
        removed += await _remove_some(database, found.ids[first:last], found.versions[first:last])
        failpoints.hit("archive.removed")
        first = last
    return removed


async def _remove_some(database: Database, ids: Sequence[int], versions: Sequence[int]) -> int:
    """How many were removed. Where the answer is lost, how many are gone: of those nobody can tell who removed them."""
    try:
        return len(await database.fetch("remove_contexts", ids, versions, repeatable=False))
    except Unavailable as error:
        if isinstance(error, ContextBusy | Unanswered):
            raise
    await database.fetch("remove_contexts", ids, versions)
    return len(ids) - len(await database.fetch("present_contexts", ids))


class Restoring:
    """Trees on their way back, in one transaction: contexts, their events, and then `conclude`.

    What is there already, as it was archived, is passed over.
    """

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self._connection = connection
        self._present: set[int] = set()
        self._restored: list[int] = []
        self.events = 0

    @property
    def contexts(self) -> int:
        """How many were put back."""
        return len(self._restored)

    async def add_contexts(self, ids: Sequence[int], lines: Sequence[str]) -> None:
        """Contexts, parents first."""
        rows = await self._connection.fetch(query("present_contexts"), ids)
        self._present.update(row["etl_context_id"] for row in rows)
        new = {id_: line for id_, line in zip(ids, lines, strict=True) if id_ not in self._present}
        if not new:
            return
        await self._connection.execute(query("put_back_contexts"), _array(new.values()))
        await self._connection.execute(query("restore_contexts"), _array(new.values()))
        await self._connection.execute(query("pass_ids"), max(new), None)
        self._restored += new

    async def add_events(self, contexts: Sequence[int], lines: Sequence[str], last: int) -> None:
        """Events of contexts that were added; the largest of their ids is `last`. Raises Conflict where one of these
        contexts, or an id, is taken by something else."""
        other = await self._connection.fetchrow(query("differing_events"), _array(lines), list(self._present))
        if other is not None:
            raise Conflict(
                f"event {other['event_id']} of context {other['etl_context_id']} cannot be put back: "
                "its context, its id or its uuid is taken by something else",
                etl_context_id=other["etl_context_id"],
                event_id=other["event_id"],
            )
        new = [line for id_, line in zip(contexts, lines, strict=True) if id_ not in self._present]
        if new:
            await self._connection.execute(query("put_back_events"), _array(new))
            await self._connection.execute(query("pass_ids"), None, last)
            self.events += len(new)

    async def conclude(self) -> None:
        """Folds the tasks out of their events. Raises Conflict where a key is taken, or events break rules."""
        for some in some_at_a_time(sorted(self._restored)):
            for folding in await fold(self._connection, some):
                id_ = folding.etl_context_id
                wrong = [each for each in folding.mismatches() if not each.field.startswith("task")]
                if wrong:
                    raise Conflict(f"context {id_} cannot be put back: {wrong[0].field} is not as archived")
                try:
                    with translated():
                        await write_projection(self._connection, id_, folding.folded)
                except Contention as error:
                    raise Conflict(
                        f"context {id_} cannot be put back: its idempotency_key is another task's"
                    ) from error


@asynccontextmanager
async def restoring(database: Database) -> AsyncIterator[Restoring]:
    """One transaction in which trees come back, all or none."""
    async with database.connection() as connection:
        with translated():
            async with connection.transaction():
                going = Restoring(connection)
                yield going
                await going.conclude()
                failpoints.hit("archive.restored")


def _array(lines: Any) -> str:
    return f"[{','.join(lines)}]"
