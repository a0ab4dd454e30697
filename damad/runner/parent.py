"""The parent of one worker's process: `python -P -m damad.runner.parent FD`, FD holding an assignment as JSON.

asyncio kills a child whose transport it closes, so what the daemon starts is gone at once: it forks the real parent,
which lives in a session of its own, and tells by its exit code whether that one came up. The real parent forks the
worker's process, reaps it and everything it left behind (as a subreaper, whichever session that went to), and writes
the exit record. It imports next to nothing, for one of it waits beside each running worker.

Most parents are not started so but forked, by a process that has imported everything already (forkserver.py).
"""

import atexit
import contextlib
import gc
import json
import os
import resource
import select
import signal
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, Final

from damad import failpoints, processes
from damad.runner import libc, logfile, records

_PR_SET_CHILD_SUBREAPER: Final = 36
_LOOK_INTERVAL: Final = 0.1
"""Seconds between looks at the size of the log where nobody tells when it grows."""
_REST: Final = 0.005
"""Seconds from one look at a log that grows to the next."""


_BEGIN, _BEGUN = b"\1", b"\2"
"""What a worker's process is told: to begin, and whether the log has it already that it did. Else: its exit code."""
_LONGEST_EVENTS: Final = 1 << 16


def main() -> None:
    """Forks the real parent and waits until its run is on record. On a terminal, this process is the parent itself."""
    assignment = _read_assignment(int(sys.argv[1]))
    if assignment["terminal"]:
        _live(assignment, ready=None)
        os._exit(0)
    ready_read, ready_write = os.pipe()
    if os.fork() == 0:
        os.close(ready_read)
        os.setsid()
        _live(assignment, ready_write)
        os._exit(0)
    os.close(ready_write)
    os._exit(0 if os.read(ready_read, 1) else 1)


def _read_assignment(fd: int) -> dict[str, Any]:
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        assignment: dict[str, Any] = json.load(file)
    return assignment


