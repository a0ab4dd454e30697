"""Durations, sizes, numbers, yes or no, and names of hosts, as people write them.

A duration is a number of seconds, or a text like "250ms", "30s", "10m", "2h", "1d".
A size is a number of bytes, or a text like "512kB", "10MB", "2GB" (powers of 1,000).
"""

import re
from typing import Any, Final

import msgspec

from damad.errors import InvalidInput

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SIZE = re.compile(r"(\d{1,19})\s*(b|kb|mb|gb)?", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_HOST_NAME = re.compile(r"[a-z0-9._-]{1,253}")
_CENTURY: Final = 100 * 366 * 86400.0
_LARGEST: Final = 2**63 - 1


def duration(value: Any, *, pointer: str | None = None) -> float:
    """The duration in seconds. Raises InvalidInput for what is none, for a negative one and beyond a century."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidInput(f"{value!r} is no duration", pointer=pointer)
    given = value
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise InvalidInput(
                f"{given!r} is no duration; give seconds, or a number and ms, s, m, h or d, like 30s", pointer=pointer
            )
        value = float(match[1]) * _SECONDS[match[2] or "s"]
    if not 0 <= value <= _CENTURY:
        raise InvalidInput(f"{given!r} is no duration between 0 and a century", pointer=pointer)
    return float(value)


def size(value: Any, *, pointer: str | None = None) -> int:
    """The size in bytes. Raises InvalidInput for what is none, and for what no file can have."""
    found = value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        found = int(match[1]) * _BYTES[(match[2] or "b").lower()]
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= _LARGEST:
        return found
    raise InvalidInput(f"{value!r} is no size; give bytes, or a number and kB, MB or GB, like 10MB", pointer=pointer)


def rate(value: Any, *, pointer: str | None = None) -> tuple[int, float]:
    """How many in how many seconds: "100/1m" is (100, 60.0). Raises InvalidInput for what is none."""
    number, _, time = value.partition("/") if isinstance(value, str) else ("", "", "")
    try:
        found = whole_number(number.strip()), duration(time)
    except InvalidInput:
        found = 0, 0.0
    if found[0] < 1 or found[1] <= 0:
        raise InvalidInput(f"{value!r} is no rate; give a number and a duration, like 100/1m", pointer=pointer)
    return found


def whole_number(value: Any, *, pointer: str | None = None) -> int:
    """The whole number, also out of a text. Raises InvalidInput for what is none."""
    try:
        return msgspec.convert(value, int, strict=False)
    except msgspec.ValidationError:
        raise InvalidInput(f"{value!r} is no whole number", pointer=pointer) from None


def yes_or_no(value: Any, *, pointer: str | None = None) -> bool:
    """The truth value, also out of a text or of 1 and 0. Raises InvalidInput for what is none."""
    try:
        return msgspec.convert(value, bool, strict=False)
    except msgspec.ValidationError:
        raise InvalidInput(f"{value!r} is neither true nor false", pointer=pointer) from None


def text(value: Any) -> str:
    """The value, which is a text. Raises InvalidInput."""
    if not isinstance(value, str):
        raise InvalidInput(f"{value!r} is no text")
    return value


def a_list(value: Any) -> list[Any]:
    """The value, which is a list. Raises InvalidInput."""
    if not isinstance(value, list):
        raise InvalidInput(f"{value!r} is no list")
    return value


def origin(value: Any) -> str:
    """An origin as a browser sends it. Raises InvalidInput."""
    name = text(value).strip().lower()
    if not _ORIGIN.fullmatch(name):
        raise InvalidInput(f"{value!r} is no origin, like https://front.example or http://localhost:3000")
    return name


def host_name(value: Any) -> str:
    """A name as it stands in a Host header, without a port. Raises InvalidInput."""
    name = text(value).strip().lower()
    if not _HOST_NAME.fullmatch(name):
        raise InvalidInput(f"{value!r} is no name of a host, like etl.example")
    return name
