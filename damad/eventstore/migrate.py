"""Makes and upgrades the schema: `damad migrate`, and `damad serve` when it starts.

The files of schema/ are one object each and may be applied again at any time; the files of schema/upgrades/ carry an
older schema to where they apply. All of it is one transaction: interrupted anywhere, nothing has happened.

A database without damad's schema that has an event_store was made by the original: the files numbered 0001 bring it to
where today's schema/ applies. The files after them, each numbered with the version that it leads to, are for schemas of
damad alone.
"""

import asyncio
import hashlib
import random
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from damad.errors import Conflict, ContextBusy, Unavailable
from damad.eventstore import fingerprint
from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.refusals import translated

VERSION: Final = 6
"""Of the schema in this package. An upgrade file carries the number of the version that it leads to."""
FROM_THE_ORIGINAL: Final = 1
"""The number of the upgrade files for a database that the original made."""
DAEMONS: Final = 0x64616D62
"""Key of the advisory locks that daemons hold, each with the version of its schema: serving.py. "damb" in ASCII."""

_LOCK: Final = 0x64616D61
"""Advisory lock of whoever migrates: "dama" in ASCII."""
_TRIES: Final = 30
_PAUSE: Final = 1.0
"""Seconds between tries: who queued up behind one is through before the next."""
_LOOKS, _LOOK_PAUSE = 10, 0.1
"""The session of a daemon ends a little after the daemon."""
_SETTINGS: Final = {
    # Who waits for a table keeps everybody waiting who comes after: not for long.
    "lock_timeout": "1s",
    # The tables of a large log are held for minutes, and not for longer than the one who holds them lives.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "1min",
    "client_min_messages": "warning",
}


class Migration(msgspec.Struct, frozen=True):
    """What `migrate` found and did. `before` is None where there was no damad schema."""

    pg_env: str
    before: int | None
    after: int
    changed: bool


async def migrate(database: Database) -> Migration:
    """Brings the schema up to date. Idempotent, and safe when run twice at once.

    Locks are waited for briefly: a migration that cannot get them lets go and tries again, for a minute in all.
    Raises Conflict while an older daemon lives, where something stands in the way and for a schema that is newer than
    this damad, and Unavailable.
    """
    for tries_left in reversed(range(_TRIES)):
        connection = await database.connect()
        try:
            with translated():
                return await _migrate(connection, database.pg_env)
        except Unavailable as error:
            if not tries_left:
                raise await _explained(error, database) from error
        finally:
            connection.terminate()
        await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.5))
    raise AssertionError("the loop above returns or raises")


async def drift(database: Database) -> str | None:
    """How the schema differs from what this damad makes, in a few words; None where it does not."""
    connection = await database.connect()
    try:
        with translated():
            before, checksum = await applied(connection)
            lost = await _losses(connection) if (before, checksum) == (VERSION, _checksum()) else None
    finally:
        connection.terminate()
    if before is None:
        return "there is none"
    if lost is not None:
        return fingerprint.described(lost) or None
    return f"version {before}, made by another damad than this one (version {VERSION})"


async def applied(connection: "asyncpg.Connection[Any]") -> tuple[int | None, str | None]:
    """Version and checksum of the schema that is there; None where there is none of damad's."""
    if await connection.fetchval("SELECT to_regclass('data_manager.damad_schema')") is None:
        return None, None
    row = await connection.fetchrow(
        "SELECT version, checksum FROM data_manager.damad_schema ORDER BY applied_at DESC LIMIT 1"
    )
    return (row["version"], row["checksum"]) if row else (None, None)


def refuse_newer(version: int | None, pg_env: str) -> None:
    """Raises Conflict for a schema that a newer damad made."""
    if version is not None and version > VERSION:
        raise Conflict(f"pg_env {pg_env!r} has schema {version}; this damad knows up to {VERSION}: install a newer one")


async def _migrate(connection: "asyncpg.Connection[Any]", pg_env: str) -> Migration:
    async with connection.transaction():
        await _take_turn(connection)
        before, checksum = await applied(connection)
        refuse_newer(before, pg_env)
        lost = await _losses(connection) if before == VERSION else []
        changed = bool(lost) or (before, checksum) != (VERSION, _checksum())
        if changed:
            await _refuse_beside_older_daemons(connection, pg_env)
            try:
                await fingerprint.mend(connection, lost)
                await _apply(connection, before)
            except asyncpg.IntegrityConstraintViolationError as error:
                if not lost:
                    raise
                raise _beyond_mending(pg_env, lost, f": {error}") from error
            if checksum == _checksum() and (still := await _losses(connection)):
                raise _beyond_mending(pg_env, still)
            await _record(connection)
        await connection.execute(query("begin_epoch"))
    return Migration(pg_env, before, VERSION, changed)


