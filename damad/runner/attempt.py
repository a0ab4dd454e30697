"""One attempt of a claimed task, around `main`: begin, renew the lease, conclude. Wherever it runs, it is this.

Whoever knows the outcome appends it, under the fence of its claim. What a process can no longer say for itself (it was
killed, say) the supervisor says for it; should both, the log takes one. That it is told twice who may run (by the fence
and by the table of transitions, which knows one STARTED a claim) is why nobody asks before.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from damad import context, events, failpoints, processes, workerfile
from damad.config import Queue
from damad.errors import Conflict, InvalidWorker, StaleFence, Unavailable
from damad.eventstore import intents, leases
from damad.eventstore.pools import Database
from damad.eventstore.store import Assignment, EventStore
from damad.eventstore.uuids import new_uuid
from damad.model import retry, settings, spans, trace
from damad.model.event import Event, RecordedEvent
from damad.model.json_value import Unreadable
from damad.model.memory import Memory
from damad.runner import outcome
from damad.runner.load import Main, NotLoaded, compiled, load, read


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner is told: which claim of which task it runs, for whom, and the rules of the house."""

    pg_env: str
    etl_context_id: int
    fence: int
    host_id: str
    state_dir: Path
    worker_roots: tuple[Path, ...]
    queues: dict[str, Queue]
    lease: float
    max_result: int
    shared: bool = False
    wait_in_process: float = 5.0
    log_format: str = "text"
    otel: bool = False

    def traceparent(self, initial_event: RecordedEvent) -> str | None:
        """The trace that the worker is told of: with `otel` the span of its attempt, which will be exported."""
        return spans.traceparent_of(initial_event, self.fence) if self.otel else trace.of(initial_event.meta)


_LATE: Final = 0.5
"""Seconds after its time at which a timer shows that the whole process was held up."""
_LAST_QUESTION: Final = 2.0
"""Seconds that the database then has to say whether the lease is still ours."""


