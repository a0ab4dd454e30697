"""What an event is.

A new event has a type, a payload and some meta; recording gives it an id, a version within its context and a time.
"""

import re
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from damad.errors import InvalidInput
from damad.model import shape

TASK_PREFIX: Final = "dama/task:"
"""Types that begin so are damad's own."""

SETTINGS_KEY: Final = "__dama_task_manager__"
"""The key in an :INITIAL event's meta that holds the settings of a task."""

ACTOR_KEY: Final = "__dama_actor__"
"""The key in an event's meta that says who appended it over HTTP: the name of a token, or `uid:` and a number."""

MAX_TYPE_LENGTH: Final = 255
_NO_EVENT_OF_OURS: Final = frozenset({"EVENT", "EVENT_ERROR", "TASK_INITIAL"})
TYPE: Final = re.compile(r"[A-Za-z0-9_./:-]*:[A-Z][A-Z0-9_]*")
"""How a type is written."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """An event that is not recorded yet."""

    type: str
    payload: Any = None
    meta: dict[str, Any] | None = None
    error: bool | None = None
    event_uuid: UUID | None = None


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True, rename={"created_timestamp": "_created_timestamp"}):
    """An event as the log holds it: never changed again. `version` counts from 1 within its context."""

    event_id: int
    etl_context_id: int
    version: int
    event_uuid: UUID
    type: str
    payload: Any
    meta: dict[str, Any] | None
    error: bool | None
    created_timestamp: datetime

    def as_dict(self) -> dict[str, Any]:
        """The event as workers and JSON readers see it: times and uuid are strings."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def kind(type_: str) -> str:
    """What a type means to the lifecycle: INITIAL, FINAL, one of damad's own, EVENT_ERROR or EVENT."""
    if type_.endswith(":INITIAL"):
        return "INITIAL"
    if type_.endswith(":FINAL"):
        return "FINAL"
    if type_.startswith(TASK_PREFIX):
        own = type_.removeprefix(TASK_PREFIX)
        return type_ if own in _NO_EVENT_OF_OURS else own
    return "EVENT_ERROR" if type_.endswith(":ERROR") else "EVENT"


def is_final(type_: str) -> bool:
    """True for the types that end a context."""
    return type_.endswith(":FINAL")


def looks_like_event(value: Any) -> bool:
    """True for an object whose `type` contains a colon. ({"type": "FeatureCollection"} is a payload.)"""
    return isinstance(value, dict) and isinstance(value.get("type"), str) and ":" in value["type"]


def check_type(type_: str, *, pointer: str = "/type") -> None:
    """Raises InvalidInput unless the type is one that damad's functions take (contract, section 5)."""
    if len(type_) > MAX_TYPE_LENGTH or not TYPE.fullmatch(type_):
        raise InvalidInput(
            f"type {type_[:80]!r} is not an event type: at most {MAX_TYPE_LENGTH} of A-Z a-z 0-9 _ . / : -, "
            "ending in a colon and capitals, like gtfs:LOADED",
            pointer=pointer,
        )


def check_meta(meta: dict[str, Any] | None, *, pointer: str = "/meta") -> None:
    """Raises InvalidInput for meta in which somebody wrote task settings, which only who queues a task does, or an
    actor, which only damad does."""
    if meta and SETTINGS_KEY in meta:
        raise InvalidInput(
            f"meta.{SETTINGS_KEY} is reserved; settings are given when a task is queued, beside its meta",
            pointer=f"{pointer}/{SETTINGS_KEY}",
        )
    if meta and ACTOR_KEY in meta:
        raise InvalidInput(
            f"meta.{ACTOR_KEY} is reserved: damad writes who appended an event", pointer=f"{pointer}/{ACTOR_KEY}"
        )


def signed(event: Event, actor: str | None) -> Event:
    """The event with who appended it in its meta; as it is where that is nobody with a name."""
    if actor is None:
        return event
    return msgspec.structs.replace(event, meta={**(event.meta or {}), ACTOR_KEY: actor})


def parse(value: Any, *, pointer: str = "") -> Event:
    """An Event out of a plain object as a worker or a client gives it.

    Raises InvalidInput for unknown fields, a bad type, a field of the wrong sort, or what JSON cannot hold.
    """
    event = shape.fit(value, _EventFields, pointer=pointer)
    check_type(event.type, pointer=f"{pointer}/type")
    shape.check_json({"payload": event.payload, "meta": event.meta}, "an event", pointer=pointer)
    return Event(
        type=event.type, payload=event.payload, meta=event.meta, error=event.error, event_uuid=event.event_uuid
    )


class _EventFields(Event, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An Event that says no to fields it does not know."""