async def _apply(connection: "asyncpg.Connection[Any]", before: int | None) -> None:
    for file in [*await _upgrades(connection, before), *_sql(_schema())]:
        await connection.execute(file.read_text(encoding="utf-8"))


def _beyond_mending(pg_env: str, lost: list[fingerprint.Loss], why: str = "") -> Conflict:
    found = fingerprint.described(lost)
    return Conflict(f"the schema of pg_env {pg_env!r}: {found}, and only a hand can mend that{why}")


async def _losses(connection: "asyncpg.Connection[Any]") -> list[fingerprint.Loss]:
    """What has gone or changed since the schema that is there was made; nothing where no record tells."""
    # Asked for by way of the row: tables that an older damad made have no such column.
    kept = await connection.fetchval(
        "SELECT to_jsonb(s) -> 'objects' FROM data_manager.damad_schema s ORDER BY applied_at DESC LIMIT 1"
    )
    recorded = fingerprint.from_record(kept)
    return [] if recorded is None else fingerprint.losses(recorded, await _fingerprint(connection))


async def _record(connection: "asyncpg.Connection[Any]") -> None:
    objects = fingerprint.to_record(await _fingerprint(connection))
    await connection.execute(
        "INSERT INTO data_manager.damad_schema (version, checksum, objects) VALUES ($1, $2, $3)",
        VERSION, _checksum(), objects,
    )  # fmt: skip


async def _fingerprint(connection: "asyncpg.Connection[Any]") -> fingerprint.Fingerprint:
    return await fingerprint.taken(connection, [file.read_text(encoding="utf-8") for file in _sql(_schema())])


async def _take_turn(connection: "asyncpg.Connection[Any]") -> None:
    """Waits for whoever migrates already, however long that takes: nobody else waits behind."""
    await connection.execute("SET LOCAL lock_timeout = 0")
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    for name, value in _SETTINGS.items():
        await connection.execute(f"SET LOCAL {name} = '{value}'")


async def _refuse_beside_older_daemons(connection: "asyncpg.Connection[Any]", pg_env: str) -> None:
    for _ in range(_LOOKS):
        if not await connection.fetch(query("older_daemons"), DAEMONS, VERSION):
            return
        await asyncio.sleep(_LOOK_PAUSE)
    daemons = ", ".join(
        f"schema {row['version']}, from {row['client']}, session {row['pid']}"
        for row in await connection.fetch(query("serving_sessions"), DAEMONS, VERSION)
    )
    raise Conflict(f"an older damad serves pg_env {pg_env!r} ({daemons or 'it just went'}): stop it and migrate again")


async def _explained(error: Unavailable, database: Database) -> Unavailable:
    """The last refusal. Where a lock was not to be had, with whoever holds the tables."""
    if not isinstance(error, ContextBusy):
        return error
    connection = await database.connect()
    try:
        with translated():
            rows = await connection.fetch(query("table_holders"), "data_manager")
    finally:
        connection.terminate()
    holders = ", ".join(f"session {row['pid']} ({row['application_name'] or row['state']})" for row in rows)
    return Unavailable(
        f"pg_env {database.pg_env!r}: its tables are in use ({holders or 'not any more'}); nothing was changed: "
        "wait for it or end it, and migrate again"
    )


async def _upgrades(connection: "asyncpg.Connection[Any]", before: int | None) -> list[Traversable]:
    folder = _schema().joinpath("upgrades")
    if before is None:
        made = await connection.fetchval("SELECT to_regclass('data_manager.event_store')") is not None
        return [file for file in _sql(folder) if made and _number(file) == FROM_THE_ORIGINAL]
    return [file for file in _sql(folder) if _number(file) > max(before, FROM_THE_ORIGINAL)]


def _number(upgrade: Traversable) -> int:
    found = re.match(r"\d+", upgrade.name)
    assert found, f"an upgrade begins with the number of its version: {upgrade.name}"
    return int(found[0])


def _schema() -> Traversable:
    packaged = files("damad").joinpath("_schema")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "schema"


def _sql(folder: Traversable) -> list[Traversable]:
    found = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted(found, key=lambda file: file.name)


def _checksum() -> str:
    digest = hashlib.sha256()
    for file in _sql(_schema()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
