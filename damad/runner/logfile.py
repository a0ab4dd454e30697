"""The log file of an attempt: stdout and stderr of the worker, cut in its middle when it grows too large."""

import os
from pathlib import Path
from typing import Final

_HEAD_SHARE: Final = 0.5
_TAIL_SHARE: Final = 0.25
_FAST_GROWTH: Final = 0.05
"""Share of the limit above which a log is looked at more often."""


def open_as_stdio(log: Path) -> None:
    """Makes the file this process' stdout and stderr, appending, and /dev/null its stdin.

    A file and no pipe: a pipe's reader may die, and then the worker would at its next print.
    """
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for fd in {null, out} - {0, 1, 2}:
        os.close(fd)


def cut(log: Path, limit: int) -> bool:
    """Cuts a log that is over its limit to head, mark and tail. True if it is large enough to be looked at often.

    The worker goes on appending meanwhile: what it writes between the two steps belongs to the part that is dropped.
    """
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return False
    if size <= limit:
        return size > limit * _FAST_GROWTH
    head, tail = int(limit * _HEAD_SHARE), int(limit * _TAIL_SHARE)
    fd = os.open(log, os.O_RDWR | os.O_APPEND)
    try:
        end = os.pread(fd, tail, size - tail)
        mark = f"\n[damad: the middle was dropped here, for the log grew over {limit} bytes]\n"
        os.ftruncate(fd, head)
        os.write(fd, mark.encode() + end)
    finally:
        os.close(fd)
    return True
