"""While a daemon serves a pg_env, no newer damad changes the schema underneath it."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from daemon_support import Daemon, site_of
from original_support import value
from postgres_support import sql

from damad.errors import Conflict
from damad.eventstore import migrate as migration
from damad.eventstore.migrate import DAEMONS, VERSION, migrate
from damad.eventstore.pools import Database
from damad.eventstore.serving import serving

SOON = 20.0
"""Seconds in which what must happen has happened, however busy the machine is."""
SERVING = f"""
    SELECT array_agg(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = {DAEMONS} AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
NEWER = f"INSERT INTO data_manager.damad_schema (version, checksum) VALUES ({VERSION + 1}, 'newer')"


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This damad's migrations are those of a newer version."""
    schema = tmp_path / "schema"
    shutil.copytree(migration._schema(), schema)
    (schema / "upgrades" / f"{VERSION + 1:04}_made_up.sql").write_text("CREATE TABLE made_up ();")
    monkeypatch.setattr(migration, "_schema", lambda: schema)
    monkeypatch.setattr(migration, "VERSION", VERSION + 1)


@pytest_asyncio.fixture
async def other(database: Database) -> AsyncIterator[Any]:
    """A session beside those of the daemon."""
    connection = await asyncpg.connect(database.dsn)
    yield connection
    await connection.close()


async def sessions(database: Database, *, but: list[int] | None = None) -> list[int]:
    """The sessions that say who serves, once there is one (that is none of those)."""
    async with asyncio.timeout(SOON):
        while (found := await value(database, SERVING)) is None or found == but:
            pass
    return found


async def end(database: Database, pids: list[int]) -> None:
    await value(database, "SELECT count(pg_terminate_backend(pid)) FROM unnest($1::integer[]) AS pid", pids)


@pytest.mark.usefixtures("newer")
async def test_a_migration_is_refused_while_an_older_daemon_serves_and_goes_on_when_it_has_gone(
    database: Database,
) -> None:
    async with serving(database):
        (pid,) = await sessions(database)
        with pytest.raises(Conflict, match=rf"an older damad serves pg_env 'local' \(schema {VERSION}, .*{pid}\)"):
            await migrate(database)
        assert await value(database, "SELECT to_regclass('made_up') IS NULL")
    done = await migrate(database)
    assert (done.before, done.after) == (VERSION, VERSION + 1)


async def test_daemons_of_one_version_serve_together_and_are_no_hindrance_to_each_other(database: Database) -> None:
    async with serving(database), serving(database):
        assert len(await sessions(database)) == 2
        await sql(database.dsn, "UPDATE data_manager.damad_schema SET checksum = 'another'")
        assert (await migrate(database)).changed


async def test_a_session_that_was_lost_is_made_again(database: Database) -> None:
    async with serving(database):
        lost = await sessions(database)
        await end(database, lost)
        assert len(await sessions(database, but=lost)) == 1


async def test_a_daemon_stops_that_finds_a_newer_schema_after_an_outage(database: Database) -> None:
    with pytest.raises(Conflict, match=rf"'local' has schema {VERSION + 1};.*install a newer one"):
        async with asyncio.timeout(SOON), serving(database):
            await sql(database.dsn, NEWER)
            await end(database, await sessions(database))
            await asyncio.Event().wait()


async def test_a_daemon_that_begins_during_a_newer_ones_migration_waits_and_is_refused(
    database: Database, other: Any
) -> None:
    async def serve() -> None:
        async with serving(database):
            pytest.fail("it serves")

    async with other.transaction():
        assert await other.fetchval("SELECT pg_try_advisory_xact_lock($1::integer, $2)", DAEMONS, VERSION)
        await other.execute(NEWER)
        beginning = asyncio.create_task(serve())
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(SOON):
            while not await value(database, waiting):
                pass
    async with asyncio.timeout(SOON):
        with pytest.raises(Conflict):
            await beginning


async def test_what_is_raised_inside_comes_out_as_it_is(database: Database) -> None:
    cause = KeyError("why")
    with pytest.raises(ValueError, match="as it is") as raised:
        async with serving(database):
            raise ValueError("as it is") from cause
    assert raised.value.__cause__ is cause


async def test_cancelled_it_says_goodbye(database: Database) -> None:
    async def serve() -> None:
        async with serving(database):
            await asyncio.Event().wait()

    daemon = asyncio.create_task(serve())
    await sessions(database)
    daemon.cancel()
    async with asyncio.timeout(SOON):
        with pytest.raises(asyncio.CancelledError):
            await daemon
        while await value(database, SERVING):
            pass


# --- the daemon ---


@pytest_asyncio.fixture
async def daemon(template: str, tmp_path: Path) -> AsyncIterator[Daemon]:
    async with site_of(tmp_path, template) as site:
        yield Daemon(site)


@pytest.mark.usefixtures("newer")
async def test_a_daemon_counts_while_it_lives_and_no_longer(daemon: Daemon) -> None:
    database = daemon.site.databases["local"]
    await daemon.start()
    await sessions(database)
    with pytest.raises(Conflict, match="an older damad serves"):
        await migrate(database)
    assert await daemon.stop() == 0
    assert (await migrate(database)).changed


async def test_a_daemon_that_meets_a_newer_schema_ends_with_one_line(daemon: Daemon) -> None:
    database = daemon.site.databases["local"]
    await daemon.start()
    serving_ = await sessions(database)
    await sql(database.dsn, NEWER)
    await end(database, serving_)
    assert await daemon.exits() == 2
    (line,) = [line for line in daemon.log.splitlines() if line.startswith("damad: ")]
    assert "install a newer one" in line
    assert "Traceback" not in daemon.log


async def test_a_daemon_that_starts_on_a_newer_schema_is_refused_with_one_line(daemon: Daemon) -> None:
    await sql(daemon.site.databases["local"].dsn, NEWER)
    refused = await daemon.site.damad("serve", "--port", "0")
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert "install a newer one" in line
