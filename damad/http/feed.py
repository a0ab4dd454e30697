"""GET /events: the feed over all contexts, page by page or live; and live what of it is of a list of tasks."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

import msgspec
from aiohttp import hdrs, web

from damad import events
from damad.eventstore.feed import Cursor, Feed, Page
from damad.http import cursors, longpoll, sse, wire
from damad.http.head import Head, Link
from damad.model.event import kind
from damad.model.lifecycle import ENTERED_BY


class FeedQuery(msgspec.Struct, frozen=True, kw_only=True):
    """From where, how many, and how long to wait for the first."""

    limit: wire.Limit = 100
    cursor: str | None = None
    wait: str | None = None


class Reader:
    """Who reads the feed of a pg_env live. `last`: the newest event that was sent there."""

    def __init__(self, pg_env: str, place: Cursor | None) -> None:
        self.pg_env = pg_env
        self.last = 0 if place is None else max(place.after, place.shown.last if place.shown else 0)


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks whose events are shown: of a queue, of a parent; with states, those by which they came into one of them."""

    states: Sequence[str] = ()
    queue: str | None = None
    parent: int | None = None

    async def messages(self, link: Link, feed: Feed) -> bytes:
        """The messages of a link that are of these tasks."""
        ids = await link.tasks(feed, self.queue, self.parent)
        kinds: frozenset[str] = frozenset().union(*(ENTERED_BY[state] for state in self.states))
        return b"".join(
            message
            for event, message in zip(link.events, link.messages, strict=True)
            if event.etl_context_id in ids and (not self.states or kind(event.type) in kinds)
        )


READERS: Final = web.AppKey[set[Reader]]("readers")
HEADS: Final = web.AppKey[dict[str, Head]]("heads")


async def read_feed(request: web.Request) -> web.StreamResponse:
    """GET: the events of all contexts from the beginning of the log, or after a cursor.

    An empty page has no `next`: there is nothing yet after the cursor that was asked for, which stays good.
    """
    asked = wire.query(request, FeedQuery)
    if sse.is_wanted(request):
        longpoll.refuse(asked.wait)
        return await stream(request, asked.cursor)
    place = cursors.read_feed(asked.cursor) if asked.cursor is not None else None
    look = partial(events.feed_page, place, limit=asked.limit)
    page = await longpoll.found(request, asked.wait, look, enough=_has_events)
    return wire.answer({"items": page.events, "next": cursors.feed(page.cursor) if page.events else None})


def _has_events(page: Page) -> bool:
    return bool(page.events)


async def stream(request: web.Request, cursor: str | None, tasks: TaskList | None = None) -> web.StreamResponse:
    """The feed live, all of it or what is of some tasks, after a cursor or from the beginning of the log."""
    # A reader that reconnects sends the address it began with, so what it saw last counts.
    cursor = request.headers.get(hdrs.LAST_EVENT_ID) or cursor
    place = cursors.read_feed(cursor) if cursor is not None else None
    # What is wrong with the cursor is said before the stream begins: afterwards it could only break off.
    await events.feed_page(place, limit=1)
    reader = Reader(request.match_info["pg_env"], place)
    request.app[READERS].add(reader)
    try:
        return await sse.stream(request, _shown(request.app[HEADS][reader.pg_env], reader, place, tasks))
    finally:
        request.app[READERS].discard(reader)


async def _shown(
    head: Head, reader: Reader, place: Cursor | None, tasks: TaskList | None
) -> AsyncGenerator[bytes, None]:
    async with head.joined(), aclosing(head.after(place)) as links:
        async for link in links:
            messages = b"".join(link.messages) if tasks is None else await tasks.messages(link, head.feed)
            if messages:
                yield messages
            reader.last = max(reader.last, link.events[-1].event_id)
