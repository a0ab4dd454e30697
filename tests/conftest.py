"""What tests stand on: one real Postgres a session, a fresh database for each test that asks for one."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from damad import context
from damad.context import EtlContext, Host
from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.migrate import migrate
from damad.eventstore.pools import Database
from damad.eventstore.store import EventStore

TEMPLATE = "damad_template"


def in_database(dsn: str, name: str) -> str:
    """The DSN of another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a throw-away Postgres."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("server"))
    postgres.join()
    yield postgres.dsn
    postgres.leave()


@pytest_asyncio.fixture(scope="session")
async def template(server: str) -> str:
    """The DSN of the server, once it has a migrated database to copy."""
    await make_template(server)
    return server


@pytest_asyncio.fixture
async def dsn(template: str) -> AsyncIterator[str]:
    """The DSN of a fresh database with damad's schema."""
    name = f"test_{uuid4().hex[:12]}"
    await sql(template, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield in_database(template, name)
    await sql(template, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """A fresh database as pg_env `local`."""
    database = Database("local", dsn, max_size=60)
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> EventStore:
    """The event store of a fresh database."""
    return EventStore(database)


@pytest.fixture
def workers(tmp_path: Path) -> Path:
    """A worker root with one worker in it, ok.py."""
    root = tmp_path / "workers"
    root.mkdir(mode=0o755)
    (root / "ok.py").write_text("async def main(initial_event):\n    return {}\n")
    return root


@pytest.fixture
def here(database: Database, workers: Path, tmp_path: Path) -> Callable[..., AbstractContextManager[EtlContext]]:
    """`with here():` enters the pg_env, as a front does; `with here(etl_context_id=…, fence=…):` a context in it."""

    def enter(**given: object) -> AbstractContextManager[EtlContext]:
        host = Host(state_dir=tmp_path / "state", worker_roots=(workers,))
        return context.run_in(EtlContext(pg_env="local", database=database, host=host, **given))

    return enter


async def make_template(server: str) -> None:
    """Makes the migrated database that others are copies of."""
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
