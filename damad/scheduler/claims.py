"""What a supervisor claims: as many tasks as its queues have free slots; or one task, and its subtasks.

And what it queues again for having waited long enough.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from damad import config, failpoints
from damad.errors import BrokenLog, Conflict, ContextBusy
from damad.eventstore.schedule import FreeSlots, Schedule
from damad.eventstore.store import Assignment, EventStore, TaskState
from damad.model.queue import StoredQueue
from damad.scheduler import decisions
from damad.scheduler.bulkhead import Bulkhead
from damad.scheduler.clock import Clock
from damad.scheduler.decisions import Held

log = structlog.get_logger()
T = TypeVar("T")

_RESTS: Final = 9
_PARKED_FOR: Final = 60.0
"""Seconds until a task whose claim failed is tried again: somebody may have mended it."""


class Claims:
    """Claims for one holder, by the rules of its queues: those of this host, and what is set in the database."""

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
        self._resume_at = 0.0
        self._stored: dict[str, StoredQueue] = {}
        self._closed = False

    def close(self) -> None:
        """Claims the one task no more that is looked after, nor its subtasks: who waits for it here wants to go."""
        self._closed = True

    def learn(self, stored: Mapping[str, StoredQueue]) -> None:
        """Takes what is set for the queues as it was last read."""
        self._stored = dict(stored)

    def rules(self, queue: str) -> config.Queue:
        """How a queue runs here, by what is known last."""
        return self._config.queue(queue).under(self._stored.get(queue))

    def shared(self) -> list[str]:
        """The queues whose tasks any host may run."""
        return [queue for queue in {**self._config.queues, **self._stored} if self.rules(queue).shared]

    async def fill(
        self, taken: Iterable[tuple[str, int]], moments: list[float], *, leave_out: Collection[int] = ()
    ) -> list[Assignment]:
        """Fills the free slots of every queue, but for some tasks. `taken`: queue and weight of what holds slots.

        Returns what was claimed. Adds to `moments` the seconds until the rate of a queue, or of a key in it, lets the
        next task begin.
        """
        claimed: list[Assignment] = []
        occupied = Counter[str]()
        for queue, weight in taken:
            occupied[queue] += weight
        for work in await self._schedule.queues_with_work():
            if work.stored is not None:
                self._stored[work.queue] = work.stored
            rules = self.rules(work.queue)
            free = FreeSlots(work.queue, rules.concurrency - occupied[work.queue], rules.shared, rules.concurrency)
            moments += [wait for wait in (work.wait, work.key_wait) if wait is not None]
            if work.wait is None and free.slots > 0 and not (work.stored and work.stored.paused):
                claim = self._claim(free, leave_out)
                claimed += await self._bulkhead.alone(claim, [], pg_env=self._store.database.pg_env, queue=work.queue)
        if claimed:
            failpoints.hit("supervisor.claimed")
        return claimed

    async def _claim(
        self, free: FreeSlots, leave_out: Collection[int] = (), *, only: Sequence[int] | None = None
    ) -> list[Assignment]:
        return await self._but_for_broken(
            lambda parked: self._claim_once(free, [*parked, *leave_out], only), queue=free.queue
        )

    async def resume(self, only: Sequence[int] | None, moments: list[float]) -> None:
        """Queues again those tasks, or all of this host, that have waited long enough.

        To look at what very many wait for takes a while: it rests so long that it takes a tenth of the time at most,
        and adds to `moments` when to look again.
        """
        begun = time.monotonic()
        if begun < self._resume_at:
            moments.append(self._resume_at - begun)
            return
        resume = partial(self._schedule.resume, shared=self.shared(), only=only)
        resumed = await self._but_for_broken(lambda parked: resume(leave_out=parked))
        ended = time.monotonic()
        self._resume_at = ended + _RESTS * (ended - begun)
        if resumed:
            failpoints.hit("supervisor.resumed")

    async def _but_for_broken(self, ask: Callable[[list[int]], Awaitable[list[T]]], **about: Any) -> list[T]:
        """What is done for many tasks. One with a broken log is parked, said once, and keeps none of the others."""
        while True:
            parked = [id_ for id_, until in self._parked.items() if until > time.monotonic()]
            try:
                return await ask(parked)
            except BrokenLog as error:
                id_ = error.values.get("etl_context_id")
                if id_ is None or id_ in parked:
                    raise
                if id_ not in self._parked:
                    log.error("left alone until it is mended", pg_env=self._store.database.pg_env, etl_context_id=id_,
                              reason=str(error), **about)  # fmt: skip
                self._parked[id_] = time.monotonic() + _PARKED_FOR

    async def _claim_once(
        self, free: FreeSlots, leave_out: Sequence[int], only: Sequence[int] | None
    ) -> list[Assignment]:
        holder, lease = self._holder, self._config.lease
        if not self._is_limited(free.queue):
            return await self._schedule.claim([free], holder=holder, lease=lease, leave_out=leave_out)
        try:
            return await self._schedule.claim_within_limits(
                free, holder=holder, lease=lease, leave_out=leave_out, only=only
            )
        except ContextBusy:  # somebody holds the queue's row for long: no reason to keep the other queues waiting
            return []

    async def one(self, etl_context_id: int, *, on: Any = None) -> None:
        """Claims one task. Raises IllegalTransition where its state does not allow it."""
        await self._schedule.claim_one(etl_context_id, holder=self._holder, lease=self._config.lease, on=on)

    async def one_when_due(self, etl_context_id: int) -> float:
        """Claims the one task if it may run now. (Another daemon may be faster: then it runs there.)

        Returns the seconds until it should be looked at again.
        """
        state = await self._store.state(etl_context_id)
        if self._closed or not isinstance(state, TaskState) or state.state not in ("queued", "retrying"):
            return self._config.poll_interval
        early = (state.run_at - self._clock.now()).total_seconds()
        if early > 0:
            return early
        return 0.0 if await self._could_claim(etl_context_id) else self._config.poll_interval

    async def descendants(self, ancestor: int, held: Sequence[Held]) -> set[int]:
        """Fills the free slots with the subtasks of a task, and with theirs. Returns what was claimed."""
        ready: dict[str, dict[int, int]] = {}
        for queue, id_, weight in [] if self._closed else await self._schedule.ready_descendants(ancestor):
            ready.setdefault(queue, {})[id_] = weight
        claimed = set()
        for queue, weights in ready.items():
            concurrency = self.rules(queue).concurrency
            slots = decisions.free_slots(queue, concurrency, held)
            if self._is_limited(queue):
                within = await self._claim(FreeSlots(queue, slots, whole=concurrency), only=[*weights])
                claimed |= {task.etl_context_id for task in within}
            else:
                fitting = decisions.that_fit(weights, slots, concurrency)
                claimed |= {id_ for id_ in fitting if await self._could_claim(id_)}
        return claimed

    def _is_limited(self, queue: str) -> bool:
        stored = self._stored.get(queue)
        return stored is not None and (stored.limited or stored.paused is True)

    async def _could_claim(self, etl_context_id: int) -> bool:
        try:
            await self.one(etl_context_id)
        except Conflict:
            return False
        return True