class NotMine(Exception):
    """The claim cannot be run: `exit_code` says whether another runner holds it or its lease is lost."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class Attempt:
    """One run of `main` under one claim. `begin` first, then `renew` beside `main`, then `conclude`.

    Where somebody else appends for it (a daemon, over a line), it only says what: `started`, `verdict`, `refused`.
    task: what the log says of it, where whoever claimed it knows · asked_at: time.monotonic() when the log said so ·
    concluded: `conclude` or `release` was recorded, so that nothing more is to be said.
    """

    def __init__(
        self, claim: Claim, database: Database, task: Assignment | None = None, *, asked_at: float | None = None
    ) -> None:
        self.claim = claim
        self.store = EventStore(database)
        self.context = context.EtlContext(
            pg_env=claim.pg_env, etl_context_id=claim.etl_context_id, fence=claim.fence, database=database
        )
        self._assignment: Assignment | None = None
        self._worker: Path | InvalidWorker | None = None
        self._source: bytes | None = None
        self._started = new_uuid()  # drawn once: a process and the parent that forked it may both say that it began
        self.concluded = False
        if task is not None:
            self._assign(task, asked_at)

    @property
    def number(self) -> int:
        """1, 2, 3 …: the runs of the task that really started."""
        return self.assignment.attempt

    @property
    def assigned(self) -> bool:
        """Whether it is known what is to be done."""
        return self._assignment is not None

    @property
    def assignment(self) -> Assignment:
        """What the log says that is to be done. Known from the beginning, or once `look` returned."""
        assert self._assignment is not None
        return self._assignment

    async def look(self) -> None:
        """Reads what is to be done from the log, where whoever claimed the task did not say."""
        if self._assignment is None:
            self._assign(await events.persist(lambda: self.store.assignment(self.claim.etl_context_id)))

    def _assign(self, task: Assignment, asked_at: float | None = None) -> None:
        self._assignment = task
        self.settings = settings.decode(task.settings)
        self._boot = task.at - timedelta(seconds=time.monotonic() if asked_at is None else asked_at)
        work_dir = self.settings.work_dir
        self.context = msgspec.structs.replace(
            self.context,
            parent_context_id=task.parent_context_id,
            attempt=task.attempt,
            queue=task.queue,
            initial_event=task.initial_event.as_dict(),
            work_dir=Path(work_dir) if work_dir else None,
            traceparent=self.claim.traceparent(task.initial_event),
            memory=Memory(self.claim.wait_in_process, self.now),
            host=context.Host(
                host_id=self.claim.host_id,
                state_dir=self.claim.state_dir,
                worker_roots=self.claim.worker_roots,
                queues=self.claim.queues,
            ),
        )

    def now(self) -> datetime:
        """What time it is for Postgres, which said so when it was asked for the task."""
        return self._boot + timedelta(seconds=time.monotonic())

    async def begin(self) -> None:
        """Appends STARTED. Raises NotMine."""
        await self.look()
        try:
            await self.record(self.started(processes.myself()))
        except Conflict as refusal:
            raise self.not_mine(refusal) from None
        failpoints.hit("runner.started")

    def not_mine(self, refusal: Conflict) -> NotMine:
        """What the log says with it that does not take STARTED."""
        held = refusal.values.get("state") == "running" and not isinstance(refusal, StaleFence)
        return NotMine(outcome.HELD if held else outcome.LEASE_LOST)

    def prepare(self) -> None:
        """Does what can be done before the process is forked that will run it."""
        if self.assigned and isinstance(worker := self._resolved(), Path) and not workerfile.runs_on_node(worker):
            with suppress(SyntaxError, ValueError):  # the process says what is wrong with it
                compiled(worker, self._source or b"")

    def started(self, process: processes.Process) -> Event:
        """The event by which a process begins the attempt. The same one whoever says it, and however often."""
        self._resolved()
        payload = {
            "attempt": self.number,
            "pid": process.pid,
            "start_time": process.start_time,
            "boot_id": process.boot_id,
            "host_id": self.claim.host_id,
            "sha256": None if self._source is None else hashlib.sha256(self._source).hexdigest(),
        }
        if self.context.traceparent is not None:
            payload[trace.KEY] = self.context.traceparent
        return Event(type="dama/task:STARTED", event_uuid=self._started, payload=payload)

    def _resolved(self) -> Path | InvalidWorker:
        """The worker's file, or why it may not be run. Looked at once: what is said to run is what runs."""
        if self._worker is None:
            try:
                self._worker = workerfile.resolve(self.assignment.worker, self.claim.worker_roots)
            except InvalidWorker as refused:
                self._worker = refused
            else:
                self._source = read(self._worker)
        return self._worker

    def find_worker(self) -> Path:
        """The worker's file. Raises NotLoaded where it vanished or may not be run, or its event cannot be read."""
        initial = self.assignment.initial_event
        if isinstance(initial.payload, Unreadable) or isinstance(initial.meta, Unreadable):
            raise NotLoaded(f"its event {initial.event_id} ({initial.type}) holds what cannot be read")
        worker = self._resolved()
        if isinstance(worker, InvalidWorker):
            raise NotLoaded(str(worker))
        return worker

    def load(self) -> Main:
        """The `main` of the worker's file, freshly executed. Raises NotLoaded."""
        return load(self.find_worker(), self._source)

    async def renew(self, lost: Callable[[], None], *, used: float = 0.0) -> None:
        """Renews the lease for as long as it runs. Calls `lost` once, in a shared queue, when the lease has run out.

        Elsewhere nobody else may take the task: its run outlives an outage of Postgres, and whether it still counts is
        judged by its fence when it appends. `used`: seconds of the lease that are over already.
        """
        claim, clock = self.claim, asyncio.get_running_loop()
        watchdog = _Watchdog(clock, lost) if claim.shared else None
        due = clock.time() + claim.lease - used
        try:
            while watchdog is None or not watchdog.over.is_set():
                if watchdog is not None:
                    watchdog.watch(due)
                pause = claim.lease / 3 * random.uniform(0.8, 1.0)
                await asyncio.sleep(pause if watchdog is None else min(pause, due - clock.time()))
                asked_at = clock.time()
                with suppress(Unavailable):  # the next turn of this loop is the retry
                    if not await leases.renew(self.store.database, claim.etl_context_id, claim.fence, claim.lease):
                        break
                    due = asked_at + claim.lease
            if watchdog is not None:
                await watchdog.over.wait()  # somebody else holds it now: what is left is for coming to an end
        finally:
            if watchdog is not None:
                watchdog.cancel()

    def verdict(self, result: Event | retry.Failure) -> tuple[list[Event], int]:
        """What is to be appended for a result, and the exit code of its process."""
        failpoints.hit("runner.returned")
        if isinstance(result, Event):
            return [result], outcome.DONE
        counts = retry.Counts(self.assignment.errors, self.assignment.crashes)
        said = retry.conclude(result, counts, settings=self.settings, now=self.now(), random=random.random())
        return said, result.exit_code or outcome.RAISED

    def refused(self, refusal: Conflict, exit_code: int) -> int:
        """The exit code where the log did not take what this run had to say: `exit_code` while the task is its own.

        A task that was asked to cancel is left to the supervisor, which says so once the process is seen dead.
        """
        state = refusal.values.get("state")
        if state == "done":
            return outcome.DONE
        ours = state in ("running", "cancelling") and not isinstance(refusal, StaleFence)
        return exit_code if ours else outcome.LEASE_LOST

    async def conclude(self, result: Event | retry.Failure) -> int:
        """Appends what became of the attempt and returns the exit code of its process."""
        said, exit_code = self.verdict(result)
        try:
            await self.record_conclusion(*said)
        except Conflict as refused:
            return self.refused(refused, exit_code)
        self.concluded = True
        failpoints.hit("runner.concluded")
        return exit_code

    async def record_conclusion(self, *said: Event) -> None:
        """Appends a verdict, however long Postgres is away. Raises Conflict."""
        await events.persist(lambda: intents.yield_to_cancel(self.store.database, self.claim.etl_context_id, said))
        await self.record(*said)

    async def release(self, reason: str) -> None:
        """Hands the task back: it burns no retry and runs again, here or elsewhere."""
        await self.record(outcome.handed_back(reason))
        self.concluded = True

    async def record(self, *new: Event) -> list[RecordedEvent]:
        """Appends events under the fence of the claim, however long Postgres is away. Raises Conflict."""
        with context.run_in(self.context):
            return await events.record(new)


class _Watchdog:
    """Says when a lease has run out that was not renewed in time. A timer, and no look after each renewal: one that
    nobody answers comes back too late, or never.

    One that fires late was held up with its whole process: its host may have renewed meanwhile (it does for what it
    sees alive), so that the renewal which was held up too gets a moment to find out.
    """

    def __init__(self, clock: asyncio.AbstractEventLoop, lost: Callable[[], None]) -> None:
        self._clock = clock
        self._lost = lost
        self._timer: asyncio.TimerHandle | None = None
        self.over = asyncio.Event()

    def watch(self, due: float) -> None:
        """From now on the lease runs out at `due`."""
        self.cancel()
        self._timer = self._clock.call_at(due, self._fire, due)

    def cancel(self) -> None:
        """The lease is of no interest any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self, due: float) -> None:
        if self._clock.time() > due + _LATE:
            self._timer = self._clock.call_later(_LAST_QUESTION, self._end)
        else:
            self._end()

    def _end(self) -> None:
        self.over.set()
        self._lost()
