"""What is to be done about a task that this host holds: pure, from what the log says and what its process does.

    the log says      its process          decision
    claimed           absent               Launch if the claim is ours, Release if its claimer is dead or its lease over
    claimed           ended or lost        Release: a claim that did not start burns nothing
    running           alive                Kill once expire_in is over, or once it was silent for its heartbeat
    running           ended or lost        Conclude: the failure that the exit record proves
    cancelling        alive                Kill; by force at once where the cancel says so
    cancelling        absent/ended/lost    Cancelled: it is seen dead
    cancel wanted     whatever             as if the log said cancelling: what it cannot say yet is done first
    anything else     alive                Kill: its task has ended or was taken over, and it had its grace
    whatever          left behind          Kill, by force: nothing is said of it while what it left behind lives

Killing is to ask (SIGTERM), and after the grace to make sure (SIGKILL, with everything it left anywhere). What a dead
process left behind is not asked: its parent would have ended it so, had that one not been killed too.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from damad.model import limits
from damad.model.retry import Counts, Failure
from damad.model.settings import TaskSettings

ABSENT: Final = "absent"
"""No process is known, and none was ever on record."""
STARTING: Final = "starting"
"""We are launching it, and it is not on record yet."""
ALIVE: Final = "alive"
ENDED: Final = "ended"
"""It is dead and its exit is on record."""
LOST: Final = "lost"
"""It is dead and nobody can know how it ended."""
LEFT: Final = "left"
"""It is lost, and processes that it left behind still live."""

MOST_RELEASE_DELAY: Final = 30.0
_OUR_SIGNALS: Final = (9, 15)
"""SIGKILL and SIGTERM: what a process is stopped with, here and by everybody."""
_EXIT_KINDS: Final = {101: "exception", 102: "no_final", 104: "load"}


class Exit(msgspec.Struct, frozen=True):
    """How a process ended, as its record says. `out_of_cpu`: its CPU time was used up."""

    exit_code: int | None
    signal: int | None
    oom: bool
    ended_at: datetime
    out_of_cpu: bool = False


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A task that this host holds, as the log says. `ours`: we claimed it. `claimer_dead`: proved, not guessed.
    `beaten_at`: when a worker that promised to beat was heard of last."""

    etl_context_id: int
    queue: str
    state: str
    fence: int
    attempt: int
    counts: Counts
    settings: TaskSettings
    waiting: bool = False
    ours: bool = False
    claimer_dead: bool = False
    lease_over: bool = False
    cancel_wanted: bool = False
    terminate: bool = False
    started_at: datetime | None = None
    beaten_at: datetime | None = None


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What its process does. `asked_at`: when we asked it to stop, and `asked_for` what reason, if it is one for
    which an attempt fails. `rival`: another run of the task still lives."""

    process: str
    exit: Exit | None = None
    asked_at: datetime | None = None
    asked_for: str | None = None
    rival: bool = False


class Launch(msgspec.Struct, frozen=True):
    """Start the process (or, in a queue that says so, the coroutine) of a claimed task."""


class Release(msgspec.Struct, frozen=True):
    """Give a claim back that did not start. It may be claimed again after so many seconds."""

    reason: str
    delay: float


class Kill(msgspec.Struct, frozen=True):
    """Ask the process to stop, or (`force`) end it and everything it left. `why`: the attempt fails for that reason."""

    force: bool
    why: str | None = None


class Conclude(msgspec.Struct, frozen=True):
    """Append the failure of an attempt whose process did not say so itself."""

    failure: Failure


class Cancelled(msgspec.Struct, frozen=True):
    """Say that a cancelled task has stopped; and first that it was asked to, where the log does not say so yet."""


Decision = Launch | Release | Kill | Conclude | Cancelled


def decide(held: Held, seen: Observed, *, now: datetime, grace: float, failed_launches: int = 0) -> Decision | None:
    """What is to be done about a held task, or None while there is nothing to do."""
    running = seen.process in (ALIVE, STARTING)
    match "cancelling" if held.cancel_wanted else held.state:
        case "claimed" | "running" | "cancelling" if seen.process == LEFT:
            return Kill(force=True)
        case "claimed":
            return _claimed(held, seen, failed_launches)
        case "running" if running:
            why = seen.asked_for or _silent(held, now)
            return _kill(seen, now, grace, why) if why or _expired(held, now) else None
        case "running":
            return Conclude(failure_of(held, seen))
        case "cancelling" if seen.process == ALIVE and held.terminate:
            return Kill(force=True)
        case "cancelling" if running:
            return _kill(seen, now, grace) if seen.process == ALIVE else None
        case "cancelling":
            return Cancelled()
    return None


def _claimed(held: Held, seen: Observed, failed_launches: int) -> Decision | None:
    if seen.process in (ALIVE, STARTING) or seen.rival:
        return None
    if seen.process == ABSENT:
        if held.ours:
            return Launch()
        if held.claimer_dead or held.lease_over:
            return Release("its claimer ended before it started", 0.0)
        return None
    delay = min(0.1 * 2.0 ** min(failed_launches, 10), MOST_RELEASE_DELAY)
    return Release(f"its process ended before it started ({_how(seen.exit)})", delay)


def decide_leftover(seen: Observed, *, now: datetime, grace: float, ended_at: datetime, by_itself: bool) -> Kill | None:
    """What is to be done about a living process whose task this host does not hold any more, or what one left behind.

    by_itself: the run appended the end of its task itself; then it has the grace to come to its own end.
    """
    if seen.process == LEFT:
        return Kill(force=True)
    if seen.process != ALIVE or (by_itself and now < ended_at + timedelta(seconds=grace)):
        return None
    return _kill(seen, now, grace)


def _kill(seen: Observed, now: datetime, grace: float, why: str | None = None) -> Kill | None:
    if seen.asked_at is None:
        return Kill(force=False, why=why)
    return Kill(force=True, why=why) if now >= seen.asked_at + timedelta(seconds=grace) else None


def _expired(held: Held, at: datetime) -> bool:
    limit = held.settings.expire_in
    return limit is not None and held.started_at is not None and at >= held.started_at + timedelta(seconds=limit)


def _silent(held: Held, at: datetime) -> str | None:
    """What is to be said of a worker that was not heard of for too long. One that waits for others need not be."""
    limit, heard = held.settings.heartbeat, held.beaten_at
    if limit is None or heard is None or held.waiting or at < heard + timedelta(seconds=limit):
        return None
    return f"the worker gave no sign of life for longer than its heartbeat ({limit} s)"


def failure_of(held: Held, seen: Observed) -> Failure:
    """The failure that its end proves: timeout, oom, cpu_limit, signal, exit, or lost where nothing proves more."""
    kind, message = _kind_of(held, seen)
    code, number = (None, None) if seen.exit is None else (seen.exit.exit_code, seen.exit.signal)
    return Failure(attempt=held.attempt, kind=kind, message=message, exit_code=code, signal=number)


def _kind_of(held: Held, seen: Observed) -> tuple[str, str]:
    exit_ = seen.exit
    end = seen.asked_at if exit_ is None else exit_.ended_at
    if end is not None and _expired(held, end):
        return "timeout", f"the attempt took longer than expire_in ({held.settings.expire_in} s)"
    why = seen.asked_for
    if why is None and exit_ is not None and exit_.signal in _OUR_SIGNALS:  # whoever asked it may be gone
        why = _silent(held, exit_.ended_at)
    if why is not None:
        return "timeout", why
    if exit_ is None:
        return "lost", "the process is gone, and so is who could say how"
    if exit_.oom:
        return "oom", "the kernel killed the process, for memory ran out"
    if exit_.signal is not None:
        if (limited := limits.said_by_signal(held.settings, exit_.signal, out_of_cpu=exit_.out_of_cpu)) is not None:
            return limited
        return "signal", f"the process was killed by signal {exit_.signal}"
    kind = _EXIT_KINDS.get(exit_.exit_code or 0, "exit")
    return kind, f"the process ended with exit code {exit_.exit_code} and no report"


def deadline(held: Held, seen: Observed, *, now: datetime, grace: float) -> datetime | None:
    """When to look at this task again if nothing happens before. (Nobody announces that an attempt began.)"""
    if seen.asked_at is not None:
        return seen.asked_at + timedelta(seconds=grace)
    if held.state not in ("claimed", "running"):
        return None
    runs = held.state == "running"
    limits = (
        (held.settings.expire_in, held.started_at),
        (None if held.waiting else held.settings.heartbeat, held.beaten_at),
    )
    moments = [
        (since if runs and since is not None else now) + timedelta(seconds=limit)
        for limit, since in limits
        if limit is not None
    ]
    return min(moments, default=None)


def free_slots(queue: str, concurrency: int, held: Sequence[Held]) -> int:
    """How many slots of a queue are free here. A task takes as many as it weighs; one that waits for others, none."""
    return max(0, concurrency - sum(task.settings.weight for task in held if task.queue == queue and not task.waiting))


def that_fit(weights: Mapping[int, int], slots: int, whole: int) -> list[int]:
    """Which of some tasks, their ids with their weights in the order of their turns, so many free slots hold.

    None comes past one that waits for more slots; one that weighs more than the whole is passed by. (As in schema/220.)
    """
    fitting = []
    for id_, weight in weights.items():
        if weight > slots and weight <= whole:
            break
        if weight <= slots:
            fitting.append(id_)
            slots -= weight
    return fitting


def _how(exit_: Exit | None) -> str:
    if exit_ is None:
        return "nobody knows how"
    return f"signal {exit_.signal}" if exit_.signal is not None else f"exit code {exit_.exit_code}"
