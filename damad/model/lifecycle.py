"""The lifecycle: one table of what may follow what, and the fold that makes a state out of events.

The rule, stated once: `TRANSITIONS[state, kind]` is the state after an event of that kind; an absent key is the
refusal. The database enforces the same table (schema/080_transitions.sql) and computes the same projection
(schema/120_evolve_task.sql); tests walk both, and `damad verify` compares them over a whole log.
"""

import re
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from damad import units
from damad.errors import IllegalTransition
from damad.model.event import SETTINGS_KEY, kind
from damad.model.retry import CRASHES

TRANSITIONS: Final[dict[tuple[str, str], str]] = {
    # a context that is no task
    ("new", "INITIAL"): "open",
    ("open", "EVENT"): "open",
    ("open", "EVENT_ERROR"): "error",
    ("open", "FINAL"): "done",
    ("error", "EVENT"): "open",
    ("error", "EVENT_ERROR"): "error",
    ("error", "FINAL"): "done",
    # a task that waits for a slot or for its time
    ("new", "TASK_INITIAL"): "queued",
    ("queued", "CLAIMED"): "claimed",
    ("queued", "CANCEL_REQUESTED"): "cancelling",
    ("queued", "ERROR"): "erred",
    ("scheduled", "CLAIMED"): "claimed",
    ("scheduled", "CANCEL_REQUESTED"): "cancelling",
    ("scheduled", "RELEASED"): "queued",
    ("scheduled", "ERROR"): "erred",
    ("retrying", "CLAIMED"): "claimed",
    ("retrying", "CANCEL_REQUESTED"): "cancelling",
    ("waiting", "RESUMED"): "queued",
    ("waiting", "CANCEL_REQUESTED"): "cancelling",
    # a task that somebody holds
    ("claimed", "STARTED"): "running",
    ("claimed", "RELEASED"): "queued",
    ("claimed", "CANCEL_REQUESTED"): "cancelling",
    ("running", "PROGRESS"): "running",
    ("running", "STEP"): "running",
    ("running", "SUBTASK"): "running",
    ("running", "WAITING"): "waiting",
    ("running", "RELEASED"): "queued",
    ("running", "ERROR"): "erred",
    ("running", "CANCEL_REQUESTED"): "cancelling",
    ("cancelling", "PROGRESS"): "cancelling",
    ("cancelling", "STEP"): "cancelling",
    ("cancelling", "SUBTASK"): "cancelling",
    ("cancelling", "ERROR"): "cancelling",
    ("cancelling", "CANCELLED"): "cancelled",
    # the second half of the statement that began with ERROR
    ("erred", "RETRY"): "retrying",
    ("erred", "FAILED"): "failed",
    # a person tries again
    ("failed", "REQUEUED"): "queued",
    ("cancelled", "REQUEUED"): "queued",
    # the events of workers and of the world outside, in every open state of a task
    **{
        (state, kind_): "done" if kind_ == "FINAL" else state
        for state in ("queued", "scheduled", "retrying", "waiting", "claimed", "running", "cancelling")
        for kind_ in ("EVENT", "EVENT_ERROR", "FINAL")
    },
}

ENTERED_BY: Final = {
    state: frozenset(
        kind_.removeprefix("TASK_") for (before, kind_), after in TRANSITIONS.items() if before != after == state
    )
    for state in TRANSITIONS.values()
}
"""The kinds of events that bring a context into a state from another one."""
ENTERED_BY["scheduled"] = ENTERED_BY["queued"]  # which of the two it is says the clock

ENDED: Final = frozenset({"done", "failed", "cancelled"})
"""States in which nothing runs and nothing will, unless a person requeues."""

HELD_BY_NOBODY: Final = frozenset({"queued", "scheduled", "retrying", "waiting"})
"""States in which no process runs and no claim stands, and some claim will."""

