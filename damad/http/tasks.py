"""POST and GET /tasks; /cancel and /retry of one."""

from typing import Annotated, Any, Final

import msgspec
from aiohttp import web

from damad import context, queues, tasks
from damad.errors import InvalidInput
from damad.eventstore.ended import Ended
from damad.http import conditions, cursors, feed, sse, wire
from damad.model.lifecycle import TASK_STATES
from damad.model.shape import fit

_RETRYABLE: Final = "^(failed|cancelled)$"


class TaskFields(msgspec.Struct, frozen=True, kw_only=True):
    """A task that is asked for, less its settings, which stand beside these fields."""

    worker: str
    payload: Any = None
    initial_event: dict[str, Any] | None = None
    parent_context_id: wire.Id | None = None
    source_id: wire.Id | None = None
    meta: dict[str, Any] | None = None


class TaskQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks, and which page of them."""

    state: tuple[str, ...] = ()
    queue: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    parent: wire.Id | None = None
    limit: wire.Limit = 100
    cursor: str | None = None


class RetryFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks are to be queued again: those in one of these states, and of them those of a queue, and those whose
    last error has this text in its message. `dry_run`: only count them."""

    state: Annotated[tuple[Annotated[str, msgspec.Meta(pattern=_RETRYABLE)], ...], msgspec.Meta(min_length=1)]
    queue: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    error: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None
    dry_run: bool = False


async def queue_tasks(request: web.Request) -> web.Response:
    """POST /tasks: queues one or an array of them, all or none."""
    wire.query(request, wire.NoQuery)
    asked, many = wire.one_or_many(await wire.read_json(request))
    requests = _keyed([_task_request(item, pointer) for pointer, item in asked], conditions.idempotency_key(request))
    try:
        queued = await tasks.queue_many(requests, pointer="/0" if many and len(requests) == 1 else "")
    except InvalidInput as refusal:
        raise _placed(refusal, requests, many) from None
    status = 201 if any(task.created for task in queued) else 200
    if many:
        return wire.answer(queued, status=status)
    location = f"/v1/{request.match_info['pg_env']}/contexts/{queued[0].etl_context_id}"
    return wire.answer(queued[0], status=status, headers={"Location": location})


async def list_tasks(request: web.Request) -> web.StreamResponse:
    """GET /tasks: a page, newest first; or live, the events of these tasks.

    A stream begins with the log, or after a cursor of the feed. With `state` it gives the events with which a task came
    into one of these states.
    """
    asked = wire.query(request, TaskQuery)
    for state in asked.state:
        if state not in TASK_STATES:
            raise InvalidInput(f"state {state[:80]!r} is none of {', '.join(TASK_STATES)}", parameter="state")
    if sse.is_wanted(request):
        listed = feed.TaskList(states=asked.state, queue=asked.queue, parent=asked.parent)
        return await feed.stream(request, asked.cursor, listed)
    before = cursors.read_tasks(asked.cursor) if asked.cursor is not None else None
    found = await context.current().store.tasks(
        states=asked.state or None,
        queue=asked.queue,
        parent_context_id=asked.parent,
        before=before,
        limit=asked.limit + 1,
    )
    return wire.page(await queues.explained(found), asked.limit, lambda shown: cursors.tasks(shown[-1].etl_context_id))


async def cancel_task(request: web.Request) -> web.Response:
    """POST /contexts/{id}/cancel."""
    wire.query(request, wire.NoQuery)
    id_ = wire.context_id(request)
    await wire.read_nothing(request)
    return wire.answer(await tasks.cancel(id_), status=202)


async def retry_task(request: web.Request) -> web.Response:
    """POST /contexts/{id}/retry."""
    wire.query(request, wire.NoQuery)
    id_ = wire.context_id(request)
    await wire.read_nothing(request)
    return wire.answer(*await queues.explained([await tasks.retry(id_)]), status=202)


async def retry_tasks(request: web.Request) -> web.Response:
    """POST /tasks/retry: queues all failed or cancelled tasks that match again, or says how many they are.

    They are queued a thousand in a transaction; one that cannot be, and is named with the reason, keeps no other.
    """
    wire.query(request, wire.NoQuery)
    asked = await wire.read_json(request)
    if isinstance(asked, dict) and isinstance(asked.get("state"), list):
        tasks.check_retryable([state for state in asked["state"] if isinstance(state, str)])
    which = fit(asked, RetryFields)
    ended = Ended(states=which.state, queue=which.queue, error=which.error)
    if which.dry_run:
        return wire.answer(tasks.Redriven(await tasks.count(ended), 0, {}))
    return wire.answer(await tasks.retry_all(ended))


def _task_request(item: Any, pointer: str) -> tasks.TaskRequest:
    fields = fit(item, TaskFields, pointer=pointer)
    settings = {name: value for name, value in item.items() if name not in TaskFields.__struct_fields__}
    return tasks.TaskRequest(
        worker=fields.worker,
        payload=fields.payload,
        initial_event=fields.initial_event,
        parent_context_id=fields.parent_context_id,
        source_id=fields.source_id,
        meta=fields.meta,
        settings=settings,
    )


def _keyed(requests: list[tasks.TaskRequest], key: str | None) -> list[tasks.TaskRequest]:
    """The one request with the key of the header as its idempotency_key."""
    if key is None:
        return requests
    header = conditions.IDEMPOTENCY_KEY
    if len(requests) > 1:
        raise InvalidInput(f"{header} names one task; give each of several its own idempotency_key", header=header)
    settings = requests[0].settings
    if settings.get("idempotency_key", key) != key:
        raise InvalidInput(f"{header} and idempotency_key name different keys", header=header)
    return [msgspec.structs.replace(requests[0], settings={**settings, "idempotency_key": key})]


def _placed(refusal: InvalidInput, requests: list[tasks.TaskRequest], many: bool) -> InvalidInput:
    """A refusal by the database names the field; which task of an array is known if only one has that field."""
    name = (refusal.pointer or "").removeprefix("/")
    if not many or name not in ("parent_context_id", "source_id"):
        return refusal
    holders = [place for place, asked in enumerate(requests) if getattr(asked, name) is not None]
    refusal.pointer = f"/{holders[0]}/{name}" if len(holders) == 1 else None
    return refusal
