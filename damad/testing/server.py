"""A Postgres for a session of tests, with a fresh database for each: a copy of one that was migrated once."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from damad import background
from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.pools import Database
from damad.eventstore.scratch import scratch

T = TypeVar("T")

PG_ENV: Final = "test"
_CONNECTIONS: Final = 10


class Server:
    """Gives out databases. template: the name of one with damad's schema, in which nobody is."""

    def __init__(self, beside: Database, template: str) -> None:
        self._beside = beside
        self._template = template

    @contextmanager
    def database(self) -> Iterator[Database]:
        """A fresh database with damad's schema, dropped at the end."""
        fresh = scratch(self._beside, PG_ENV, max_size=_CONNECTIONS, template=self._template)
        with _entered(fresh) as database:
            yield database


@contextmanager
def started(folder: Path) -> Iterator[Server]:
    """A server whose data lie in that folder. Raises ConfigError where the embedded Postgres is not installed."""
    postgres = EmbeddedPostgres(folder)
    postgres.join()
    try:
        beside = Database(PG_ENV, postgres.dsn)
        with _entered(scratch(beside, PG_ENV, max_size=_CONNECTIONS)) as migrated:
            background.run(migrated.close())
            yield Server(beside, urlsplit(migrated.dsn).path.removeprefix("/"))
        background.run(beside.close())
    finally:
        postgres.leave()


@contextmanager
def _entered(manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """An async context manager, for sync code: it lives on damad's own loop."""
    value = background.run(_enter(manager))
    try:
        yield value
    finally:
        background.run(_leave(manager))


async def _enter(manager: AbstractAsyncContextManager[T]) -> T:
    return await manager.__aenter__()


async def _leave(manager: AbstractAsyncContextManager[T]) -> None:
    await manager.__aexit__(None, None, None)
