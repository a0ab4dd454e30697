"""The feed over all contexts: every event once, in version order within its context, however writers overlap.

An event's id is drawn before its transaction commits, so `event_id > last` skips those that commit late; waiting for
the oldest open transaction stalls on any writer in the cluster. So two snapshots are compared, as PgQ does: what the
new one sees and the old one did not is what has been committed in between, wherever its ids lie. (Marko Kreen, "PgQ
Internals"; https://github.com/pgq/pgq)

Within one difference events come in the order of their ids, which grow with the versions of a context, for both are
given under its lock.
"""

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from damad.errors import CursorGone
from damad.eventstore import listener
from damad.eventstore.pools import Database
from damad.eventstore.store import event_of
from damad.model.event import RecordedEvent

PAGE: Final = 1000


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """A place in the feed of one cluster. `shown`: the snapshot whose events were all shown, None at the beginning.
    `showing`: the one being shown, up to the event `after`."""

    system_id: int
    timeline: int
    shown: str | None
    showing: str | None
    after: int


class Page(msgspec.Struct, frozen=True):
    """Events, and the place behind them. `full`: there may be more right now."""

    events: list[RecordedEvent]
    cursor: Cursor
    full: bool


class Feed:
    """The feed of one pg_env."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, cursor: Cursor | None = None, *, limit: int = PAGE) -> Page:
        """The events after a cursor, or from the beginning of the log. Raises CursorGone, Unavailable."""
        (now,) = await self._database.fetch("feed_now")
        if cursor is None:
            cursor = Cursor(now["system_id"], now["timeline"], None, None, 0)
        known = (cursor.system_id, cursor.timeline) == (now["system_id"], now["timeline"])
        if not known or _is_of_the_future(cursor, now["snapshot"]):
            raise CursorGone("the cursor is of another cluster, or of a past that was restored over; begin again")
        showing = cursor.showing or now["snapshot"]
        if cursor.shown is None:
            rows = await self._database.fetch("feed_beginning", showing, cursor.after, limit)
        else:
            rows = await self._database.fetch("feed_difference", cursor.shown, showing, cursor.after, limit)
        events = [event_of(row) for row in rows]
        full = len(events) == limit
        if full:
            place = msgspec.structs.replace(cursor, showing=showing, after=events[-1].event_id)
        else:
            place = msgspec.structs.replace(cursor, shown=showing, showing=None, after=0)
        return Page(events, place, full)

    async def follow(self, cursor: Cursor | None = None) -> AsyncIterator[tuple[RecordedEvent, Cursor]]:
        """Each event after a cursor, and then each new one, with the cursor of the page that it came in.

        A reader that resumes by such a cursor gets that page's events again: it knows by event_id which it has.
        """
        with self._database.listener().subscribe(listener.EVENT) as bell:
            while True:
                page = await self.page(cursor)
                for event in page.events:
                    yield event, page.cursor
                cursor = page.cursor
                if not page.full:
                    await bell.wait()


def _is_of_the_future(cursor: Cursor, snapshot: str) -> bool:
    """True if the cursor has seen transactions that were not begun yet: older files were put back since."""
    seen = cursor.showing or cursor.shown
    return seen is not None and _next_transaction(seen) > _next_transaction(snapshot)


def _next_transaction(snapshot: str) -> int:
    return int(snapshot.split(":")[1])
