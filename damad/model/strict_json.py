"""JSON as damad takes it from strangers: what it means must be the same to every reader, and fit into Postgres.

Refused as no JSON (400): a byte order mark, invalid UTF-8, duplicate keys, NaN and Infinity, lone surrogates, nesting
deeper than 64. Refused as not fitting (422): NUL, integers beyond 64 bits, numbers beyond a double or between two.
msgspec and orjson let several of these through (duplicate keys; integers from 2**64, rounded or kept). Where a text is
so plain that none of them can be in it (plain_json.py), that does not matter. Any other is read by the standard
library's scanner, which has a hook for each, and by one walk over the value that it made.
"""

import codecs
import json
import math
import sys
from decimal import Decimal
from typing import Any, Final

from damad.errors import InvalidInput, InvalidJson
from damad.model import json_value, plain_json
from damad.model.json_value import MAX_DEPTH, NotFinite, NotJson

_LONGEST_DOUBLE: Final = 767
"""Significant digits of the longest number that a double holds exactly (the smallest normal one, less a bit)."""


def decode(body: bytes, *, called: str = "the body") -> tuple[Any, int]:
    """The value of a JSON text, and how many bytes more than the text it takes when it is read back from jsonb.

    Raises InvalidJson and InvalidInput, which say where. `called`: what their messages call the text.
    """
    plain = plain_json.read(body)
    return (plain, 0) if plain is not plain_json.NOT_PLAIN else decode_exactly(body, called=called)


def decode_exactly(body: bytes, *, called: str = "the body") -> tuple[Any, int]:
    """`decode` of any text, plain ones too: what it says is what counts."""
    text = _text(body, called)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidJson(f"this is no JSON: {error}") from None
    except RecursionError:
        raise InvalidJson(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError:
        # Python converts no integer of thousands of digits.
        raise InvalidInput(f"{called} holds a number that 64 bits cannot hold") from None
    try:
        return value, json_value.check(value)
    except NotFinite as misfit:  # a text has neither NaN nor Infinity: it is what _double made
        size = "small" if math.isnan(misfit.number) else "large"
        place = misfit.pointer or "the top"
        raise InvalidInput(f"a number that is too {size} for a double at {place}", pointer=misfit.pointer) from None
    except NotJson as misfit:
        kind = InvalidJson if misfit.malformed else InvalidInput
        raise kind(str(misfit), pointer=misfit.pointer) from None


def _text(body: bytes, called: str) -> str:
    if not body or body.isspace():
        raise InvalidJson(f"{called} is empty; it should be JSON")
    if body.startswith(codecs.BOM_UTF8):
        raise InvalidJson(f"{called} begins with a byte order mark")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidJson(f"{called} is not UTF-8: {error.reason} at byte {error.start}") from None


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
    """The number; NaN or Rounded for one that a double cannot hold: the walk, which knows the place, refuses it."""
    number = float(text)
    mantissa = text.lower().partition("e")[0].strip("-")
    if number == 0.0 and mantissa.strip("0."):
        return math.nan
    digits = len(mantissa.replace(".", "").strip("0"))
    if digits > sys.float_info.dig and math.isfinite(number) and not _is_exact(text, number, digits):
        rounded = json_value.Rounded(number)
        rounded.text = text
        return rounded
    return number


def _is_exact(text: str, number: float, digits: int) -> bool:
    """True if the text is a way to write the double: in as many digits as it has, or in the fewest that tell it."""
    if digits > _LONGEST_DOUBLE:
        return False
    return Decimal(text) in (Decimal(repr(number)), Decimal(f"{number:.{digits - 1}e}"))


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_double)
"""Made once: to make one takes longer than to read a short text with it."""
