"""Contexts looked at closely: all their events folded as they come, and compared with their projections.

This is what verify and rebuild mean. It holds one context's projection at a time and never its events.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import asyncpg
import msgspec

from damad.errors import DamadError
from damad.eventstore.queries import query
from damad.model import lifecycle
from damad.model.json_value import Unreadable
from damad.model.lifecycle import Context, LoggedEvent, Task

CLOSELY: Final = 100
"""Contexts that are looked at, or locked, at a time."""
_READ_AHEAD: Final = 200
"""Events that are fetched at a time."""
_LISTED: Final = 10
"""Events of one context that are listed, where all of them are wrong."""

_TASK_FIELDS: Final = tuple(name for name in Task.__struct_fields__ if name != "initial_event_id")


class Mismatch(msgspec.Struct, frozen=True):
    """A value that is not what the events say. `field` is `events` where the events themselves break the rules."""

    etl_context_id: int
    field: str
    folded: Any
    projected: Any


class Legacy(msgspec.Struct, frozen=True):
    """Events of one context that the original wrote against a rule, and which rule."""

    etl_context_id: int
    rule: str
    event_ids: list[int]


class Findings(msgspec.Struct, frozen=True):
    """What there is to tell of one context."""

    etl_context_id: int
    mismatches: list[Mismatch]
    legacy: list[Legacy]


class StoredEvent(LoggedEvent, frozen=True, kw_only=True):
    """A logged event with its mark: a legacy one is passed over."""

    legacy: bool


class Folding:
    """One context: its projection as it stands, and the fold of its events as far as they were taken."""

    def __init__(self, row: "asyncpg.Record") -> None:
        self.etl_context_id: int = row["etl_context_id"]
        self._projected = row
        self._context = Context()
        self._events = 0
        self._version = 0
        self._gaps: list[int] = []
        self._unreadable: list[int] = []
        self._refused: str | None = None
        self._legacy: dict[str, list[int]] = {}
        self._begun = self._ended = False

    @property
    def folded(self) -> Context:
        """The projection out of the events that are not legacy. All of them count for its version."""
        return msgspec.structs.replace(self._context, version=self._version)

    def take(self, event: StoredEvent) -> None:
        """The next event, in the order of their versions."""
        self._events += 1
        self._version = event.version
        if event.version != self._events and len(self._gaps) < _LISTED:
            self._gaps.append(event.version)
        unreadable = isinstance(event.payload, Unreadable) or isinstance(event.meta, Unreadable)
        if unreadable and len(self._unreadable) < _LISTED:
            self._unreadable.append(event.event_id)
        if event.legacy:
            self._legacy.setdefault(self._broken_rule(event), []).append(event.event_id)
            return
        self._begun, self._ended = True, event.type.endswith(":FINAL")
        if self._refused is None and not self._unreadable:
            try:
                self._context = lifecycle.evolve(self._context, event)
            except (DamadError, ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
                self._refused = str(error)

    def findings(self) -> Findings | None:
        """The mismatches, and the legacy events by the rule that each of them breaks. None where all is well."""
        left = [Legacy(self.etl_context_id, rule, event_ids) for rule, event_ids in self._legacy.items()]
        mismatches = self.mismatches()
        return Findings(self.etl_context_id, mismatches, left) if mismatches or left else None

    def mismatches(self) -> list[Mismatch]:
        """What differs between the projection and the fold of all events, or what is wrong with the events."""
        if self._gaps:
            return [self._wrong_events("versions 1..n", self._gaps)]
        if self._unreadable:
            return [self._wrong_events("events that can be read", self._unreadable)]
        if self._refused is not None:
            return [self._wrong_events(self._refused, None)]
        return [
            Mismatch(self.etl_context_id, field, msgspec.to_builtins(expected), msgspec.to_builtins(found))
            for field, expected, found in _fields(self.folded, self._projected)
            if expected != found
        ]

    def _wrong_events(self, wanted: str, found: list[int] | None) -> Mismatch:
        return Mismatch(self.etl_context_id, "events", wanted, found)

    def _broken_rule(self, event: StoredEvent) -> str:
        if self._ended:
            return "nothing follows :FINAL"
        if not self._begun:
            return "the first event is :INITIAL"
        if event.type.endswith(":INITIAL"):
            return "only the first event is :INITIAL"
        return "dama/task:… are damad's own types"


def _fields(folded: Context, row: "asyncpg.Record") -> list[tuple[str, Any, Any]]:
    pairs = [
        (field, getattr(folded, field), row[field])
        for field in ("etl_status", "initial_event_id", "latest_event_id", "version")
    ]
    if folded.task is None:
        return [*pairs, ("task", None, row["state"])]
    pairs.append(("task.initial_event_id", folded.task.initial_event_id, row["task_initial_event_id"]))
    return pairs + [(f"task.{field}", getattr(folded.task, field), row[field]) for field in _TASK_FIELDS]


async def fold(connection: "asyncpg.Connection[Any]", etl_context_ids: list[int]) -> list[Folding]:
    """These contexts (CLOSELY at most) folded, in the order of their ids. Inside a transaction of the caller's.

    Their projections and their events are two statements: they are one moment's where the transaction reads one
    snapshot, or holds the contexts.
    """
    rows = await connection.fetch(query("projections"), etl_context_ids)
    foldings = {row["etl_context_id"]: Folding(row) for row in rows}
    async for row in connection.cursor(query("logged_events"), etl_context_ids, prefetch=_READ_AHEAD):
        foldings[row["etl_context_id"]].take(_logged(row))
    return list(foldings.values())


def _logged(row: "asyncpg.Record") -> StoredEvent:
    return StoredEvent(
        event_id=row["event_id"],
        version=row["version"],
        type=row["type"],
        payload=row["payload"],
        meta=row["meta"],
        fence=row["fence"],
        created_timestamp=row["_created_timestamp"],
        legacy=row["legacy"],
    )


def some_at_a_time(etl_context_ids: Iterable[int]) -> Iterator[list[int]]:
    """The ids, CLOSELY of them at a time."""
    left = iter(etl_context_ids)
    while some := list(islice(left, CLOSELY)):
        yield some
