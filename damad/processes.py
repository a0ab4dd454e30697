"""Processes, by proof and not by number: a pid alone may name a stranger.

A process is known by its pid, its start time and the boot of the machine. Signals go through a pidfd that was opened
before the start time was compared, so that none reaches a process that took the pid over.
"""

import os
import re
import resource
import signal
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

_PROC: Final = Path("/proc")
_MOST_PIDS: Final = 2**22
"""No Linux gives a higher pid."""
_NUMBER: Final = re.compile("[0-9]{1,18}")
_MARK: Final = 10
"""RLIMIT_LOCKS (getrlimit(2)): a number of 64 bits that no kernel since 2.4.25 asks about and every child inherits,
whatever it does with its session, its environment and its files."""


class Process(NamedTuple):
    """`start_time` is field 22 of /proc/PID/stat: clock ticks after boot."""

    pid: int
    start_time: int
    boot_id: str


class _Stat(NamedTuple):
    pid: int
    state: str
    parent: int
    session: int
    start_time: int


def named(pid: Any, start_time: Any, boot_id: Any) -> Process | None:
    """The process that these name, out of a file or the log where anybody may have written; None if they name none."""
    numbers = type(pid) is int and type(start_time) is int and isinstance(boot_id, str)
    return Process(pid, start_time, boot_id) if numbers and 0 < pid <= _MOST_PIDS and start_time >= 0 else None


@cache
def boot_id() -> str:
    """The id of this boot of the machine: pids and start times of another boot say nothing."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Process | None:
    """The process that has this pid now, or None. A zombie counts as none: it has ended."""
    stat = _stat(pid)
    return None if stat is None or stat.state in "ZX" else Process(pid, stat.start_time, boot_id())


def myself() -> Process:
    """This process."""
    return _identified(os.getpid())


@cache
def _identified(pid: int) -> Process:
    """A process that lives for as long as this one does: itself."""
    me = identify(pid)
    assert me is not None
    return me


def alive(process: Process) -> bool:
    """True if this very process runs (or is stopped), False if it has ended or its machine was booted since."""
    return identify(process.pid) == process


def name(text: str) -> None:
    """Names this process for whoever lists them: 15 bytes of it are shown."""
    (_PROC / "self/comm").write_text(text)


def stopped(process: Process) -> bool:
    """True if this very process was stopped by a signal (and is not only traced by a debugger)."""
    stat = _stat(process.pid)
    return stat is not None and stat.state == "T" and stat.start_time == process.start_time


def open_pidfd(process: Process) -> int | None:
    """A descriptor that becomes readable when the process ends, or None if it has. The caller closes it."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if alive(process):
        return pidfd
    os.close(pidfd)
    return None


def send(process: Process, number: int) -> bool:
    """Sends a signal to this very process. False if it has ended."""
    pidfd = open_pidfd(process)
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def members(leader: Process) -> list[Process]:
    """The processes in the session that `leader` leads, or led: its pid is given to nobody while they have it."""
    there = _stat(leader.pid)
    if leader.boot_id != boot_id() or (there is not None and there.start_time != leader.start_time):
        return []  # the pid is a stranger's now, and so is the session
    return [_process(stat) for stat in _all() if stat.session == leader.pid and stat.start_time >= leader.start_time]


def parent(process: Process) -> Process | None:
    """The parent that a process has now, or None if either has ended."""
    stat = _stat(process.pid)
    return None if stat is None or stat.start_time != process.start_time else identify(stat.parent)


def descendants(ancestor: Process) -> list[Process]:
    """The living processes that descend from `ancestor`, whichever session they went to."""
    if not alive(ancestor):
        return []
    everything = _all()
    found, generation = [], {ancestor.pid}
    while generation:
        children = [stat for stat in everything if stat.parent in generation]
        found += [_process(stat) for stat in children]
        generation = {stat.pid for stat in children}
    return found


