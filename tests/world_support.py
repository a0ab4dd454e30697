"""A world in memory around the pure core: a log, hosts with their daemons, and processes that live and die.

It keeps no rule of its own. What may follow is asked of damad/model/lifecycle.py, what becomes of a failure of
damad/model/retry.py, and what a daemon does of damad/scheduler/decisions.py; here is only what they decide about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import msgspec

from damad.errors import IllegalTransition
from damad.model import lifecycle, retry, settings
from damad.model.event import SETTINGS_KEY, Event
from damad.model.lifecycle import Context, LoggedEvent, Task
from damad.scheduler import decisions
from damad.scheduler.decisions import Held, Observed

BEGAN = datetime(2026, 1, 31, 8, tzinfo=UTC)
LEASE, GRACE = 30.0, 10.0
RETRY_DELAY = 1.0
HOSTS = (UUID(int=1), UUID(int=2))
HELD = ("claimed", "running", "cancelling", "erred")

Key = tuple[int, int]
"""A run: its task's number and its fence."""


@dataclass
class Lease:
    """Who runs a task, and until when."""

    fence: int
    holder: str
    until: datetime


@dataclass
class Sent:
    """What somebody appended and may send again, for its answer was lost."""

    history: "History"
    events: list[Event]
    fence: int | None


@dataclass
class History:
    """One task in the log: its events and, beside them, its projection, its lease and its queue."""

    number: int
    shared: bool
    home: UUID
    logged: list[LoggedEvent] = field(default_factory=list)
    uuids: list[UUID] = field(default_factory=list)
    context: Context = field(default_factory=Context)
    lease: Lease | None = None

    @property
    def task(self) -> Task:
        assert self.context.task is not None
        return self.context.task

    @property
    def settings(self) -> settings.TaskSettings:
        return settings.decode(self.task.settings)

    def append(self, events: Sequence[Event], fence: int | None, *, now: datetime) -> None:
        """All of them or none; what is there under its event_uuid already is not appended again."""
        context, lease, new = self.context, self.lease, []
        for event in events:
            if event.event_uuid in self.uuids:
                continue
            version = context.version + 1
            logged = LoggedEvent(event_id=100 * version + self.number, version=version, type=event.type, fence=fence,
                                 payload=event.payload, meta=event.meta, created_timestamp=now)  # fmt: skip
            after = lifecycle.evolve(context, logged)
            if context.state in HELD and after.state not in HELD:
                lease = None
            context = after
            new.append((logged, event.event_uuid))
        if context.state == "erred" or (new and new[-1][0].type == "dama/task:ERROR"):
            raise IllegalTransition("an ERROR stands with what follows from it", state=context.state)
        self.context, self.lease = context, lease
        for logged, uuid in new:
            assert uuid is not None
            self.logged.append(logged)
            self.uuids.append(uuid)


@dataclass
class Run:
    """A process that somebody launched for a claim. `recorded`: its host's records say who runs."""

    history: History
    fence: int
    host: UUID
    claimer: str
    attempt: int = 0
    recorded: bool = False
    leased: bool = False
    begun: bool = False
    alive: bool = True
    forgotten: bool = False
    exit: decisions.Exit | None = None

    @property
    def key(self) -> Key:
        return self.history.number, self.fence

    @property
    def holder(self) -> str:
        return f"run {self.key}"


@dataclass
class Daemon:
    """The daemon of a host. A new one knows nothing but the log and the records."""

    host: UUID
    life: int = 1
    alive: bool = True
    failed_launches: int = 0
    starting: set[Key] = field(default_factory=set)
    asked: dict[Key, datetime] = field(default_factory=dict)
    decided: tuple[History, Held, decisions.Decision] | None = None

    @property
    def holder(self) -> str:
        return f"daemon {self.host} {self.life}"


