"""`damad migrate` refuses what stands in its way, waits for nobody for long, and may be killed anywhere."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio
from original_support import CATALOGUE, EVENTS, copy_of, named, rows, template_of, value
from postgres_support import sql
from test_hostile_writers import waits_for_a_lock

from damad.errors import Conflict, Unavailable
from damad.eventstore import migrate as migration
from damad.eventstore.migrate import migrate
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.eventstore.verify import verify
from damad.model.event import Event

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""
ORIGINAL = "original_in_the_way"


@pytest_asyncio.fixture(scope="module")
async def templates(template: str) -> AsyncIterator[str]:
    """The DSN of a server with a database of the original."""
    async with template_of(template, ORIGINAL):
        yield template


@pytest_asyncio.fixture
async def original(templates: str) -> AsyncIterator[Database]:
    """A database as the original had it."""
    async with copy_of(templates, ORIGINAL) as database:
        yield database


async def command(database: Database, *words: str) -> asyncio.subprocess.Process:
    """A command that runs on the database as pg_env `main`."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "damad", *words, "--pg-env", "main",
        env={"DAMAD_PG_ENV_MAIN_DSN": database.dsn, "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def damad(database: Database, *words: str) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of a command."""
    process = await command(database, *words)
    async with asyncio.timeout(SOON):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


# --- what stands in the way ---

IN_THE_WAY = {
    "view public.newest": "CREATE VIEW newest AS SELECT max(event_id) FROM data_manager.event_store",
    "materialized view public.days": "CREATE MATERIALIZED VIEW days AS"
    " SELECT _created_timestamp::date FROM data_manager.etl_contexts",
    "view public.active": "CREATE VIEW active AS"
    " SELECT * FROM data_manager.dama_task_queue WHERE task_state = 'active'",
    "view public.tree": "CREATE VIEW tree AS SELECT * FROM data_manager.show_etl_context_tree(1)",
    "policy mine on table data_manager.event_store": "CREATE POLICY mine ON data_manager.event_store"
    " USING (etl_context_id > 5)",
    "function public.latest(integer)": "CREATE FUNCTION latest(id integer) RETURNS integer BEGIN ATOMIC"
    " SELECT latest_event_id FROM data_manager.etl_contexts WHERE etl_context_id = id; END",
}


@pytest.mark.parametrize("what", IN_THE_WAY)
async def test_what_stands_in_the_way_is_named_and_nothing_is_changed(original: Database, what: str) -> None:
    await sql(original.dsn, IN_THE_WAY[what])
    before = await rows(original, CATALOGUE)
    with pytest.raises(Conflict) as refused:
        await migrate(original)
    assert what.replace("public.", "") in str(refused.value).replace("public.", "")
    assert "\n" not in str(refused.value)
    assert await rows(original, CATALOGUE) == before
    kind, name = what.split(" public.") if "public." in what else ("policy", "mine ON data_manager.event_store")
    await sql(original.dsn, f"DROP {kind} {name}")
    assert (await migrate(original)).changed


async def test_the_command_line_says_so_in_one_line_and_counts_no_legacy_event_as_a_mismatch(
    original: Database,
) -> None:
    await sql(original.dsn, IN_THE_WAY["view public.newest"])
    code, out, err = await damad(original, "migrate")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "newest" in err
    await sql(original.dsn, "DROP VIEW newest")
    assert await damad(original, "migrate") == (0, f"pg_env main brought to schema {migration.VERSION}\n", "")
    code, out, err = await damad(original, "verify", "--json")
    report = json.loads(out)
    assert (code, err, report["mismatches"]) == (0, "", [])
    assert report["legacy"] == msgspec.to_builtins((await verify(original)).legacy) != []
    code, out, _ = await damad(original, "verify")
    assert (code, "0 mismatches" in out, "legacy" in out) == (0, True, True)


async def test_what_does_not_stand_in_the_way_stays(original: Database) -> None:
    await sql(
        original.dsn,
        "CREATE TABLE seen (n int); CREATE ROLE reader_of_upgrade; "
        "CREATE VIEW statuses AS SELECT etl_status, count(*) FROM data_manager.etl_contexts GROUP BY 1;"
        "CREATE FUNCTION saw() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN INSERT INTO seen VALUES (1); RETURN NULL; END';"
        "CREATE TRIGGER saw AFTER INSERT OR UPDATE ON data_manager.event_store FOR EACH ROW EXECUTE FUNCTION saw();"
        "CREATE TABLE notes (event_id integer REFERENCES data_manager.event_store, note text);"
        "INSERT INTO notes SELECT min(event_id), 'first' FROM data_manager.event_store;"
        "CREATE INDEX by_user ON data_manager.event_store ((meta ->> 'user_id'));"
        "COMMENT ON COLUMN data_manager.event_store.payload IS 'what it says';"
        "GRANT SELECT ON data_manager.event_store TO reader_of_upgrade",
    )
    await migrate(original)
    assert dict(await rows(original, "SELECT * FROM statuses"))["DONE"] >= 200
    assert await value(original, "SELECT count(*) FROM seen") == 0
    store = EventStore(original)
    await store.append([Append(etl_context_id=await named(original, "begun"), event=Event(type="x:NEXT"))])
    assert await value(original, "SELECT count(*) FROM seen") == 1
    assert await value(original, "SELECT count(*) FROM notes JOIN data_manager.event_store USING (event_id)") == 1
    assert await value(original, "SELECT to_regclass('data_manager.by_user') IS NOT NULL")
    assert await value(
        original, "SELECT has_table_privilege('reader_of_upgrade', 'data_manager.event_store', 'SELECT')"
    )
    await sql(original.dsn, "DROP OWNED BY reader_of_upgrade; DROP ROLE reader_of_upgrade")


async def test_an_event_store_of_another_kind_is_refused(original: Database) -> None:
    await sql(original.dsn, "ALTER TABLE data_manager.event_store RENAME COLUMN payload TO body")
    with pytest.raises(Conflict, match=r"no database of the original.*event_store\.payload"):
        await migrate(original)


async def test_an_earlier_original_is_upgraded_too(original: Database) -> None:
    await sql(
        original.dsn,
        "DROP VIEW data_manager.dama_task_queue; DROP FUNCTION data_manager.show_etl_context_tree;"
        "ALTER TABLE data_manager.etl_contexts DROP COLUMN etl_task_id;"
        "CREATE VIEW data_manager.dama_task_queue AS SELECT a.*, b.id AS task_id FROM data_manager.etl_contexts a"
        " LEFT JOIN pgboss.job b ON a.etl_context_id = (b.data ->> 'etl_context_id')::integer",
    )
    assert (await migrate(original)).changed
    assert (await verify(original)).mismatches == []


# --- who else is there ---


async def insert(database: Database, etl_context_id: int) -> None:
    """Appends an event as the original's clients do, whether the database is upgraded or not."""
    await sql(
        database.dsn, f"INSERT INTO data_manager.event_store (etl_context_id, type) VALUES ({etl_context_id}, 'x:MORE')"
    )


async def test_twice_at_once_upgrades_once(original: Database) -> None:
    events = await rows(original, EVENTS)
    done = await asyncio.gather(*(migrate(Database(f"n{n}", original.dsn)) for n in range(4)))
    assert sorted(one.changed for one in done) == [False, False, False, True]
    assert await rows(original, EVENTS) == events


async def test_again_it_changes_nothing(original: Database) -> None:
    await migrate(original)
    before, events = await rows(original, CATALOGUE), await rows(original, "SELECT * FROM data_manager.event_store")
    assert not (await migrate(original)).changed
    assert await rows(original, CATALOGUE) == before
    assert await rows(original, "SELECT * FROM data_manager.event_store") == events


async def test_a_long_reader_lets_writers_through_and_is_waited_for(original: Database) -> None:
    id_ = await named(original, "begun")
    reader: Any = await asyncpg.connect(original.dsn)
    try:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM data_manager.event_store")
            upgrade = asyncio.create_task(migrate(original))
            for _ in range(3):
                await waits_for_a_lock(original)
                async with asyncio.timeout(SOON):
                    await insert(original, id_)
            assert not upgrade.done()
        async with asyncio.timeout(SOON):
            assert (await upgrade).changed
    finally:
        await reader.close()
    assert [event.type for event in await EventStore(original).read(id_)][1:] == ["x:MORE"] * 3


async def test_a_reader_that_does_not_end_is_named(original: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "_TRIES", 2)
    reader: Any = await asyncpg.connect(original.dsn, server_settings={"application_name": "a long report"})
    before = await rows(original, CATALOGUE)
    try:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM data_manager.event_store")
            with pytest.raises(Unavailable, match=r"'main': its tables are in use \(session \d+ \(a long report\)\)"):
                await migrate(original)
    finally:
        await reader.close()
    assert await rows(original, CATALOGUE) == before


# --- interrupted ---

STALL = """
CREATE SEQUENCE public.commands;
CREATE FUNCTION public.stall() RETURNS event_trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF nextval('public.commands') = {} THEN PERFORM pg_sleep(600); END IF;
  END $$;
CREATE EVENT TRIGGER stall_{} ON ddl_command_end EXECUTE FUNCTION public.stall();
"""
"""Has the session of whoever issues the nth command that defines something wait there."""
STALLED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


@pytest.mark.parametrize("place", [2, 9, 14, 18, 21, 30, 60, 90])
async def test_killed_anywhere_the_database_still_works_and_the_next_run_goes_on(
    original: Database, place: int
) -> None:
    id_, before = await named(original, "begun"), await rows(original, CATALOGUE)
    await sql(original.dsn, STALL.format(place, place))
    process = await command(original, "migrate")
    try:
        async with asyncio.timeout(SOON):
            while not await value(original, STALLED):
                assert process.returncode is None
        process.send_signal(signal.SIGKILL)
        async with asyncio.timeout(SOON):
            await process.wait()
            while await value(original, STALLED):
                pass
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert await rows(original, CATALOGUE) == before
    await insert(original, id_)
    with pytest.raises(asyncpg.PostgresError):
        await insert(original, await named(original, "done"))
    assert (await migrate(original)).changed
    await insert(original, id_)
    assert (await verify(original)).mismatches == []
