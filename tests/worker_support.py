"""Workers for tests: gates that hold them back, and what became of a task."""

import fcntl
from pathlib import Path
from typing import Any, NamedTuple

from damad.model.event import RecordedEvent

GATE_MODULE = """
import fcntl

def wait(path):
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
"""

HOLD = """
import gate
from damad import events

def main(initial_event):
    events.dispatch_sync({"type": ":HERE"})
    gate.wait(initial_event["payload"]["gate"])
    return {"held": True}
"""
"""A worker that says :HERE and then waits for a gate."""


class Gate:
    """Holds workers back until it is opened: they wait for a lock on its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def open(self) -> None:
        self._file.close()


class Outcome(NamedTuple):
    """What became of a task."""

    id: int
    state: str
    task: Any
    events: list[RecordedEvent]

    @property
    def final(self) -> RecordedEvent:
        """Its only :FINAL."""
        (event,) = [event for event in self.events if event.type.endswith(":FINAL")]
        assert (self.state, event) == ("done", self.events[-1]), self.events
        return event

    @property
    def result(self) -> Any:
        return self.final.payload

    @property
    def error(self) -> dict[str, Any]:
        """The payload of the ERROR that its last attempt ended with, and FAILED followed."""
        assert self.state == "failed" and self.events[-1].type == "dama/task:FAILED", self.events
        assert not [event for event in self.events if event.type.endswith(":FINAL")]
        return self.events[-2].payload
