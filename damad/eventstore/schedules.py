"""The schedules of one pg_env: rows of configuration, and the lock under which their ticks are taken.

Whoever takes ticks holds the row of the schedule until what came of them is committed: so each is taken once.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from damad.errors import Conflict, NotFound
from damad.eventstore.pools import Database
from damad.model.ticks import Plan, Schedule


class Read(NamedTuple):
    """A schedule, and what time Postgres said that it was then."""

    schedule: Schedule
    at: datetime


class OpenRun(NamedTuple):
    """A task that a schedule made and that has not ended."""

    etl_context_id: int
    state: str


class Schedules:
    """The schedules of one pg_env."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, values: Sequence[Any]) -> Read:
        """A new schedule; `values` are in the order of add_schedule.sql. Raises Conflict where its name is taken."""
        rows = await self._database.fetch("add_schedule", *values, repeatable=False)
        if not rows:
            name = values[0]
            raise Conflict(f"there is a schedule {name!r} already: change it, or remove it first", schedule=name)
        return _read(rows[0])

    async def change(self, values: Sequence[Any], *, on: Any) -> Read:
        """The schedule as it is from now on. `on`: the transaction that holds it."""
        return _read((await self._database.fetch("change_schedule", *values, on=on))[0])

    async def remove(self, name: str) -> None:
        """Removes a schedule. Raises NotFound."""
        if not await self._database.fetch("remove_schedule", name, repeatable=False):
            raise _unknown(name)

    async def get(self, name: str) -> Read:
        """A schedule. Raises NotFound."""
        return _one(await self._database.fetch("schedule", name), name)

    async def page(self, *, after: str | None = None, limit: int | None = None) -> list[Read]:
        """Schedules in the order of their names, from after a name."""
        return [_read(row) for row in await self._database.fetch("schedules", after, limit)]

    async def lock(self, name: str, *, on: Any) -> Read:
        """A schedule that is held for as long as the caller's transaction lasts. Raises NotFound."""
        return _one(await self._database.fetch("lock_schedule", name, on=on), name)

    async def lock_due(self, name: str, *, on: Any) -> Read | None:
        """The same, or None where it is not due any more or somebody else holds it."""
        rows = await self._database.fetch("lock_due_schedule", name, on=on)
        return _read(rows[0]) if rows else None

    async def due(self) -> tuple[datetime, list[str]]:
        """What time it is, and the names of the schedules that are to be looked at, those first that wait longest."""
        rows = await self._database.fetch("due_schedules")
        return rows[0]["at"], [row["name"] for row in rows if row["name"] is not None]

    async def next_tick(self, *, leave_out: Sequence[str] = ()) -> tuple[float | None, bool]:
        """Seconds until the next tick, None where none comes; and whether one waits until a task has ended."""
        (row,) = await self._database.fetch("next_tick", list(leave_out))
        return row["seconds"], row["waiting"]

    async def open_runs(self, name: str, *, on: Any) -> list[OpenRun]:
        """The tasks that a schedule made and that have not ended."""
        rows = await self._database.fetch("open_runs", name, on=on)
        return [OpenRun(row["etl_context_id"], row["state"]) for row in rows]

    async def advance(self, name: str, plan: Plan, *, on: Any) -> None:
        """Remembers which ticks are over, and which wait. `on`: the transaction that holds the schedule."""
        await self._database.fetch("advance_schedule", name, plan.last_tick, plan.next_tick, plan.buffered, on=on)

    async def made(self, event_uuids: Sequence[UUID], *, on: Any) -> set[UUID]:
        """Which of these are in the log."""
        return {row["event_uuid"] for row in await self._database.fetch("made_events", list(event_uuids), on=on)}


def _read(row: Any) -> Read:
    return Read(Schedule(**{name: row[name] for name in Schedule.__struct_fields__}), row["at"])


def _one(rows: Sequence[Any], name: str) -> Read:
    if not rows:
        raise _unknown(name)
    return _read(rows[0])


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no schedule {name[:80]!r}", schedule=name[:80])
