"""What can be done with tasks: queue them, cancel and retry them, ask after them; and, inside one, its durable calls.

Queueing a task *is* the append of its :INITIAL event, so it happens inside the caller's transaction if there is one.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn
from uuid import UUID, uuid5

import msgspec

from damad import background, context, events, queues, workerfile
from damad.errors import (
    Conflict,
    ContextBusy,
    EventUuidConflict,
    InvalidInput,
    NoRetry,
    RetryIn,
    Snooze,
    TaskCancelled,
    TaskFailed,
    VersionConflict,
)
from damad.eventstore import ended, intents, leases
from damad.eventstore.ended import Ended
from damad.eventstore.store import Append, NewTask, Queued, State, TaskState
from damad.eventstore.uuids import new_uuid
from damad.model import settings, shape, trace
from damad.model.event import SETTINGS_KEY, TASK_PREFIX, Event, RecordedEvent, check_meta, parse
from damad.model.lifecycle import ENDED
from damad.waits import (
    Subtask,
    as_completed,
    first,
    gather,
    gather_sync,
    sleep,
    sleep_sync,
    wait_for,
    wait_for_sync,
)

__all__ = [
    "NoRetry", "Subtask", "TaskCancelled", "TaskFailed", "as_completed", "cancel", "first", "gather", "gather_sync",
    "heartbeat", "heartbeat_sync", "progress", "queue", "queue_many", "retry", "retry_in", "signal", "sleep",
    "sleep_sync", "snooze", "status", "step", "subtask", "wait_for", "wait_for_sync",
]  # fmt: skip

_DURABLE_CALLS: Final = UUID("2a0f6a3e-6f0c-4c8e-9f57-4d2c3f6b7f10")
"""Namespace of the event_uuids of steps and subtasks."""


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A task that somebody asks for. `initial_event` may stand in place of `payload`; `meta` goes into its meta."""

    worker: str
    payload: Any = None
    initial_event: dict[str, Any] | None = None
    parent_context_id: int | None = None
    source_id: int | None = None
    meta: dict[str, Any] | None = None
    settings: dict[str, Any] = {}


async def queue(worker: str, payload: Any = None, **given: Any) -> int:
    """Queues a task and returns its etl_context_id. Inside `events.transaction()` it is queued if that commits.

    `given` are task settings, and `initial_event`, `parent_context_id`, `source_id`, `meta`.
    Raises InvalidInput and InvalidWorker, which say what does not fit, and Unavailable.
    """
    return (await queue_many([request(worker, payload, **given)]))[0].etl_context_id


async def queue_many(requests: Sequence[TaskRequest], *, pointer: str = "") -> list[Queued]:
    """Queues all of them in one statement, or none. `suppressed` says why an older one is the answer."""
    here, runnable = context.current().here, set[str]()
    where = [f"{pointer}/{place}" if len(requests) > 1 else pointer for place in range(len(requests))]
    new = [await _new_task(asked, here, place, runnable) for asked, place in zip(requests, where, strict=True)]
    return await context.current().store.queue(new, on=events.open_connection())


def request(worker: str, payload: Any = None, **given: Any) -> TaskRequest:
    """A TaskRequest out of keyword arguments: those that are no field of it are task settings."""
    own = {name: given.pop(name) for name in TaskRequest.__struct_fields__ if name in given and name != "settings"}
    return TaskRequest(worker=worker, payload=payload, settings=given, **own)


async def _new_task(asked: TaskRequest, here: context.Host, pointer: str, runnable: set[str]) -> NewTask:
    """`runnable`: the workers that this call has found already, to which it adds those that it finds now."""
    _find(asked.worker, here, f"{pointer}/worker", runnable)
    traceparent = context.current().traceparent
    if traceparent is not None and trace.KEY not in ((asked.initial_event or {}).get("meta") or {}):
        asked = msgspec.structs.replace(asked, meta=trace.kept(asked.meta, traceparent))
    new = new_task(asked, here, pointer=pointer)
    recorded = (new.initial.meta or {})[SETTINGS_KEY]
    if (on_failure := recorded.get("on_failure")) is not None:
        _find(on_failure, here, f"{pointer}/on_failure", runnable)
    await queues.check_limited(recorded, pointer=pointer)
    return new


