"""Plain values into Structs; what does not fit is said with the place that is to blame."""

import re
from typing import Any, TypeVar

import msgspec

from damad.errors import InvalidInput
from damad.model import json_value

T = TypeVar("T")

_FIELD_IN_MESSAGE = re.compile(r"(?:unknown|required) field `(.*)`", re.DOTALL)
_PATH_IN_MESSAGE = re.compile(r"(.*) - at `\$(.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def fit(value: Any, shape: type[T], *, pointer: str = "") -> T:
    """The value as a `shape`. Raises InvalidInput, whose pointer says where in the value the misfit is."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        reason, way = misfit(error)
        for step in way:
            pointer = child(pointer, step)
        raise InvalidInput(reason, pointer=pointer) from None


def misfit(error: msgspec.ValidationError) -> tuple[str, list[str]]:
    """What msgspec found, and the way to it out of its "- at `$.a[0]`" and the field that it names."""
    message = str(error)
    found = _PATH_IN_MESSAGE.fullmatch(message)
    way = [step[1] or step[2] for step in _STEP.finditer(found[2])] if found else []
    reason = found[1] if found else message
    if named := _FIELD_IN_MESSAGE.search(reason):
        way.append(named[1])
    return reason, way


def check_json(value: Any, what: str, *, pointer: str = "") -> None:
    """Raises InvalidInput, which says that `what` cannot hold it and where it stands, unless the value is JSON."""
    try:
        json_value.check(value)
    except json_value.NotJson as error:
        raise InvalidInput(f"{what} cannot hold {error}", pointer=f"{pointer}{error.pointer}") from None


def child(pointer: str, key: str) -> str:
    """The JSON pointer (RFC 6901) to a member of what `pointer` points to."""
    return f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
