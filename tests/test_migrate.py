"""`damad migrate`: from nothing, again, twice at once, and not backwards."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from conftest import in_database, sql
from test_hostile_writers import waits_for_a_lock

from damad.errors import DamadError
from damad.eventstore import migrate as migration
from damad.eventstore.migrate import VERSION, drift, migrate
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.eventstore.verify import verify
from damad.model.event import Event

SOON = 10.0
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
