"""The fork server: `python -P -m damad.runner.forkserver FD`, FD being its socket to the daemon.

It has imported Python, damad and what a queue's `preload` names, and forks a parent (parent.py) for each line that the
daemon sends. A parent runs one attempt after another, each in a process of its own that is forked from it, and ends
when the daemon hangs up: at once if it is idle, else once its worker has ended and its exit is on record.

Nothing is lost with a fork server: whoever asked starts another, or a process without one.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from damad import processes
from damad.runner import child, line, parent
from damad.runner.rehearsal import rehearse

_LONGEST_REQUEST: Final = 65_536
_MOST_RUNS: Final = 1000
"""After which a parent ends, for its garbage is not collected."""
_LOOK_INTERVAL: Final = 1.0
"""Seconds between looks at the files that were imported."""


def main() -> None:
    """Imports what was asked for, and forks parents until the daemon hangs up."""
    daemon = socket.socket(fileno=int(sys.argv[1]))
    daemon.set_inheritable(False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # who stops the service means the daemon
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a parent: it says by itself what happened
    processes.name("damad forks")
    child.prepare()
    sources = Sources(_preloaded(sys.argv[2:]))
    with contextlib.suppress(Exception):  # a preload may have changed what it goes through; only time would be lost
        rehearse()
    gc.collect()
    gc.freeze()  # what is shared with the children stays so
    while True:
        request, fds, _, _ = socket.recv_fds(daemon, _LONGEST_REQUEST, 1)
        if not request:
            return
        if os.fork() == 0:
            daemon.close()
            os._exit(_serve(socket.socket(fileno=fds[0]), json.loads(request), sources))
        os.close(fds[0])


def _preloaded(names: list[str]) -> list[str]:
    """Imports modules. One that cannot be imported is the worker's to complain of."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return names


def _serve(end: socket.socket, request: dict[str, Any], sources: "Sources") -> int:
    """A parent: runs the attempts that come over its line, one after another."""
    os.setsid()
    processes.name("damad parent")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.disable()  # to look through what is there would copy what it shares
    server = parent.join_embedded(Path(request["state_dir"])) if request["embedded"] else None
    for _ in range(_MOST_RUNS):
        order = _next(end)
        if order is None or sources.changed() or not _tell(end, line.Begun(order[0])):
            break
        run, assignment = order
        parent.take_environment(assignment)
        prepared = child.Run(assignment, partial(line.WorkersEnd, end, run))
        gc.freeze()  # the worker's process has nothing to look through but what it makes
        parent.supervise(assignment, prepared)
        _tell(end, line.Over(run))
    if server is not None:
        server.leave()
    return 0


def _tell(end: socket.socket, message: line.Message) -> bool:
    """False where the daemon has gone. It finds what is on record."""
    try:
        end.send(line.encode(message))
    except OSError:
        return False
    return True


def _next(end: socket.socket) -> tuple[int, dict[str, Any]] | None:
    """The number of the next run and its assignment, or None once the daemon has hung up."""
    end.settimeout(None)
    while True:
        try:
            received, fds, _, _ = socket.recv_fds(end, line.LARGEST, 1)
        except OSError:
            return None
        if not received:
            return None
        message = line.decode(received)
        if isinstance(message, line.Run) and fds:  # else it was meant for a worker that is dead
            with os.fdopen(fds[0], "rb") as file:
                file.seek(0)
                return message.run, json.load(file)


class Sources:
    """The files that the modules of damad and of a `preload` came from, as they were when they were imported."""

    def __init__(self, names: list[str]) -> None:
        packages = {name.partition(".")[0] for name in ["damad", *names]}
        self._files = [
            file
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] in packages and (file := getattr(module, "__file__", None))
        ]
        self._was = self._now()
        self._looked = time.monotonic()

    def changed(self) -> bool:
        """True if a process that is forked now would run what is not there any more. Looks once a second at most."""
        if time.monotonic() < self._looked + _LOOK_INTERVAL:
            return False
        self._looked = time.monotonic()
        return self._now() != self._was

    def _now(self) -> list[tuple[int, int, int] | None]:
        return [_fingerprint(file) for file in self._files]


def _fingerprint(file: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


if __name__ == "__main__":
    main()
