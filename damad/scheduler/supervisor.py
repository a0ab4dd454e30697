"""The loop that runs the tasks of one pg_env on this host: look, decide, perform, sleep until something happens.

It wakes when the log changes (NOTIFY), when a process ends, and by the clock. Free slots are filled at once; it looks
at everything, reading the log anew, at the first of many wakings and then a few times a second.
Nothing it keeps in memory matters: what it knows it can learn again from the log and the records of the runs.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import structlog

from damad import config, failpoints, processes
from damad.backoff import Backoff
from damad.errors import BrokenLog, Conflict, ContextBusy, Unavailable
from damad.eventstore import leases, listener
from damad.eventstore.pools import Database
from damad.eventstore.schedule import HeldTask, Schedule
from damad.eventstore.store import Append, Assignment, EventStore
from damad.eventstore.uuids import new_uuid
from damad.model import trace
from damad.model.event import Event
from damad.model.settings import weight_of
from damad.runner import indaemon
from damad.scheduler import decisions
from damad.scheduler.bulkhead import Bulkhead
from damad.scheduler.cancels import Cancels
from damad.scheduler.claims import Claims
from damad.scheduler.clock import Clock
from damad.scheduler.decisions import Cancelled, Conclude, Held, Kill, Launch, Release
from damad.scheduler.lateness import Lateness
from damad.scheduler.observation import Key, Observer, held_task
from damad.scheduler.reporting import said, say_how_it_ended
from damad.scheduler.runners import Runners
from damad.scheduler.starting import Starter

log = structlog.get_logger()

_BUSY_PAUSE: Final = 1.0
_LOOK_PAUSE: Final = 0.25
"""Seconds between two looks at everything, however much happens. Free slots do not wait for them."""
_MOMENT: Final = 0.05
_LAST_WORDS: Final = 3.0
"""Seconds that runs in this process have, after their grace, to say that they are handed back."""


class Supervisor:
    """Runs the tasks of one pg_env.

    own: connections for what the supervisor itself asks, which wait for a lock but briefly · runners: fork servers,
    where a process is not to be started for each task · terminal: leave workers on this terminal · debug: a name
    of runner/debugging.py · revive: called when Postgres is away (to start the embedded one again).
    """

    def __init__(
        self,
        database: Database,
        settings_: config.Config,
        host_id: str,
        *,
        own: Database | None = None,
        runners: Runners | None = None,
        terminal: bool = False,
        debug: str | None = None,
        revive: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._config = settings_
        self._host_id = host_id
        self._only: int | None = None
        self._descendants: set[int] | None = None
        self._revive = revive
        self._store = EventStore(own or database)
        self._schedule = Schedule(own or database, host_id)
        self.holder = processes.as_holder(processes.myself(), host_id)
        self._clock = Clock()
        self._bulkhead = Bulkhead()
        self.claims = Claims(
            self._store, self._schedule,
            settings=settings_, holder=self.holder, clock=self._clock, bulkhead=self._bulkhead,
        )  # fmt: skip
        self._lateness = Lateness(self._schedule)
        self._cancels = Cancels(self._store, self._schedule, self._is_ours, self._bulkhead)
        self._observer = Observer(settings_.state_dir, database.pg_env, self._clock, self._look_now)
        self._bell: listener.Subscription | None = None
        self._quiet = asyncio.Event()
        self._failed_launches = Counter[int]()  # of each context, since it last began
        self._runs: asyncio.TaskGroup | None = None
        self._starter = Starter(
            database, settings_, host_id, self._observer, runners=runners, terminal=terminal, debug=debug,
            rules=self.claims.rules, wake=self._wake, look_now=self._look_now,
        )  # fmt: skip
        self._slots: dict[Key, tuple[str, int]] = {}
        self._settled: set[Key] = set()
        self._looked_at: float | None = None
        self._renewed_at = float("-inf")

    @asynccontextmanager
    async def looking_after(self, etl_context_id: int, *, descendants: bool = False) -> AsyncIterator[None]:
        """Runs while the code inside does, for this one task: claims no other · descendants: but for its subtasks."""
        self._only = etl_context_id
        self._descendants = set() if descendants else None
        running = asyncio.create_task(self.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def run(self) -> None:
        """Runs until it is cancelled. Workers in processes go on; coroutines are handed back first."""
        with self._database.listener().subscribe(listener.TASK) as self._bell:
            async with asyncio.TaskGroup() as self._runs:
                try:
                    await self._watch(self._bell)
                finally:
                    await self._observer.hand_back(indaemon.HAND_BACK, self._config.grace + _LAST_WORDS)
                    self._observer.close()

    async def _watch(self, bell: listener.Subscription) -> None:
        backoff = Backoff()
        while True:
            try:
                pause = await self._turn()
                backoff.reset()
                await bell.wait(pause)
                continue
            except Unavailable as error:
                log.warning("the supervisor waits for Postgres", pg_env=self._database.pg_env, reason=str(error))
            except Exception:  # a fault in one round is no reason to leave every task of the host alone
                log.exception("a round of the supervisor failed", pg_env=self._database.pg_env)
            self._clock.away()
            self._looked_at = None  # what was known may be of a past that a restore has undone: look before claiming
            await backoff.pause()
            if self._revive is not None:
                await self._revive()

    async def settle(self, etl_context_id: int) -> None:
        """Says what became of one task whose process is dead, as a daemon would; leaves it alone while that lives."""
        while True:
            holding = await self._schedule.held()
            self._clock.set(holding.at)
            task = next((one for one in holding.tasks if one.etl_context_id == etl_context_id), None)
            if task is None:
                return
            held, seen = held_task(task, self.holder, self._host_id), self._observer.look(_key(task), task.started)
            decision = decisions.decide(held, seen, now=self._clock.now(), grace=self._config.grace)
            if decision is None or seen.process == decisions.ALIVE:
                return
            await self._perform(decision, task, held, seen)
            await asyncio.sleep(_MOMENT)  # what was killed is seen dead then

    def stop(self) -> None:
        """Asks the process of the one task to stop, and the second time makes sure; what became of it is said then."""
        for key in self._observer.known():
            if key[0] == self._only:
                self._observer.stop(key, None, force=self._observer.look(key).asked_at is not None)

    async def quiet(self) -> None:
        """Returns once no process runs any more that this supervisor looks after."""
        await self._quiet.wait()

    def _is_ours(self, etl_context_id: int) -> bool:
        return self._only in (None, etl_context_id) or etl_context_id in (self._descendants or ())

    def _wake(self) -> None:
        if self._bell is not None:
            self._bell.ring()

    def _look_now(self) -> None:
        """Something ended that said nothing."""
        self._looked_at = None
        self._wake()

    async def _turn(self) -> float:
        """Does what is due. Returns the seconds until something will be."""
        over = [key for key, reporter in self._starter.reporters.items() if reporter.is_over]
        unsaid = [key for key in over if not self._settle(key)]
        moments: list[float] = []
        if self._only is None and not unsaid and self._looked_at is not None:
            await self._fill(moments)
        rest = 0.0 if self._looked_at is None else self._looked_at + _LOOK_PAUSE - asyncio.get_running_loop().time()
        return await self.round() if rest <= 0 or unsaid or self._only is not None else min([rest, *moments])

    def _settle(self, key: Key) -> bool:
        """Frees the slot of a run whose process has ended. False if it did not say itself what became of it."""
        self._slots.pop(key, None)
        if self._starter.reporters.pop(key).concluded_at > 0:
            self._failed_launches.pop(key[0], None)
            self._observer.forget(key)
            self._settled.add(key)
            return True
        self._observer.over(key)
        return False

    def _forget(self, key: Key, *, lost: bool) -> None:
        self._starter.forget(key, lost=lost)
        self._observer.forget(key)

    async def round(self) -> float:
        """Looks at everything once and does what is to be done. Returns the seconds until it should look again."""
        self._looked_at = asyncio.get_running_loop().time()
        self._settled.clear()
        holding = await self._schedule.held()
        self._clock.set(holding.at)
        self.claims.learn(holding.queues)
        tasks = [task for task in holding.tasks if self._is_ours(task.etl_context_id)]
        poll = self._config.poll_interval * random.uniform(0.8, 1.2)
        moments = await self._attend_all(tasks, poll)
        moments += await self._attend_leftovers({_key(task) for task in tasks})
        if holding.any_cancel:
            moments += await self._cancels.write()
        if holding.any_late:
            moments += await self._lateness.end()
        moments += await self._renew(tasks)
        await self._rescue()
        if holding.any_waiting:
            ours = None if self._only is None else [self._only, *(self._descendants or ())]
            await self._bulkhead.alone(self.claims.resume(ours, moments), None, pg_env=self._database.pg_env)
        known = any(self._only in (None, key[0]) for key in self._observer.known())
        self._quiet.clear() if known else self._quiet.set()
        # Asked before: what gets due while we claim is neither claimed nor next.
        due = await self._schedule.next_due(looked_at=holding.at)
        if await self._claim(tasks, moments):
            return 0.0
        return min([poll, *moments, *([] if due is None else [due + 0.001])])

    async def _claim(self, tasks: list[HeldTask], moments: list[float]) -> bool:
        """Claims what may run now; adds to `moments` when to look again. True if anything was claimed."""
        # A parked one is over, only its log cannot be told so: it holds no slot.
        living = [task for task in tasks if not self._bulkhead.parks(**self._about(task))]
        held = [held_task(task, self.holder, self._host_id) for task in living]
        if self._only is None:
            self._slots = {
                _key(one): (one.queue, one.settings.weight)
                for one in held
                if not one.waiting and _key(one) not in self._settled
            }
            return await self._fill(moments)
        moments.append(await self.claims.one_when_due(self._only))
        if self._descendants is None:
            return False
        claimed = await self.claims.descendants(self._only, [one for one in held if one.etl_context_id != self._only])
        self._descendants |= claimed
        return bool(claimed)

    async def _fill(self, moments: list[float]) -> bool:
        """Claims what free slots allow, and starts it; adds to `moments` when to look again. True if it did."""
        # What has a process here that may live still is claimed after its end, or by a host that has none of it.
        known = {id_ for id_, _ in self._observer.known()}
        claimed = await self.claims.fill(self._slots.values(), moments, leave_out=known)
        for task in claimed:
            self._slots[task.etl_context_id, task.fence] = task.queue, weight_of(task.settings)
            self._start(task)
        return bool(claimed)

    async def _renew(self, tasks: list[HeldTask]) -> list[float]:
        """Renews the leases of what goes on here, long before they run out. Returns the seconds until that is due."""
        now, pause = asyncio.get_running_loop().time(), self._config.lease / 4
        if now >= self._renewed_at + pause:
            self._renewed_at = now
            if held := self._observer.at_work():
                await leases.renew_all(self._schedule.database, held, self._config.lease)
        return [self._renewed_at + pause - now] if tasks else []

    async def _attend_all(self, tasks: list[HeldTask], poll: float) -> list[float]:
        """Does what each of them needs, side by side: one whose context somebody holds keeps no other waiting."""
        attending = [self._bulkhead.alone(self._attend(task), poll, **self._about(task)) for task in tasks]
        moments = await asyncio.gather(*attending, return_exceptions=True)
        for moment in moments:
            if isinstance(moment, BaseException):
                raise moment
        return [moment for moment in moments if not isinstance(moment, BaseException)]

    def _about(self, task: HeldTask) -> dict[str, Any]:
        return {"pg_env": self._database.pg_env, "etl_context_id": task.etl_context_id}

    async def _attend(self, task: HeldTask) -> float:
        """Does what one task needs. Returns the seconds until it should be looked at again."""
        now = self._clock.now()
        held = held_task(task, self.holder, self._host_id, back_since=self._clock.back_since)
        seen = self._observer.look(_key(task), task.started)
        failed = self._failed_launches[task.etl_context_id]
        decision = decisions.decide(held, seen, now=now, grace=self._config.grace, failed_launches=failed)
        if task.state == "running":
            self._failed_launches.pop(task.etl_context_id, None)
        try:
            await self._perform(decision, task, held, seen)
        except ContextBusy:
            return _BUSY_PAUSE
        except BrokenLog:
            raise
        except Conflict as refused:  # somebody else said it first, or the task went on: the next look tells
            log.debug("the log had gone on", etl_context_id=task.etl_context_id, reason=str(refused))
            return 0.05
        if isinstance(decision, Kill):
            return min(self._config.grace, 0.1 if decision.force else self._config.grace)
        moment = decisions.deadline(held, seen, now=now, grace=self._config.grace)
        return self._config.poll_interval if moment is None else max(0.0, (moment - now).total_seconds())

    async def _perform(
        self, decision: decisions.Decision | None, task: HeldTask, held: Held, seen: decisions.Observed
    ) -> None:
        key = _key(task)
        match decision:
            case Launch():
                self._start(await self._store.assignment(task.etl_context_id))
            case Release(_, delay):
                self._failed_launches.update([task.etl_context_id] if delay else [])
                # Only as it was seen: a run that began meanwhile goes on.
                await self._append(task, *said(decision, held, self._clock.now()), expected_version=task.version)
                self._forget(key, lost=seen.exit is None)
            case Kill(force, why):
                log.info("stopping a worker", attempt=task.attempt, force=force, why=why, **self._about(task),
                         **trace.said(task.started))  # fmt: skip
                self._observer.stop(key, task.started, force=force, why=why)
                failpoints.hit("supervisor.killed")
            case Conclude(failure):
                failpoints.hit("supervisor.verdict")
                await self._append(task, *said(decision, held, self._clock.now()))
                log.info("an attempt failed", etl_context_id=task.etl_context_id, kind=failure.kind,
                         attempt=failure.attempt, exit_code=failure.exit_code, signal=failure.signal,
                         **trace.said(task.started))  # fmt: skip
                failpoints.hit("supervisor.concluded")
                self._forget(key, lost=seen.exit is None)
            case Cancelled():
                await self._append(task, *said(decision, held, self._clock.now()))
                self._forget(key, lost=seen.exit is None)

    async def _append(self, task: HeldTask, *new: Event, expected_version: int | None = None, on: Any = None) -> None:
        """Appends under the fence of the claim. `expected_version`: of the context, before a single event."""
        fresh = [msgspec.structs.replace(event, event_uuid=new_uuid()) for event in new]
        id_, fence = task.etl_context_id, task.fence
        await self._store.append(
            [Append(etl_context_id=id_, event=one, fence=fence, expected_version=expected_version) for one in fresh],
            on=on,
        )

    async def _attend_leftovers(self, held: set[Key]) -> list[float]:
        """Runs whose task this host does not hold any more: tidied up once dead, stopped if they go on."""
        since = asyncio.get_running_loop().time() - self._config.grace
        leaving = {key for key, handler in self._starter.reporters.items() if handler.concluded_at > since}
        keys = {key for key in self._observer.known() - held - leaving if self._is_ours(key[0])}
        started = await self._schedule.started(list(keys))  # the log knows better than a record
        alive = {}
        for key in keys:
            seen = self._observer.look(key, started.get(key))
            if seen.process in (decisions.ALIVE, decisions.STARTING, decisions.LEFT):
                alive[key] = seen
            else:
                say_how_it_ended(key, seen, started.get(key))
                self._forget(key, lost=seen.exit is None)
        if not alive:
            return []
        ends = await self._schedule.leftovers([key[0] for key in alive])
        for key, seen in alive.items():
            end = ends.get(key[0])
            if end is None:
                continue  # a process of a database that was restored, say: not known here, so not ours to stop
            by_itself = end.fence == end.end_fence == key[1]
            kill = decisions.decide_leftover(
                seen, now=self._clock.now(), grace=self._config.grace, ended_at=end.ended_at, by_itself=by_itself
            )
            if kill is not None:
                log.info("stopping a worker whose task has ended", etl_context_id=key[0], force=kill.force,
                         **trace.said(started.get(key)))  # fmt: skip
                self._observer.stop(key, started.get(key), force=kill.force)
        return [min(self._config.grace, 0.1 if any(seen.process == decisions.LEFT for seen in alive.values()) else 1.0)]

    async def _rescue(self) -> None:
        """Takes over the tasks of shared queues whose host is lost: its lease ran out, so nothing of it counts."""
        shared = self.claims.shared()
        if not shared or self._only is not None:
            return
        for task in await self._schedule.expired(shared):
            held = held_task(task, self.holder, self._host_id)
            lost = decisions.Observed(process=decisions.LOST)
            decision = decisions.decide(held, lost, now=self._clock.now(), grace=self._config.grace)
            try:
                async with self._store.transaction() as connection:
                    await self._schedule.take_over(task.etl_context_id, task.fence, on=connection)
                    await self._append(task, *said(decision, held, self._clock.now()), on=connection)
            except (Conflict, ContextBusy) as refused:
                log.debug("a task was not taken over", etl_context_id=task.etl_context_id, reason=str(refused))
            else:
                log.warning("a task was taken over from a lost host", etl_context_id=task.etl_context_id)

    def _start(self, task: Assignment) -> None:
        assert self._runs is not None
        self._starter.start(task, self._runs, stays=task.etl_context_id == self._only)


def _key(task: HeldTask | Held) -> Key:
    return task.etl_context_id, task.fence
