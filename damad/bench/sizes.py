"""How much is measured."""

from typing import Final

import msgspec

_LEAST_GROWTH: Final = 4
"""The power of ten of the events in the smallest log among which growth is looked for, where a larger one is wanted."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """`runs`: how often each line · `seconds`: how long a rate is measured · `growth`: the power of ten of the events
    in the largest log, with a tenth as many tasks queued · `settling`: how long nothing has happened before an idle
    daemon is looked at; a Postgres backend that rests tells of its transactions only after 10 s (PGSTAT_IDLE_INTERVAL),
    and those of the work before would be counted as those of the rest."""

    runs: int = 5
    seconds: float = 1.0
    started: int = 100
    naps: int = 40
    subscribers: int = 500
    appends_seen: int = 200
    readers: int = 16
    growth: int = 6
    open_contexts: int = 10_000
    adopted: int = 8
    waiting: int = 3
    settling: float = 11.0
    idle_seconds: float = 20.0

    @property
    def events(self) -> int:
        """The events of the grown log."""
        return self.grown[-1]

    @property
    def grown(self) -> tuple[int, ...]:
        """The events of each of the logs among which growth is looked for, the largest last."""
        return tuple(10**power for power in range(min(_LEAST_GROWTH, self.growth), self.growth + 1))


QUICK: Final = Sizes(runs=3, seconds=0.3, started=30, naps=20, appends_seen=50, growth=4, idle_seconds=12.0)
"""For who works on a line and wants to see it: what varies is seen to vary."""
SMALLEST: Final = Sizes(
    runs=1, seconds=0.05, started=2, naps=12, subscribers=10, appends_seen=5, readers=2, growth=2, open_contexts=20,
    adopted=2, waiting=1, settling=0.1, idle_seconds=0.3,
)  # fmt: skip
"""As little as shows that every line can be measured. Its figures say nothing."""
