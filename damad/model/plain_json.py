"""JSON texts in which little can be wrong, read in C: most of what is sent.

A text is plain that holds no backslash and no double. Without a backslash there are no escapes, so no NUL and no lone
surrogate, and each quote begins or ends a string: if its value has half as many strings as it has quotes, keys too,
then no key stood twice in an object. Without doubles no number was rounded. All else orjson refuses by itself.
"""

from typing import Any, Final

import orjson

from damad.model.json_value import INT_MAX, INT_MIN, MAX_DEPTH

NOT_PLAIN: Final = object()
"""What `read` returns for any other text, JSON or not: strict_json.py reads it again, and says what is wrong."""
_NEVER: Final = -(2**62)
"""A count of strings that no text has, whatever is added to it."""


def read(body: bytes) -> Any:
    """The value of a plain text, or NOT_PLAIN."""
    if b"\\" in body:
        return NOT_PLAIN
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return NOT_PLAIN
    return value if 2 * _strings(value, 1) == body.count(b'"') else NOT_PLAIN


def _strings(value: Any, depth: int) -> int:
    """How many strings a value holds, keys too; fewer than none if it holds a number that may not be as written."""
    kind = type(value)
    if kind is str:
        return 1
    if kind is dict or kind is list:
        if depth > MAX_DEPTH:
            return _NEVER
        count, items = (len(value), value.values()) if kind is dict else (0, value)
        for item in items:
            count += _strings(item, depth + 1)
        return count
    if kind is float or (kind is int and not INT_MIN <= value <= INT_MAX):
        return _NEVER
    return 0
