"""One attempt of a claimed task, around `main`: begin, renew the lease, conclude. Wherever it runs, it is this.

Whoever knows the outcome appends it, under the fence of its claim. What a process can no longer say for itself (it was
killed, say) the supervisor says for it; should both, the log takes one.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from damad import context, events, failpoints, processes, workerfile
from damad.config import Queue
from damad.errors import Conflict, InvalidWorker, Unavailable
from damad.eventstore import leases
from damad.eventstore.pools import Database
from damad.eventstore.store import Assignment, EventStore
from damad.model import retry, settings
from damad.model.event import Event, RecordedEvent
from damad.model.json_value import Unreadable
from damad.model.lifecycle import ENDED
from damad.runner import outcome
from damad.runner.load import NotLoaded, sha256


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner is told: which claim of which task it runs, for whom, and the rules of the house."""

    pg_env: str
    etl_context_id: int
    fence: int
    claimer: str
    host_id: str
    state_dir: Path
    worker_roots: tuple[Path, ...]
    queues: dict[str, Queue]
    lease: float
    max_result: int
    shared: bool = False


class NotMine(Exception):
    """The claim cannot be run: `exit_code` says whether another runner holds it or its lease is lost."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class Attempt:
    """One run of `main` under one claim. `begin` first, then `renew` beside `main`, then `conclude`."""

    def __init__(self, claim: Claim, database: Database) -> None:
        self.claim = claim
        self.store = EventStore(database)
        self.context = context.EtlContext(
            pg_env=claim.pg_env, etl_context_id=claim.etl_context_id, fence=claim.fence, database=database
        )
        self._assignment: Assignment | None = None

    @property
    def number(self) -> int:
        """1, 2, 3 …: the runs of the task that really started."""
        return self.assignment.attempt

    @property
    def assignment(self) -> Assignment:
        """What the log says that is to be done. Known once `begin` returned."""
        assert self._assignment is not None
        return self._assignment

    @property
    def settings(self) -> settings.TaskSettings:
        """The task's settings."""
        return settings.decode(self.assignment.settings)

    async def begin(self) -> None:
        """Takes the lease over from the claimer and appends STARTED. Raises NotMine."""
        claim, me = self.claim, processes.myself()
        self._assignment = await events.persist(lambda: self.store.assignment(claim.etl_context_id))
        self.context = self._ambient()
        holder = processes.as_holder(me, claim.host_id)
        taken = await events.persist(
            lambda: leases.take(
                self.store.database,
                claim.etl_context_id,
                claim.fence,
                claimer=claim.claimer,
                holder=holder,
                lease=claim.lease,
            )
        )
        if not taken:
            there = await events.persist(lambda: leases.fence_of(self.store.database, claim.etl_context_id))
            raise NotMine(outcome.HELD if there == claim.fence else outcome.LEASE_LOST)
        failpoints.hit("runner.leased")
        started = {
            "attempt": self.number,
            "pid": me.pid,
            "start_time": me.start_time,
            "boot_id": me.boot_id,
            "host_id": claim.host_id,
            "sha256": self._fingerprint(),
        }
        try:
            await self._record(Event(type="dama/task:STARTED", payload=started))
        except Conflict:
            raise NotMine(outcome.LEASE_LOST) from None
        failpoints.hit("runner.started")

    def _ambient(self) -> context.EtlContext:
        task, initial = self.assignment, self.assignment.initial_event
        work_dir = self.settings.work_dir
        return msgspec.structs.replace(
            self.context,
            parent_context_id=task.parent_context_id,
            attempt=task.attempt,
            queue=task.queue,
            initial_event=initial.as_dict(),
            work_dir=Path(work_dir) if work_dir else None,
            host=context.Host(
                host_id=self.claim.host_id,
                state_dir=self.claim.state_dir,
                worker_roots=self.claim.worker_roots,
                queues=self.claim.queues,
            ),
        )

    def _fingerprint(self) -> str | None:
        try:
            return sha256(workerfile.resolve(self.assignment.worker, self.claim.worker_roots))
        except InvalidWorker:
            return None

    def find_worker(self) -> Path:
        """The worker's file. Raises NotLoaded where it vanished or may not be run, or its event cannot be read."""
        initial = self.assignment.initial_event
        if isinstance(initial.payload, Unreadable) or isinstance(initial.meta, Unreadable):
            raise NotLoaded(f"its event {initial.event_id} ({initial.type}) holds what cannot be read")
        try:
            return workerfile.resolve(self.assignment.worker, self.claim.worker_roots)
        except InvalidWorker as error:
            raise NotLoaded(str(error)) from None

    async def renew(self, lost: Callable[[], None]) -> None:
        """Renews the lease for as long as it runs. Calls `lost` once, in a shared queue, when the lease has run out.

        Elsewhere nobody else may take the task: its run outlives an outage of Postgres, and whether it still counts is
        judged by its fence when it appends.
        """
        claim, clock, over = self.claim, asyncio.get_running_loop(), asyncio.Event()

        def run_out() -> None:
            over.set()
            lost()

        # A timer, and no look after each renewal: one that nobody answers comes back too late, or never.
        watchdog = clock.call_later(claim.lease, run_out) if claim.shared else None
        try:
            while not over.is_set():
                await asyncio.sleep(claim.lease / 3 * random.uniform(0.8, 1.0))
                asked_at = clock.time()
                with suppress(Unavailable):  # the next turn of this loop is the retry
                    if not await leases.renew(self.store.database, claim.etl_context_id, claim.fence, claim.lease):
                        break
                    if watchdog is not None and not over.is_set():
                        watchdog.cancel()
                        watchdog = clock.call_at(asked_at + claim.lease, run_out)
            if watchdog is not None:
                await over.wait()  # somebody else holds it now: what is left of the lease is for coming to an end
        finally:
            if watchdog is not None:
                watchdog.cancel()

    async def conclude(self, result: Event | retry.Failure) -> int:
        """Appends what became of the attempt and returns the exit code of its process.

        A task that was asked to cancel is left to the supervisor, which says so once the process is seen dead.
        """
        failpoints.hit("runner.returned")
        state = await events.persist(lambda: self.store.state(self.claim.etl_context_id))
        if state.state == "done":
            return outcome.DONE
        if isinstance(result, Event):
            return await self._conclude([result], outcome.DONE)
        exit_code = result.exit_code or outcome.RAISED
        if state.state == "cancelling":
            return exit_code
        task = await events.persist(lambda: self.store.assignment(self.claim.etl_context_id))
        verdict = retry.conclude(
            result,
            retry.Counts(task.errors, task.crashes),
            settings=self.settings,
            now=task.at,
            random=random.random(),
        )
        return await self._conclude(verdict, exit_code)

    async def _conclude(self, verdict: list[Event], exit_code: int) -> int:
        try:
            await self._record(*verdict)
        except Conflict:
            state = await events.persist(lambda: self.store.state(self.claim.etl_context_id))
            ours = getattr(state, "fence", None) == self.claim.fence and state.state not in ENDED
            return outcome.DONE if state.state == "done" else exit_code if ours else outcome.LEASE_LOST
        failpoints.hit("runner.concluded")
        return exit_code

    async def release(self, reason: str) -> None:
        """Hands the task back: it burns no retry and runs again, here or elsewhere."""
        await self._record(Event(type="dama/task:RELEASED", payload={"reason": reason}))

    async def _record(self, *new: Event) -> list[RecordedEvent]:
        with context.run_in(self.context):
            return await events.record(new)
