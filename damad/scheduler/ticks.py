"""The loop that takes the ticks of the schedules of one pg_env, by the clock of Postgres.

It sleeps until the next tick of them all, until a schedule is changed (NOTIFY), or, where a tick waits for a task to
end, until some task ends. Every daemon has one. Whoever gets hold of a schedule's row first takes its ticks: the
tasks are queued, and the schedule moves on, in one transaction. Nothing it keeps in memory matters.
"""

import asyncio
from datetime import datetime
from typing import Any, Final

import structlog

from damad import context, events, failpoints, schedules, tasks
from damad.backoff import Backoff
from damad.context import EtlContext
from damad.errors import Conflict, ContextBusy, Unavailable
from damad.eventstore import listener
from damad.eventstore.listener import Subscription
from damad.eventstore.schedules import OpenRun, Schedules
from damad.model import ticks
from damad.model.ticks import STOPPING, Plan, Schedule
from damad.scheduler.bulkhead import Bulkhead

log = structlog.get_logger()

_MOMENT: Final = 0.05
"""Seconds until a schedule is looked at again that another daemon is at."""
_AGAIN: Final = 1.0
"""Seconds until a schedule is looked at again whose ticks could not be taken."""
_BREATH: Final = 0.1
"""Seconds between two looks because tasks ended: many may end, and most are none of a schedule's."""


class Ticks:
    """Takes the ticks of the schedules of a pg_env. `ambient`: the context of this host, in which tasks are queued."""

    def __init__(self, ambient: EtlContext, *, poll_interval: float) -> None:
        self._ambient = ambient
        self._poll_interval = poll_interval
        self._schedules = Schedules(ambient.store.database)
        self._bulkhead = Bulkhead()
        self._since: datetime | None = None
        """When we began to look, after a start or an outage."""

    async def run(self) -> None:
        """Runs until it is cancelled."""
        hear = self._ambient.store.database.listener().subscribe
        backoff = Backoff()
        with context.run_in(self._ambient), hear(listener.SCHEDULE) as changed, hear(listener.TASK) as task_changed:
            while True:
                try:
                    pause, waiting = await self.turn()
                    await _rung([changed, task_changed] if waiting else [changed], pause)
                    await asyncio.sleep(_BREATH if waiting else 0)
                    backoff.reset()
                    continue
                except Unavailable as error:
                    log.warning("ticks wait for Postgres", pg_env=self._ambient.pg_env, reason=str(error))
                    self._since = self._since if isinstance(error, ContextBusy) else None
                except Exception:  # a fault in one turn is no reason to leave every schedule alone
                    log.exception("a turn of the schedules failed", pg_env=self._ambient.pg_env)
                await backoff.pause()

    async def turn(self) -> tuple[float, bool]:
        """Takes what is due. Returns the seconds until something will be, and whether a tick waits for a task's end."""
        at, names = await self._schedules.due()
        self._since = self._since or at
        broken = []
        for name in names:
            about = {"pg_env": self._ambient.pg_env, "schedule": name}
            if not await self._bulkhead.alone(self._take(name, self._since), False, **about):
                broken.append(name)
        seconds, waiting = await self._schedules.next_tick(leave_out=broken)
        pauses = [self._poll_interval, *([_AGAIN] if broken else [])]
        pauses += [] if seconds is None else [max(seconds, _MOMENT)]
        return min(pauses), waiting

    async def _take(self, name: str, since: datetime) -> bool:
        """Takes the ticks of one schedule that are due, unless another daemon is at it. Always True.

        Raises InvalidInput for one that plain SQL wrote and that is none.
        """
        more = True
        while more:
            async with events.transaction() as connection:
                read = await self._schedules.lock_due(name, on=connection)
                if read is None:
                    return True
                schedules.check(read.schedule)
                runs = await self._schedules.open_runs(name, on=connection)
                plan = ticks.plan(read.schedule, now=read.at, since=since, busy=bool(runs))
                await schedules.queue_ticks(read.schedule, plan.start, on=connection)
                failpoints.hit("ticks.queued")
                await self._schedules.advance(name, plan, on=connection)
            failpoints.hit("ticks.taken")
            schedule, more = read.schedule, plan.more
            _say(schedule, plan, pg_env=self._ambient.pg_env)
            if plan.buffered and schedule.overlap in STOPPING:
                await self._stop(runs, terminate=schedule.overlap == "terminate_other")
        return True

    async def _stop(self, runs: list[OpenRun], *, terminate: bool) -> None:
        for run in runs:
            if run.state != "cancelling":
                try:
                    await tasks.cancel(run.etl_context_id, terminate=terminate)
                except (Conflict, ContextBusy) as refused:  # it has ended, or it is noted that it is to be stopped
                    log.debug("a task was not stopped", etl_context_id=run.etl_context_id, reason=str(refused))


async def _rung(bells: list[Subscription], pause: float) -> None:
    """Returns when one of them rings, or after so many seconds."""
    waiting = [asyncio.create_task(bell.wait(pause)) for bell in bells]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _say(schedule: Schedule, plan: Plan, *, pg_env: str) -> None:
    about: dict[str, Any] = {"pg_env": pg_env, "schedule": schedule.name}
    if plan.missed is not None:
        first, last = (tick.isoformat() for tick in plan.missed)
        log.warning("ticks were missed", **about, policy=schedule.missed, first=first, last=last)
    if plan.suppressed:
        first, last = plan.suppressed[0].isoformat(), plan.suppressed[-1].isoformat()
        log.info("ticks made no task, for one of the schedule has not ended", **about, policy=schedule.overlap,
                 count=len(plan.suppressed), first=first, last=last)  # fmt: skip
