"""How much one may ask: requests in a time (`request_rate`), and connections at a time (`max_connections`).

Both are for what comes over TCP. The owner on the Unix socket is always let in: whoever floods the port keeps nobody
from stopping them. Over the rate the answer is 429, with the time to wait for. Over the connections the one that has
been idle for the longest makes room, and only where none is idle is the newcomer refused.
"""

import resource
from collections.abc import Callable, Iterable
from math import ceil
from time import monotonic
from typing import Final, Protocol, TypeVar

from aiohttp import web

from damad.http.problems import TooManyRequests

_MOST_KNOWN: Final = 10_000
"""Callers that are remembered before those are forgotten that have asked for nothing lately."""


class Rate:
    """A bucket for each caller: `number` requests may come at once, and as many again in each `seconds`."""

    def __init__(self, number: int, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._number, self._seconds, self._clock = number, seconds, clock
        self._used: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._used)

    def take(self, caller: str) -> None:
        """Counts a request. Raises TooManyRequests where it is one too many; that one does not count."""
        now = self._clock()
        used = self._left_over(caller, now)
        if used + 1 > self._number:
            wait = max(1, ceil((used + 1 - self._number) * self._seconds / self._number))
            said = f"more than {self._number} requests in {self._seconds:g} s; send it again in {wait} s"
            raise TooManyRequests(said, seconds=wait)
        if len(self._used) >= _MOST_KNOWN:
            self._used = {each: kept for each, kept in self._used.items() if self._left_over(each, now) > 0}
        self._used[caller] = used + 1, now

    def _left_over(self, caller: str, now: float) -> float:
        """What of the bucket is used by now."""
        used, at = self._used.get(caller, (0.0, now))
        return max(0.0, used - (now - at) * self._number / self._seconds)


RATE: Final = web.AppKey[Rate]("rate")
"""There only where `request_rate` is set."""


class Connection(Protocol):
    """What is to be known of a connection: whether a request is in hand, and when something came the last time."""

    heard: float

    @property
    def idle(self) -> bool:
        """True while no request is in hand."""


C = TypeVar("C", bound=Connection)


def longest_idle(connections: Iterable[C]) -> C | None:
    """The one that may make room for a newcomer; None where all are at work."""
    return min((one for one in connections if one.idle), key=lambda one: one.heard, default=None)


def connections(wanted: int) -> int:
    """How many there may be: as many as were set, but never more than half of the files that the process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files // 2))
