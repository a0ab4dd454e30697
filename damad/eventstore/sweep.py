"""All contexts, a slice at a time, and which of them are not what their events say.

To fold each event in Python would be slow, and hardly anything would come of it. Postgres says of each context, in one
statement for a slice, what its *shape* is: the course of its events without their values (queries/shapes.sql). Two
contexts of one shape are both right or both wrong. So the first of each shape is looked at closely (folding.py), and
the others only if it is wrong; what Postgres can give no shape is looked at closely, always.

A slice is one snapshot, so that a busy log is no mismatch. Nobody's memory grows with the log or with a context.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import asyncpg
import msgspec

from damad.eventstore.folding import Findings, fold, some_at_a_time
from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.refusals import translated

_LANES: Final = 2
"""Slices that are looked at at the same time, each on a connection of its own."""
_CONTEXTS: Final = 2000
"""Contexts in a slice at most."""
_EVENTS: Final = 20_000
"""Events of a slice from which on it has no further context."""
_REMEMBERED: Final = 10_000
"""Shapes that are remembered. Each has a kilobyte at most; real logs have a few hundred."""


class Slice(msgspec.Struct, frozen=True):
    """What was found in a slice: how many contexts and events, and those of its contexts that are to be told of."""

    contexts: int
    events: int
    found: list[Findings]


Each = Callable[["asyncpg.Connection[Any]", Slice], Awaitable[None]]
"""What is done with each slice, on the connection that it was read on, when its transaction is over."""


async def sweep(database: Database, each: Each) -> None:
    """Looks at every context once. Raises Unavailable."""
    going = _Sweep()
    try:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(_LANES):
                lanes.create_task(going.lane(database, each))
    except ExceptionGroup as group:  # where the server goes, all lose it at the same time, and one speaks for all
        raise group.exceptions[0] from group


class _Sweep:
    """How far it is, and the shapes that were found to be right."""

    def __init__(self) -> None:
        self._last = 0
        self._next = asyncio.Lock()
        self._right: set[str] = set()

    async def lane(self, database: Database, each: Each) -> None:
        async with database.connection() as connection:
            with translated():
                while (span := await self._span(connection)) is not None:
                    async with connection.transaction(isolation="repeatable_read", readonly=True):
                        found = await self._look(connection, *span)
                    await each(connection, found)

    async def _span(self, connection: "asyncpg.Connection[Any]") -> tuple[int, int] | None:
        async with self._next:
            first = self._last
            last = await connection.fetchval(query("next_slice"), first, _CONTEXTS, _EVENTS)
            if last is None:
                return None
            self._last = last
            return first, last

    async def _look(self, connection: "asyncpg.Connection[Any]", first: int, last: int) -> Slice:
        await connection.execute(query("without_jit"))
        rows = await connection.fetch(query("shapes"), first, last)
        strange: dict[str | None, list[int]] = {}
        for row in rows:
            if row["shape"] not in self._right:
                strange.setdefault(row["shape"], []).append(row["etl_context_id"])
        closely = await self._look_closely(connection, strange) if strange else []
        return Slice(len(rows), sum(row["events"] for row in rows), closely)

    async def _look_closely(
        self, connection: "asyncpg.Connection[Any]", strange: dict[str | None, list[int]]
    ) -> list[Findings]:
        shapeless = strange.pop(None, [])
        firsts = {ids[0]: shape for shape, ids in strange.items() if shape is not None}
        found = await _fold(connection, [*firsts, *shapeless])
        wrong = {findings.etl_context_id for findings in found if findings.mismatches}
        self._remember(shape for id_, shape in firsts.items() if id_ not in wrong)
        others = [id_ for first, shape in firsts.items() if first in wrong for id_ in strange[shape][1:]]
        found += await _fold(connection, others)
        return sorted(found, key=lambda findings: findings.etl_context_id)

    def _remember(self, shapes: Iterable[str]) -> None:
        if len(self._right) > _REMEMBERED:
            self._right.clear()
        self._right.update(shapes)


async def _fold(connection: "asyncpg.Connection[Any]", etl_context_ids: list[int]) -> list[Findings]:
    return [
        findings
        for some in some_at_a_time(sorted(etl_context_ids))
        for folding in await fold(connection, some)
        if (findings := folding.findings()) is not None
    ]
