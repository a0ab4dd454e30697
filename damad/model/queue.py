"""What can be set for a queue while daemons run: its fields, and the task settings for tasks that do not say.

A field that is None is not set: then each host's own configuration counts.
"""

import re
from typing import Any, Final

import msgspec

from damad import units
from damad.errors import InvalidInput
from damad.model import settings, shape

MOST_SLOTS: Final = 2**31
_RATE = re.compile(r"([1-9]\d{0,8})/(\d{1,10}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_LEAST: Final = {"concurrency": 0, "global_concurrency": 1, "key_concurrency": 1}
_RATES: Final = ("rate", "key_rate")
_UNDER_ITS_ROW: Final = ("global_concurrency", "key_concurrency", *_RATES, "aging")
"""Where one of these is set, whoever claims from the queue holds its row: schema/222."""
OF_ONE_TASK: Final = frozenset({"queue", "idempotency_key", "singleton_key", "debounce", "throttle"})
TASK_SETTINGS: Final = settings.NAMES - OF_ONE_TASK - {"worker", "run_in"}
"""The task settings that a queue may have for tasks that do not say. (What goes by the `singleton_key` is none.)"""


class QueueFields(msgspec.Struct, frozen=True, kw_only=True):
    """What is set for a queue, beside task settings. It counts for all hosts.

    global_concurrency, key_concurrency: how many of its tasks, and how many of each concurrency_key, run at a time over
    all hosts · rate, key_rate: how many begin in which time, "100/1m", of the queue and of each concurrency_key ·
    aging: after how many seconds of waiting a task's priority counts as one higher.
    """

    paused: bool | None = None
    concurrency: int | None = None
    global_concurrency: int | None = None
    key_concurrency: int | None = None
    rate: str | None = None
    shared: bool | None = None
    run_in: str | None = None
    key_rate: str | None = None
    aging: float | None = None


class StoredQueue(QueueFields, frozen=True, kw_only=True):
    """A queue as the database has it. `settings`: for tasks that do not say."""

    name: str
    settings: dict[str, Any] = {}

    @property
    def limited(self) -> bool:
        """True where what is claimed from it is counted over all hosts, or goes by more than its priority."""
        return any(getattr(self, name) is not None for name in _UNDER_ITS_ROW)


class Change(msgspec.Struct, frozen=True):
    """What is to be set: fields and task settings. A None takes back what was set."""

    fields: dict[str, Any]
    settings: dict[str, Any]


def parse(given: Any, *, pointer: str = "") -> Change:
    """What is to be changed of a queue, out of an object of fields and task settings side by side.

    Raises InvalidInput that names the field and what it takes.
    """
    given = shape.fit(given, dict[str, Any], pointer=pointer)
    fields = {name: value for name, value in given.items() if name in QueueFields.__struct_fields__}
    wanted = {name: value for name, value in given.items() if name not in fields}
    for name in wanted:
        if name not in TASK_SETTINGS:
            raise InvalidInput(
                f"there is no setting {name!r} of a queue", pointer=shape.child(pointer, name), setting=name
            )
    if fields.get("aging") is not None:
        fields["aging"] = units.duration(fields["aging"], pointer=shape.child(pointer, "aging"))
    _check(shape.fit(fields, QueueFields, pointer=pointer), pointer)
    parsed = settings.parse({"worker": "-", **wanted}, pointer=pointer)
    return Change(fields, {name: parsed.get(name) for name in wanted})


def from_texts(given: dict[str, str]) -> dict[str, Any]:
    """Fields and task settings given as texts (flags), each as the sort of value that it is.

    Raises InvalidInput that names the one whose text does not fit.
    """
    readers = {**dict.fromkeys(_LEAST, units.whole_number), "shared": units.yes_or_no}
    plain: dict[str, Any] = {}
    for name, text in given.items():
        if name in readers:
            plain[name] = readers[name](text, pointer=f"/{name}")
        elif name in QueueFields.__struct_fields__:
            plain[name] = text
        else:
            plain |= settings.from_texts({name: text})
    return plain


def _check(fields: QueueFields, pointer: str) -> None:
    for name, least in _LEAST.items():
        value = getattr(fields, name)
        if value is not None and not least <= value < MOST_SLOTS:
            raise InvalidInput(f"{name} is a number from {least} to {MOST_SLOTS - 1}", pointer=f"{pointer}/{name}")
    for name in _RATES:
        rate = getattr(fields, name)
        if rate is not None and not _is_rate(rate):
            raise InvalidInput(
                f"{name} {rate!r} is no number and the time for it, like 100/1m", pointer=f"{pointer}/{name}"
            )
    if fields.aging == 0:
        raise InvalidInput("aging is longer than 0", pointer=f"{pointer}/aging")
    if fields.run_in not in (None, "process", "daemon"):
        raise InvalidInput("run_in is process or daemon", pointer=f"{pointer}/run_in")


def _is_rate(text: str) -> bool:
    found = _RATE.fullmatch(text)
    if found is None:
        return False
    try:
        return units.duration(found[2] + found[3]) > 0
    except InvalidInput:
        return False