_QUIET: Final = frozenset({"EVENT", "EVENT_ERROR", "STEP", "SUBTASK"})
"""Kinds that leave a task's row as it is."""

TASK_STATES: Final = (
    "queued", "scheduled", "claimed", "running", "waiting", "retrying", "cancelling", "done", "failed", "cancelled"
)  # fmt: skip
"""Every state of a task that a reader can see."""


KEEPS_ATTEMPT: Final = "keeps_attempt"
"""In the payload of a RELEASED: the run that it ends had begun, and the next one goes on with its number. (Where it is
not said, as in older logs, a run that had begun was an attempt of its own.)"""

_MOMENT = re.compile(r"\d{4}-")


class LoggedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event with the fence it was written under, as the fold reads it."""

    event_id: int
    version: int
    type: str
    payload: Any
    meta: Any
    fence: int | None
    created_timestamp: datetime


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """The row of a task in dama_tasks, field by field."""

    worker: str
    queue: str
    priority: int
    settings: dict[str, Any]
    idempotency_key: str | None
    state: str
    initial_event_id: int
    run_at: datetime
    home_host_id: UUID | None = None
    host_id: UUID | None = None
    fence: int = 0
    attempt: int = 0
    pid: int | None = None
    errors: int = 0
    crashes: int = 0
    resumed: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Any = None
    error: Any = None
    schedule: str | None = None
    waits_for: Any = None
    start_by: datetime | None = None
    singleton_key: str | None = None


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The projection of one context: its row in etl_contexts and, for a task, its row in dama_tasks."""

    etl_status: str | None = None
    initial_event_id: int | None = None
    latest_event_id: int | None = None
    version: int = 0
    task: Task | None = None

    @property
    def state(self) -> str:
        """One of the states in TRANSITIONS, and `new` before the first event."""
        if self.version == 0:
            return "new"
        if self.task is not None:
            return self.task.state
        return str(self.etl_status).lower()


def fold(events: list[LoggedEvent]) -> Context:
    """The projection of a context out of all its events, oldest first."""
    context = Context()
    for event in events:
        context = evolve(context, event)
    return context


def evolve(context: Context, event: LoggedEvent) -> Context:
    """The projection after one more event. Raises IllegalTransition where it may not follow."""
    kind_ = _kind(event)
    after = TRANSITIONS.get((context.state, kind_))
    if after is None or not _may_carry(event.fence, context) or not _raises_the_fence(event, kind_, context):
        raise IllegalTransition(
            f"{event.type} may not follow in a context that is {context.state}", type=event.type, state=context.state
        )
    task = context.task
    if kind_ == "TASK_INITIAL":
        task = _settle(_new_task(event), event)
    elif task is not None and kind_ not in _QUIET:
        task = _settle(_evolve_task(task, event, kind_, after), event)
    return Context(
        etl_status=etl_status_after(event.type),
        initial_event_id=context.initial_event_id or event.event_id,
        latest_event_id=event.event_id,
        version=event.version,
        task=task,
    )


def _may_carry(fence: int | None, context: Context) -> bool:
    """A fence is good while the claim that it stands for holds the task."""
    if fence is None:
        return True
    return context.task is not None and fence == context.task.fence and context.state not in HELD_BY_NOBODY


def _raises_the_fence(event: LoggedEvent, kind_: str, context: Context) -> bool:
    """A claim that does not would make the fences of older ones good again."""
    return kind_ != "CLAIMED" or context.task is None or int(event.payload["fence"]) > context.task.fence


def _kind(event: LoggedEvent) -> str:
    kind_ = kind(event.type)
    is_task = isinstance(event.meta, dict) and event.meta.get(SETTINGS_KEY) is not None
    return "TASK_INITIAL" if kind_ == "INITIAL" and is_task else kind_


def etl_status_after(type_: str) -> str:
    """The original's status after an event of this type: OPEN, DONE or ERROR."""
    if type_.endswith(":FINAL"):
        return "DONE"
    if type_.endswith(":ERROR") or type_ in ("dama/task:FAILED", "dama/task:CANCELLED"):
        return "ERROR"
    return "OPEN"


