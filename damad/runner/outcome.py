"""What `main` did, in the log's words: a :FINAL event, WAITING, or a failure of a named kind (contract, section 3)."""

import traceback
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from damad import units
from damad.errors import InvalidInput, NoRetry, RetryIn, Snooze
from damad.model import json_value
from damad.model.event import TASK_PREFIX, Event, RecordedEvent, is_final, looks_like_event, parse
from damad.model.lifecycle import KEEPS_ATTEMPT
from damad.model.memory import suspension
from damad.model.retry import Failure
from damad.runner.load import NotLoaded

DONE: Final = 0
HELD: Final = 100
RAISED: Final = 101
NO_FINAL: Final = 102
LEASE_LOST: Final = 103
NOT_LOADED: Final = 104

EXIT_CODES: Final = {"exception": RAISED, "no_final": NO_FINAL, "bad_result": NO_FINAL, "load": NOT_LOADED}
"""The exit code of the runner's process for each kind of failure that it reports itself."""

_LONGEST_MESSAGE: Final = 4_000
_LONGEST_TRACEBACK: Final = 64_000

_OF_AN_EVENT: Final = ("type", "payload", "meta", "error")
_FIELDS: Final = {*_OF_AN_EVENT, *RecordedEvent.__struct_fields__, "_created_timestamp"}
"""What a returned event may hold: also what one has that is recorded already."""


class Thrown(Exception):
    """What a worker in another language threw, in its own words: `name` is its class, `stack` its traceback."""

    def __init__(
        self,
        message: str,
        *,
        name: str,
        stack: str | None,
        retryable: bool = True,
        retry_in: float | None = None,
        snooze: float | None = None,
    ) -> None:
        super().__init__(message)
        self.name = name
        self.stack = stack
        self.retryable = retryable
        self.retry_in = retry_in
        self.snooze = snooze


class Unrecordable(Exception):
    """What a worker in another language returned cannot even be brought here; the message says why."""


def of_result(value: Any, *, attempt: int, limit: int) -> Event | Failure:
    """The outcome of a `main` that returned. `limit`: the most bytes that a result may have as JSON."""
    if not isinstance(value, dict):
        return _failure("no_final", f"main returned {_shown(value)} and appended no :FINAL event", attempt)
    if looks_like_event(value):
        if not is_final(value["type"]):
            return _failure(
                "no_final", f"main returned the event {value['type']} and appended no :FINAL event", attempt
            )
        if unknown := sorted(map(str, value.keys() - _FIELDS)):
            what = f"main returned {value['type']} with {', '.join(unknown)}, which an event does not have"
            return _failure("bad_result", f"{what}; put it into its payload", attempt)
        given = {name: value[name] for name in _OF_AN_EVENT if name in value}
    else:
        given = {"type": ":FINAL", "payload": value}
    try:
        event = parse(given)
        size = len(json_value.encode(given))
    except (InvalidInput, json_value.NotJson) as error:
        return _failure("bad_result", f"main returned what cannot be recorded: {error}", attempt)
    if event.type.startswith(TASK_PREFIX):
        return _failure("bad_result", f"main returned {event.type}; these types are damad's own", attempt)
    if size > limit:
        return _failure("bad_result", f"main returned {size} bytes of JSON; {limit} are the most", attempt)
    return event