class World:
    """Everything there is, and what each of it can do. `sent`: all that was ever appended or refused."""

    def __init__(self) -> None:
        self.now = BEGAN
        self.histories: list[History] = []
        self.runs: dict[Key, Run] = {}
        self.daemons = [Daemon(host) for host in HOSTS]
        self.sent: list[Sent] = []
        self._uuids = count(1)

    # --- the log ---

    def event(self, type_: str, payload: Any = None, **given: Any) -> Event:
        return Event(type=type_, payload=payload, event_uuid=UUID(int=next(self._uuids)), **given)

    def send(self, history: History, events: Sequence[Event], fence: int | None = None) -> bool:
        """Appends; False where the log says no."""
        named = [event if event.event_uuid else msgspec.structs.replace(event, event_uuid=UUID(int=next(self._uuids)))
                 for event in events]  # fmt: skip
        self.sent.append(Sent(history, named, fence))
        return self.send_again(self.sent[-1])

    def send_again(self, sent: Sent) -> bool:
        try:
            sent.history.append(sent.events, sent.fence, now=self.now)
        except IllegalTransition:
            return False
        return True

    def queue(self, *, retry_limit: int, start_after: float | None, expire_in: float | None, shared: bool) -> History:
        history = History(len(self.histories), shared, HOSTS[len(self.histories) % 2])
        given = {"worker": "w.py", "retry_limit": retry_limit, "start_after": start_after, "expire_in": expire_in,
                 "retry_delay": RETRY_DELAY}  # fmt: skip
        assert self.send(history, [self.event(":INITIAL", meta={SETTINGS_KEY: given})])
        self.histories.append(history)
        return history

    # --- daemons ---

    def claimable(self, daemon: Daemon) -> list[History]:
        return [history for history in self.histories
                if history.context.state in ("queued", "scheduled", "retrying") and history.task.run_at <= self.now
                and (history.shared or history.home == daemon.host)]  # fmt: skip

    def claim(self, daemon: Daemon, history: History, *, fence: int | None = None) -> bool:
        """Claims a task, with the next fence unless an old one is forced upon the log."""
        fence = history.task.fence + 1 if fence is None else fence
        payload = {"fence": fence, "host_id": str(daemon.host)}
        claimed = self.send(history, [self.event("dama/task:CLAIMED", payload)])
        if claimed:
            history.lease = Lease(fence, daemon.holder, self.now + timedelta(seconds=LEASE))
        return claimed

    def held(self, daemon: Daemon) -> list[History]:
        return [history for history in self.histories
                if history.context.state in HELD and history.task.host_id == daemon.host]  # fmt: skip

    def look(self, daemon: Daemon, key: Key) -> Observed:
        run = self.runs.get(key)
        rival = any(other.alive and other.recorded and other.host == daemon.host and other.key[0] == key[0]
                    and other.key != key for other in self.runs.values())  # fmt: skip
        return Observed(process=_process(daemon, run, key), exit=run.exit if run and run.recorded else None,
                        asked_at=daemon.asked.get(key), rival=rival)  # fmt: skip

    def as_held(self, daemon: Daemon, history: History) -> Held:
        task, lease = history.task, history.lease
        return Held(
            etl_context_id=history.number, queue=task.queue, state=task.state, fence=task.fence, attempt=task.attempt,
            counts=retry.Counts(task.errors, task.crashes), settings=history.settings, started_at=task.started_at,
            ours=lease is not None and lease.holder == daemon.holder,
            claimer_dead=lease is not None and not self._lives(lease.holder, daemon),
            lease_over=lease is None or lease.until < self.now,
        )  # fmt: skip

    def _lives(self, holder: str, daemon: Daemon) -> bool:
        """Nothing is known of another host's processes: they count as living."""
        known = [run for run in self.runs.values() if run.holder == holder and run.host == daemon.host]
        if known:
            return known[0].alive
        return holder == daemon.holder or not holder.startswith(f"daemon {daemon.host}")

    def decide(self, daemon: Daemon, history: History) -> None:
        """The daemon looks at a task and makes up its mind. What it does about it may come much later."""
        held = self.as_held(daemon, history)
        seen = self.look(daemon, (history.number, held.fence))
        decision = decisions.decide(held, seen, now=self.now, grace=GRACE, failed_launches=daemon.failed_launches)
        daemon.decided = None if decision is None else (history, held, decision)

    def perform(self, daemon: Daemon, *, random: float) -> None:
        """The daemon does what it had decided, whatever has happened since."""
        assert daemon.decided is not None
        (history, held, decision), daemon.decided = daemon.decided, None
        key = (history.number, held.fence)
        run = self.runs.get(key)
        match decision:
            case decisions.Launch():
                self.runs.setdefault(key, Run(history, held.fence, daemon.host, daemon.holder))
                daemon.starting.add(key)
            case decisions.Kill(force):
                daemon.asked.setdefault(key, self.now)
                if run is not None and force:
                    self.die(run, signal=9)
            case _:
                if isinstance(decision, decisions.Cancelled):
                    assert run is None or not (run.alive and run.begun), "cancelled means seen dead"
                daemon.failed_launches += isinstance(decision, decisions.Release) and decision.delay > 0
                self.send(history, self._said(decision, held, random), held.fence)
                self.forget(run)

    def _said(self, decision: decisions.Decision, held: Held, random: float) -> list[Event]:
        match decision:
            case decisions.Release(reason, delay):
                run_at = (self.now + timedelta(seconds=delay)).isoformat()
                return [Event(type="dama/task:RELEASED", payload={"reason": reason, "run_at": run_at})]
            case decisions.Conclude(failure):
                return retry.conclude(failure, held.counts, settings=held.settings, now=self.now, random=random)
        return [Event(type="dama/task:CANCELLED")]

    def rescue(self, daemon: Daemon, history: History, *, random: float) -> None:
        """Takes over a shared task of another host whose lease is over."""
        held = self.as_held(daemon, history)
        lost = Observed(process=decisions.LOST)
        decision = decisions.decide(held, lost, now=self.now, grace=GRACE)
        assert decision is not None
        assert self.send(history, self._said(decision, held, random), held.fence)

    def round(self, daemon: Daemon, *, random: float) -> None:
        """One round of a daemon, with nothing in between."""
        for history in self.lost_to_their_host(daemon):
            self.rescue(daemon, history, random=random)
        for history in self.held(daemon):
            self.decide(daemon, history)
            if daemon.decided:
                self.perform(daemon, random=random)
        self.tidy(daemon)
        for history in self.claimable(daemon):
            self.claim(daemon, history)

    def lost_to_their_host(self, daemon: Daemon) -> list[History]:
        return [history for history in self.histories
                if history.shared and history.context.state in HELD and history.task.host_id != daemon.host
                and history.lease is not None and history.lease.until < self.now]  # fmt: skip

    def tidy(self, daemon: Daemon) -> None:
        """Ends the host's processes whose task it does not hold any more, and forgets the dead ones."""
        held = {(history.number, history.task.fence) for history in self.held(daemon)}
        for run in [run for run in self.runs.values() if run.host == daemon.host and run.recorded]:
            if run.key in held or run.forgotten:
                continue
            seen = self.look(daemon, run.key)
            kill = decisions.decide_leftover(seen, now=self.now, grace=GRACE, ended_at=self.now, by_itself=False)
            if not run.alive:
                self.forget(run)
            elif kill is not None:
                daemon.asked.setdefault(run.key, self.now)
                if kill.force:
                    self.die(run, signal=9)

    def forget(self, run: Run | None) -> None:
        if run is not None and not run.alive:
            run.forgotten = True

    def restart_dead_daemons(self) -> None:
        """Another daemon for each host that has none: it remembers nothing."""
        self.daemons = [
            daemon if daemon.alive else Daemon(daemon.host, life=daemon.life + 1) for daemon in self.daemons
        ]

    # --- processes ---

    def begin(self, run: Run) -> None:
        """One more step of a process on its way to `main`: on record, lease taken, STARTED."""
        history = run.history
        if not run.recorded:
            run.recorded = True
        elif not run.leased:
            lease = history.lease
            if lease is None or lease.fence != run.fence or lease.holder not in (run.claimer, run.holder):
                self.die(run, exit_code=103)
                return
            lease.holder, lease.until, run.leased = run.holder, self.now + timedelta(seconds=LEASE), True
        else:
            run.attempt = history.task.attempt + (0 if history.task.resumed else 1)
            payload = {"attempt": run.attempt, "pid": 4711}
            run.begun = self.send(history, [self.event("dama/task:STARTED", payload)], run.fence)
            if not run.begun:
                self.die(run, exit_code=103)

    def renew(self, run: Run) -> None:
        lease = run.history.lease
        if lease is not None and lease.fence == run.fence:
            lease.until = self.now + timedelta(seconds=LEASE)

    def finish(self, run: Run, failure: retry.Failure | None, *, random: float) -> None:
        """`main` has returned or raised: the process says so, as damad/runner/attempt.py does, and ends."""
        history = run.history
        if failure is None:
            self.send(history, [self.event("w:FINAL", {})], run.fence)
        elif history.context.state not in ("done", "cancelling"):
            counts = retry.Counts(history.task.errors, history.task.crashes)
            said = retry.conclude(failure, counts, settings=history.settings, now=self.now, random=random)
            self.send(history, said, run.fence)
        self.die(run, exit_code=0 if failure is None else 101)

    def wait(self, run: Run) -> None:
        """`main` waits for something: the process ends, if the log takes it."""
        if self.send(run.history, [self.event("dama/task:WAITING")], run.fence):
            self.die(run, exit_code=0)

    def die(self, run: Run, *, exit_code: int | None = None, signal: int | None = None, silent: bool = False) -> None:
        """`silent`: who could have said how it ended died too."""
        if run.alive:
            run.alive = False
            run.exit = None if silent else decisions.Exit(exit_code, signal, False, self.now)


def _process(daemon: Daemon, run: Run | None, key: Key) -> str:
    if run is None or run.forgotten or not run.recorded:
        if key not in daemon.starting:
            return decisions.ABSENT
        return decisions.STARTING if run is not None and run.alive else decisions.LOST
    if run.alive:
        return decisions.ALIVE
    return decisions.LOST if run.exit is None else decisions.ENDED
