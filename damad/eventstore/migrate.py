"""Makes and upgrades the schema: `damad migrate`, and `damad serve` when it starts.

The files of schema/ are one object each and may be applied again at any time; the files of schema/upgrades/ carry an
older schema to where they apply. All of it is one transaction: interrupted anywhere, nothing has happened.
"""

import hashlib
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from damad.errors import DamadError, Unavailable
from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.refusals import translated

VERSION: Final = 1
"""Of the schema in this package. An upgrade file carries the number of the version that it leads to."""

_LOCK: Final = 0x64616D61
"""Advisory lock of whoever migrates: "dama" in ASCII."""
_LOCK_TIMEOUT: Final = "3s"
_TRIES: Final = 20


class Migration(msgspec.Struct, frozen=True):
    """What `migrate` found and did. `before` is None where there was no damad schema."""

    pg_env: str
    before: int | None
    after: int
    changed: bool


async def migrate(database: Database) -> Migration:
    """Brings the schema up to date. Idempotent, and safe when run twice at once.

    Locks are short: a migration that cannot get its locks within seconds lets go and tries again.
    Raises DamadError for a schema that is newer than this damad, and Unavailable.
    """
    for tries_left in reversed(range(_TRIES)):
        connection = await database.connect()
        try:
            with translated():
                return await _migrate(connection, database.pg_env)
        except Unavailable:
            if not tries_left:
                raise
        finally:
            connection.terminate()
    raise AssertionError("the loop above returns or raises")


async def drift(database: Database) -> str | None:
    """How the schema differs from what this damad makes, in a few words; None where it does not."""
    connection = await database.connect()
    try:
        with translated():
            before, checksum = await _applied(connection)
    finally:
        connection.terminate()
    if before is None:
        return "there is none"
    if (before, checksum) == (VERSION, _checksum()):
        return None
    return f"version {before}, made by another damad than this one (version {VERSION})"


async def _migrate(connection: "asyncpg.Connection[Any]", pg_env: str) -> Migration:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        await connection.execute("SET LOCAL client_min_messages = warning")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        before, checksum = await _applied(connection)
        if before is not None and before > VERSION:
            raise DamadError(
                f"pg_env {pg_env!r} has schema {before}; this damad knows up to {VERSION}: install a newer one"
            )
        if (before, checksum) == (VERSION, _checksum()):
            await connection.execute(query("begin_epoch"))
            return Migration(pg_env, before, VERSION, False)
        for upgrade in _upgrades(before):
            await connection.execute(upgrade.read_text(encoding="utf-8"))
        for file in _sql(_schema()):
            await connection.execute(file.read_text(encoding="utf-8"))
        await connection.execute(
            "INSERT INTO data_manager.damad_schema (version, checksum) VALUES ($1, $2)", VERSION, _checksum()
        )
        await connection.execute(query("begin_epoch"))
    return Migration(pg_env, before, VERSION, True)


async def _applied(connection: "asyncpg.Connection[Any]") -> tuple[int | None, str | None]:
    if await connection.fetchval("SELECT to_regclass('data_manager.damad_schema')") is None:
        return None, None
    row = await connection.fetchrow(
        "SELECT version, checksum FROM data_manager.damad_schema ORDER BY applied_at DESC LIMIT 1"
    )
    return (row["version"], row["checksum"]) if row else (None, None)


def _schema() -> Traversable:
    packaged = files("damad").joinpath("_schema")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "schema"


def _sql(folder: Traversable) -> list[Traversable]:
    found = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted(found, key=lambda file: file.name)


def _upgrades(before: int | None) -> list[Traversable]:
    """Those that lead to a version beyond `before`. Number 0001 upgrades a database made by the original."""
    folder = _schema().joinpath("upgrades")
    if not folder.is_dir():
        return []
    return [file for file in _sql(folder) if int(re.match(r"\d+", file.name)[0]) > (before or 0)]  # type: ignore[index]


def _checksum() -> str:
    digest = hashlib.sha256()
    for file in _sql(_schema()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
