"""Cursors: where a reader is, as a text that only damad reads.

A place is a kind and some numbers: ["tasks", before this id], ["context", id, after this version],
["schedules", the bytes of the name after which it goes on], or
["tree", id, context, version, context, version, …], the last version seen of each context of the tree. Nothing less
will do for a tree: events of different contexts commit in another order than that of their ids. Of the feed it is
["feed", …] and what eventstore/feed.py compares: snapshots, and not numbers only.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from damad.errors import InvalidInput
from damad.eventstore.feed import Cursor, Sight

_MAX: Final = 2**63 - 1
_SNAPSHOT: Final = re.compile(r"([1-9][0-9]{0,18}):([1-9][0-9]{0,18}):((?:[1-9][0-9]{0,18}(?:,[1-9][0-9]{0,18})*)?)")
"""How Postgres writes a snapshot: its xmin, its xmax, and the transactions between them that were running."""


def tasks(before: int) -> str:
    """After a page of tasks."""
    return _encode("tasks", [before])


def read_tasks(text: str) -> int:
    """The id below which the next page begins. Raises InvalidInput."""
    numbers = _decode(text, "tasks")
    if len(numbers) != 1:
        raise _no_cursor()
    return numbers[0]


def schedules(name: str) -> str:
    """After a page of schedules."""
    return _encode("schedules", [*name.encode()])


def read_schedules(text: str) -> str:
    """The name after which the next page begins. Raises InvalidInput."""
    try:
        return bytes(_decode(text, "schedules")).decode()
    except ValueError:
        raise _no_cursor() from None


def context(etl_context_id: int, version: int) -> str:
    """After an event of a context."""
    return _encode("context", [etl_context_id, version])


def read_context(text: str, etl_context_id: int) -> int:
    """The version that was seen last. Raises InvalidInput, also for the cursor of another context."""
    numbers = _decode(text, "context")
    if len(numbers) != 2 or numbers[0] != etl_context_id:
        raise _no_cursor()
    return numbers[1]


def tree(etl_context_id: int, seen: Mapping[int, int]) -> str:
    """After an event of a tree, with the version of each context that was seen last."""
    return _encode("tree", [etl_context_id, *(number for pair in seen.items() for number in pair)])


def read_tree(text: str, etl_context_id: int) -> dict[int, int]:
    """The versions that were seen last. Raises InvalidInput, also for the cursor of another tree."""
    numbers = _decode(text, "tree")
    if len(numbers) % 2 != 1 or numbers[0] != etl_context_id:
        raise _no_cursor()
    return dict(zip(numbers[1::2], numbers[2::2], strict=True))


def feed(place: Cursor) -> str:
    """After an event of the feed over all contexts."""
    return _encode("feed", msgspec.to_builtins(place))


def read_feed(text: str) -> Cursor:
    """The place in the feed. Raises InvalidInput; whether its cluster and its past are these, the feed knows."""
    try:
        place = msgspec.convert(_members(text, "feed"), Cursor, strict=True)
    except msgspec.ValidationError:
        raise _no_cursor() from None
    numbers = [place.system_id, place.timeline, place.after]
    sights = [sight for sight in (place.shown, place.showing) if sight is not None]
    numbers += [sight.last for sight in sights]
    if not all(0 <= number <= _MAX for number in numbers) or not all(_is_snapshot(sight) for sight in sights):
        raise _no_cursor()
    return place


def _is_snapshot(sight: Sight) -> bool:
    """True for what Postgres reads as a snapshot: running transactions in order, from xmin on, below xmax."""
    parts = _SNAPSHOT.fullmatch(sight.snapshot)
    if parts is None:
        return False
    xmin, xmax = int(parts[1]), int(parts[2])
    running = [int(number) for number in parts[3].split(",") if number]
    in_order = sorted(set(running)) == running
    return in_order and xmin <= xmax <= _MAX and all(xmin <= number < xmax for number in running)


def _encode(kind: str, members: list[Any]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([kind, *members])).decode().rstrip("=")


def _decode(text: str, kind: str) -> list[int]:
    members = _members(text, kind)
    # A bool is an int to Python; none was ever written here.
    numbers = [number for number in members if type(number) is int and 0 <= number <= _MAX]
    if len(numbers) != len(members):
        raise _no_cursor()
    return numbers


def _members(text: str, kind: str) -> list[Any]:
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(plain, type=list[Any])
    except (binascii.Error, ValueError, RecursionError, msgspec.DecodeError):
        raise _no_cursor() from None
    if not place or place[0] != kind:
        raise _no_cursor()
    return place[1:]


def _no_cursor() -> InvalidInput:
    return InvalidInput("this is no cursor of what is asked for; begin without one", parameter="cursor")
