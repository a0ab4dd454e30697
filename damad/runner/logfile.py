"""The log file of an attempt: stdout and stderr of the worker, cut in its middle when it grows too large."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from damad.runner import libc

_HEAD_SHARE: Final = 0.5
_TAIL_SHARE: Final = 0.25
_CHUNK: Final = 1 << 16
_PUNCH_HOLE, _KEEP_SIZE = 0x02, 0x01
_BLOCK: Final = 4096
"""What begins and ends with a multiple of it can be freed on every file system."""
_STAT_BLOCK: Final = 512
_IN_MODIFY: Final = 0x02
_MOST_EVENTS: Final = 1 << 12
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


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


class Tee:
    """Takes what a worker prints on a terminal to its log too.

    A pipe, whose reader is the parent of the run: on a terminal they live and die together.
    """

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.read_end, self._write_end = os.pipe()

    def become_stdio(self) -> None:
        """Makes the pipe the stdout and stderr of this process: the worker's."""
        os.dup2(self._write_end, 1)
        os.dup2(self._write_end, 2)
        os.close(self._write_end)

    def only_read(self) -> None:
        """In the parent, so that the pipe ends with those who print."""
        os.close(self._write_end)
        os.set_blocking(self.read_end, False)

    def copy(self) -> bool:
        """Copies what is there. False where nothing is."""
        try:
            chunk = os.read(self.read_end, _CHUNK)
        except BlockingIOError:
            return False
        for out in (self._log, 2):
            with suppress(OSError):  # who looked at the terminal may have gone
                os.write(out, chunk)
        return bool(chunk)


class Growth:
    """Tells when a log, which is made if need be, is written to: nobody need look at one that stands still.

    descriptor: readable then; None where the kernel has none to give (a user may have but so many).
    """

    def __init__(self, log: Path) -> None:
        self.descriptor: int | None = None
        with suppress(OSError):  # on a full disk, say, where the worker cannot begin either
            log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(log, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        inotify = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if inotify < 0:
            return
        if libc.inotify_add_watch(inotify, os.fsencode(log), _IN_MODIFY) < 0:
            os.close(inotify)
            return
        self.descriptor = inotify

    def seen(self) -> None:
        """What was written until now is known: it tells of what is written from now on."""
        if self.descriptor is not None:
            with suppress(BlockingIOError):
                os.read(self.descriptor, _MOST_EVENTS)


def cut(log: Path, limit: int) -> None:
    """Frees the middle of a log that is over its limit.

    The worker goes on appending meanwhile, so the file keeps its length and a hole takes the place of the middle:
    whatever moved its end would lose what is written in that moment. `compact` makes it short, once it is complete.
    """
    try:
        fd = os.open(log, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        stat = os.fstat(fd)
        if min(stat.st_size, stat.st_blocks * _STAT_BLOCK) > limit:
            _free_middle(fd, stat.st_size, limit)
    finally:
        os.close(fd)


def _free_middle(fd: int, size: int, limit: int) -> None:
    mark = _mark(limit)
    begin = -(-(_head(limit) + len(mark)) // _BLOCK) * _BLOCK
    length = (size - _tail(limit)) // _BLOCK * _BLOCK - begin
    if length <= 0:
        return
    os.pwrite(fd, mark, begin - len(mark))
    offset = ctypes.c_longlong
    if libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset(begin), offset(length)) != 0:
        end = os.pread(fd, _tail(limit), size - _tail(limit))  # no holes on this file system: a moment may be lost
        os.ftruncate(fd, begin)
        os.pwrite(fd, end, begin)


def compact(log: Path, limit: int) -> None:
    """Makes a log that nobody writes to any more its head, mark and tail, if it is over its limit.

    In a new file: who reads the old one reads on to its end. Where there is no room for it the log stays as it is.
    """
    new = log.with_suffix(".new")
    try:
        size = log.stat().st_size
        if size <= limit:
            return
        with log.open("rb") as whole, open(os.open(new, _NEW, 0o600), "wb") as short:
            short.write(whole.read(_head(limit)) + _mark(limit))
            whole.seek(size - _tail(limit))
            short.write(whole.read())
        os.rename(new, log)
    except OSError:  # how the worker ended is yet to be put on record: nothing here may prevent that
        with suppress(OSError):
            new.unlink()


def _mark(limit: int) -> bytes:
    return f"\n[damad: the middle was dropped here, for the log grew over {limit} bytes]\n".encode()


def _head(limit: int) -> int:
    return int(limit * _HEAD_SHARE)


def _tail(limit: int) -> int:
    return int(limit * _TAIL_SHARE)
