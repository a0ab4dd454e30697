"""Counts what happens in a log, for those who watch it: by a statement each time that they ask; nothing meanwhile."""

import asyncio
from collections import Counter
from typing import Any, Final

from damad.eventstore.pools import Database

MOST_TYPES: Final = 200
"""Types of events that are told apart. Those that come later count as OTHER: a type is for its writer to invent."""
OTHER: Final = "other"


class Totals:
    """What was appended since somebody first asked, by whomever.

    appended: events by type · attempts: by what became of them, `done` or the kind of their failure · waits and runs:
    how many there were, and their seconds · last: the newest event_id.
    """

    def __init__(self) -> None:
        self.appended: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.waits = self.runs = self.last = 0
        self.waited = self.ran = 0.0
        self._snapshot: str | None = None
        self._one_at_a_time = asyncio.Lock()

    async def update(self, database: Database) -> None:
        """Adds what was appended since the last time. Raises Unavailable; then it is added the next time."""
        async with self._one_at_a_time:
            place = (None, None) if self._snapshot is None else (self._snapshot, self.last)
            rows = await database.fetch("appended_since", *place)
            for row in rows:
                if row["type"] is not None:
                    self._add(row)
            self._snapshot, self.last = rows[0]["snapshot"], rows[0]["last"]

    def _add(self, row: Any) -> None:
        known = row["type"] in self.appended or len(self.appended) < MOST_TYPES
        self.appended[row["type"] if known else OTHER] += row["events"]
        if row["type"] == "dama/task:ERROR":
            self.attempts[row["kind"] or "unknown"] += row["events"]
        elif row["of_task"] and row["type"].endswith(":FINAL"):
            self.attempts["done"] += row["events"]
        self.waits, self.waited = self.waits + row["waits"], self.waited + row["waited"]
        self.runs, self.ran = self.runs + row["runs"], self.ran + row["ran"]
