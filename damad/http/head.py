"""The newest part of the feed, read and encoded once for all who read it live, however many they are.

Who has seen all that was there waits here. Each look at the log is made once, and leads from one place of the feed to
the next: a *link*. The newest links are kept, for those who are a little behind; who is further behind, because it
takes its events slowly or has just come, reads by itself, up to where a look has led, and joins the others there. So a
reader that is slow costs its own reading and nobody else's, and what is kept is bounded.

A place is a snapshot, and links are found by the place at which they begin: nothing is skipped between two links, and
nothing is in both.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec

from damad import events
from damad.eventstore import listener
from damad.eventstore.feed import PAGE, Cursor, Feed, Page, Sight
from damad.eventstore.listener import Subscription
from damad.eventstore.pools import Database
from damad.http import cursors, sse

KEPT: Final = 4 * 1024 * 1024
"""Bytes of the links that are kept, less the newest, which always is."""
FIRST: Final = 50
"""Events that who is behind gets at first, then twice as many each time: some come for a few and are gone again."""
_A_LINK: Final = 1024
"""Bytes that a link counts beside its messages."""


class Link:
    """What one look showed: the places where it began and ended, the events between, and each as its message."""

    def __init__(self, start: Cursor, page: Page) -> None:
        self.start, self.end = start, page.cursor
        self.events = page.events
        self.messages = [sse.message(event, cursors.feed(page.after(event))) for event in page.events]
        self.size = _A_LINK + sum(map(len, self.messages))
        self._tasks: dict[tuple[str | None, int | None], set[int]] = {}
        self._asking = asyncio.Lock()

    async def tasks(self, feed: Feed, queue: str | None, parent: int | None) -> set[int]:
        """Which of its contexts are tasks, of a queue and of a parent: asked once for all who want the same."""
        async with self._asking:
            if (queue, parent) not in self._tasks:
                look = partial(feed.tasks_among, self.events, queue=queue, parent=parent)
                self._tasks[queue, parent] = await events.persist(look)
        return self._tasks[queue, parent]


class Head:
    """The head of one pg_env's feed. It looks at the log while somebody has joined it, and not otherwise."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.feed = Feed(database)
        self._joined = 0
        self._looking: asyncio.Task[None] | None = None

    def _begin(self) -> None:
        self._links: dict[Cursor, Link] = {}  # from the oldest to the newest
        self._size = 0
        self._place: Cursor | None = None
        self._failure: Exception | None = None
        self._bell: Subscription | None = None
        self._begun = self._known = 0  # sights that were asked for, and that were told
        self._looked, self._moved = asyncio.Event(), asyncio.Event()
        self._looking = asyncio.create_task(self._look(), name="damad head of the feed")

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """For who reads the feed live: inside, the log is looked at."""
        if self._looking is None or self._looking.done():
            self._begin()
        self._joined += 1
        try:
            yield
        finally:
            self._joined -= 1
            if not self._joined and (over := self._looking) is not None:
                self._looking = None
                over.cancel()
                await asyncio.wait([over])

    async def after(self, place: Cursor | None) -> AsyncGenerator[Link, None]:
        """What is after a place, or from the beginning of the log on, as it comes. Ends never by itself.

        An outage of Postgres is waited out. Raises CursorGone where the log is put back meanwhile.
        """
        await self._see()
        limit = FIRST
        while True:
            if place is not None and (place.shown, place.showing) == (self._sight, None):
                await self._wait(self._moved)
                continue
            link = self._links.get(place) if place is not None else None
            if link is None:
                link, limit = await self._read(place, limit), min(2 * limit, PAGE)
            if link.events:
                yield link
            place = link.end

    @property
    def _sight(self) -> Sight | None:
        """The newest that was seen of the log, shown or being shown."""
        return None if self._place is None else self._place.showing or self._place.shown

    async def _read(self, place: Cursor | None, limit: int) -> Link:
        """What is after a place that is behind, as far as the others are, or so many events of it."""
        assert self._place is not None
        if place is None:
            place = msgspec.structs.replace(self._place, shown=None, showing=self._sight, after=0)
        elif place.showing is None:
            place = msgspec.structs.replace(place, showing=self._sight)
        return Link(place, await events.persist(partial(self.feed.page, place, limit=limit)))

    async def _see(self) -> None:
        """Returns once the log was seen as it is now, or later: then no place that anybody has is ahead of it."""
        wanted = self._begun + 1
        if self._bell is not None:
            self._bell.ring()
        while self._known < wanted:
            await self._wait(self._looked)

    async def _wait(self, happened: asyncio.Event) -> None:
        """Returns once a look was made, or one that went on from the place where the last one was."""
        if self._failure is None:
            await happened.wait()
        if self._failure is not None:
            raise self._failure

    async def _look(self) -> None:
        try:
            with self._database.listener().subscribe(listener.EVENT) as self._bell:
                while True:
                    if not await self._look_once():
                        await self._bell.wait()
        except Exception as error:  # noqa: BLE001  each who waits here says it
            self._failure = error
            self._looked.set()
            self._moved.set()

    async def _look_once(self) -> bool:
        """True if there may be more right now."""
        place = self._place
        fresh = place is None or place.showing is None
        self._begun += fresh
        if place is None:
            full, self._place = False, await events.persist(self.feed.now)
        else:
            page = await events.persist(partial(self.feed.page, place))
            full, self._place = page.full, page.cursor
            if self._place != place:  # where nothing at all happened, nobody moves
                self._keep(Link(place, page))
        self._known = self._begun
        self._looked.set()
        self._looked = asyncio.Event()
        if self._place != place:
            self._moved.set()
            self._moved = asyncio.Event()
        return full

    def _keep(self, link: Link) -> None:
        self._links[link.start] = link
        self._size += link.size
        while self._size > KEPT and len(self._links) > 1:
            self._size -= self._links.pop(next(iter(self._links))).size
