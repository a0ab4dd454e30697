"""What damad takes as JSON: what Postgres' jsonb can hold and give back unchanged.

orjson and msgspec write NaN as null, and orjson rounds large integers; so every value is checked before it is written.
"""

import math
import re
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 64
"""Deepest nesting that is taken (contract, section 5)."""

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
"""The integers that are taken."""
_PLAIN_EXPONENT: Final = 64
"""Doubles within 2**±64 are written about as long as they were; jsonb spells all digits of the others out."""
_LONGEST_POINTER: Final = 1000
_SHALLOW: Final = 128
"""Deepest nesting that the database takes: damad wraps what is 64 deep once or twice."""
_FIRST_EXPONENT: Final = 1e16
"""From here on orjson writes an exponent."""
_CONTAINERS: Final = (dict, list, tuple)
_EXPONENT = re.compile(rb"e(?<=\de)\+?\d+(?:[,\]}]|$)")
"""How a large double ends in what orjson wrote; a text, such as a UUID, seldom holds what looks so. (It begins with a
letter, for which Python looks in C: twice to thirty times as fast as with the digit before it.)"""


class Unreadable(dict[str, Any]):
    """Stands for a value in the log that nobody can read, and says why: `{"unreadable": why}`.

    The database refuses such values (schema/115). What came into it past its triggers is still a fact: who lists
    events goes on and shows this in its place, and no worker runs on it.
    """


class NotJson(ValueError):
    """A value that damad does not take. `malformed`: no JSON at all; else JSON that does not fit into Postgres.

    The containers around the culprit add the way to it while the exception passes them by, so that a value that fits
    costs no pointer.
    """

    def __init__(self, reason: str, *, malformed: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.malformed = malformed
        self.way: list[str] = []

    def __str__(self) -> str:
        return f"{self.reason} at {self.pointer or 'the top'}"

    @property
    def pointer(self) -> str:
        """Where in the value it is (RFC 6901)."""
        steps = (step.replace("~", "~0").replace("/", "~1") for step in reversed(self.way))
        return "".join(f"/{step}" for step in steps)[:_LONGEST_POINTER]


class NotFinite(NotJson):
    """A double that is infinite or no number."""

    def __init__(self, number: float) -> None:
        super().__init__(f"{number}, which is no JSON number,")
        self.number = number


class Rounded(float):
    """A number that a double cannot hold as it was written. It is refused where it stands."""

    text = ""


def check(value: Any) -> int:
    """Raises NotJson unless `value` is made of None, bool, 64-bit int, finite float, str, list, tuple and dict.

    Returns the bytes by which it grows when it is read back from jsonb.
    """
    return _check(value, 1)


def encode(value: Any) -> bytes:
    """The value as JSON in UTF-8. Raises NotJson for what JSON or Postgres cannot hold."""
    check(value)
    return dumps(value)


def loads(text: str) -> Any:
    """The value that jsonb gives back, or an Unreadable.

    orjson reads an integer beyond 64 bits as a double: here it is one, whose digits jsonb spelled out.
    """
    try:
        value = orjson.loads(text)
        if text.count("{") + text.count("[") > _SHALLOW:
            orjson.dumps(value)  # it reads deeper than it writes
    except (orjson.JSONDecodeError, TypeError) as error:
        return Unreadable(unreadable=getattr(error, "msg", str(error)))
    return value


def dumps(value: Any) -> bytes:
    """A checked value as JSON in UTF-8, so that jsonb gives it back as it was.

    jsonb keeps no exponent: it would give 1e16 back as an integer. So large doubles are written with their point.
    """
    text = _dumps(value)
    return _dumps(_with_points(value)) if _EXPONENT.search(text) else text


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a tuple, a float or a key of a class of its own
        return orjson.dumps(value, default=_as_plain, option=orjson.OPT_NON_STR_KEYS)


def _as_plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"JSON has no {type(value).__name__}")


def _with_points(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_points(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_points(item) for item in value]
    if isinstance(value, float) and abs(value) >= _FIRST_EXPONENT:
        return orjson.Fragment(f"{value:.1f}")
    return value


def _check(value: Any, depth: int) -> int:
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, _CONTAINERS):
        if depth > MAX_DEPTH:
            raise NotJson(f"nesting deeper than {MAX_DEPTH}", malformed=True)
        return _check_members(value, depth)
    elif isinstance(value, float):
        return _check_double(value)
    elif isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise NotJson("a number that 64 bits cannot hold")
    elif value is not None:
        raise NotJson(f"a {type(value).__name__}, which JSON does not have,", malformed=True)
    return 0


def _check_members(value: dict[Any, Any] | list[Any] | tuple[Any, ...], depth: int) -> int:
    """Most keys and members are texts in which nothing can be wrong: no call is made for these."""
    grown = 0
    step: Any = ""
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str or "\0" in key or not key.isascii():
                _check_key(key)
    try:
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):  # noqa: B007 - the way
            if type(item) is not str or "\0" in item or not item.isascii():
                grown += _check(item, depth + 1)
    except NotJson as misfit:
        misfit.way.append(str(step))
        raise
    return grown


def _check_key(key: Any) -> None:
    if not isinstance(key, str):
        raise NotJson(f"a key that is a {type(key).__name__} and no string", malformed=True)
    _check_text(key)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise NotJson("NUL, which Postgres cannot hold,")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise NotJson("a lone surrogate", malformed=True) from None


def _check_double(number: float) -> int:
    if not math.isfinite(number):
        raise NotFinite(number)
    if isinstance(number, Rounded):
        raise NotJson(f"the number {number.text}, which a double would round to {float(number)!r},")
    exponent = abs(math.frexp(number)[1])
    return 0 if exponent <= _PLAIN_EXPONENT else int(exponent * math.log10(2)) + 1
