"""What a task may take of its machine: `memory_limit`, `cpu_limit` and `open_files`, and how the end of a run says so.

The kernel keeps them (damad/runner/limits.py), for each process alone, so that they hold for a process and not for a
coroutine of the daemon.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from damad.model.settings import LIMITS, TaskSettings

CPU_GRACE: Final = 2
"""Seconds of CPU time from SIGXCPU to SIGKILL, for a process that does not end of the first."""
_SIGKILL, _SIGXCPU = 9, 24
_OF_WANT: Final = {4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 11: "SIGSEGV"}
"""Signals of which a program dies that does not bear to get no memory. V8, of Node.js, is one."""


def given(settings: Mapping[str, Any]) -> list[str]:
    """Those of the limits that settings name."""
    return [name for name in LIMITS if settings.get(name) is not None]


def cpu_seconds(limit: float) -> int:
    """The kernel counts whole seconds: a limit is rounded up."""
    return math.ceil(limit)


def said_by_signal(settings: TaskSettings, signal: int, *, out_of_cpu: bool) -> tuple[str, str] | None:
    """Kind and message of a failure, where a limit is what a process was killed for; None where it was not.

    out_of_cpu: it had used up its CPU time to the end.
    """
    limit = settings.cpu_limit
    if limit is not None and (signal == _SIGXCPU or (signal == _SIGKILL and out_of_cpu)):
        return "cpu_limit", f"the attempt used more CPU time than its cpu_limit ({limit:g} s)"
    if settings.memory_limit is not None and signal in _OF_WANT:
        return "signal", (
            f"the process was killed by signal {signal} ({_OF_WANT[signal]}), as one is that gets no more memory: "
            f"its memory_limit is {settings.memory_limit} bytes"
        )
    return None


def said_by_error(settings: TaskSettings, *, memory: bool, files: bool) -> tuple[str | None, str] | None:
    """Kind (None: as it was) and words to add to the message of a failure, where what was raised is for want of memory
    or of files and there is a limit on it; None where there is none."""
    if memory and settings.memory_limit is not None:
        return "oom", f"the memory_limit is {settings.memory_limit} bytes"
    if files and settings.open_files is not None:
        return None, f"open_files is {settings.open_files}"
    return None
