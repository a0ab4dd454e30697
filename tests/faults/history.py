"""A history checker: clients and workers write down what they did, and the log must be one that fits all they saw.

A client says `invoke` before it appends an event, and then `ok` (it was acknowledged) or `unknown` (nobody can know);
a worker says `start` when `main` begins and `stop` when it ends, and whether it was alone, by a lock that the kernel
drops with its process. Each writes to a file of its own, for what is checked must not go through what is tested.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from daemon_support import Site

from damad.eventstore.verify import verify
from damad.model.event import RecordedEvent

WORKER_MODULE = """
import fcntl, json, os, time
from contextlib import contextmanager
from damad import context

@contextmanager
def written_down():
    ctx = context.current()
    folder = os.path.join(os.path.dirname(__file__), "..", "history")
    lock = open(os.path.join(folder, f"lock.{ctx.etl_context_id}"), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    file = os.open(os.path.join(folder, f"worker.{os.getpid()}.{ctx.etl_context_id}.{ctx.attempt}"),
                   os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    def say(what, **more):
        line = {"what": what, "context": ctx.etl_context_id, "attempt": ctx.attempt, "fence": ctx.fence,
                "at": time.clock_gettime(time.CLOCK_BOOTTIME), "pid": os.getpid(), **more}
        os.write(file, json.dumps(line).encode() + b"\\n")
    say("start", alone=alone)
    try:
        yield
    finally:
        say("stop")
        lock.close()
        os.close(file)
"""
"""`attempt_log.py` in a worker root: `with written_down():` around what a worker does."""


class Entry(NamedTuple):
    """A line that a client or a worker wrote. `event`: the event_uuid of a client's, None in a worker's."""

    what: str
    context: int
    event: UUID | None = None
    attempt: int = 0
    fence: int = 0
    at: float = 0.0
    alone: bool = True


class Journal:
    """What one client writes down."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self._file = os.open(folder / f"client.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, what: str, context: int, event: UUID) -> None:
        """`what` is invoke, ok or unknown."""
        line = {"what": what, "context": context, "event": str(event)}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


class Report(NamedTuple):
    """What was checked, so that a test can say that something was."""

    acknowledged: int
    unknown: int
    unknown_recorded: int
    attempts: int
    contexts: int


def prepare(site: Site) -> Path:
    """The folder of a site's history, with the module for its workers in place."""
    folder = site.folder / "history"
    folder.mkdir(exist_ok=True)
    (site.workers / "attempt_log.py").write_text(WORKER_MODULE)
    return folder


def read(folder: Path) -> list[Entry]:
    """Every line that anybody wrote. One that broke off was never finished, so it counts for nothing."""
    entries = []
    for path in sorted(folder.glob("*.*")):
        for line in path.read_text().splitlines():
            try:
                said: dict[str, Any] = json.loads(line)
            except ValueError:
                continue
            said.pop("pid", None)
            event = said.pop("event", None)
            entries.append(Entry(event=UUID(event) if event else None, **said))
    return entries


async def check(site: Site, ids: Iterable[int]) -> Report:
    """Compares what was written down with the log of these contexts, read past every fault. Raises AssertionError."""
    ids = sorted(set(ids))
    logs = {id_: await site.events(id_) for id_ in ids}
    entries = [entry for entry in read(site.folder / "history") if entry.context in logs]
    wrong = violations(entries, logs)
    report = await verify(site.store().database)
    wrong += [f"verify: {mismatch}" for mismatch in report.mismatches]
    assert not wrong, "\n".join(wrong[:20])
    return _counted(entries, logs)


def violations(entries: Sequence[Entry], logs: Mapping[int, Sequence[RecordedEvent]]) -> list[str]:
    """Everything in which the log cannot be one that the entries saw, or breaks a rule by itself."""
    return [
        *_lost_or_doubled(entries, logs),
        *_overlapping(entries),
        *(wrong for id_, log in logs.items() for wrong in _misshapen(id_, log)),
        *(wrong for id_, log in logs.items() for wrong in _unheard_attempts(id_, log, entries)),
    ]


def _lost_or_doubled(entries: Sequence[Entry], logs: Mapping[int, Sequence[RecordedEvent]]) -> Iterable[str]:
    """I1, I2: an acknowledged event is there once, an unknown one at most once, in its context and in no other."""
    there = Counter(event.event_uuid for log in logs.values() for event in log)
    where = {event.event_uuid: id_ for id_, log in logs.items() for event in log}
    for event, times in there.items():
        if times > 1:
            yield f"I2: event {event} is there {times} times"
    for entry in entries:
        if entry.what == "ok" and not there[entry.event]:
            yield f"I1: event {entry.event} of context {entry.context} was acknowledged and is lost"
        if entry.event in where and where[entry.event] != entry.context:
            yield f"I1: event {entry.event} of context {entry.context} is in context {where[entry.event]}"


def _misshapen(id_: int, log: Sequence[RecordedEvent]) -> Iterable[str]:
    """I2, I3, I12: gapless versions, one :INITIAL first, one :FINAL last, counted attempts, rising fences."""
    types = [event.type for event in log]
    if [event.version for event in log] != list(range(1, len(log) + 1)):
        yield f"I2: the versions of context {id_} are {[event.version for event in log][:50]}"
    initials = [place for place, type_ in enumerate(types) if type_.endswith(":INITIAL")]
    if initials != [0]:
        yield f"I3: context {id_} has :INITIAL at {initials}"
    finals = [place for place, type_ in enumerate(types) if type_.endswith(":FINAL")]
    if finals not in ([], [len(types) - 1]):
        yield f"I3: context {id_} has :FINAL at {finals} of {len(types)}"
    attempts = [event.payload["attempt"] for event in log if event.type == "dama/task:STARTED"]
    if attempts != _counted_attempts(types):
        yield f"I12: the attempts of context {id_} are {attempts}"
    if types.count("dama/task:ERROR") > len(attempts):
        yield f"I12: context {id_} has more failures than attempts"
    fences = [event.payload["fence"] for event in log if event.type == "dama/task:CLAIMED"]
    if fences != list(range(1, len(fences) + 1)):
        yield f"I5: the fences of context {id_} are {fences}"


def _counted_attempts(types: Iterable[str]) -> list[int]:
    """The numbers of the attempts that began: each is one more; what goes on after a wait keeps its own."""
    attempts, goes_on = [0], False
    for type_ in types:
        if type_ == "dama/task:RESUMED":
            goes_on = True
        elif type_ == "dama/task:STARTED":
            attempts.append(attempts[-1] + (not goes_on))
            goes_on = False
    return attempts[1:]


def _overlapping(entries: Sequence[Entry]) -> Iterable[str]:
    """I4: an attempt was alone when it began, and no claim of a task began `main` twice."""
    starts = [entry for entry in entries if entry.what == "start"]
    for entry in starts:
        if not entry.alone:
            yield f"I4: attempt {entry.attempt} of context {entry.context} began while another lived"
    for (id_, attempt, fence), times in Counter((e.context, e.attempt, e.fence) for e in starts).items():
        if times > 1:
            yield f"I4: attempt {attempt} of context {id_} (fence {fence}) ran {times} times"
    stops = {(entry.context, entry.fence): entry.at for entry in entries if entry.what == "stop"}
    for earlier in starts:
        for later in starts:
            if later.context == earlier.context and later.fence > earlier.fence:
                over = stops.get((earlier.context, earlier.fence), earlier.at)
                if later.at < over:
                    yield f"I4: attempts {earlier.attempt} and {later.attempt} of context {later.context} overlap"


def _unheard_attempts(id_: int, log: Sequence[RecordedEvent], entries: Sequence[Entry]) -> Iterable[str]:
    """I8: no attempt ran `main` that the log does not know."""
    known = {event.payload["attempt"] for event in log if event.type == "dama/task:STARTED"}
    for entry in entries:
        if entry.what == "start" and entry.context == id_ and entry.attempt not in known:
            yield f"I8: attempt {entry.attempt} of context {id_} ran, and the log does not know it"


def _counted(entries: Sequence[Entry], logs: Mapping[int, Sequence[RecordedEvent]]) -> Report:
    there = {event.event_uuid for log in logs.values() for event in log}
    acknowledged = {entry.event for entry in entries if entry.what == "ok"}
    unknown = {entry.event for entry in entries if entry.what == "unknown"} - acknowledged
    started = sum(entry.what == "start" for entry in entries)
    return Report(len(acknowledged), len(unknown), len(unknown & there), started, len(logs))
