"""Has the kernel keep the limits of a task in the process that runs its worker, and in each that this one starts.

They hold while the worker's file is loaded and `main` runs. What damad keeps back of each is its own, so that a worker
that took all it may can still say what became of it.
"""

import errno
import resource
from typing import Any, Final

import msgspec

from damad import background
from damad.model import limits
from damad.model.event import Event
from damad.model.retry import Failure
from damad.model.settings import TaskSettings
from damad.runner.load import NotLoaded
from damad.runner.outcome import Thrown, raised

_KEPT_BACK: Final = {
    resource.RLIMIT_DATA: 64_000_000,
    resource.RLIMIT_NOFILE: 16,
    resource.RLIMIT_CPU: limits.CPU_GRACE,
}
"""Bytes, files and seconds beyond its limit that damad may need to come to an end. (Of CPU time: a worker too.)"""


class Kept:
    """The limits of a task, kept by the kernel inside of `with`. (No generator: it has to leave without any memory.)

    RLIMIT_DATA is the memory that a process can write to and shares with nobody; what is only reserved, as threads and
    V8 do by the gigabyte, does not count in it as it would in RLIMIT_AS.
    """

    def __init__(self, settings: TaskSettings) -> None:
        cpu = None if settings.cpu_limit is None else limits.cpu_seconds(settings.cpu_limit)
        wanted = {
            resource.RLIMIT_DATA: settings.memory_limit,
            resource.RLIMIT_CPU: cpu,
            resource.RLIMIT_NOFILE: settings.open_files,
        }
        self._wanted = {which: limit for which, limit in wanted.items() if limit is not None}

    def __enter__(self) -> None:
        if self._wanted:
            background.loop()  # its thread and its files are damad's, and there before there may be none
        for which, limit in self._wanted.items():
            most = _least(limit + _KEPT_BACK[which], resource.getrlimit(which)[1])
            resource.setrlimit(which, (min(limit, most), most))

    def __exit__(self, *_: object) -> None:
        for which in self._wanted:
            most = resource.getrlimit(which)[1]
            resource.setrlimit(which, (most, most))


def _least(limit: int, hard: int) -> int:
    """A limit that this process is under already is not lifted."""
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def named(said: Event | Failure, error: BaseException, settings: TaskSettings) -> Event | Failure:
    """The failure with the limit that an error is for, where it is for one."""
    if not isinstance(said, Failure):
        return said
    all_raised = [
        *raised(error),
        *(raised(error.__cause__) if isinstance(error, NotLoaded) and error.__cause__ else []),
    ]
    why = limits.said_by_error(settings, memory=any(map(_no_memory, all_raised)), files=any(map(_no_file, all_raised)))
    if why is None:
        return said
    kind, words = why
    return msgspec.structs.replace(said, kind=kind or said.kind, message=f"{said.message} ({words})")


def _no_memory(error: BaseException) -> bool:
    if isinstance(error, Thrown):
        return error.name == "RangeError" and "allocation failed" in str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't start new thread" in _text(error)
    )


def _no_file(error: BaseException) -> bool:
    if isinstance(error, Thrown):
        return "EMFILE" in str(error)
    return isinstance(error, OSError) and error.errno == errno.EMFILE


def _text(error: Any) -> str:
    return next((one for one in error.args if isinstance(one, str)), "")