def _find(worker: str, here: context.Host, pointer: str, runnable: set[str]) -> None:
    if not isinstance(worker, str) or worker not in runnable:
        workerfile.resolve(worker, here.worker_roots, pointer=pointer)
        runnable.add(worker)


def new_task(
    asked: TaskRequest, here: context.Host, *, pointer: str = "", marks: Mapping[str, Any] | None = None
) -> NewTask:
    """The task on its way into the log, whatever has become of its worker's file. `marks`: what damad itself says in
    its settings. Raises InvalidInput."""
    parsed = settings.parse({"worker": asked.worker, **asked.settings}, pointer=pointer)
    defaults = here.queue(parsed.get("queue", "default")).defaults
    recorded = {**defaults, **parsed, **(marks or {})}
    if from_queue := sorted(defaults.keys() - parsed.keys()):
        recorded["defaults"] = from_queue
    if here.host_id is not None:
        recorded["dama_host_id"] = here.host_id
    for name in ("debounce", "throttle"):
        if name in recorded and "singleton_key" not in recorded:
            raise InvalidInput(f"{name} goes by the singleton_key, and there is none", pointer=f"{pointer}/{name}")
    initial = _initial(asked, pointer)
    check_meta(asked.meta, pointer=f"{pointer}/meta")
    shape.check_json(asked.meta, "meta", pointer=f"{pointer}/meta")
    return NewTask(
        initial=Event(
            type=initial.type,
            payload=initial.payload,
            meta={**(initial.meta or {}), **(asked.meta or {}), SETTINGS_KEY: recorded},
            error=initial.error,
            event_uuid=initial.event_uuid or new_uuid(),
        ),
        parent_context_id=asked.parent_context_id,
        source_id=asked.source_id,
    )


def _initial(asked: TaskRequest, pointer: str) -> Event:
    if asked.initial_event is None:
        shape.check_json(asked.payload, "the payload", pointer=f"{pointer}/payload")
        return Event(type=":INITIAL", payload=asked.payload)
    if asked.payload is not None:
        raise InvalidInput("payload and initial_event exclude each other", pointer=f"{pointer}/payload")
    initial = parse(asked.initial_event, pointer=f"{pointer}/initial_event")
    if not initial.type.endswith(":INITIAL") or initial.type.startswith(TASK_PREFIX):
        raise InvalidInput("the first event's type ends in :INITIAL", pointer=f"{pointer}/initial_event/type")
    check_meta(initial.meta, pointer=f"{pointer}/initial_event/meta")
    return initial


async def status(etl_context_id: int | None = None) -> State:
    """The state of a context, the current one unless named: a TaskState if it is a task. Raises NotFound.

    Why one that is queued does not run, `queues.explained([state])` says.
    """
    return await context.current().store.state(context.current_id() if etl_context_id is None else etl_context_id)


async def cancel(etl_context_id: int, *, terminate: bool = False) -> State:
    """Asks a task to stop. One that holds no process is cancelled at once; another is `cancelling` until it is dead.

    terminate: its process is killed at once, without the grace to come to an end by itself.

    Raises Conflict for a task that ended or is being cancelled already, and for a context that is no task. Raises
    ContextBusy where somebody holds the context in an open transaction for too long: then the cancel is noted, the
    process is stopped first, and the events follow without being asked for again.
    """
    store = context.current().store
    payload = {"terminate": True} if terminate else None
    asked = events.traced(Event(type="dama/task:CANCEL_REQUESTED", payload=payload, event_uuid=new_uuid()))
    while True:
        state = await _task(etl_context_id)
        if state.state in ENDED or state.state == "cancelling":
            raise Conflict(f"task {etl_context_id} is {state.state}; there is nothing to cancel", state=state.state)
        appends = [Append(etl_context_id=etl_context_id, event=asked)]
        if state.state not in ("claimed", "running"):
            gone = Event(type="dama/task:CANCELLED", event_uuid=new_uuid())
            appends = [
                Append(etl_context_id=etl_context_id, event=asked, expected_version=state.version),
                Append(etl_context_id=etl_context_id, event=gone),
            ]
        try:
            await store.append(appends)
        except VersionConflict:
            continue
        except ContextBusy:
            await intents.note_cancel(store.database, etl_context_id)
            raise ContextBusy(
                f"somebody holds task {etl_context_id}, which is {state.state}, in an open transaction. The cancel is "
                "noted: what runs of it is stopped, and the log says so as soon as that transaction ends",
                etl_context_id=etl_context_id,
                state=state.state,
            ) from None
        return await store.state(etl_context_id)


