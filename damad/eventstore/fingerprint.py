"""What damad's schema consists of, object by object, and what of it has gone or changed since it was made.

`damad migrate` records it beside the version. A checksum says which files were applied, and nothing of a trigger that
was disabled since, an index that was dropped, a column that may be null now.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import asyncpg
import msgspec

from damad.eventstore.queries import query

_MADE: Final = re.compile(
    r"CREATE (?:OR REPLACE |UNIQUE |CONSTRAINT )*(?:TABLE|FUNCTION|VIEW|INDEX|TRIGGER) (?:IF NOT EXISTS )?"
    r"(?:data_manager\.)?(\w+)"
)
_SHOWN: Final = 5


class Fingerprint(msgspec.Struct, frozen=True):
    """The objects of a schema by name, each with its definition and the statement, if any, after which the files of
    the schema make it again. `server`: the major version of the Postgres that worded the definitions.
    """

    server: int
    objects: dict[str, tuple[str, str | None]]


class Loss(msgspec.Struct, frozen=True):
    """An object that is missing, or is not as it was made."""

    name: str
    missing: bool
    mend: str | None

    def __str__(self) -> str:
        return f"{self.name} is {'missing' if self.missing else 'changed'}"


async def taken(connection: "asyncpg.Connection[Any]", files: Iterable[str]) -> Fingerprint:
    """What is there now of what these files make."""
    text = "\n".join(files)
    made, words = sorted(set(_MADE.findall(text))), sorted(set(re.findall(r"\w+", text)))
    looking = connection.transaction()
    await looking.start()
    await connection.execute("SET LOCAL search_path = pg_catalog")  # what is on it, a definition does not name in full
    rows = await connection.fetch(query("schema_objects"), made, words)
    await looking.rollback()  # the path is as it was
    objects = {row["name"]: (row["definition"], row["mend"]) for row in rows}
    return Fingerprint(connection.get_server_version().major, objects)


def losses(recorded: Fingerprint, now: Fingerprint) -> list[Loss]:
    """What was recorded and is not there, or not as it was; in the order in which it can be made again."""
    comparable = recorded.server == now.server
    found = []
    for name, (definition, mend) in recorded.objects.items():
        there = now.objects.get(name)
        if there is None or (comparable and there[0] != definition):
            found.append(Loss(name, there is None, mend))
    return found


def described(found: Iterable[Loss]) -> str:
    """The losses in a few words."""
    words = [str(loss) for loss in found]
    more = f", and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


async def mend(connection: "asyncpg.Connection[Any]", found: Iterable[Loss]) -> None:
    """Does what must be done before the files of the schema make again what was lost."""
    for loss in found:
        if loss.mend is not None:
            await connection.execute(loss.mend)


def to_record(fingerprint: Fingerprint) -> dict[str, Any]:
    """As it is kept: an array, for a jsonb object forgets the order of its keys."""
    return {"server": fingerprint.server, "objects": [[name, *of] for name, of in fingerprint.objects.items()]}


def from_record(kept: Mapping[str, Any] | None) -> Fingerprint | None:
    """What was recorded, or None where nothing was."""
    if kept is None:
        return None
    return Fingerprint(kept["server"], {name: (definition, mend) for name, definition, mend in kept["objects"]})
