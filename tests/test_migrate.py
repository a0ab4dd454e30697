"""`damad migrate`: from nothing, again, twice at once, and not backwards."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from postgres_support import in_database, sql
from test_hostile_writers import waits_for_a_lock

from damad.errors import Conflict, DamadError
from damad.eventstore import migrate as migration
from damad.eventstore.migrate import VERSION, drift, migrate
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.eventstore.verify import verify
from damad.model.event import Event

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""
OBJECTS = """
    SELECT c.relname || ' ' || c.relkind::text AS name FROM pg_class c
      WHERE c.relnamespace = 'data_manager'::regnamespace
    UNION ALL
    SELECT p.oid::regprocedure || ' ' || md5(pg_get_functiondef(p.oid)) FROM pg_proc p
      WHERE p.pronamespace = 'data_manager'::regnamespace
    UNION ALL
    SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
      WHERE c.relnamespace = 'data_manager'::regnamespace AND NOT t.tgisinternal
    UNION ALL
    SELECT state || ' ' || kind || ' ' || next_state FROM data_manager.transitions
    ORDER BY 1
"""


@pytest.fixture
async def empty(server: str) -> AsyncIterator[Database]:
    """A database without damad's schema."""
    name = f"empty_{uuid4().hex[:12]}"
    await sql(server, f"CREATE DATABASE {name}")
    database = Database("main", in_database(server, name))
    yield database
    await database.close()
    await sql(server, f"DROP DATABASE {name} WITH (FORCE)")


async def objects(database: Database) -> list[str]:
    async with database.connection() as connection:
        return [row["name"] for row in await connection.fetch(OBJECTS)]


async def applied(database: Database) -> int:
    async with database.connection() as connection:
        return await connection.fetchval("SELECT count(*) FROM data_manager.damad_schema")


async def test_from_nothing_it_makes_a_schema_that_works(empty: Database) -> None:
    assert await drift(empty) == "there is none"
    done = await migrate(empty)
    assert (done.pg_env, done.before, done.after, done.changed) == ("main", None, VERSION, True)
    assert await drift(empty) is None
    store = EventStore(empty)
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=type_)) for type_ in (":INITIAL", ":FINAL")])
    assert (await store.state(id_)).state == "done"


async def test_again_it_changes_nothing(empty: Database) -> None:
    await migrate(empty)
    before = await objects(empty)
    again = await migrate(empty)
    assert (again.before, again.after, again.changed) == (VERSION, VERSION, False)
    assert await objects(empty) == before
    assert await applied(empty) == 1


async def test_a_schema_of_the_same_version_by_another_damad_is_made_this_ones_and_keeps_every_event(
    empty: Database,
) -> None:
    await migrate(empty)
    before = await objects(empty)
    store = EventStore(empty)
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL", payload={"n": 1}))])
    async with empty.connection() as connection:
        await connection.execute(
            "UPDATE data_manager.damad_schema SET checksum = 'another';"
            "DROP TRIGGER event_store_judge ON data_manager.event_store;"
            "DROP VIEW data_manager.dama_task_queue;"
            "DELETE FROM data_manager.transitions"
        )
    assert "another damad" in str(await drift(empty))
    assert (await migrate(empty)).changed
    assert await objects(empty) == before
    assert [event.payload for event in await store.read(id_)] == [{"n": 1}]
    assert (await verify(empty)).mismatches == []


async def test_many_at_once_make_it_once(empty: Database) -> None:
    done = await asyncio.gather(*(migrate(Database(f"n{n}", empty.dsn)) for n in range(8)))
    assert sorted(one.changed for one in done) == [False] * 7 + [True]
    assert await applied(empty) == 1


async def test_a_newer_schema_is_refused_and_left_as_it_is(empty: Database) -> None:
    await migrate(empty)
    async with empty.connection() as connection:
        await connection.execute(
            "INSERT INTO data_manager.damad_schema (version, checksum) VALUES ($1, 'x')", VERSION + 1
        )
    before = await objects(empty)
    with pytest.raises(DamadError, match=rf"'main' has schema {VERSION + 1}.*install a newer"):
        await migrate(empty)
    assert await objects(empty) == before


