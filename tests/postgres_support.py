"""The databases that tests stand on: copies of one that was migrated, in a server that need not survive a crash."""

from urllib.parse import urlsplit, urlunsplit

import asyncpg

from damad.eventstore.migrate import migrate
from damad.eventstore.pools import Database

TEMPLATE = "damad_template"


def in_database(dsn: str, name: str) -> str:
    """The DSN of another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


async def make_template(server: str) -> None:
    """Makes the migrated database that others are copies of, in a server that need not survive a crash."""
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        await sql(server, f"ALTER SYSTEM SET {setting} = off")
    await sql(server, "SELECT pg_reload_conf()")
    await sql(server, f"CREATE DATABASE {TEMPLATE}")
    database = Database("template", in_database(server, TEMPLATE))
    await migrate(database)
    await database.close()


async def sql(dsn: str, statement: str) -> None:
    """Runs one statement on a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
