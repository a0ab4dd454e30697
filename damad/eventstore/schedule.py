"""What a supervisor asks of the log: what its host holds, what is there to claim, and the claim itself."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from damad.eventstore.pools import Database
from damad.eventstore.queues import stored_queue
from damad.eventstore.store import Assignment, assignment_of
from damad.model.queue import MOST_SLOTS, StoredQueue


class HeldTask(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed, running or cancelling task of a host, with its lease. `started`: the payload of its STARTED event ·
    `beaten_at`: when a worker that promised to beat was heard of last · `cancel_wanted`: somebody wants it cancelled,
    and could not say so in the log yet · `terminate`: its process is to be killed at once."""

    etl_context_id: int
    version: int
    queue: str
    state: str
    fence: int
    attempt: int
    errors: int
    crashes: int
    settings: dict[str, Any]
    started_at: datetime | None
    holder: str | None
    waiting: bool
    lease_over: bool | None
    started: dict[str, Any] | None
    beaten_at: datetime | None
    cancel_wanted: bool = False
    terminate: bool = False


class Holding(msgspec.Struct, frozen=True):
    """What a host holds, what time Postgres said that it was then, whether any cancel is still to be written, whether
    any task did not begin by its start_by, whether any waits (of this host or another), and what is set for queues."""

    at: datetime
    tasks: list[HeldTask]
    any_cancel: bool
    any_late: bool
    any_waiting: bool
    queues: dict[str, StoredQueue]


class Late(msgspec.Struct, frozen=True):
    """A task that failed, for it did not begin by its start_by."""

    etl_context_id: int
    start_by: datetime


class Leftover(msgspec.Struct, frozen=True, kw_only=True):
    """How a task ended whose process may still live."""

    etl_context_id: int
    fence: int
    end_fence: int | None
    ended_at: datetime


class Work(msgspec.Struct, frozen=True):
    """A queue in which some task waits for nothing but a slot, and what is set for it in the database.

    wait: seconds until its rate lets the next one begin · key_wait: until its key_rate lets the next one of a key begin
    of which none may now.
    """

    queue: str
    stored: StoredQueue | None
    wait: float | None
    key_wait: float | None


class FreeSlots(msgspec.Struct, frozen=True):
    """The free slots of a queue, for which tasks are to be claimed. `shared`: also such as another host queued ·
    `whole`: how many slots there are, free or not; a task that weighs more is passed by."""

    queue: str
    slots: int
    shared: bool = False
    whole: int = MOST_SLOTS - 1


