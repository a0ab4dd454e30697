"""The queues of one pg_env: what is set for them in the database, and what is in them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from damad.eventstore.pools import Database
from damad.model.queue import Change, StoredQueue


class Depth(msgspec.Struct, frozen=True):
    """The tasks of a queue in one state. `ready`: those that wait for nothing but a slot · oldest_age: seconds since
    the first of these could have run."""

    queue: str
    state: str
    number: int
    ready: int
    oldest_age: float | None


async def stored(database: Database, name: str | None = None) -> dict[str, StoredQueue]:
    """What is set for the queues, by their names; of one queue alone if it is named."""
    return {row["name"]: stored_queue(row) for row in await database.fetch("queues", name)}


async def depths(database: Database, name: str | None = None) -> list[Depth]:
    """How many tasks that have not ended are in which state; of one queue alone if it is named."""
    rows = await database.fetch("queue_depths", name)
    return [Depth(**{field: row[field] for field in Depth.__struct_fields__}) for row in rows]


async def change(database: Database, name: str, wanted: Change) -> None:
    """Sets what is wanted of a queue, which is made if need be, and tells the daemons."""
    await database.fetch("change_queue", name, wanted.fields, wanted.settings)


def stored_queue(row: Mapping[str, Any]) -> StoredQueue:
    """The queue in a row that has its columns."""
    return StoredQueue(**{name: row[name] for name in StoredQueue.__struct_fields__})
