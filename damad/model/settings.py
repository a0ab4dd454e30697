"""The settings of a task, as they stand in its :INITIAL event's meta.

`parse` reads what a person or a program gave and refuses what does not fit; `decode` reads what the log holds and
never refuses, for an event that is recorded is a fact: what cannot be read there counts as not given.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

from damad import units
from damad.errors import InvalidInput
from damad.model import shape

DURATIONS = ("retry_delay", "retry_delay_max", "expire_in", "heartbeat", "debounce", "throttle", "cpu_limit")
"""The settings that are durations: numbers of seconds, and read as people write them."""
SIZES = ("memory_limit",)
"""The settings that are numbers of bytes, and read as people write them."""
LIMITS = ("memory_limit", "cpu_limit", "open_files")
"""The settings that the kernel keeps, for each process of a task."""
_STARTS = ("start_after", "start_by")
_TEXTS = ("worker", "on_failure", "idempotency_key", "singleton_key", "work_dir")
_INTEGERS = ("priority", "weight", "retry_limit", "open_files")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_POSTGRES_INT = 2**31
_HEAVIEST = 999_999_999
_LEAST_MEMORY, _FEWEST_FILES, _MOST_FILES = 64_000_000, 64, 2**20
"""With less no process of damad's comes up; more files the kernel gives to nobody (fs.nr_open)."""
_FIRST_YEAR, _LAST_YEAR = 2, 9998
"""The years that every reader of the log can turn into any time zone."""


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Durations are in seconds, sizes in bytes. `start_after` and `start_by` are numbers of seconds after the append or
    RFC 3339 with offset. `weight`: how many slots of its queue it takes while it runs."""

    worker: str
    queue: str = "default"
    priority: int = 0
    weight: int = 1
    start_after: float | str | None = None
    retry_limit: int = 2
    retry_delay: float = 1.0
    retry_backoff: bool = True
    retry_delay_max: float | None = None
    no_retry: tuple[str | int, ...] = ()
    expire_in: float | None = None
    start_by: float | str | None = None
    heartbeat: float | None = None
    on_failure: str | None = None
    memory_limit: int | None = None
    cpu_limit: float | None = None
    open_files: int | None = None
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    singleton_key: str | None = None
    debounce: float | None = None
    throttle: float | None = None
    work_dir: str | None = None
    run_in: str | None = None
    dama_host_id: str | None = None


_OPTIONAL = frozenset(TaskSettings.__struct_fields__) - {"worker"}
NAMES = frozenset(TaskSettings.__struct_fields__) - {"dama_host_id"}
"""The settings that a caller may give. (The host is not given: it is where the task is queued.)"""


def parse(given: dict[str, Any], *, pointer: str = "") -> dict[str, Any]:
    """The settings as they go into the log: only those that were given, durations in seconds.

    Raises InvalidInput that names the setting and what it takes.
    """
    if not given.keys() <= NAMES:
        name = next(name for name in given if name not in NAMES)
        raise InvalidInput(f"there is no task setting {name!r}", pointer=shape.child(pointer, name), setting=name)
    plain = {name: value for name, value in given.items() if value is not None}
    for name in DURATIONS:
        if name in plain:
            plain[name] = units.duration(plain[name], pointer=f"{pointer}/{name}")
    for name in SIZES:
        if name in plain:
            plain[name] = units.size(plain[name], pointer=f"{pointer}/{name}")
    for name in _STARTS:
        if name in plain:
            plain[name] = _moment_or_duration(name, plain[name], f"{pointer}/{name}")
    settings = shape.fit(plain, TaskSettings, pointer=pointer)
    shape.check_json(plain, "task settings", pointer=pointer)
    _check_ranges(settings, pointer)
    return plain


def from_texts(given: dict[str, str]) -> dict[str, Any]:
    """Settings given as texts (flags, environment variables), each as the sort of value that the setting is.

    Raises InvalidInput that names the setting whose text does not fit.
    """
    readers: dict[str, Callable[[str], Any]] = {
        **dict.fromkeys(_INTEGERS, units.whole_number),
        "retry_backoff": units.yes_or_no,
        "no_retry": _names_and_codes,
    }
    plain: dict[str, Any] = {}
    for name, text in given.items():
        try:
            plain[name] = readers[name](text) if name in readers else text
        except InvalidInput as error:
            raise InvalidInput(f"{name} {error}", pointer=f"/{name}", setting=name) from None
    return plain


def _names_and_codes(text: str) -> list[str | int]:
    """Names of classes and exit codes, out of a text with commas."""
    words = [word.strip() for word in text.split(",")]
    return [units.whole_number(word) if word.isascii() and word.isdigit() else word for word in words]


def _moment_or_duration(name: str, value: Any, pointer: str) -> float | str:
    if isinstance(value, str) and "T" in value.upper():
        try:
            moment = datetime.fromisoformat(value.upper())
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise InvalidInput(
                f"{name} {value!r} is no RFC 3339 time with offset, like 2026-01-31T08:00:00+01:00",
                pointer=pointer,
            )
        if not _is_in_range(moment):
            raise InvalidInput(
                f"{name} {value!r} is not within the years {_FIRST_YEAR} to {_LAST_YEAR}", pointer=pointer
            )
        return moment.isoformat()
    return units.duration(value, pointer=pointer)


def _is_in_range(moment: datetime) -> bool:
    """True for a time that the database schedules by (schema/105_moments.sql), as it stands in UTC."""
    try:
        return _FIRST_YEAR <= moment.astimezone(UTC).year <= _LAST_YEAR
    except OverflowError:
        return False


def _check_ranges(settings: TaskSettings, pointer: str) -> None:
    if not 0 <= settings.retry_limit < _POSTGRES_INT:
        raise InvalidInput(f"retry_limit is a number from 0 to {_POSTGRES_INT - 1}", pointer=f"{pointer}/retry_limit")
    if not -_POSTGRES_INT <= settings.priority < _POSTGRES_INT:
        raise InvalidInput(
            f"priority is a number from {-_POSTGRES_INT} to {_POSTGRES_INT - 1}", pointer=f"{pointer}/priority"
        )
    if not 1 <= settings.weight <= _HEAVIEST:
        raise InvalidInput(f"weight is a number from 1 to {_HEAVIEST}", pointer=f"{pointer}/weight")
    if not is_name(settings.queue):
        raise InvalidInput(
            f"queue {settings.queue!r} is no name: a-z, then a-z 0-9 _, at most 63", pointer=f"{pointer}/queue"
        )
    if settings.run_in not in (None, "process", "daemon"):
        raise InvalidInput("run_in is process or daemon", pointer=f"{pointer}/run_in")
    _check_limits(settings, pointer)
    for name in ("expire_in", "heartbeat", "debounce", "throttle"):
        if getattr(settings, name) == 0:
            raise InvalidInput(f"{name} is longer than 0", pointer=f"{pointer}/{name}")
    for name in _TEXTS:
        value = getattr(settings, name)
        if value is not None and not 0 < len(value) <= 1024:
            raise InvalidInput(f"{name} has 1 to 1024 characters", pointer=f"{pointer}/{name}")
    for place, one in enumerate(settings.no_retry):
        if not (0 < len(one) <= 255 if isinstance(one, str) else 0 <= one <= 255):
            raise InvalidInput(
                f"no_retry takes names of 1 to 255 characters and exit codes from 0 to 255, and {one!r} is neither",
                pointer=f"{pointer}/no_retry/{place}",
            )
    if settings.concurrency_key is not None and not 0 < len(settings.concurrency_key) <= 255:
        raise InvalidInput("concurrency_key has 1 to 255 characters", pointer=f"{pointer}/concurrency_key")


def _check_limits(settings: TaskSettings, pointer: str) -> None:
    memory, cpu, files = settings.memory_limit, settings.cpu_limit, settings.open_files
    if memory is not None and memory < _LEAST_MEMORY:
        raise InvalidInput(f"memory_limit is at least {_LEAST_MEMORY} bytes", pointer=f"{pointer}/memory_limit")
    if cpu is not None and cpu < 1:
        raise InvalidInput("cpu_limit is at least 1 s; the kernel counts whole ones", pointer=f"{pointer}/cpu_limit")
    if files is not None and not _FEWEST_FILES <= files <= _MOST_FILES:
        raise InvalidInput(
            f"open_files is a number from {_FEWEST_FILES} to {_MOST_FILES}", pointer=f"{pointer}/open_files"
        )
    check_limits_hold({name: getattr(settings, name) for name in LIMITS}, settings.run_in, pointer=pointer)


def check_limits_hold(given: Mapping[str, Any], run_in: str | None, *, pointer: str = "") -> None:
    """Raises InvalidInput for a limit that is given where there is no process to keep it in."""
    for name in LIMITS:
        if run_in == "daemon" and given.get(name) is not None:
            raise InvalidInput(
                f"{name} is for a process of the task's own, and run_in is daemon", pointer=f"{pointer}/{name}"
            )


def is_name(text: str) -> bool:
    """True for a name of a queue or a pg_env: `[a-z][a-z0-9_]*`, at most 63 characters."""
    return _NAME.fullmatch(text) is not None


def decode(recorded: Any) -> TaskSettings:
    """The settings that the log holds. What does not fit there is left out, as if it were not given."""
    recorded = recorded if isinstance(recorded, dict) else {}
    worker = recorded.get("worker") or recorded.get("worker_path")
    known: dict[str, Any] = {"worker": worker if isinstance(worker, str) else ""}
    for name, value in recorded.items():
        if name in _OPTIONAL and value is not None:
            with suppress(InvalidInput, msgspec.ValidationError):
                known[name] = _recorded(name, value)
    return msgspec.convert(known, TaskSettings)


def decode_one(name: str, recorded: Any) -> Any:
    """One of the settings that the log holds, as `decode` reads it."""
    value = recorded.get(name) if isinstance(recorded, dict) else None
    return getattr(decode({} if value is None else {name: value}), name)


def weight_of(recorded: Any) -> int:
    """How many slots of its queue a task takes, by the settings that the log holds. As schema/218 reads it."""
    return int(decode_one("weight", recorded))


def _recorded(name: str, value: Any) -> Any:
    """A setting out of the log. Plain SQL writes durations as people do, and numbers as texts too."""
    if name in (*DURATIONS, *SIZES, *_INTEGERS, "no_retry"):
        plain = from_texts({name: value}) if isinstance(value, str) else {name: value}
        return parse({"worker": "-", **plain})[name]
    msgspec.convert({"worker": "", name: value}, TaskSettings)
    return value
