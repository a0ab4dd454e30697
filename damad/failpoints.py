"""Named places between two durable effects, at which a test can have the process die, fail or wait.

Off unless `DAMAD_FAILPOINT=name:kill|raise|delay` is set when the process starts (read here and not in config.py, for
the runner's parent loads next to nothing). It fires once a process. `NAMES` is the list that the sweep in tests/faults
goes through; a place that is not in it is refused when it is hit.
"""

import os
import random
import signal
import time
from typing import Final

NAMES: Final = (
    "supervisor.claimed",  # tasks are claimed, none is launched
    "supervisor.launching",  # the run has a folder, its parent is not started
    "supervisor.launched",  # the parent has said that the run is on record
    "supervisor.verdict",  # a process is seen dead, its failure is not appended
    "supervisor.concluded",  # the failure is appended, the records are still there
    "supervisor.killed",  # a worker was asked to stop
    "supervisor.resumed",  # a wait is over and its task queued again, nothing is claimed
    "ticks.queued",  # the tasks of a schedule's ticks are queued, nothing is committed
    "ticks.taken",  # that is committed, and nothing is said of it
    "archive.writing",  # half of an archive is written, under no name that counts
    "archive.written",  # an archive is on the disk, nothing is removed
    "archive.removed",  # some of its trees are removed, and not the others
    "archive.restored",  # what an archive holds is put back, nothing is committed
    "parent.begun",  # the parent lives, nothing is forked
    "parent.forked",  # the worker's process waits, nothing is on record
    "parent.recorded",  # it is on record who runs, the worker's process has not begun
    "parent.reaped",  # the worker's process is reaped, its exit is not on record
    "parent.exited",  # the exit is on record
    "supervisor.said",  # what a run said over its line is appended, the run does not know
    "parent.said",  # STARTED is appended, the worker's process has not begun
    "runner.started",  # STARTED is appended, the worker is not loaded
    "runner.returned",  # main has returned, nothing is appended
    "runner.concluded",  # the outcome is appended, the process still lives
)

LOSES: Final = "database.executed"
"""Armed as `database.executed:0.05`: of the statements that are sent again, that share is executed and its answer lost,
but for the last time that one is sent. As `database.executed:0.05:all` of those that are not sent again too, and of
COMMIT: whoever asked has to live with an outcome that is unknown."""

_DELAY: Final = 3.0
_variable = os.environ.get("DAMAD_FAILPOINT", "")


class Failpoint(Exception):
    """What `raise` raises."""


def arm(variable: str) -> str:
    """Has this process do what DAMAD_FAILPOINT would say, from now on. Returns what it would have done."""
    global _variable
    before, _variable = _variable, variable
    return before


def hit(name: str) -> None:
    """Does here what DAMAD_FAILPOINT says, if it names this place."""
    global _variable
    assert name in NAMES, name
    armed, _, action = _variable.partition(":")
    if armed != name:
        return
    _variable = ""
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise Failpoint(name)
    elif action == "delay":
        time.sleep(_DELAY)


def loses(*, again: bool) -> bool:
    """True for the share of answers that DAMAD_FAILPOINT says. `again`: the statement is sent again."""
    armed, _, said = _variable.partition(":")
    share, _, whose = said.partition(":")
    return armed == LOSES and (again or whose == "all") and random.random() < float(share)


def environment() -> dict[str, str]:
    """What a process that this one starts needs in its environment to hit the same place. (It loses what is sent again
    alone: what becomes of a COMMIT of a worker's own is the worker's.)"""
    return {"DAMAD_FAILPOINT": _variable.removesuffix(":all")} if _variable else {}
