"""What becomes of a task whose attempt failed: when it runs again, or that it does not."""

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from damad import units
from damad.errors import InvalidInput
from damad.masking import masked
from damad.model.event import Event
from damad.model.settings import TaskSettings

CRASHES: Final = frozenset({"exit", "signal", "oom", "lost"})
"""Kinds of failure that the process died of. The others are errors. Each sort is counted and bounded alone."""

_LONGEST_DELAY: Final = 86400.0
_MOST_DOUBLINGS: Final = 40


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an attempt failed: the payload of its ERROR event, and what the worker said about trying again.

    known_by: the names of the classes of what it raised, and the exit code that it asked for.
    """

    attempt: int
    kind: str
    message: str
    type: str | None = None
    traceback: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    retryable: bool = True
    retry_in: float | None = None
    known_by: tuple[str | int, ...] = ()

    def payload(self) -> dict[str, Any]:
        """The ERROR event's payload: every field of the contract, null where it does not apply.

        `type` is the class of what a worker raised. Secrets in the texts are masked: no event is ever changed again.
        """
        names = ("attempt", "kind", "message", "type", "traceback", "exit_code", "signal")
        made = {name: getattr(self, name) for name in names}
        return made | {"message": masked(self.message), "traceback": self.traceback and masked(self.traceback)}


class Counts(msgspec.Struct, frozen=True):
    """Failures of each sort since the task was queued or requeued, before this one."""

    errors: int
    crashes: int


def conclude(failure: Failure, counts: Counts, *, settings: TaskSettings, now: datetime, random: float) -> list[Event]:
    """The events that say an attempt failed and what follows: ERROR, and RETRY or FAILED.

    `random` is from [0, 1). The caller appends both in one statement.
    """
    error = Event(type="dama/task:ERROR", payload=failure.payload(), error=True)
    errors, crashes = counts.errors, counts.crashes
    if failure.kind in CRASHES:
        crashes += 1
    else:
        errors += 1
    if not failure.retryable:
        reason = "not retryable"
    elif (named := _ruled_out(failure, settings)) is not None:
        reason = f"not retryable: {named} is in no_retry"
    elif max(errors, crashes) > settings.retry_limit:
        reason = "no attempts left"
    else:
        seconds = _asked(failure)
        if seconds is None:
            seconds = delay(settings, errors + crashes, random=random)
        run_at = now + timedelta(seconds=seconds)
        return [
            error,
            Event(type="dama/task:RETRY", payload={"run_at": run_at.isoformat(), "attempt": failure.attempt}),
        ]
    return [error, Event(type="dama/task:FAILED", payload={"reason": reason, "attempt": failure.attempt}, error=True)]


def _ruled_out(failure: Failure, settings: TaskSettings) -> str | int | None:
    """What the task's no_retry names of a failure; None where it says nothing about it."""
    known_by = {*failure.known_by, failure.exit_code}
    return next((one for one in settings.no_retry if one in known_by), None)


def _asked(failure: Failure) -> float | None:
    """When the worker wants to try again. It may say anything: what is no duration counts as not said."""
    try:
        return None if failure.retry_in is None else units.duration(failure.retry_in)
    except InvalidInput:
        return None


def delay(settings: TaskSettings, failures: int, *, random: float) -> float:
    """Seconds to wait after the nth failure: with backoff a random part of retry_delay · 2ⁿ, which retry_delay_max (one
    day, unless given) caps; never less than retry_delay, which that setting promises.

    That is the full jitter of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015,
    `random_between(0, min(cap, base · 2ⁿ))`, with retry_delay in place of 0: tasks that failed together come back over
    the whole of the doubled time, and not in waves.
    """
    if not settings.retry_backoff:
        return settings.retry_delay
    most = max(_LONGEST_DELAY, settings.retry_delay) if settings.retry_delay_max is None else settings.retry_delay_max
    first = min(settings.retry_delay, most)
    ceiling = min(settings.retry_delay * 2.0 ** min(failures, _MOST_DOUBLINGS), most)
    return min(first + random * (ceiling - first), ceiling)