async def retry(etl_context_id: int) -> State:
    """Queues a failed or cancelled task again: the same context, its checkpoints and steps kept.

    Inside `events.transaction()` it is queued if that commits.
    Raises Conflict for a task in any other state, and for a context that is no task.
    """
    state = await _task(etl_context_id)
    if state.state not in ("failed", "cancelled"):
        raise Conflict(
            f"task {etl_context_id} is {state.state}; only a failed or cancelled task is retried", state=state.state
        )
    requeued = events.traced(Event(type="dama/task:REQUEUED", event_uuid=new_uuid()))
    store, on = context.current().store, events.open_connection()
    await intents.forget_cancels(store.database)
    append = Append(etl_context_id=etl_context_id, event=requeued, expected_version=state.version)
    await store.append([append], on=on)
    return await store.state(etl_context_id, on=on)


class Redriven(msgspec.Struct, frozen=True):
    """What became of tasks that were to run again: how many matched and were queued, and why the others were not."""

    matched: int
    requeued: int
    refused: dict[int, str]


async def count(which: Ended) -> int:
    """How many tasks match."""
    return sum([len(some) async for some in ended.ids(context.current().store.database, which)])


def check_retryable(states: Sequence[str]) -> None:
    """Raises InvalidInput for a state in which no task is retried."""
    for state in states:
        if state not in ("failed", "cancelled"):
            raise InvalidInput(
                f"{state[:80]!r} is neither failed nor cancelled; no other task is retried", pointer="/state"
            )


async def retry_all(which: Ended) -> Redriven:
    """`retry` for every task that matches, a thousand in a transaction. One that cannot be retried keeps no other.

    Raises InvalidInput for a state in which no task is retried, and Unavailable: what was queued by then is.
    """
    check_retryable(which.states)
    database = context.current().store.database
    await intents.forget_cancels(database)
    matched, refused = 0, dict[int, str]()
    async for some in ended.ids(database, which):
        matched += len(some)
        answers = await ended.requeue(database, some)
        refused |= {id_: str(refusal) for id_, refusal in answers.items() if refusal is not None}
    return Redriven(matched, matched - len(refused), refused)


async def _task(etl_context_id: int) -> State:
    state = await status(etl_context_id)
    if not isinstance(state, TaskState):
        raise Conflict(f"context {etl_context_id} is no task", state=state.state)
    return state


async def progress(fraction: float, note: str | None = None) -> None:
    """Says how far this task is: a fraction from 0 to 1, and a word on what it is at. Raises InvalidInput."""
    if not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise InvalidInput(f"{fraction!r} is no fraction from 0 to 1", pointer="/fraction")
    payload = {"fraction": fraction, "note": note}
    shape.check_json(payload, "the progress")
    await events.record([Event(type="dama/task:PROGRESS", payload=payload)])


async def heartbeat() -> None:
    """Says that this attempt goes on, for a task whose `heartbeat` is how long it may be silent. Appends no event.

    Whatever the attempt appends says so too. Outside of an attempt it does nothing.
    """
    ctx = context.current()
    if ctx.fence is not None:
        id_, fence, database = context.current_id(), ctx.fence, ctx.store.database
        await events.persist(lambda: leases.beat(database, id_, fence))


def heartbeat_sync() -> None:
    """`heartbeat`, for sync code."""
    background.run(heartbeat())


