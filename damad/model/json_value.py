"""What damad takes as JSON: what Postgres' jsonb can hold and give back unchanged.

orjson and msgspec write NaN as null, and orjson rounds large integers; so every value is checked before it is written.
"""

from typing import Any

import orjson

MAX_DEPTH = 64
"""Deepest nesting that is taken (contract, section 5)."""

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_INFINITY = float("inf")


class NotJson(ValueError):
    """A value that JSON cannot hold. `pointer` says where in the value it is (RFC 6901)."""

    def __init__(self, reason: str, pointer: str) -> None:
        super().__init__(f"{reason} at {pointer or 'the top'}")
        self.reason = reason
        self.pointer = pointer


def check(value: Any, pointer: str = "") -> None:
    """Raises NotJson unless `value` is made of None, bool, 64-bit int, finite float, str, list, tuple and dict."""
    _check(value, pointer, 1)


def _check(value: Any, pointer: str, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _check_text(value, pointer)
    elif isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise NotJson("an integer that 64 bits cannot hold", pointer)
    elif isinstance(value, float):
        if not -_INFINITY < value < _INFINITY:
            raise NotJson(f"{value} is no JSON number", pointer)
    elif isinstance(value, dict | list | tuple):
        _check_nested(value, pointer, depth)
    else:
        raise NotJson(f"JSON has no {type(value).__name__}", pointer)


def _check_text(text: str, pointer: str) -> None:
    if "\0" in text:
        raise NotJson("a NUL character, which Postgres cannot hold", pointer)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotJson("a lone surrogate, which is no Unicode text", pointer) from None


def _check_nested(value: dict[Any, Any] | list[Any] | tuple[Any, ...], pointer: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotJson(f"nested deeper than {MAX_DEPTH}, or a cycle", pointer[:80])
    if not isinstance(value, dict):
        for place, item in enumerate(value):
            _check(item, f"{pointer}/{place}", depth + 1)
        return
    for key, item in value.items():
        if not isinstance(key, str):
            raise NotJson(f"a key that is {type(key).__name__} and not a string", pointer)
        _check_text(key, pointer)
        _check(item, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", depth + 1)


def encode(value: Any) -> bytes:
    """The value as JSON in UTF-8. Raises NotJson for what JSON or Postgres cannot hold."""
    check(value)
    return orjson.dumps(value)
