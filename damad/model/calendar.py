"""Crons: the ticks that five or six fields name in a time zone. Pure: it knows no present moment.

The fields are minute, hour, day of the month, month and day of the week; with six, seconds come first. @hourly, @daily,
@weekly, @monthly and @yearly are written out. What the fields mean is cronsim's, which goes by Debian's cron; what
happens to them in the nights when clocks are changed is here, for expressions of five and of six fields alike:

A cron whose minute and hour both are named (30 2 * * *) goes by the clock on the wall. A time that the clock jumps over
comes at the first whole minute that there is instead, and a time that it shows twice comes once, the first time.
Any other (0 * * * *) goes by the time that passes: every moment at which the wall shows what they say, none twice.

A tick depends on nothing but cron and zone, so a span has the same ticks however it is asked for.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from damad.errors import InvalidInput

_FORMS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_LONGEST: Final = 255
_ANY_TIME: Final = datetime(2000, 1, 1)
_SECOND, _MINUTE, _DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
_LONGEST_JUMP: Final = timedelta(hours=25)
"""By which a clock was ever changed, and a little more: Samoa left out a day."""
_BACK: Final = tuple(timedelta(seconds=60 * 8**step) for step in range(10))
"""How far back the last tick before a moment is looked for: a minute, then eight times as far, and so on: 250 years."""


class Calendar(msgspec.Struct, frozen=True):
    """A cron in a zone, as they were given; `fields` is the cron written out."""

    cron: str
    zone: str
    fields: str

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The ticks after a moment, one after another, in UTC. They end where none comes for fifty years."""
        moment = moment.astimezone(UTC)
        return _on_the_wall(self, moment) if _names_a_time(self.fields) else _as_time_passes(self, moment)

    def following(self, moment: datetime, count: int) -> list[datetime]:
        """The next ticks after a moment, at most so many."""
        return list(islice(self.after(moment), count))

    def within(self, after: datetime, until: datetime, *, at_most: int | None = None) -> list[datetime]:
        """The ticks after a moment and up to another; the first so many of them."""
        return list(islice(takewhile(lambda tick: tick <= until, self.after(after)), at_most))

    def last(self, until: datetime, *, after: datetime) -> datetime | None:
        """The last tick up to a moment, if one comes after another moment."""
        for span in _BACK:
            begin = max(after, until - span)
            if ticks := self.within(begin, until):
                return ticks[-1]
            if begin == after:
                return None
        return None


def parse(cron: str, zone: str, *, pointer: str = "") -> Calendar:
    """The calendar of a cron and the name of an IANA zone. Raises InvalidInput, which points at what does not fit."""
    _zone(zone, f"{pointer}/zone")
    pointer = f"{pointer}/cron"
    if not isinstance(cron, str) or len(cron) > _LONGEST or not cron.isprintable():
        raise InvalidInput(f"cron is a text of at most {_LONGEST} characters", pointer=pointer)
    fields = " ".join(cron.split())
    if fields.startswith("@"):
        if fields.lower() not in _FORMS:
            raise InvalidInput(f"cron {cron!r} is none of {', '.join(_FORMS)}", pointer=pointer)
        fields = _FORMS[fields.lower()]
    if not 5 <= len(fields.split()) <= 6:
        raise InvalidInput(
            f"cron {cron!r} has {len(fields.split())} fields; it takes minute, hour, day, month and day of the week, "
            "and seconds before them if need be, or a form like @daily",
            pointer=pointer,
        )
    try:
        next(CronSim(fields, _ANY_TIME))
    except StopIteration:
        raise InvalidInput(f"cron {cron!r} names no day that ever comes", pointer=pointer) from None
    except (CronSimError, AssertionError, TypeError, ValueError) as error:  # it asserts and compares what it was given
        wrong = str(error).removeprefix("Bad ") if isinstance(error, CronSimError) else "fields"
        raise InvalidInput(f"cron {cron!r} does not fit: its {wrong}", pointer=pointer) from None
    return Calendar(cron, zone, fields)


def _zone(name: str, pointer: str) -> ZoneInfo:
    try:
        if isinstance(name, str) and name != "localtime":  # which is another one on every machine
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise InvalidInput(f"{name!r} is no IANA time zone, like Europe/Berlin", pointer=pointer)


def _names_a_time(fields: str) -> bool:
    minute, hour = fields.split()[-5:-3]
    return not (minute.startswith("*") or hour.startswith("*"))


def _on_the_wall(calendar: Calendar, moment: datetime) -> Iterator[datetime]:
    zone, last = ZoneInfo(calendar.zone), moment
    begin = moment.astimezone(zone).replace(tzinfo=None)
    if _offset(zone, moment) != _offset(zone, moment - _LONGEST_JUMP):
        begin -= _LONGEST_JUMP  # what was jumped over may come after this moment
    for wall in CronSim(calendar.fields, begin):
        tick = _shown(wall, zone)
        if tick > last:
            yield tick
            last = tick


def _shown(wall: datetime, zone: ZoneInfo) -> datetime:
    """When a clock shows this for the first time, or else the first time that it shows a whole minute later."""
    while True:
        found = wall.replace(tzinfo=zone).astimezone(UTC)
        if found.astimezone(zone).replace(tzinfo=None) == wall:
            return found
        wall += _MINUTE


def _as_time_passes(calendar: Calendar, moment: datetime) -> Iterator[datetime]:
    zone, last, going = ZoneInfo(calendar.zone), moment.replace(microsecond=0), True
    while going:
        offset, going = _offset(zone, last + _SECOND), False
        for wall in CronSim(calendar.fields, (last + offset).replace(tzinfo=None)):
            tick = (wall - offset).replace(tzinfo=UTC)
            turn = _turn(zone, last, tick, offset)
            if turn is not None:
                last, going = turn - _SECOND, True
                break
            yield tick
            last = tick


def _turn(zone: ZoneInfo, after: datetime, until: datetime, offset: timedelta) -> datetime | None:
    """The first second after a moment and up to another at which the zone is not at this offset any more."""
    low = after + _SECOND
    while low < until:
        high = min(low + _DAY, until)
        if _offset(zone, high) != offset:
            while high - low > _SECOND:
                middle = low + (high - low) // 2
                middle = middle.replace(microsecond=0)
                low, high = (middle, high) if _offset(zone, middle) == offset else (low, middle)
            return high
        low = high
    return None


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset
