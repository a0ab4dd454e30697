"""GET /events: the feed over all contexts, page by page or live."""

from typing import Final

import msgspec
from aiohttp import hdrs, web

from damad import events
from damad.eventstore.feed import Cursor
from damad.http import cursors, sse, wire
from damad.model.event import RecordedEvent


class FeedQuery(msgspec.Struct, frozen=True, kw_only=True):
    """From where, and how many."""

    limit: wire.Limit = 100
    cursor: str | None = None


class Reader:
    """Who reads the feed of a pg_env live. `last`: the newest event that was sent there."""

    def __init__(self, pg_env: str, place: Cursor | None) -> None:
        self.pg_env = pg_env
        self.last = 0 if place is None else max(place.after, place.shown.last if place.shown else 0)


READERS: Final = web.AppKey[set[Reader]]("readers")


async def read_feed(request: web.Request) -> web.StreamResponse:
    """GET: the events of all contexts from the beginning of the log, or after a cursor.

    An empty page has no `next`: there is nothing yet after the cursor that was asked for, which stays good.
    """
    asked = wire.query(request, FeedQuery)
    wants_stream = sse.is_wanted(request)
    # A reader that reconnects sends the address it began with, so what it saw last counts.
    cursor = (request.headers.get(hdrs.LAST_EVENT_ID) if wants_stream else None) or asked.cursor
    place = cursors.read_feed(cursor) if cursor is not None else None
    return await (_stream(request, place) if wants_stream else _page(place, asked.limit))


async def _page(place: Cursor | None, limit: int) -> web.Response:
    page = await events.feed_page(place, limit=limit)
    return wire.answer({"items": page.events, "next": cursors.feed(page.cursor) if page.events else None})


async def _stream(request: web.Request, place: Cursor | None) -> web.StreamResponse:
    # What is wrong with the cursor is said before the stream begins: afterwards it could only break off.
    await events.feed_page(place, limit=1)
    reader = Reader(request.match_info["pg_env"], place)

    def message(shown: tuple[RecordedEvent, Cursor]) -> sse.Message:
        event, behind = shown
        reader.last = max(reader.last, event.event_id)
        return event, cursors.feed(behind)

    request.app[READERS].add(reader)
    try:
        return await sse.stream(request, events.everything_after(place, live=True), message=message)
    finally:
        request.app[READERS].discard(reader)
