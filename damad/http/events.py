"""/contexts/{id}/events: append one or an array, read a page, or follow live."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Annotated

import msgspec
from aiohttp import hdrs, web

from damad import context, events, tasks
from damad.errors import InvalidInput, VersionConflict
from damad.eventstore.store import State
from damad.http import conditions, cursors, longpoll, sse, wire
from damad.http.problems import PreconditionFailed
from damad.model.event import Event
from damad.model.shape import fit


class EventFields(Event, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event that is to be appended."""

    expected_version: wire.Version | None = None


class EventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, and from where."""

    after_version: wire.Version | None = None
    tree: bool = False
    type: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=255)], ...] = ()
    limit: wire.Limit = 100
    cursor: str | None = None
    wait: str | None = None


async def append_events(request: web.Request) -> web.Response:
    """POST: appends one event or an array of them, all or none."""
    wire.query(request, wire.NoQuery)
    id_ = wire.context_id(request)
    asked, many = wire.one_or_many(await wire.read_json(request))
    fields = [fit(item, EventFields, pointer=pointer) for pointer, item in asked]
    if (key := conditions.idempotency_key(request)) is not None:
        fields = conditions.named(fields, id_, key)
    expected, if_match = [field.expected_version for field in fields], None
    if hdrs.IF_MATCH in request.headers and (if_match := await conditions.matching_version(request, id_)) is not None:
        expected[0] = _agreed(if_match, expected[0])
    try:
        done = await events.append(
            id_, fields, expected_versions=expected, pointer="/0" if many and len(fields) == 1 else ""
        )
    except VersionConflict as conflict:
        raise conflict if if_match is None else PreconditionFailed(str(conflict), **conflict.values) from None
    recorded = [appended.event for appended in done]
    body = recorded if many else recorded[0]
    if all(appended.replayed for appended in done):
        return wire.answer(body)
    return wire.answer(body, status=201, headers={hdrs.ETAG: conditions.etag(recorded[-1].version)})


def _agreed(if_match: int, expected: int | None) -> int:
    if expected not in (None, if_match):
        raise InvalidInput("If-Match and expected_version name different versions", header=conditions.IF_MATCH)
    return if_match


async def read_events(request: web.Request) -> web.StreamResponse:
    """GET: a page, or a stream for whoever accepts text/event-stream; of the context or of its whole tree."""
    asked = wire.query(request, EventQuery)
    id_ = wire.context_id(request)
    wants_stream = sse.is_wanted(request)
    if asked.cursor is not None and asked.after_version is not None:
        raise InvalidInput("cursor and after_version exclude each other", parameter="after_version")
    if asked.tree and asked.after_version is not None:
        raise InvalidInput("versions are counted per context; go on in a tree by cursor", parameter="after_version")
    # A reader that reconnects sends the address it began with, so what it saw last counts.
    cursor = (request.headers.get(hdrs.LAST_EVENT_ID) if wants_stream else None) or asked.cursor
    if wants_stream:
        longpoll.refuse(asked.wait)
    state = await tasks.status(id_)
    if asked.tree:
        seen = cursors.read_tree(cursor, id_) if cursor is not None else {}
        return await (_stream_tree if wants_stream else _tree_page)(request, id_, seen, asked)
    after = cursors.read_context(cursor, id_) if cursor is not None else asked.after_version or 0
    if wants_stream:
        return await _stream(request, id_, after, asked)
    return await _page(request, state, after, asked)


async def _page(request: web.Request, state: State, after: int, asked: EventQuery) -> web.Response:
    if asked.wait is None and conditions.is_known(request, state.version):
        return conditions.not_modified(state.version)
    id_ = state.etl_context_id
    look = partial(
        context.current().store.read, id_, after_version=after, types=asked.type or None, limit=asked.limit + 1
    )
    found = await longpoll.found(request, asked.wait, look, of=id_)
    # Of before the page was read: one that shows more than that is asked for once more, and none too seldom.
    headers: dict[str, str] = {hdrs.ETAG: conditions.etag(state.version)}
    return wire.page(found, asked.limit, lambda shown: cursors.context(id_, shown[-1].version), headers=headers)


async def _tree_page(request: web.Request, id_: int, seen: Mapping[int, int], asked: EventQuery) -> web.Response:
    look = partial(context.current().store.read_line_since, id_, seen, types=asked.type or None, limit=asked.limit + 1)
    found = await longpoll.found(request, asked.wait, look)
    return wire.page(
        found,
        asked.limit,
        lambda shown: cursors.tree(id_, {**seen, **{event.etl_context_id: event.version for event in shown}}),
    )


async def _stream(request: web.Request, id_: int, after: int, asked: EventQuery) -> web.StreamResponse:
    async def messages() -> AsyncGenerator[bytes, None]:
        async with aclosing(events.follow(id_, after_version=after, types=asked.type or None)) as found:
            async for event in found:
                yield sse.message(event, cursors.context(id_, event.version))

    return await sse.stream(request, messages())


async def _stream_tree(request: web.Request, id_: int, seen: dict[int, int], asked: EventQuery) -> web.StreamResponse:
    async def messages() -> AsyncGenerator[bytes, None]:
        async with aclosing(events.follow_tree(id_, seen=seen, types=asked.type or None)) as found:
            async for event in found:
                seen[event.etl_context_id] = event.version
                yield sse.message(event, cursors.tree(id_, seen))

    return await sse.stream(request, messages())
