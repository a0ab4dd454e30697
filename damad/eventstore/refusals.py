"""What Postgres says, in damad's words.

The functions in schema/ refuse with SQLSTATE class DA and put every value into DETAIL as JSON (schema/100_refuse.sql).
What says that the server is away, starting or stopping becomes Unavailable: the caller may send the same again.
"""

import re
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec

from damad.errors import (
    BrokenLog,
    Conflict,
    ContextBusy,
    DamadError,
    EventUuidConflict,
    IdempotencyConflict,
    IllegalTransition,
    InvalidInput,
    NotFound,
    SchemaMissing,
    SingletonConflict,
    StaleFence,
    Unavailable,
    VersionConflict,
)

_BY_SQLSTATE: Final[dict[str, type[DamadError]]] = {
    "DA001": IllegalTransition,
    "DA002": StaleFence,
    "DA003": VersionConflict,
    "DA004": EventUuidConflict,
    "DA005": NotFound,
    "DA006": Conflict,
    "DA007": InvalidInput,
    "DA008": IdempotencyConflict,
    "DA009": Conflict,
    "DA010": Conflict,
    "DA011": SingletonConflict,
}

_AWAY: Final = ("08", "57P", "53", "58")
"""SQLSTATE classes and codes: connection, operator intervention, out of resources, system error."""

_MISFITS: Final = ("22000", "22P05", "22021")
"""What asyncpg cannot send as the type that a statement takes, and text that Postgres does not hold."""

_NO_SUCH_OBJECT: Final = ("3F000", "42P01", "42883", "42703")
"""SQLSTATEs: no such schema, table, function, column."""

_BY_CONSTRAINT: Final = {
    "event_store_uuid_key": (EventUuidConflict, "the event_uuid is in the log already"),
    "etl_contexts_parent_context_id_fkey": (InvalidInput, "there is no such parent context"),
    "etl_contexts_source_id_fkey": (InvalidInput, "there is no such source"),
    "dama_schedules_source_id_fkey": (InvalidInput, "there is no such source"),
}

_ONCE: Final = {"dama_tasks_idempotency_key": "idempotency_key", "dama_tasks_singleton_key": "singleton_key"}
"""Unique indexes that two who ask at once meet in: by the next look one of them is there."""

_ONLY_BY_HAND: Final = ("event_store_version_key", "event_store_one_initial_key", "event_store_one_final_key")
"""Unique indexes behind the judge: it lets nobody get there, unless there are events that it has not seen."""


class Contention(Unavailable):
    """Two transactions met (40001, 40P01, or the same new key at once); the same again will do."""

    problem = "busy"
    title = "Two transactions met"


class Unanswered(Unavailable):
    """Nobody answered in time; whether it was done is unknown. To send it again would take as long again."""


class translated:
    """Whatever asyncpg raises inside leaves as one of damad's errors. (A class: each statement enters some of them.)"""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        if isinstance(error, asyncpg.PostgresError):
            raise _translate(error) from error
        if isinstance(error, TimeoutError):
            raise Unanswered("Postgres is away: it does not answer") from error
        if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
            if isinstance(error, asyncpg.InterfaceError) and not _lost_connection(error):
                return
            raise Unavailable(f"Postgres is away: {_first_line(error) or type(error).__name__}") from error


class Said(NamedTuple):
    """What Postgres said no with."""

    sqlstate: str
    message: str
    detail: str | None
    constraint: str | None


def _translate(error: asyncpg.PostgresError) -> DamadError:
    said = (getattr(error, name, None) for name in ("detail", "constraint_name"))
    return refusal(Said(error.sqlstate or "", str(error), *said))


def refusal(said: Said) -> DamadError:
    """The error that says the same in damad's words."""
    state, line, constraint = said.sqlstate, said.message.split("\n", 1)[0], said.constraint
    if kind_of_refusal := _BY_SQLSTATE.get(state):
        return kind_of_refusal(line, **_detail(said))
    if state in ("40001", "40P01"):
        return Contention(line)
    if state == "55P03":
        return ContextBusy("somebody holds this context in an open transaction; try again")
    if state in _MISFITS:
        return InvalidInput(f"this does not fit into the log: {line}")
    if state in _NO_SUCH_OBJECT and "data_manager" in said.message:
        return SchemaMissing(f"there is no damad schema, or an older one ({line}); run `damad migrate`")
    if state.startswith(_AWAY):
        return Unavailable(f"Postgres is away: {line}")
    if constraint in _ONCE:
        return Contention(f"another task with this {_ONCE[constraint]} is being queued")
    if constraint == "event_store_pkey":  # an id that somebody gave by hand; the next one is drawn by then
        return Contention("another event has this event_id")
    if constraint in _ONLY_BY_HAND:
        return _broken_log(said)
    if constraint in _BY_CONSTRAINT:
        kind, message = _BY_CONSTRAINT[constraint]
        if kind is InvalidInput:
            field = constraint.removeprefix("etl_contexts_").removeprefix("dama_schedules_").removesuffix("_fkey")
            return InvalidInput(message, pointer=f"/{field}")
        return EventUuidConflict(message)
    return DamadError(f"Postgres refused: {line} ({state})")


def _broken_log(said: Said) -> BrokenLog:
    # The one place that names the context is "Key (etl_context_id, version)=(7, 3)", in whatever language around it.
    found = re.search(r"\(etl_context_id[^)]*\)=\((\d+)", said.detail or "")
    which = f"context {found[1]}" if found else "a context"
    return BrokenLog(
        f"the log of {which} holds events that nobody judged, written with the triggers off: nothing can follow them; "
        "`damad verify` names them, and who wrote them has to take them out",
        **({"etl_context_id": int(found[1])} if found else {}),
    )


def _lost_connection(error: asyncpg.InterfaceError) -> bool:
    text = str(error)
    return "closed" in text or "closing" in text or "released" in text or "terminated" in text


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]


def _detail(said: Said) -> dict[str, Any]:
    try:
        values = msgspec.json.decode(said.detail or "{}")
    except msgspec.DecodeError:
        return {}
    return {name: value for name, value in values.items() if name != "pointer"} if isinstance(values, dict) else {}
