"""What tests stand on: one real Postgres a session, a fresh database for each test that asks for one."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
import pytest_asyncio
from postgres_support import TEMPLATE, in_database, make_template, sql

from damad import background, context
from damad.context import EtlContext, Host
from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.pools import Database
from damad.eventstore.store import EventStore

pytest_plugins = ["fast_paths", "lost_answers", "reliability_page"]

# The same examples in every run; one fixture for all examples of a test; no file of examples beside the project.
hypothesis.settings.register_profile(
    "damad",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
# Where it matters that a test fails and not why (make mutants): the first example that fails is good enough.
hypothesis.settings.register_profile(
    "first-failure", hypothesis.settings.get_profile("damad"), phases=[hypothesis.Phase.generate]
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "damad"))


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


@pytest.fixture(scope="module")
def own_database(template: str) -> Iterator[Database]:
    """A fresh database for code that runs on damad's own loop, as Hypothesis' sync tests do."""
    name = f"own_{uuid4().hex[:12]}"
    background.run(sql(template, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
    database = Database("local", in_database(template, name))
    yield database
    background.run(database.close())
    background.run(sql(template, f"DROP DATABASE {name} WITH (FORCE)"))


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


@pytest_asyncio.fixture
async def plain(dsn: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection to the fresh database as a program has it that does not know damad. JSON is text to it."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close(timeout=10)


@pytest.fixture
def workers(tmp_path: Path) -> Path:
    """A worker root with one worker in it, ok.py."""
    root = tmp_path / "workers"
    root.mkdir(mode=0o755)
    (root / "ok.py").write_text("async def main(initial_event):\n    return {}\n")
    return root


@pytest.fixture
def host(tmp_path: Path, workers: Path) -> Host:
    """A host with an id, a state folder and the worker root."""
    return Host(host_id=str(uuid4()), state_dir=tmp_path / "state", worker_roots=(workers,))


@pytest.fixture
def here(database: Database, host: Host) -> Callable[..., AbstractContextManager[EtlContext]]:
    """`with here():` enters the pg_env, as a front does; `with here(etl_context_id=…, fence=…):` a context in it."""

    def enter(**given: Any) -> AbstractContextManager[EtlContext]:
        return context.run_in(EtlContext(pg_env="local", database=database, **{"host": host, **given}))

    return enter


@pytest.fixture
def ctx(here: Callable[..., AbstractContextManager[EtlContext]]) -> Iterator[EtlContext]:
    """The pg_env entered for the whole test. (No async fixture: the test runs in a copy of the context of this one.)"""
    with here() as entered:
        yield entered