async def step(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `function(*arguments)`, sync or async; a later attempt gets the recorded result back.

    Inside `events.transaction()` it is recorded if that commits.
    What it returns must be JSON. Raises what the function raises, and InvalidInput for a result that is no JSON.
    """
    if (recorded := await _named("dama/task:STEP", name)) is not None:
        return recorded.payload["result"]
    result = function(*arguments)
    if inspect.isawaitable(result):
        result = await result
    shape.check_json(result, f"the result of step {name!r}")
    payload = {"name": name, "result": result}
    said = Event(type="dama/task:STEP", payload=payload, event_uuid=_uuid("dama/task:STEP", name))
    if events.leave_to_transaction(said):
        return result
    try:
        await events.record([said])
    except EventUuidConflict:  # another call of this name was faster, and its result stands
        return await step(name, function, *arguments)
    return result


async def subtask(name: str, *, worker: str, payload: Any = None, **given: Any) -> Subtask:
    """Queues a child task of the current one; once per name, however often the parent is retried.

    It goes to its parent's queue unless one is named. Inside `events.transaction()` it is queued if that commits.
    Raises as `queue` does.
    """
    ctx = context.current()
    if (recorded := await _named("dama/task:SUBTASK", name)) is not None:
        return Subtask(name, recorded.payload["etl_context_id"])
    given = {"queue": ctx.queue or "default", **given, "parent_context_id": context.current_id()}
    new = await _new_task(request(worker, payload, **given), ctx.here, "", set())

    async def queue_child(connection: Any) -> tuple[int, Event]:
        child = (await ctx.store.queue([new], on=connection))[0].etl_context_id
        payload = {"name": name, "etl_context_id": child}
        uuid = _uuid("dama/task:SUBTASK", name)
        return child, Event(type="dama/task:SUBTASK", payload=payload, event_uuid=uuid)

    async def queue_and_say() -> int:
        async with ctx.store.transaction() as connection:
            child, said = await queue_child(connection)
            append = Append(etl_context_id=context.current_id(), event=said, fence=ctx.fence)
            await ctx.store.append([append], on=connection)
        return child

    if (mine := events.open_connection()) is not None:
        child, said = await queue_child(mine)
        events.leave_to_transaction(said)
        return Subtask(name, child)
    try:
        return Subtask(name, await events.persist(queue_and_say))
    except EventUuidConflict:  # another call of this name was faster, and its child is the one
        return await subtask(name, worker=worker, payload=payload, **given)


async def signal(etl_context_id: int, event: dict[str, Any]) -> dict[str, Any]:
    """Appends an event to another context, where `wait_for` may wait for it. Returns it as recorded.

    Inside `events.transaction()` it is appended with that. In a run it waits for a Postgres that is away.
    Raises InvalidInput, NotFound, and IllegalTransition where that context has ended.
    """
    appends = [Append(etl_context_id=etl_context_id, event=events.from_worker(event))]
    store, on = context.current().store, events.open_connection()
    if on is not None or context.current().fence is None:
        return (await store.append(appends, on=on))[0].event.as_dict()
    return (await events.persist(lambda: store.append(appends)))[0].event.as_dict()


def _uuid(type_: str, name: str) -> UUID:
    """The event_uuid of a durable call: the same for each call of this name, so that the log takes one."""
    return uuid5(_DURABLE_CALLS, f"{context.current_id()} {type_} {name}")


async def _named(type_: str, name: str) -> RecordedEvent | Event | None:
    """The event that a durable call of this name recorded, or will have if this transaction commits."""
    if not isinstance(name, str):
        raise InvalidInput(f"{name!r} is no name", pointer="/name")
    shape.check_json(name, "the name", pointer="/name")
    for event in events.left_to_transaction():
        if event.event_uuid == _uuid(type_, name):
            return event
    store = context.current().store
    return await events.persist(lambda: store.named_event(context.current_id(), type_, name))


def retry_in(seconds: float) -> NoReturn:
    """Ends this attempt as failed; the next one, if one is left, begins after so many seconds."""
    raise RetryIn(seconds)


def snooze(seconds: float) -> NoReturn:
    """Ends this run, which did not fail: the task is handed back, and runs again after so many seconds.

    It costs no retry, however often. `main` runs again from its start.
    """
    raise Snooze(seconds)
