"""Cursors: where a reader is, as a text that only damad reads.

A place is a kind and some numbers: ["tasks", before this id], ["context", id, after this version], or
["tree", id, context, version, context, version, …], the last version seen of each context of the tree. Nothing less
will do for a tree: events of different contexts commit in another order than that of their ids.
"""

import base64
import binascii
from collections.abc import Mapping

import msgspec

from damad.errors import InvalidInput

_MAX = 2**63 - 1


def tasks(before: int) -> str:
    """After a page of tasks."""
    return _encode("tasks", [before])


def read_tasks(text: str) -> int:
    """The id below which the next page begins. Raises InvalidInput."""
    numbers = _decode(text, "tasks")
    if len(numbers) != 1:
        raise _no_cursor()
    return numbers[0]


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


def _encode(kind: str, numbers: list[int]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([kind, *numbers])).decode().rstrip("=")


def _decode(text: str, kind: str) -> list[int]:
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(plain, type=list[str | int])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise _no_cursor() from None
    numbers = [number for number in place[1:] if isinstance(number, int) and 0 <= number <= _MAX]
    if not place or place[0] != kind or len(numbers) != len(place) - 1:
        raise _no_cursor()
    return numbers


def _no_cursor() -> InvalidInput:
    return InvalidInput("this is no cursor of what is asked for; begin without one", parameter="cursor")
