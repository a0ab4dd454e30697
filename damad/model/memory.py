"""What a run remembers of the waits of its context, and what it says when it ends to wait.

A wait that was longer than the process stands in the log: WAITING says what for, RESUMED what ended it. When `main`
runs again from its start, each wait is known again by its name or by its place, and has ended as it did.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from damad.model.event import Event, RecordedEvent

TYPES: Final = ("dama/task:WAITING", "dama/task:RESUMED", "dama/task:REQUEUED")
"""The events that it reads."""
_TIMED_OUT: Final = "timeout"


class Suspended(BaseException):
    """Raised in `main` where a wait is longer than its process: the run ends, and `main` runs again once that is over.

    No Exception, so that `except Exception` lets it pass. `waiting`: the WAITING event that the run ends with.
    """

    def __init__(self, waiting: Event) -> None:
        super().__init__("the process ends here, and main runs again from its start when the wait is over")
        self.waiting = waiting


class Ended(msgspec.Struct, frozen=True):
    """How a wait ended. version: of the event that was waited for, None where time or something else ended it."""

    version: int | None
    timed_out: bool


class Memory:
    """The waits of one run. in_process: seconds that a wait may last in it · now: what time it is for Postgres."""

    def __init__(self, in_process: float, now: Callable[[], datetime]) -> None:
        self.in_process = in_process
        self.now = now
        self.read = False
        self._ended: dict[str, Ended] = {}
        self._places = Counter[str]()
        self._taken: dict[str, int] = {}
        self._unsaid: list[str] = []

    def learn(self, events: Iterable[RecordedEvent]) -> None:
        """Takes in what the log says of the context, its events of TYPES. It says nothing new while a run goes on."""
        self.read = True
        self._ended = ended_waits(events)

    def name(self, what: str, name: str | None) -> str:
        """The name of the next wait of a sort: the one that it was given, or its place among those of its sort."""
        if name is not None:
            return name
        self._places[what] += 1
        return f"{what} #{self._places[what]}"

    def ended(self, name: str) -> Ended | None:
        """How the wait of this name ended; None where it did not, or nobody knows any more."""
        return self._ended.get(name)

    def after(self, type_: str) -> int:
        """The version after which an event of a type has not been waited for: each one ends one wait."""
        return self._taken.get(type_, 0)

    def takes(self, type_: str, version: int) -> None:
        """An event has ended a wait."""
        self._taken[type_] = max(version, self.after(type_))

    def times_out(self, name: str) -> None:
        """A wait timed out here. That is said with the next WAITING, after which it is not waited for again."""
        self._unsaid.append(name)

    def suspend(self, name: str | None, *, seconds: float | None = None, **waits_for: Any) -> Suspended:
        """The end of a run that waits: for so many seconds at most, and for what `waits_for` says in the event."""
        payload = {"name": name, **waits_for}
        if seconds is not None:
            payload["until"] = (self.now() + timedelta(seconds=seconds)).isoformat()
        if self._unsaid:
            payload["timed_out"] = self._unsaid
        return Suspended(Event(type="dama/task:WAITING", payload=payload))


def ended_waits(events: Iterable[RecordedEvent]) -> dict[str, Ended]:
    """How the waits of a context ended, by their names. What timed out is forgotten where a person tries again."""
    ended: dict[str, Ended] = {}
    for event in events:
        said = event.payload if isinstance(event.payload, dict) else {}
        match event.type:
            case "dama/task:WAITING" if isinstance(said.get("timed_out"), list):
                ended |= {name: Ended(None, True) for name in said["timed_out"] if isinstance(name, str)}
            case "dama/task:RESUMED" if isinstance(said.get("name"), str):
                ended[said["name"]] = Ended(said.get("version"), said.get("reason") == _TIMED_OUT)
            case "dama/task:REQUEUED":
                ended = {name: how for name, how in ended.items() if not how.timed_out}
    return ended


def suspension(error: BaseException) -> Suspended | None:
    """The Suspended that a run ended with, also where TaskGroups wrapped it; None where anything else was raised."""
    if isinstance(error, Suspended):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [suspension(one) for one in error.exceptions]
        return found[0] if all(found) else None
    return None
