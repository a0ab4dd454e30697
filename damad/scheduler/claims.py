"""What a supervisor claims: as many tasks as its queues have free slots; or one task, and its subtasks."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import structlog

from damad import config, failpoints
from damad.errors import BrokenLog, Conflict
from damad.eventstore.schedule import FreeSlots, Schedule
from damad.eventstore.store import Assignment, EventStore, TaskState
from damad.scheduler import decisions
from damad.scheduler.bulkhead import Bulkhead
from damad.scheduler.clock import Clock
from damad.scheduler.decisions import Held

log = structlog.get_logger()

_PARKED_FOR: Final = 60.0
"""Seconds until a task whose claim failed is tried again: somebody may have mended it."""


class Claims:
    """Claims for one holder, by the rules of its queues."""

    def __init__(
        self,
        store: EventStore,
        schedule: Schedule,
        *,
        settings: config.Config,
        holder: str,
        clock: Clock,
        bulkhead: Bulkhead,
    ) -> None:
        self._store = store
        self._schedule = schedule
        self._config = settings
        self._holder = holder
        self._clock = clock
        self._bulkhead = bulkhead
        self._parked: dict[int, float] = {}

    async def fill(self, occupied: Mapping[str, int], *, leave_out: Collection[int] = ()) -> list[Assignment]:
        """Fills the free slots of every queue, of which so many are occupied, but for some tasks.

        Returns what was claimed.
        """
        claimed: list[Assignment] = []
        for queue in await self._schedule.queues_with_work():
            rules = self._config.queue(queue)
            slots = rules.concurrency - occupied.get(queue, 0)
            if slots > 0:
                claim = self._claim(FreeSlots(queue, slots, rules.shared), leave_out)
                claimed += await self._bulkhead.alone(claim, [], pg_env=self._store.database.pg_env, queue=queue)
        if claimed:
            failpoints.hit("supervisor.claimed")
        return claimed

    async def _claim(self, free: FreeSlots, leave_out: Collection[int]) -> list[Assignment]:
        """Claims from one queue. A task with a broken log is parked, said once, and keeps none of the others."""
        while True:
            parked = [id_ for id_, until in self._parked.items() if until > time.monotonic()]
            try:
                return await self._schedule.claim(
                    [free], holder=self._holder, lease=self._config.lease, leave_out=[*parked, *leave_out]
                )
            except BrokenLog as error:
                id_ = error.values.get("etl_context_id")
                if id_ is None or id_ in parked:
                    raise
                if id_ not in self._parked:
                    log.error("left alone until it is mended", pg_env=self._store.database.pg_env, queue=free.queue,
                              etl_context_id=id_, reason=str(error))  # fmt: skip
                self._parked[id_] = time.monotonic() + _PARKED_FOR

    async def one(self, etl_context_id: int, *, on: Any = None) -> None:
        """Claims one task. Raises IllegalTransition where its state does not allow it."""
        await self._schedule.claim_one(etl_context_id, holder=self._holder, lease=self._config.lease, on=on)

    async def one_when_due(self, etl_context_id: int) -> float:
        """Claims the one task if it may run now. (Another daemon may be faster: then it runs there.)

        Returns the seconds until it should be looked at again.
        """
        state = await self._store.state(etl_context_id)
        if not isinstance(state, TaskState) or state.state not in ("queued", "retrying"):
            return self._config.poll_interval
        early = (state.run_at - self._clock.now()).total_seconds()
        if early > 0:
            return early
        return 0.0 if await self._could_claim(etl_context_id) else self._config.poll_interval

    async def descendants(self, ancestor: int, held: Sequence[Held]) -> set[int]:
        """Fills the free slots with the subtasks of a task, and with theirs. Returns what was claimed."""
        ready: dict[str, list[int]] = {}
        for queue, id_ in await self._schedule.ready_descendants(ancestor):
            ready.setdefault(queue, []).append(id_)
        claimed = set()
        for queue, ids in ready.items():
            slots = decisions.free_slots(queue, self._config.queue(queue).concurrency, held)
            claimed |= {id_ for id_ in ids[:slots] if await self._could_claim(id_)}
        return claimed

    async def _could_claim(self, etl_context_id: int) -> bool:
        try:
            await self.one(etl_context_id)
        except Conflict:
            return False
        return True
