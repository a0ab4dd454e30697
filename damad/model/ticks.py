"""What becomes of the ticks of a schedule: pure, from the schedule, the clock, and whether a run of it goes on.

A tick that nobody could handle in time is *missed*: it came while no daemon was there, or Postgres was away, or it is
older than ten seconds for another reason. `missed` says what becomes of such ticks, all at once when somebody is there:

    skip    nothing · one: the last of them counts · all: each of them counts
    (of those within `missed_within` before now, where the schedule says so)

A tick that counts *overlaps* while a task that the schedule made has not ended, whatever it waits for:

    skip             it makes no task
    buffer_one       it waits until no task is there; while one waits already, it makes none
    buffer_all       it waits, behind those that wait already; a thousand at most
    cancel_other     the tasks that are there are cancelled, and it waits until they have ended; of several the last
    terminate_other  the same, and their processes are killed at once
    allow_all        it makes its task at once

Ticks that wait make one task each, one after another, the oldest first.
"""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

import msgspec

from damad.model import calendar
from damad.model.calendar import Calendar

STOPPING: Final = ("cancel_other", "terminate_other")
"""The policies for which a tick that waits has others stopped."""
OVERLAPS: Final = ("skip", "buffer_one", "buffer_all", *STOPPING, "allow_all")
MISSED: Final = ("skip", "one", "all")

MOST: Final = 1000
"""Ticks that are handled at a time, and ticks that wait, at most."""
_PUNCTUAL: Final = timedelta(seconds=1)
"""A tick so shortly before we began to look is not missed: another daemon may be at it."""
_LATE: Final = timedelta(seconds=10)
_MOMENT: Final = timedelta(microseconds=1)


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it stands. Durations are in seconds. `next_tick`: ticks before it are over; None if none comes."""

    name: str
    schedule_id: UUID
    cron: str
    zone: str
    worker: str
    payload: Any
    overlap: str
    missed: str
    missed_within: float | None
    jitter: float
    paused: bool
    settings: dict[str, Any]
    source_id: int | None
    meta: dict[str, Any] | None
    last_tick: datetime | None
    next_tick: datetime | None
    buffered: list[datetime]

    @property
    def calendar(self) -> Calendar:
        """When it ticks. Raises InvalidInput where plain SQL wrote a cron or a zone that is none."""
        return calendar.parse(self.cron, self.zone)

    def delay(self, tick: datetime) -> float:
        """The seconds that the task of a tick waits: somewhere within `jitter`, always the same for the same tick."""
        return uuid5(self.schedule_id, f"jitter {tick.timestamp()}").int / 2**128 * self.jitter

    def event_uuid(self, tick: datetime) -> UUID:
        """The event_uuid of the :INITIAL that a tick makes: the log takes it once."""
        return uuid5(self.schedule_id, f"tick {tick.timestamp()}")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done: ticks that make a task now, ticks that wait, and what the schedule remembers.

    suppressed: ticks that make no task, for they overlap · missed: the first and the last tick that were missed ·
    more: there are more ticks than are handled at a time.
    """

    start: list[datetime]
    buffered: list[datetime]
    suppressed: list[datetime]
    missed: tuple[datetime, datetime] | None
    last_tick: datetime | None
    next_tick: datetime | None
    more: bool


class _Due(msgspec.Struct, frozen=True, kw_only=True):
    """The ticks that count, the missed ones, and up to when all ticks are handled by that."""

    ticks: list[datetime]
    missed: tuple[datetime, datetime] | None
    last: datetime | None
    until: datetime
    more: bool


def plan(schedule: Schedule, *, now: datetime, since: datetime, busy: bool) -> Plan:
    """What becomes of the ticks up to now. `since`: when we began to look, after a start or an outage · `busy`: a task
    of this schedule has not ended."""
    if schedule.next_tick is None:
        due = _Due(ticks=[], missed=None, last=None, until=now, more=False)
    else:
        due = _due(schedule, schedule.next_tick - _MOMENT, edge=max(since - _PUNCTUAL, now - _LATE), now=now)
    start, buffered, suppressed = _overlapping(schedule, due.ticks, busy)
    return Plan(
        start=start,
        buffered=buffered,
        suppressed=suppressed,
        missed=due.missed,
        last_tick=due.last or schedule.last_tick,
        next_tick=next(schedule.calendar.after(due.until), None),
        more=due.more,
    )


def _due(schedule: Schedule, handled: datetime, *, edge: datetime, now: datetime) -> _Due:
    """The ticks after `handled` that count. Those up to `edge` were missed."""
    when = schedule.calendar
    last = when.last(edge, after=handled) if edge > handled else None
    missed = None if last is None else (when.following(handled, 1)[0], last)
    ticks: list[datetime] = []
    if last is not None and schedule.missed != "skip":
        oldest = handled
        if schedule.missed_within is not None:
            oldest = max(handled, now - timedelta(seconds=schedule.missed_within))
        ticks = [last] if last > oldest else []
        if schedule.missed == "all":
            ticks = when.within(oldest, edge, at_most=MOST)
            if len(ticks) == MOST:
                return _Due(ticks=ticks, missed=missed, last=ticks[-1], until=ticks[-1], more=True)
    live = when.within(max(handled, edge), now)
    return _Due(ticks=ticks + live, missed=missed, last=live[-1] if live else last, until=now, more=False)


def _overlapping(
    schedule: Schedule, ticks: list[datetime], busy: bool
) -> tuple[list[datetime], list[datetime], list[datetime]]:
    """Which ticks make a task now, which wait, and which make none."""
    if schedule.overlap == "allow_all":
        return [*schedule.buffered, *ticks], [], []
    waiting, suppressed = [*schedule.buffered, *ticks], list[datetime]()
    if schedule.overlap in STOPPING:
        waiting, suppressed = waiting[-1:], waiting[:-1]
    start = [] if busy else waiting[:1]
    waiting = waiting[len(start) :]
    room = {"skip": len(schedule.buffered), "buffer_one": 1}.get(schedule.overlap, MOST)
    return start, waiting[:room], suppressed + waiting[room:]
