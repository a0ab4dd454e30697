"""Long polls: a request that is answered once there is something to say, or when its time is over.

For those who cannot hold a stream. The next one is asked for after the answer, from where that one ended, so nothing is
skipped in between.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from aiohttp import web

from damad import context, units
from damad.errors import InvalidInput
from damad.eventstore import listener
from damad.http.shutdown import WAITS

T = TypeVar("T")

LONGEST: Final = 300.0
"""Seconds that a request may wait."""


def patience(text: str, parameter: str) -> float:
    """The seconds that somebody is ready to wait. Raises InvalidInput for no duration, and beyond the longest wait."""
    try:
        seconds = units.duration(text)
    except InvalidInput:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST:
        raise InvalidInput(
            f"the parameter {parameter!r} is {text[:80]!r}; it is a duration like 250ms, 30s or 5m, from 0 to 300 s",
            parameter=parameter,
        )
    return seconds


def refuse(wait: str | None) -> None:
    """For a stream. Raises InvalidInput where a wait is asked for."""
    if wait is not None:
        raise InvalidInput("wait is for pages; a stream waits by itself", parameter="wait")


async def found(
    request: web.Request,
    wait: str | None,
    look: Callable[[], Awaitable[T]],
    *,
    of: int | None = None,
    enough: Callable[[T], bool] = bool,
) -> T:
    """What a look finds. If that is not enough, it is made again whenever the log changes, for as long as `wait` says.

    of: the context that it is about, if it is about one. Raises InvalidInput for no duration, and what the look does.
    """
    if wait is None:
        return await look()
    seconds = patience(wait, "wait")
    with context.current().store.database.listener().subscribe(listener.EVENT, of) as bell:
        latest = await look()
        with suppress(TimeoutError):
            async with request.app[WAITS].bounded(seconds):
                while not enough(latest):
                    await bell.wait()
                    latest = await look()
    return latest