async def test_interrupted_anywhere_nothing_has_happened(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = migration._sql

    class Broken:
        name = "999_broken.sql"

        def read_bytes(self) -> bytes:
            return b""

        def read_text(self, encoding: str) -> str:
            return "SELECT nonsense"

    monkeypatch.setattr(migration, "_sql", lambda folder: [*real(folder), Broken()])
    with pytest.raises(DamadError):
        await migrate(empty)
    monkeypatch.undo()
    assert await drift(empty) == "there is none"
    assert (await migrate(empty)).changed


async def test_it_waits_for_whoever_holds_a_table_and_then_goes_on(empty: Database) -> None:
    await migrate(empty)
    holder: Any = await asyncpg.connect(empty.dsn)
    try:
        await holder.execute("UPDATE data_manager.damad_schema SET checksum = 'another'")
        async with holder.transaction():
            await holder.execute("LOCK TABLE data_manager.event_store IN ACCESS EXCLUSIVE MODE")
            waiting = asyncio.create_task(migrate(empty))
            await waits_for_a_lock(empty)
            assert not waiting.done()
        async with asyncio.timeout(SOON):
            assert (await waiting).changed
    finally:
        await holder.close()
    assert await drift(empty) is None


async def test_every_file_of_the_schema_may_be_applied_again(empty: Database) -> None:
    await migrate(empty)
    before = await objects(empty)
    async with empty.connection() as connection:
        for file in migration._sql(migration._schema()):
            await connection.execute(file.read_text(encoding="utf-8"))
    assert await objects(empty) == before


@pytest.mark.parametrize(
    ("done", "said"),
    [
        ("ALTER TABLE data_manager.event_store DISABLE TRIGGER ALL", "trigger event_store_judge of .* is changed"),
        ("DROP TRIGGER event_store_error_is_concluded ON data_manager.event_store", "error_is_concluded .* missing"),
        ("ALTER TABLE data_manager.event_store DISABLE TRIGGER event_store_refuse_change", "refuse_change .* changed"),
        (
            "DROP INDEX data_manager.event_store_one_final_key",
            "index data_manager.event_store_one_final_key is missing",
        ),
        (
            "DROP INDEX data_manager.event_store_uuid_key;"
            "CREATE INDEX event_store_uuid_key ON data_manager.event_store (event_uuid)",
            "index data_manager.event_store_uuid_key is changed",
        ),
        (
            "ALTER TABLE data_manager.event_store ALTER type DROP NOT NULL",
            "NOT NULL of data_manager.event_store.type is",
        ),
        ("ALTER TABLE data_manager.event_store ALTER legacy DROP DEFAULT", "default of .*legacy is missing"),
        ("ALTER TABLE data_manager.event_store DROP CONSTRAINT event_store_pkey", "constraint event_store_pkey of"),
        (
            "ALTER TABLE data_manager.etl_contexts DROP CONSTRAINT etl_contexts_source_id_fkey",
            "etl_contexts_source_id_fkey of",
        ),
        ("ALTER TABLE data_manager.sources DROP COLUMN category", "column data_manager.sources.category is missing"),
        (
            "ALTER TABLE data_manager.event_store DROP COLUMN legacy CASCADE",
            "column data_manager.event_store.legacy is missing",
        ),
        ("DROP TABLE data_manager.leases", "column data_manager.leases.fence is missing"),
        ("DROP VIEW data_manager.dama_task_queue", "view data_manager.dama_task_queue is missing"),
        (
            "CREATE OR REPLACE FUNCTION data_manager.require_event() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN NULL; END'",
            r"function data_manager.require_event\(\) is changed",
        ),
    ],
)
async def test_what_a_hand_took_from_the_schema_is_named_and_migrate_mends_it(
    empty: Database, done: str, said: str
) -> None:
    await migrate(empty)
    store = EventStore(empty)
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL"))])
    before = await fingerprint_of(empty)
    await sql(empty.dsn, done)
    found = await drift(empty)
    assert found is not None and re.search(said, found), found
    assert (await migrate(empty)).changed
    assert await drift(empty) is None
    assert await fingerprint_of(empty) == before
    assert not (await migrate(empty)).changed


async def test_what_others_put_beside_is_no_drift_and_is_left_as_it_is(empty: Database) -> None:
    theirs = (
        "ALTER TABLE data_manager.event_store ADD COLUMN of_others_alone int;"
        "CREATE INDEX of_others_idx ON data_manager.event_store (_created_timestamp);"
        "CREATE TABLE data_manager.of_others (n int);"
    )
    await migrate(empty)
    await sql(empty.dsn, theirs)
    assert await drift(empty) is None
    await sql(empty.dsn, "UPDATE data_manager.damad_schema SET checksum = 'another'")
    assert (await migrate(empty)).changed
    await sql(empty.dsn, "DROP TABLE data_manager.of_others; DROP INDEX data_manager.of_others_idx")
    await sql(empty.dsn, "ALTER TABLE data_manager.event_store DROP COLUMN of_others_alone")
    assert await drift(empty) is None


async def test_a_search_path_changes_nothing_of_what_is_seen(empty: Database) -> None:
    await migrate(empty)
    set_for_all = "EXECUTE format('ALTER DATABASE %I SET search_path = data_manager, public', current_database())"
    await sql(empty.dsn, f"DO $$ BEGIN {set_for_all}; END $$")
    assert await drift(Database("main", empty.dsn)) is None


async def test_what_only_a_hand_can_mend_is_refused_by_name(empty: Database) -> None:
    await migrate(empty)
    await sql(empty.dsn, "ALTER TABLE data_manager.sources ALTER description TYPE varchar(7)")
    with pytest.raises(Conflict, match=r"column data_manager.sources.description is changed"):
        await migrate(empty)
    assert "description is changed" in str(await drift(empty))


async def test_rows_that_slipped_in_meanwhile_are_the_reason_why_it_cannot_mend(empty: Database) -> None:
    await migrate(empty)
    await sql(
        empty.dsn,
        "ALTER TABLE data_manager.sources DROP CONSTRAINT sources_name_key;"
        "INSERT INTO data_manager.sources (name) VALUES ('one'), ('one')",
    )
    with pytest.raises(Conflict, match=r"constraint sources_name_key of .* is missing.*unique index"):
        await migrate(empty)
    assert "sources_name_key" in str(await drift(empty))


async def fingerprint_of(database: Database) -> Any:
    async with database.connection() as connection:
        return await migration._fingerprint(connection)