def mark(process: Process) -> None:
    """Has whatever a process starts from now on bear its mark, by which `bearers` finds it. For a child, or oneself.

    The mark is a soft limit, so that one which bears it can take its own. Where somebody has bounded what nobody else
    asks about, there is none.
    """
    with suppress(ValueError, OSError):
        hard = resource.prlimit(process.pid, _MARK)[1]
        resource.prlimit(process.pid, _MARK, (_mark_of(process), hard))


def bearers(marked: Process) -> list[Process]:
    """The living processes that bear the mark of a process, which may have ended long ago: what it started, and itself.

    None only if there is none: the child of one that ended while these were looked at is on the next list, for its pid
    comes after that of its parent, or from the beginning again and so on the list after that.
    """
    looked_at, found, complete = set[int](), list[Process](), 0
    while marked.boot_id == boot_id() and not found and complete < 2:
        new = {*_pids()} - looked_at
        found = [_process(stat) for stat in _stats(new) if _bears(stat.pid, marked)]
        looked_at |= new
        complete = 0 if new else complete + 1
    return found


def writers(file: Path) -> list[Process]:
    """The processes that have a file open as their stdout is opened, to append to it: all but this one.

    Who reads it is none of them. Their files are compared by name first, for to ask about a file may wait for its disk.
    """
    try:
        name, wanted = str(file.resolve()), file.stat()
    except (OSError, RuntimeError):
        return []
    others = [stat for stat in _all() if stat.pid != os.getpid()]
    return [_process(stat) for stat in others if _appends_to(_PROC / str(stat.pid), name, wanted)]


def marked(name: str, value: str) -> list[Process]:
    """The living processes that were started with that variable in their environment, of whomever they descend."""
    sought, found = f"{name}={value}".encode(), []
    for stat in _all():
        with suppress(OSError):  # ended meanwhile, or somebody else's
            if sought in (_PROC / str(stat.pid) / "environ").read_bytes().split(b"\0"):
                found.append(_process(stat))
    return found


def as_holder(process: Process, host_id: str) -> str:
    """The text that names a process in a lease, so that whoever reads it can prove its death."""
    return f"{host_id}/{process.boot_id}/{process.pid}/{process.start_time}"


def from_holder(holder: str, host_id: str) -> Process | None:
    """The process of this host that a lease names, or None if the holder is on another host."""
    host, _, rest = holder.partition("/")
    boot, _, numbers = rest.partition("/")
    pid, _, start_time = numbers.partition("/")
    if host != host_id or not (_NUMBER.fullmatch(pid) and _NUMBER.fullmatch(start_time)):
        return None
    return named(int(pid), int(start_time), boot)


def _mark_of(process: Process) -> int:
    return process.start_time * _MOST_PIDS + process.pid


def _bears(pid: int, marked: Process) -> bool:
    try:
        return resource.prlimit(pid, _MARK)[0] == _mark_of(marked)
    except OSError:  # ended meanwhile, or somebody else's
        return False


def _appends_to(process: Path, name: str, wanted: os.stat_result) -> bool:
    with suppress(OSError):  # it has ended meanwhile, or is somebody else's
        for number in os.listdir(process / "fd"):
            link = process / "fd" / number
            with suppress(FileNotFoundError):  # it was closed meanwhile
                if os.readlink(link) == name and os.path.samestat(os.stat(link), wanted):
                    flags = _flags((process / "fdinfo" / number).read_text())
                    if flags & os.O_APPEND and flags & os.O_ACCMODE == os.O_WRONLY:
                        return True
    return False


def _flags(fdinfo: str) -> int:
    """How a file was opened."""
    return int(fdinfo.partition("flags:")[2].split()[0], 8)


def _process(stat: _Stat) -> Process:
    return Process(stat.pid, stat.start_time, boot_id())


def _all() -> list[_Stat]:
    return _stats(_pids())


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]


def _stats(pids: Iterable[int]) -> list[_Stat]:
    return [stat for pid in pids if (stat := _stat(pid)) is not None and stat.state not in "ZX"]


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name stands in brackets and may hold brackets itself
    return _Stat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]))
