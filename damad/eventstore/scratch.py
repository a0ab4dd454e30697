"""A database that is made for a while beside another one, on the same server, and removed again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from damad.errors import ConfigError
from damad.eventstore.migrate import migrate
from damad.eventstore.pools import Database
from damad.eventstore.refusals import translated

_PREFIX: Final = "damad_bench_"


@asynccontextmanager
async def scratch(
    beside: Database, pg_env: str, *, max_size: int, template: str | None = None
) -> AsyncIterator[Database]:
    """A new database with damad's schema, under the name of that pg_env. At the end it is dropped, whoever is in it.

    template: the name of a database that has the schema and that nobody is in; the new one is a copy of it.
    Raises ConfigError where the role may not make one, and Unavailable.
    """
    name = f"{_PREFIX}{uuid4().hex[:12]}"
    await _execute(beside, f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
    database = Database(
        pg_env, urlunsplit(urlsplit(beside.dsn)._replace(path=f"/{name}")), application_name="damad bench",
        max_size=max_size,
    )  # fmt: skip
    try:
        if template is None:
            await migrate(database)
        yield database
    finally:
        await database.close()
        await _execute(beside, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def _execute(database: Database, statement: str) -> None:
    async with database.connection() as connection:
        with translated():
            try:
                await connection.execute(statement)
            except asyncpg.InsufficientPrivilegeError:
                raise ConfigError(
                    f"the role of pg_env {database.pg_env} may not make a database to measure in; "
                    "ALTER ROLE … CREATEDB, or name another pg_env"
                ) from None