def _live(assignment: dict[str, Any], ready: int | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # who stops the service means the daemon; the worker is told by it
    processes.name("damad parent")
    server = join_embedded(Path(assignment["state_dir"])) if assignment["embedded"] else None
    supervise(assignment, ready=ready)
    if server is not None:
        server.leave()


def join_embedded(state_dir: Path) -> Any:
    """Counts as a user of the embedded Postgres, which so outlives the daemon for as long as the worker runs."""
    from damad.eventstore.embedded import EmbeddedPostgres

    server = EmbeddedPostgres(state_dir)
    server.join()
    return server


def supervise(assignment: dict[str, Any], prepared: Any = None, *, ready: int | None = None) -> None:
    """Forks the worker's process, waits for its end, ends what it left behind, and puts both on record.

    prepared: the attempt (child.Run), where this process knows how to make one · ready: told once it is on record.
    """
    run = Path(assignment["run"])
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    oom_kills = _oom_kills()
    failpoints.hit("parent.begun")
    mark = os.open(records.parent_log(run), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    log = Path(assignment["log"])
    # pdb needs the terminal itself, for its prompt
    tee = logfile.Tee(log) if assignment["terminal"] and assignment["debug"] != "pdb" else None
    pid = _fork_worker(assignment, run, tee, prepared, mark)
    if ready is not None:
        os.write(ready, b"1")
        os.close(ready)
    status, out_of_cpu = _wait(pid, log, assignment["log_limit"], tee)
    failpoints.hit("parent.reaped")
    _end_leftovers()
    logfile.compact(log, assignment["log_limit"])
    records.write_exit(run, _exit(status, out_of_cpu, oom=_oom_kills() > oom_kills))
    failpoints.hit("parent.exited")
    os.close(mark)


def _fork_worker(assignment: dict[str, Any], run: Path, tee: logfile.Tee | None, prepared: Any, mark: int) -> int:
    """The pid of the worker's process, which begins once it is on record who it is."""
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        os.close(mark)  # who has it open is the parent of the run: observation.py
        order = os.read(go_read, 1)
        os.close(go_read)
        if order not in (_BEGIN, _BEGUN):
            os._exit(order[0] if order else 1)  # it is not its to run, or its parent died before it was on record
        _become_worker(assignment, tee, prepared, begun=order == _BEGUN)
    os.close(go_read)
    if tee is not None:
        tee.only_read()
    failpoints.hit("parent.forked")
    worker = processes.identify(pid)
    if worker is not None:
        processes.mark(worker)  # what it leaves behind is found by that where this process is not left to end it
        records.write_processes(run, records.Processes(processes.myself(), worker))
    failpoints.hit("parent.recorded")
    code = prepared.begin(worker) if prepared is not None and worker is not None else None
    failpoints.hit("parent.said")
    os.write(go_write, bytes([code]) if code else _BEGUN if prepared is not None and prepared.begun else _BEGIN)
    os.close(go_write)
    return pid


def _become_worker(assignment: dict[str, Any], tee: logfile.Tee | None, prepared: Any, *, begun: bool) -> None:
    """Never returns: the forked child leaves every trace of its parent behind and runs the attempt."""
    try:
        processes.name(f"damad {assignment['claim']['etl_context_id']}/{assignment['attempt']}")
        gc.enable()
        atexit._clear()  # what the parent wants done at its end is not this process' to do
        # SIGPIPE stays ignored, as in any Python: else a Postgres that goes away would kill the worker.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if not assignment["terminal"]:
            os.setsid()
            logfile.open_as_stdio(Path(assignment["log"]))
        elif tee is not None:
            tee.become_stdio()
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        if prepared is None:
            from damad.runner import child

            take_environment(assignment)
            child.prepare()
            prepared = child.Run(assignment)
        code = prepared.run(begun=begun)
    except BaseException:  # noqa: BLE001 - nothing is above: said in the log, and the exit code tells
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
    os._exit(code)


def take_environment(assignment: dict[str, Any]) -> None:
    """Has this process, and what is forked from it, the environment of a worker."""
    os.environ.clear()
    os.environ.update(assignment["environment"])


def _wait(pid: int, log: Path, log_limit: int, tee: logfile.Tee | None) -> tuple[int, bool]:
    """The wait status of the worker's process, and whether its CPU time was used up. Cuts its log meanwhile, and copies
    what it prints on a terminal."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if tee is not None:
        poll.register(tee.read_end, select.POLLIN)
    growth = logfile.Growth(log)
    if growth.descriptor is not None:
        poll.register(growth.descriptor, select.POLLIN)
    interval = _LOOK_INTERVAL * 1000 if growth.descriptor is None else None
    while pidfd not in (ready := dict(poll.poll(interval))):
        if tee is not None and tee.read_end in ready and not tee.copy():
            poll.unregister(tee.read_end)
        growth.seen()
        logfile.cut(log, log_limit)
        if tee is None:  # else it is here that is written, and the worker waits
            select.select([pidfd], [], [], _REST)
    while tee is not None and tee.copy():
        pass
    os.close(pidfd)
    out_of_cpu = _out_of_cpu(pid)
    _, status = os.waitpid(pid, 0)
    return status, out_of_cpu


def _out_of_cpu(pid: int) -> bool:
    """Whether a process that was not reaped yet has used up its CPU time: at each SIGXCPU the kernel moves the limit
    that it sends it for, until that is the one which it kills for."""
    try:
        soft, hard = resource.prlimit(pid, resource.RLIMIT_CPU)
    except OSError:  # it made itself another user's
        return False
    return soft == hard != resource.RLIM_INFINITY


def _end_leftovers() -> None:
    """Kills and reaps what the worker left behind, until this process has no child any more."""
    with contextlib.suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                for process in processes.descendants(processes.myself()):
                    processes.send(process, signal.SIGKILL)
                os.waitpid(-1, 0)


def _exit(status: int, out_of_cpu: bool, *, oom: bool) -> records.Exit:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return records.Exit(None, number, oom and number == signal.SIGKILL, time.time(), out_of_cpu)
    return records.Exit(os.WEXITSTATUS(status), None, False, time.time(), out_of_cpu)


def _oom_kills() -> int:
    """How often the kernel killed for want of memory: in this process' cgroup, or on the whole machine."""
    for file in _memory_events():
        words = os.pread(file, _LONGEST_EVENTS, 0).split()
        if b"oom_kill" in words:
            return int(words[words.index(b"oom_kill") + 1])
    return 0


@cache
def _memory_events() -> list[int]:
    """The files that say so, open for as long as this process lives: it asks before and after each run."""
    return [fd for path in _memory_event_paths() for fd in _opened(path)]


def _opened(path: Path) -> list[int]:
    try:
        return [os.open(path, os.O_RDONLY | os.O_CLOEXEC)]
    except OSError:
        return []


def _memory_event_paths() -> list[Path]:
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            found.append(Path("/sys/fs/cgroup/memory" + path) / "memory.oom_control")
        elif not controllers:
            found.append(Path("/sys/fs/cgroup" + path) / "memory.events")
    return [*found, Path("/proc/vmstat")]


if __name__ == "__main__":
    main()
