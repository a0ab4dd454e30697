"""Counts what happens in a log, for those who watch it: by a statement each time that they ask; nothing meanwhile."""

import asyncio
from collections import Counter
from typing import Any, Final

from damad.eventstore.pools import Database

MOST_TYPES: Final = 200
"""Types of events that are told apart. Those that come later count as OTHER: a type is for its writer to invent."""
MOST_KINDS: Final = 50
"""Kinds of failures that are told apart, for the same reason."""
OTHER: Final = "other"
BOUNDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Seconds: a time is counted at the first of them that is not below it."""


class Times:
    """Times that were taken: how many up to each of the BOUNDS and over the last one, and their seconds together."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, bucket: int, count: int, seconds: float) -> None:
        """Adds some that have the same bound."""
        self.counts[bucket] += count
        self.seconds += seconds


class Totals:
    """What was appended since somebody first asked, by whomever.

    appended: events by type · attempts: by what became of them, `done` or the kind of their failure · waits, runs: of
    tasks until they started, of attempts until they ended · last: the newest event_id.
    """

    def __init__(self) -> None:
        self.appended: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.waits, self.runs = Times(), Times()
        self.last = 0
        self._snapshot: str | None = None
        self._one_at_a_time = asyncio.Lock()

    async def update(self, database: Database) -> None:
        """Adds what was appended since the last time. Raises Unavailable; then it is added the next time."""
        async with self._one_at_a_time:
            place = (None, None) if self._snapshot is None else (self._snapshot, self.last)
            rows = await database.fetch("appended_since", *place, BOUNDS)
            for row in rows:
                if row["type"] is not None:
                    self._add(row)
            self._snapshot, self.last = rows[0]["snapshot"], rows[0]["last"]

    def _add(self, row: Any) -> None:
        self.appended[_told_apart(row["type"], self.appended, MOST_TYPES)] += row["events"]
        if row["type"] == "dama/task:ERROR":
            self.attempts[_told_apart(row["kind"] or "unknown", self.attempts, MOST_KINDS)] += row["events"]
        elif row["of_task"] and row["type"].endswith(":FINAL"):
            self.attempts["done"] += row["events"]
        self.waits.add(row["bucket"], row["waits"], row["waited"])
        self.runs.add(row["bucket"], row["runs"], row["ran"])


def _told_apart(name: str, counted: Counter[str], most: int) -> str:
    """The name to count under, so that there are no more than `most` and OTHER."""
    return name if name in counted or len(counted) < most else OTHER
