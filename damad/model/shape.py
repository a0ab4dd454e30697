"""Plain values into Structs; what does not fit is said with the place that is to blame, in damad's own words."""

import re
from typing import Any, Final, TypeVar

import msgspec

from damad.errors import InvalidInput
from damad.model import json_value

T = TypeVar("T")

_FIELD_IN_MESSAGE = re.compile(r"(?:unknown|required) field `(.*)`", re.DOTALL)
_PATH_IN_MESSAGE = re.compile(r"(.*) - at `\$(.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_WANTED = re.compile(r"Expected `([^`]*)`(?:, got `([^`]*)`)?(?: of length)?(?: (>=|<=|>|<|==) ([-\d.]+))?")
_SORTS: Final = {
    "str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "object": "an object",
    "array": "an array", "null": "null", "uuid": "a UUID", "datetime": "a time",
}  # fmt: skip
"""What msgspec calls a sort of value, and what it is called here."""
_BOUNDS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than", "==": "exactly"}


def fit(value: Any, shape: type[T], *, pointer: str = "") -> T:
    """The value as a `shape`. Raises InvalidInput, whose pointer says where in the value the misfit is."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        reason, way = misfit(error)
        for step in way:
            pointer = child(pointer, step)
        raise InvalidInput(_sentence(reason, pointer), pointer=pointer) from None


def misfit(error: msgspec.ValidationError) -> tuple[str, list[str]]:
    """What msgspec found, and the way to it out of its "- at `$.a[0]`" and the field that it names."""
    message = str(error)
    found = _PATH_IN_MESSAGE.fullmatch(message)
    way = [step[1] or step[2] for step in _STEP.finditer(found[2])] if found else []
    reason = found[1] if found else message
    if named := _FIELD_IN_MESSAGE.search(reason):
        way.append(named[1])
    return reason, way


def _sentence(reason: str, pointer: str) -> str:
    """What does not fit where the pointer leads, in words."""
    place = pointer[1:201] or "what was sent"
    if reason.startswith("Object contains unknown field"):
        return f"there is no field {place}"
    if reason.startswith("Object missing required field"):
        return f"{place} is missing"
    wanted = _WANTED.fullmatch(reason)
    if wanted is None:
        return f"{place} is no UUID" if reason == "Invalid UUID" else f"{place} does not fit"
    sorts, got, bound, limit = wanted.groups()
    *others, last = (_SORTS.get(sort, sort) for sort in sorts.split(" | "))
    takes = f"{', '.join(others)} or {last}" if others else last
    if bound:
        takes += f" of {_BOUNDS[bound]} {limit}{' characters' if sorts == 'str' else ''}"
    return f"{place} is {_SORTS.get(got, got)}; it is to be {takes}" if got else f"{place} is to be {takes}"


def check_json(value: Any, what: str, *, pointer: str = "") -> None:
    """Raises InvalidInput, which says that `what` cannot hold it and where it stands, unless the value is JSON."""
    try:
        json_value.check(value)
    except json_value.NotJson as error:
        raise InvalidInput(f"{what} cannot hold {error}", pointer=f"{pointer}{error.pointer}") from None


def child(pointer: str, key: str) -> str:
    """The JSON pointer (RFC 6901) to a member of what `pointer` points to."""
    return f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
