"""The spans of a run, out of its events: how long its task was queued, its claim took to start, and the attempt took.

Their ids are made of what the log says, so whoever makes them again, after a restart too, makes the same ones, and the
worker was told the attempt's before it began.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import msgspec

from damad.model import settings, trace
from damad.model.event import SETTINGS_KEY, RecordedEvent, is_final

STARTED: Final = "dama/task:STARTED"
_CLAIMED: Final = "dama/task:CLAIMED"
_ENDS: Final = ("dama/task:ERROR", "dama/task:WAITING", "dama/task:RELEASED", "dama/task:CANCELLED")
_READY: Final = ("dama/task:RETRY", "dama/task:RELEASED", "dama/task:RESUMED", "dama/task:REQUEUED")
TYPES: Final = tuple({STARTED, _CLAIMED, *_ENDS, *_READY})
"""The types of the events, beside the first and the one that ends it, that say what became of a run."""
_SAMPLED: Final = 1


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which something went on. Ids are hexadecimal · parent_id: None at the root of a trace · failed: why."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start: datetime
    end: datetime
    attributes: dict[str, str | int]
    failed: str | None = None


def ends_run(event: RecordedEvent) -> bool:
    """True for an event with which a run may end."""
    return event.type in _ENDS or is_final(event.type)


def traceparent_of(initial_event: RecordedEvent, fence: int) -> str:
    """What a worker is told where spans are exported: the span of its attempt. A task of no trace begins one."""
    trace_id, _, flags = _parent(initial_event)
    return f"00-{trace_id}-{_span_id('attempt', initial_event.etl_context_id, fence)}-{flags:02x}"


def of_run(initial: RecordedEvent, course: Sequence[RecordedEvent], end: RecordedEvent, host_id: str) -> list[Span]:
    """The spans of the run on a host that an event ended: none if it ended none there, or if its trace is not sampled.

    course: the events of TYPES of the same context, in order.
    """
    before = [event for event in course if event.version < end.version]
    started = next((event for event in reversed(before) if event.type == STARTED), None)
    claimed = next((event for event in reversed(before) if event.type == _CLAIMED), None)
    trace_id, parent_id, flags = _parent(initial)
    if started is None or claimed is None or not flags & _SAMPLED or _of(started, "host_id") != host_id:
        return []
    if any(event.type in _ENDS for event in before if event.version > started.version):
        return []  # it had ended before
    ready = [event for event in before if event.type in _READY and event.version < claimed.version]
    fence = _of(claimed, "fence")
    times = {
        "queue": (_ready_at(ready[-1] if ready else initial), claimed.created_timestamp),
        "claim": (claimed.created_timestamp, started.created_timestamp),
        "attempt": (started.created_timestamp, end.created_timestamp),
    }
    return [
        Span(
            name=f"damad {name}", trace_id=trace_id, span_id=_span_id(name, initial.etl_context_id, fence),
            parent_id=parent_id, start=min(start, stop), end=stop, attributes=_attributes(initial, started),
            failed=str(_of(end, "message")) if name == "attempt" and end.type == "dama/task:ERROR" else None,
        )
        for name, (start, stop) in times.items()
    ]  # fmt: skip


def _parent(initial: RecordedEvent) -> tuple[str, str | None, int]:
    """The trace of a task, the span it was queued in, and the flags."""
    traceparent = trace.of(initial.meta)
    if traceparent is None:
        return initial.event_uuid.hex, None, _SAMPLED
    return trace.trace_id(traceparent), traceparent[36:52], int(traceparent[53:], 16)


def _span_id(name: str, etl_context_id: int, fence: int) -> str:
    return sha256(f"damad {name} {etl_context_id} {fence}".encode()).hexdigest()[:16]


def _ready_at(event: RecordedEvent) -> datetime:
    """When the task might run after an event that says so."""
    run_at = _of(event, "run_at") if event.type in _READY else _settings(event).start_after
    if isinstance(run_at, str):
        return datetime.fromisoformat(run_at)
    return event.created_timestamp + timedelta(seconds=run_at or 0)


def _attributes(initial: RecordedEvent, started: RecordedEvent) -> dict[str, str | int]:
    given = _settings(initial)
    return {
        "damad.etl_context_id": initial.etl_context_id,
        "damad.attempt": _of(started, "attempt"),
        "damad.worker": given.worker,
        "damad.queue": given.queue,
    }


def _settings(initial: RecordedEvent) -> settings.TaskSettings:
    return settings.decode((initial.meta or {}).get(SETTINGS_KEY))


def _of(event: RecordedEvent, name: str) -> Any:
    return event.payload.get(name) if isinstance(event.payload, dict) else None
