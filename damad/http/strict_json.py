"""JSON as damad takes it from strangers: what it means must be the same to every reader, and fit into Postgres.

Refused as no JSON (400): a byte order mark, invalid UTF-8, duplicate keys, NaN and Infinity, lone surrogates, nesting
deeper than 64. Refused as not fitting (422): NUL, integers beyond 64 bits, numbers beyond a double. msgspec and orjson
let several of these through (duplicate keys; integers from 2**64, rounded or kept), hence the standard library's
scanner, which has a hook for each, and one walk over the value that it made.
"""

import codecs
import json
import math
from typing import Any, Final

from damad.errors import InvalidInput, InvalidJson
from damad.model.json_value import MAX_DEPTH

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_PLAIN_EXPONENT: Final = 64
"""Doubles within 2**±64 are written about as long as they were; jsonb spells all digits of the others out."""
_LONGEST_POINTER: Final = 1000


class _Misfit(Exception):
    """What the walk found. The containers around it add the way to it while the exception passes them by, so that
    a value that fits costs no pointer."""

    def __init__(self, kind: type[InvalidInput], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.way: list[str | int] = []


def decode(body: bytes) -> tuple[Any, int]:
    """The value of a JSON text, and how many bytes more than the text it takes when it is read back from jsonb.

    Raises InvalidJson and InvalidInput, which say where.
    """
    text = _text(body)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_double)
    except json.JSONDecodeError as error:
        raise InvalidJson(f"this is no JSON: {error}") from None
    except RecursionError:
        raise InvalidJson(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError:
        # Python converts no integer of thousands of digits.
        raise InvalidInput("the body holds a number that 64 bits cannot hold") from None
    try:
        return value, _examine(value, 1)
    except _Misfit as misfit:
        pointer = "".join(child("", str(step)) for step in reversed(misfit.way))[:_LONGEST_POINTER]
        raise misfit.kind(f"{misfit} at {pointer or 'the top'}", pointer=pointer) from None


def child(pointer: str, key: str) -> str:
    """The JSON pointer (RFC 6901) to a member of what `pointer` points to."""
    return f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"


def _text(body: bytes) -> str:
    if not body.strip():
        raise InvalidJson("the body is empty; it should be JSON")
    if body.startswith(codecs.BOM_UTF8):
        raise InvalidJson("the body begins with a byte order mark")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidJson(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidJson(f"the key {json.dumps(key[:80])} stands twice in one object")
            seen.add(key)
    return made


def _no_constant(name: str) -> None:
    raise InvalidJson(f"{name} is no JSON")


def _double(text: str) -> float:
    """The number, or NaN for one that a double cannot hold: the walk, which knows the place, refuses it."""
    number = float(text)
    if number == 0.0 and text.lower().partition("e")[0].strip("-.0"):
        return math.nan
    return number


def _examine(value: Any, depth: int) -> int:
    """Bytes by which the value grows when it is read back. Raises _Misfit for whatever damad does not take."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise _Misfit(InvalidJson, f"nested deeper than {MAX_DEPTH}")
        return _examine_members(value, depth)
    elif isinstance(value, float):
        return _examine_double(value)
    elif isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
        raise _Misfit(InvalidInput, "a number that 64 bits cannot hold")
    return 0


def _examine_members(value: dict[str, Any] | list[Any], depth: int) -> int:
    grown = 0
    step: str | int = 0
    try:
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(step, str):
                _check_text(step)
            grown += _examine(item, depth + 1)
    except _Misfit as misfit:
        misfit.way.append(step)
        raise
    return grown


def _check_text(text: str) -> None:
    if "\0" in text:
        raise _Misfit(InvalidInput, "NUL, which Postgres cannot hold,")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Misfit(InvalidJson, "a lone surrogate") from None


def _examine_double(number: float) -> int:
    if not math.isfinite(number):
        raise _Misfit(InvalidInput, "a number that a double cannot hold")
    exponent = abs(math.frexp(number)[1])
    return 0 if exponent <= _PLAIN_EXPONENT else int(exponent * math.log10(2)) + 1
