"""The feed over all contexts: every event once, in version order within its context, however writers overlap.

An event's id is drawn before its transaction commits, so `event_id > last` skips those that commit late; waiting for
the oldest open transaction stalls on any writer in the cluster. So two snapshots are compared, as PgQ does: what the
new one sees and the old one did not is what has been committed in between, wherever its ids lie. (Marko Kreen, "PgQ
Internals"; https://github.com/pgq/pgq)

Within one difference events come in the order of their ids, which grow with the versions of a context, for both are
given under its lock.

After a crash Postgres gives transaction ids out again that were used before it, if nothing of them had been written to
disk; ids of events that somebody saw it never gives again. So what has a higher id than every event that a snapshot saw
is new to it, whatever its transaction id says.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from damad.errors import CursorGone
from damad.eventstore.pools import Database
from damad.eventstore.store import event_of
from damad.model.event import RecordedEvent

PAGE: Final = 1000


class Sight(msgspec.Struct, frozen=True, array_like=True):
    """What was visible at one moment: a snapshot, and the id and event_uuid of the last event that it sees, if any."""

    snapshot: str
    last: int
    event_uuid: UUID | None


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """A place in the feed of one cluster. `shown`: what was shown, all of it; None at the beginning.
    `showing`: what is being shown, up to the event `after`."""

    system_id: int
    timeline: int
    shown: Sight | None
    showing: Sight | None
    after: int


class Page(msgspec.Struct, frozen=True):
    """Events, and the place behind them. `full`: there may be more right now · `showing`: what they are of."""

    events: list[RecordedEvent]
    cursor: Cursor
    full: bool
    showing: Cursor

    def after(self, event: RecordedEvent) -> Cursor:
        """The place behind one of the events: whoever reads no further goes on there."""
        return msgspec.structs.replace(self.showing, after=event.event_id)


class Feed:
    """The feed of one pg_env."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, cursor: Cursor | None = None, *, limit: int = PAGE) -> Page:
        """The events after a cursor, or from the beginning of the log. Raises CursorGone, Unavailable."""
        now = await self._now(None if cursor is None else cursor.showing or cursor.shown)
        if cursor is None:
            cursor = Cursor(now["system_id"], now["timeline"], None, None, 0)
        if (cursor.system_id, cursor.timeline) != (now["system_id"], now["timeline"]) or not now["knows"]:
            raise CursorGone(
                "the cursor is of another cluster, of a past that was restored over, or what it saw last was archived; "
                "begin again"
            )
        showing = cursor.showing or _sight(now)
        cursor = msgspec.structs.replace(cursor, showing=showing)
        if cursor.shown is None:
            rows = await self._database.fetch("feed_beginning", showing.snapshot, showing.last, cursor.after, limit)
        else:
            rows = await self._database.fetch(
                "feed_difference", cursor.shown.snapshot, cursor.shown.last,
                showing.snapshot, showing.last, cursor.after, limit,
            )  # fmt: skip
        events = [event_of(row) for row in rows]
        full = len(events) == limit
        if full:
            place = msgspec.structs.replace(cursor, after=events[-1].event_id)
        else:
            place = msgspec.structs.replace(cursor, shown=showing, showing=None, after=0)
        return Page(events, place, full, cursor)

    async def now(self) -> Cursor:
        """The place behind everything that is there. Raises Unavailable."""
        now = await self._now(None)
        return Cursor(now["system_id"], now["timeline"], _sight(now), None, 0)

    async def _now(self, seen: Sight | None) -> Mapping[str, Any]:
        """The cluster, what is visible, and whether it has what was seen last."""
        (row,) = await self._database.fetch("feed_now", seen.last if seen else 0, seen.event_uuid if seen else None)
        return dict(row)

    async def tasks_among(self, events: Sequence[RecordedEvent], *, queue: str | None, parent: int | None) -> set[int]:
        """The contexts of these events that are tasks, of a queue and of a parent if they are named."""
        ids = sorted({event.etl_context_id for event in events})
        return {row["etl_context_id"] for row in await self._database.fetch("tasks_among", ids, queue, parent)}


def _sight(now: Mapping[str, Any]) -> Sight:
    return Sight(now["snapshot"], now["last"], now["event_uuid"])