def _new_task(event: LoggedEvent) -> Task:
    given = event.meta[SETTINGS_KEY]
    host_id, start_by = given.get("dama_host_id"), given.get("start_by")
    created = event.created_timestamp
    return Task(
        worker=given["worker_path"] if given.get("worker") is None else given["worker"],
        queue="default" if given.get("queue") is None else given["queue"],
        priority=int(given.get("priority") or 0),
        settings=given,
        idempotency_key=given.get("idempotency_key"),
        state="queued",
        initial_event_id=event.event_id,
        run_at=_first_start(given, created),
        home_host_id=None if host_id is None else UUID(host_id),
        start_by=None if start_by is None else _moment_or_after(start_by, created),
        singleton_key=given.get("singleton_key"),
        schedule=given["schedule"] if isinstance(given.get("schedule"), str) else None,
    )


def _first_start(given: dict[str, Any], created: datetime) -> datetime:
    start, debounce = _moment_or_after(given.get("start_after"), created), given.get("debounce")
    return start if debounce is None else max(start, _moment_or_after(debounce, created))


def _moment_or_after(given: Any, created: datetime) -> datetime:
    """The time that a setting names, or so long after the task was queued."""
    if isinstance(given, str) and _MOMENT.match(given):
        return _moment(given)
    seconds = 0.0 if given is None else units.duration(given)
    return created + timedelta(microseconds=round(seconds * 1e6))


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.upper())


def _evolve_task(task: Task, event: LoggedEvent, kind_: str, after: str) -> Task:
    payload, created = event.payload, event.created_timestamp
    said = payload if isinstance(payload, dict) else {}
    changed: dict[str, Any] = {"state": after}
    match kind_:
        case "CLAIMED":
            host_id = said.get("host_id")
            changed |= {"fence": int(said["fence"]), "host_id": None if host_id is None else UUID(host_id)}
        case "STARTED":
            pid = said.get("pid")
            changed |= {"attempt": int(said["attempt"]), "pid": None if pid is None else int(pid)}
            changed |= {"started_at": created, "resumed": False, "start_by": None}
        case "PROGRESS":
            changed |= {"progress": payload}
        case "ERROR":
            how = said.get("kind")
            counted = "crashes" if isinstance(how, str) and how in CRASHES else "errors"
            changed |= {"error": payload, counted: getattr(task, counted) + 1}
        case "RETRY":
            changed |= {"run_at": _moment(said["run_at"])}
        case "RELEASED":
            run_at, goes_on = said.get("run_at"), said.get(KEEPS_ATTEMPT) is True and task.state == "running"
            changed |= {"run_at": created if run_at is None else _moment(run_at), "resumed": task.resumed or goes_on}
        case "WAITING":
            until = said.get("until")
            changed |= {"waits_for": payload, "run_at": task.run_at if until is None else _moment(until)}
        case "RESUMED":
            changed |= {"run_at": created, "resumed": True}
        case "REQUEUED":
            changed |= {"run_at": created, "errors": 0, "crashes": 0, "error": None}
            changed |= {"finished_at": None, "resumed": False, "start_by": None}
        case "FINAL":
            changed |= {"error": None}
    return msgspec.structs.replace(task, **changed)


def _settle(task: Task, event: LoggedEvent) -> Task:
    """What follows from the state alone, whichever event led there."""
    changed: dict[str, Any] = {}
    if task.state == "queued" and task.run_at > event.created_timestamp:
        changed["state"] = "scheduled"
    if task.state not in ("running", "cancelling"):
        changed["pid"] = None
    if task.state != "waiting":
        changed["waits_for"] = None
    if task.state in ENDED:
        changed["finished_at"] = event.created_timestamp
    return msgspec.structs.replace(task, **changed)
