"""The read routes of the original, with its paths, its parameters and its shapes, for the web front that asks them.

They need the token like all others, unless the page that asks comes from an origin that `compat_open` names (auth.py).
"""

from typing import Any, Final

import msgspec
from aiohttp import web

from damad import context, events, tasks
from damad.http import wire
from damad.model.event import RecordedEvent

ROOT: Final = "/dama-admin/{pg_env}"
_COLUMNS: Final = ("event_id", "etl_context_id", "type", "payload", "meta", "error", "_created_timestamp")
"""What an event had in the original."""


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The tree of which context, after which event."""

    etl_context_id: wire.Id
    event_id: wire.Version = 0


class FinalEventQuery(msgspec.Struct, frozen=True, kw_only=True, rename={"etl_context_id": "etlContextId"}):
    """The end of which context."""

    etl_context_id: wire.Id


async def query_events(request: web.Request) -> web.Response:
    """GET …/events/query: the events of the whole tree after an event, each with meta.pgEnv."""
    asked = wire.query(request, EventsQuery)
    await tasks.status(asked.etl_context_id)
    store = context.current().store
    found = await store.read_tree(asked.etl_context_id, after_event_id=asked.event_id)
    return wire.answer([_as_it_was(event) for event in found])


async def make_context(request: web.Request) -> web.Response:
    """GET …/etl/new-context-id: makes a context and answers its id, a bare number."""
    wire.query(request, wire.NoQuery)
    return wire.answer(await events.create_context())


async def read_final_event(request: web.Request) -> web.Response:
    """GET …/getEtlProcessFinalEvent: the first event whose type ends in :FINAL or :ERROR, or null."""
    asked = wire.query(request, FinalEventQuery)
    await tasks.status(asked.etl_context_id)
    found = await context.current().store.first_end(asked.etl_context_id)
    return wire.answer(None if found is None else _as_it_was(found))


def _as_it_was(event: RecordedEvent) -> dict[str, Any]:
    plain = event.as_dict()
    meta = {**(event.meta or {}), "pgEnv": context.current().pg_env}
    return {name: plain[name] for name in _COLUMNS} | {"meta": meta}
