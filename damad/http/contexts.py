"""/contexts: making one, its state, its tree, and waiting for its end."""

from typing import Final

import msgspec
from aiohttp import hdrs, web

from damad import context, events, queues, tasks
from damad.errors import NotFound
from damad.eventstore.store import State
from damad.http import conditions, longpoll, wire
from damad.http.shutdown import WAITS
from damad.model.event import RecordedEvent
from damad.model.lifecycle import ENDED
from damad.model.shape import fit

_END_STATES: Final = {"dama/task:FAILED": "failed", "dama/task:CANCELLED": "cancelled"}


class ContextFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A context that is asked for."""

    parent_context_id: wire.Id | None = None
    source_id: wire.Id | None = None


class FinalQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait: a duration."""

    timeout: str = "30s"


class StateQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for another version than If-None-Match names: a duration."""

    wait: str | None = None


async def create_context(request: web.Request) -> web.Response:
    """POST /contexts: a new context without events."""
    wire.query(request, wire.NoQuery)
    asked = fit(await wire.read_json(request), ContextFields)
    id_ = await events.create_context(parent_context_id=asked.parent_context_id, source_id=asked.source_id)
    location = f"/v1/{request.match_info['pg_env']}/contexts/{id_}"
    return wire.answer({"etl_context_id": id_}, status=201, headers={"Location": location})


async def read_state(request: web.Request) -> web.Response:
    """GET /contexts/{id}: its state, or 304 to who names its version in If-None-Match."""
    asked = wire.query(request, StateQuery)
    id_ = wire.context_id(request)

    def is_new(state: State) -> bool:
        return not conditions.is_known(request, state.version)

    state = await longpoll.found(request, asked.wait, lambda: tasks.status(id_), of=id_, enough=is_new)
    # When a queued task runs does not depend on its own events only.
    if state.state != "queued" and not is_new(state):
        return conditions.not_modified(state.version)
    (state,) = await queues.explained([state])
    return wire.answer(state, headers={hdrs.ETAG: conditions.etag(state.version)})


async def read_tree(request: web.Request) -> web.Response:
    """GET /contexts/{id}/tree: the states of ancestors, self and descendants."""
    wire.query(request, wire.NoQuery)
    id_ = wire.context_id(request)
    states = await context.current().store.tree(id_)
    if not states:
        raise NotFound(f"there is no context {id_}", etl_context_id=id_)
    return wire.answer(await queues.explained(states))


async def read_final(request: web.Request) -> web.Response:
    """GET /contexts/{id}/final: the event it ended with, or 202 and its state if it is still open after the timeout."""
    asked = wire.query(request, FinalQuery)
    patience = longpoll.patience(asked.timeout, "timeout")
    id_ = wire.context_id(request)
    event = await _end_within(request, id_, patience)
    if event is None:
        state = await tasks.status(id_)
        # It may have ended just after the time ran out: then this is no open state to be reported.
        event = await context.current().store.end_event(id_) if state.state in ENDED else None
        if event is None:
            return wire.answer({"state": state.state}, status=202)
    return wire.answer({"state": _END_STATES.get(event.type, "done"), "event": event})


async def _end_within(request: web.Request, id_: int, timeout: float) -> RecordedEvent | None:
    if timeout == 0:
        return await context.current().store.end_event(id_)
    try:
        async with request.app[WAITS].bounded(timeout):
            return await events.ended(id_)
    except TimeoutError:
        return None
