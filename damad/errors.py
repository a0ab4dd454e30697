"""What damad raises. Each class knows its HTTP status, its exit code and its problem's name. (What only one room raises
stands in that room: the refusals of HTTP, say.)

DamadError
├── InvalidInput          422, exit 2   what was given does not fit; pointer says where
│   ├── InvalidJson       400           it is no JSON, or none that damad takes
│   └── InvalidWorker                   a worker that is missing, outside its root, or writable by others
├── ConfigError           exit 2        a setting of damad itself is wrong
├── NotFound              404, exit 2   no such context, task, pg_env, log
├── Conflict              409, exit 2   the log's state refuses it
│   ├── IllegalTransition               this event may not follow in this state
│   ├── StaleFence                      another run holds the task now
│   ├── VersionConflict                 the context is not at the expected version
│   ├── EventUuidConflict               the uuid belongs to another event
│   ├── IdempotencyConflict             the key belongs to another task
│   ├── SingletonConflict               another task with its key is open
│   └── BrokenLog                       its events are not as damad wrote them
├── CursorGone            410, exit 2   a cursor of another cluster: begin again
├── Unavailable           503, exit 2   Postgres is away
│   ├── ContextBusy                     somebody holds the context's row
│   └── SchemaMissing     exit 2        it has no damad schema, or an older one
├── NoContext             exit 2        nothing ambient here: outside main and of context.run_in
├── TaskFailed            exit 1        the task waited for failed
├── TaskCancelled         exit 2        the task waited for was cancelled
├── NoRetry               exit 1        raised by a worker: failed, and trying again is no use
├── RetryIn               exit 1        raised by a worker: failed, try again after so many seconds
└── Snooze                exit 1        raised by a worker: not now, run again after so many seconds
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar


class DamadError(Exception):
    """Base of all. `values` holds every value that a caller needs to act, ready for JSON."""

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    problem: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, message: str, /, **values: Any) -> None:
        super().__init__(message)
        self.values = values


class InvalidInput(DamadError):
    """What was given does not fit. `pointer` (RFC 6901) names the field where one is to blame."""

    status = 422
    exit_code = 2
    problem = "invalid-input"
    title = "Input does not fit"

    def __init__(self, message: str, /, *, pointer: str | None = None, **values: Any) -> None:
        super().__init__(message, **values)
        self.pointer = pointer


class InvalidJson(InvalidInput):
    """No JSON, or JSON that damad does not take (duplicate keys, NaN, too deep)."""

    status = 400
    problem = "invalid-json"
    title = "Not acceptable as JSON"


class InvalidWorker(InvalidInput):
    """A worker that may not be run: outside its root, missing, no regular file, writable by others."""

    problem = "invalid-worker"
    title = "Worker refused"


class ConfigError(DamadError):
    """A setting of damad itself is wrong; the message names it."""

    exit_code = 2
    problem = "configuration"
    title = "Configuration error"


class NotFound(DamadError):
    """No such context, task, pg_env or log."""

    status = 404
    exit_code = 2
    problem = "not-found"
    title = "Not found"


class Conflict(DamadError):
    """The state of the log refuses it."""

    status = 409
    exit_code = 2
    problem = "conflict"
    title = "Refused by the state of the log"


class IllegalTransition(Conflict):
    """This event may not follow in the state that the context is in."""

    problem = "illegal-transition"


class StaleFence(Conflict):
    """The append carries the fence of a claim that is over."""

    problem = "stale-fence"


class VersionConflict(Conflict):
    """The context is not at the version that the caller expected."""

    problem = "version-conflict"


class EventUuidConflict(Conflict):
    """The event_uuid belongs to another event."""

    problem = "event-uuid-conflict"


class IdempotencyConflict(Conflict):
    """The idempotency_key belongs to a task that was asked for differently."""

    problem = "idempotency-conflict"


class SingletonConflict(Conflict):
    """A task that is to run again has a singleton_key that another open task has."""

    problem = "singleton-conflict"


class BrokenLog(Conflict):
    """The events of this context are not as damad wrote them, so nothing can follow them: somebody wrote by hand."""

    problem = "broken-log"
    title = "The log of this context is broken"


class CursorGone(DamadError):
    """A cursor of another cluster or of another past: nothing says any more what it has shown. Begin again."""

    status = 410
    exit_code = 2
    problem = "cursor-gone"
    title = "The cursor is gone"


class Unavailable(DamadError):
    """Postgres is away. What was sent may be sent again with the same event_uuid."""

    status = 503
    exit_code = 2
    problem = "unavailable"
    title = "Postgres is away"


class ContextBusy(Unavailable):
    """Somebody holds the row of this context in an open transaction."""

    problem = "busy"
    title = "The context is busy"


class SchemaMissing(Unavailable):
    """The database has no damad schema yet, or an older one: `damad migrate` makes it."""

    exit_code = 2
    problem = "schema-missing"
    title = "No damad schema"


class NoContext(DamadError):
    """Asked for the ambient context where there is none."""

    exit_code = 2
    problem = "no-context"
    title = "No context"


class TaskFailed(DamadError):
    """The task that was waited for failed. `values` holds its id and its last error."""

    problem = "task-failed"
    title = "The task failed"


class TaskCancelled(DamadError):
    """The task that was waited for was cancelled. `values` holds its id."""

    exit_code = 2
    problem = "task-cancelled"
    title = "The task was cancelled"


class NoRetry(DamadError):
    """Raised by a worker whose failure no retry would mend: the task fails at once."""


class RetryIn(DamadError):
    """Raised by a worker that knows when to try again: after so many seconds, if an attempt is left."""

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"try again in {seconds} s")
        self.seconds = seconds


class Snooze(DamadError):
    """Raised by a worker that cannot do its work yet: it did not fail, and runs again after so many seconds."""

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"run again in {seconds} s")
        self.seconds = seconds


@contextmanager
def unwrapped() -> Iterator[None]:
    """A TaskGroup in which one thing failed raises that, however deep it is wrapped, and not a group of one."""
    try:
        yield
    except BaseExceptionGroup as group:
        one: BaseException = group
        while isinstance(one, BaseExceptionGroup):
            if len(one.exceptions) > 1:
                raise
            one = one.exceptions[0]
        raise one from one.__cause__