def of_exception(error: BaseException, *, attempt: int, worker: Path, now: datetime) -> Event | Failure:
    """The outcome of a `main` that raised, or of a file that could not be loaded.

    Who ends to wait says so: WAITING. Who cannot do its work yet hands the task back: RELEASED. now: for Postgres.
    """
    if (suspended := suspension(error)) is not None:
        return suspended.waiting
    if (snoozed := _snoozed(error, now)) is not None:
        return snoozed
    if isinstance(error, NotLoaded):
        cause = error.__cause__
        text = _traceback(cause, worker) if cause is not None else None
        return _failure("load", str(error), attempt, traceback=text)
    if isinstance(error, Unrecordable):
        return _failure("bad_result", f"main returned what cannot be recorded: {error}", attempt)
    if isinstance(error, Thrown):
        failure = _failure("exception", str(error), attempt, traceback=_traceback(error, worker))
        return msgspec.structs.replace(
            failure,
            type=_clean(error.name),
            retryable=error.retryable,
            retry_in=error.retry_in,
            known_by=(error.name,),
        )
    causes = raised(error)
    failure = _failure("exception", _message(error), attempt, traceback=_traceback(error, worker))
    return msgspec.structs.replace(
        failure,
        type=type(error).__name__,
        retryable=not any(isinstance(one, NoRetry) for one in causes),
        retry_in=next((_seconds(one) for one in causes if isinstance(one, RetryIn)), None),
        known_by=tuple(name for one in (error, *causes) for name in _known_by(one)),
    )


def _snoozed(error: BaseException, now: datetime) -> Event | None:
    """The event that hands the task back until later, where that was asked for and nothing says that it is no use."""
    causes = raised(error)
    if any(isinstance(one, NoRetry) for one in causes):
        return None
    asked = [_seconds(one) for one in causes if isinstance(one, Snooze)]
    asked += [one.snooze for one in causes if isinstance(one, Thrown)]
    try:
        seconds = units.duration(asked[0] if asked else None)
    except InvalidInput:
        return None
    run_at = now + timedelta(seconds=seconds)
    return handed_back("snoozed", run_at=run_at.isoformat())


def handed_back(reason: str, **said: Any) -> Event:
    """The event by which a run that did not fail gives its task back: the next run goes on with its attempt."""
    return Event(type="dama/task:RELEASED", payload={"reason": reason, KEEPS_ATTEMPT: True, **said})


def _seconds(error: RetryIn | Snooze) -> float | None:
    try:
        return error.seconds
    except Exception:  # noqa: BLE001 - a class of the worker's own may have them raise anything
        return None


def _known_by(error: BaseException) -> list[str | int]:
    """The names of the class of what was raised and of its bases, also with their modules, and its exit code."""
    kinds = type(error).__mro__[:-1]
    names = [name for kind in kinds for name in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}")]
    return [*names, error.code] if isinstance(error, SystemExit) and isinstance(error.code, int) else [*names]


def raised(error: BaseException) -> list[BaseException]:
    """What was raised: of a group everything in it, however deep. One task of several knows best about trying again."""
    found, left = [], [error]
    while left:
        one = left.pop(0)
        if isinstance(one, BaseExceptionGroup):
            left = [*one.exceptions, *left]
        else:
            found.append(one)
    return found


def refused_in_daemon(attempt: int, worker: Path, why: str) -> Failure:
    """The outcome of what a queue that runs in the daemon does not run: a sync `main` would stop everything else."""
    message = f"{worker.name} {why}, and this queue runs in the daemon (run_in)"
    return msgspec.structs.replace(_failure("load", message, attempt), retryable=False)


def _failure(kind: str, message: str, attempt: int, traceback: str | None = None) -> Failure:
    text = _clean(message)[:_LONGEST_MESSAGE]
    return Failure(attempt=attempt, kind=kind, message=text, traceback=traceback, exit_code=EXIT_CODES[kind])


def _shown(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - the worker's own __str__ may raise anything
        text = f"(its text cannot be shown: {type(broken).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _traceback(error: BaseException, worker: Path) -> str:
    """The traceback from the worker's own file on: the frames of damad above it help nobody."""
    if isinstance(error, Thrown):
        return _shortened(_clean(error.stack or str(error)))
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != str(worker):
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    return _shortened(_clean("".join(lines)))


def _shortened(text: str) -> str:
    if len(text) > _LONGEST_TRACEBACK:
        half = _LONGEST_TRACEBACK // 2
        text = f"{text[:half]}\n[…]\n{text[-half:]}"
    return text


def _clean(text: str) -> str:
    """Text that Postgres can hold."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