class Schedule:
    """The tasks of one pg_env, as one host sees them."""

    def __init__(self, database: Database, host_id: str) -> None:
        self.database = database
        self._host_id = UUID(host_id)

    async def held(self) -> Holding:
        """What this host holds."""
        rows = await self.database.fetch("held", self._host_id)
        held = [row for row in rows if row["etl_context_id"] is not None]
        at, any_cancel, any_late, any_waiting = (
            rows[0][name] for name in ("at", "any_cancel", "any_late", "any_waiting")
        )
        queues = {row["name"]: stored_queue(row) for row in rows[0]["queues"] or ()}
        return Holding(at, [_held_task(row) for row in held], any_cancel, any_late, any_waiting, queues)

    async def unheld_to_cancel(self) -> dict[int, int]:
        """The tasks that somebody wants cancelled and nobody holds, each with the version of its context."""
        return {row["etl_context_id"]: row["version"] for row in await self.database.fetch("unheld_to_cancel")}

    async def fail_late(self, most: int, *, leave_out: Sequence[int] = ()) -> list[Late]:
        """Fails tasks that did not begin by their start_by, so many at most, and returns them.

        Raises BrokenLog that names one whose log takes nothing; the others fail where it is left out.
        """
        rows = await self.database.fetch("fail_late", most, list(leave_out), repeatable=False)
        return [Late(row["etl_context_id"], row["start_by"]) for row in rows]

    async def expired(self, queues: Sequence[str]) -> list[HeldTask]:
        """Tasks of these queues, which are shared, whose lease ran out on another host."""
        rows = await self.database.fetch("expired", list(queues), self._host_id)
        return [_held_task(row) for row in rows]

    async def take_over(self, etl_context_id: int, fence: int, *, on: Any) -> None:
        """Ends the database sessions of a run whose lease is over, and holds its context in the caller's transaction.

        Raises StaleFence where the lease is not over, or the task went on.
        """
        await self.database.fetch("take_over", etl_context_id, fence, on=on)

    async def leftovers(self, etl_context_ids: list[int]) -> dict[int, Leftover]:
        """How the tasks named ended, by their ids."""
        rows = await self.database.fetch("leftovers", etl_context_ids)
        found = [Leftover(**{name: row[name] for name in Leftover.__struct_fields__}) for row in rows]
        return {leftover.etl_context_id: leftover for leftover in found}

    async def started(self, runs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Any]:
        """The payloads of the STARTED events of runs, each an etl_context_id and a fence."""
        if not runs:
            return {}
        rows = await self.database.fetch("started", [id_ for id_, _ in runs], [fence for _, fence in runs])
        return {(row["etl_context_id"], row["fence"]): row["payload"] for row in rows}

    async def resume(
        self, *, shared: Sequence[str], only: Sequence[int] | None, leave_out: Sequence[int] = ()
    ) -> list[int]:
        """Queues again what has waited long enough, of this host and of the queues that are shared. Returns the ids.

        Raises BrokenLog that names a context which cannot; the others are resumed where it is left out.
        """
        rows = await self.database.fetch("resume", self._host_id, shared, only, leave_out, repeatable=False)
        return list(rows[0]["ids"])

    async def queues_with_work(self) -> list[Work]:
        """The queues in which some task waits for nothing but a slot."""
        rows = await self.database.fetch("queues_with_work")
        return [
            Work(row["queue"], row["stored"] and stored_queue(row["stored"]), row["wait"], row["key_wait"])
            for row in rows
        ]

    async def ready_descendants(self, etl_context_id: int) -> list[tuple[str, int, int]]:
        """Queue, id and weight of each descendant of a task that may run here now, first those that come first."""
        rows = await self.database.fetch("ready_descendants", etl_context_id, self._host_id)
        return [(row["queue"], row["etl_context_id"], row["weight"]) for row in rows]

    async def next_due(self, *, looked_at: datetime) -> float | None:
        """Seconds until the next task that waits for its time; None where none does.

        looked_at: when it was last asked what is late and what waits. Whose time came after that is due at once.
        """
        rows = await self.database.fetch("next_due", self._host_id, looked_at)
        return None if rows[0]["seconds"] is None else max(0.0, rows[0]["seconds"])

    async def claim(
        self,
        queues: Sequence[FreeSlots],
        *,
        holder: str,
        lease: float,
        leave_out: Sequence[int] = (),
    ) -> list[Assignment]:
        """Claims for this host what the free slots of queues hold. Higher priority first, equal ones oldest first; one
        that waits for more slots is not overtaken.

        leave_out: tasks that are not claimed, though they might be.
        Raises BrokenLog that names a context whose claim fails; the others are claimed where it is left out.
        """
        rows = await self.database.fetch(
            "claim",
            [free.queue for free in queues],
            [free.slots for free in queues],
            [free.whole for free in queues],
            [free.shared for free in queues],
            self._host_id,
            holder,
            timedelta(seconds=lease),
            list(leave_out),
            repeatable=False,
        )
        return [assignment_of(row) for row in rows]

    async def claim_within_limits(
        self,
        free: FreeSlots,
        *,
        holder: str,
        lease: float,
        leave_out: Sequence[int] = (),
        only: Sequence[int] | None = None,
    ) -> list[Assignment]:
        """Claims from a queue that has limits: as `claim` does, and no more than they allow over all hosts.

        only: of these contexts alone.
        """
        rows = await self.database.fetch(
            "claim_within_limits",
            free.queue,
            free.slots,
            free.whole,
            free.shared,
            self._host_id,
            holder,
            timedelta(seconds=lease),
            list(leave_out),
            None if only is None else list(only),
            repeatable=False,
        )
        return [assignment_of(row) for row in rows]

    async def claim_one(self, etl_context_id: int, *, holder: str, lease: float, on: Any = None) -> None:
        """Claims one task, whoever else might want it. Raises IllegalTransition where its state does not allow it."""
        await self.database.fetch(
            "claim_one", etl_context_id, self._host_id, holder, timedelta(seconds=lease), on=on, repeatable=False
        )


def _held_task(row: Any) -> HeldTask:
    return HeldTask(**{name: row[name] for name in HeldTask.__struct_fields__})
