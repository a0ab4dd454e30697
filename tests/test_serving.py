"""While a daemon serves a pg_env, no newer damad changes the schema underneath it."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from daemon_support import Daemon, site_of
from original_support import value
from postgres_support import sql

from damad.errors import Conflict
from damad.eventstore import migrate as migration
from damad.eventstore import serving as serving_module
from damad.eventstore.migrate import DAEMONS, VERSION, migrate
from damad.eventstore.pools import Database
from damad.eventstore.serving import Host, refuse_twin
from damad.eventstore.serving import serving as serving_as

SOON = 60.0
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


def serving(database: Database, host_id: str | None = None) -> AbstractAsyncContextManager[None]:
    """A daemon that serves, as a host of its own unless one is named."""
    return serving_as(database, Host(host_id or str(uuid4()), Path("/state/dama_host_id")))


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


# --- one daemon a host ---


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the session of a daemon that may have died."""
    monkeypatch.setattr(serving_module, "_PATIENCE", 0.5)


HOST = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1"
AS_HOST = """
    SELECT array_agg(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.mark.usefixtures("impatient")
async def test_a_second_daemon_of_one_host_is_refused_and_told_what_to_do(database: Database) -> None:
    host = Host(HOST, Path("/state/dama_host_id"))
    await refuse_twin(database, host)
    async with serving(database, HOST):
        (pid,) = await value(database, AS_HOST)
        said = rf"'local' as this same host \(session {pid}, .*remove /state/dama_host_id and start again"
        with pytest.raises(Conflict, match=said):
            await refuse_twin(database, host)
        with pytest.raises(Conflict, match=said):
            async with serving(database, HOST):
                pytest.fail("it serves")
        async with serving(database):  # another host
            pass
    async with asyncio.timeout(SOON):
        while await value(database, AS_HOST):  # Postgres hears of its end when it comes to it
            pass
    async with serving(database, HOST):
        pass


async def test_who_begins_waits_for_the_session_of_a_daemon_that_was_killed(database: Database, other: Any) -> None:
    taken = "SELECT pg_advisory_lock(hashtextextended($1, $2))"
    await other.execute(taken.replace("$1", f"'{HOST}'").replace("$2", str(DAEMONS)))

    async def serve() -> None:
        async with serving(database, HOST):
            pass

    beginning = asyncio.create_task(serve())
    await sessions(database)  # it is there, and waits
    await other.execute("SELECT pg_advisory_unlock_all()")
    async with asyncio.timeout(SOON):
        await beginning


@pytest.mark.usefixtures("impatient")
async def test_a_daemon_goes_on_that_finds_its_host_taken_after_an_outage_and_takes_it_when_it_can(
    database: Database, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(database, HOST):
        lost = await value(database, AS_HOST)
        await other.execute("BEGIN")
        took = asyncio.create_task(
            other.execute(f"SELECT pg_advisory_xact_lock(hashtextextended('{HOST}', {DAEMONS}))")
        )
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(SOON):
            while not await value(database, waiting):
                pass
            await end(database, lost)
            await took
            while "remove /state/dama_host_id" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await other.execute("ROLLBACK")
        async with asyncio.timeout(SOON):
            while await value(database, AS_HOST) in (None, lost):
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


async def test_a_daemon_that_was_killed_is_no_hindrance_to_the_next(daemon: Daemon) -> None:
    for _ in range(3):
        await daemon.start()
        await sessions(daemon.site.databases["local"])
        await daemon.kill()
    await daemon.start()
    assert "as this same host" not in daemon.log
    assert await daemon.stop() == 0
