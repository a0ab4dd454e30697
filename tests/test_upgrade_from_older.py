"""`damad migrate` on a database that an older damad made: the upgrades that lead from its version, each once."""

import shutil
from pathlib import Path

import pytest
from original_support import rows, value
from postgres_support import sql

from damad import errors
from damad.eventstore import migrate as migration
from damad.eventstore import queues
from damad.eventstore.migrate import VERSION, drift, migrate
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.eventstore.verify import verify
from damad.model.event import Event
from damad.model.queue import Change, StoredQueue

TO_VERSION_1 = """
DROP TABLE data_manager.original_events, data_manager.cancel_intents;
DROP TRIGGER event_store_judge ON data_manager.event_store;
DROP INDEX data_manager.event_store_one_initial_key, data_manager.event_store_one_final_key;
ALTER TABLE data_manager.event_store DROP COLUMN legacy;
CREATE UNIQUE INDEX event_store_one_initial_key ON data_manager.event_store (etl_context_id)
  WHERE type LIKE '%:INITIAL';
CREATE UNIQUE INDEX event_store_one_final_key ON data_manager.event_store (etl_context_id)
  WHERE type LIKE '%:FINAL';
UPDATE data_manager.damad_schema SET version = 1, checksum = 'older';
"""
TO_VERSION_2 = """
DROP TABLE data_manager.cancel_intents;
DROP FUNCTION data_manager.claim_tasks;
CREATE FUNCTION data_manager.claim_tasks(text, integer, boolean, uuid, text, interval) RETURNS SETOF bigint
  LANGUAGE sql AS 'SELECT 1::bigint';
UPDATE data_manager.damad_schema SET version = 2, checksum = 'older';
"""
TO_VERSION_5 = """
DROP FUNCTION data_manager.room_of_key, data_manager.next_key_token_in, data_manager.key_tokens_at;
DROP FUNCTION data_manager.turn_of, data_manager.weight_of, data_manager.claim_tasks, data_manager.claim_within_limits;
DROP FUNCTION data_manager.within_limits;
CREATE FUNCTION data_manager.claim_tasks(text[], integer[], boolean[], uuid, text, interval, bigint[])
  RETURNS SETOF bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE FUNCTION data_manager.claim_within_limits(text, integer, boolean, uuid, text, interval, bigint[], bigint[])
  RETURNS SETOF bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE FUNCTION data_manager.within_limits(
    data_manager.dama_queues, integer, boolean, uuid, timestamptz, bigint[], bigint[]) RETURNS bigint[]
  LANGUAGE sql AS 'SELECT ARRAY[1::bigint]';
DROP TABLE data_manager.dama_key_tokens;
DROP INDEX data_manager.dama_tasks_singleton_idx;
ALTER TABLE data_manager.dama_queues DROP COLUMN key_rate, DROP COLUMN aging;
INSERT INTO data_manager.dama_queues (name, rate) VALUES ('etl', '5/1m');
UPDATE data_manager.damad_schema SET version = 5, checksum = 'older';
"""
INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'data_manager' ORDER BY 1"
EVENTS = "SELECT event_id, etl_context_id, version, event_uuid, type FROM data_manager.event_store ORDER BY 1"


async def written(database: Database) -> list[tuple[object, ...]]:
    """Some events, as an older damad left them."""
    store = EventStore(database)
    for last in (":FINAL", ":ERROR", "x:UPDATE"):
        id_ = await store.create_context()
        await store.append([Append(etl_context_id=id_, event=Event(type=type_)) for type_ in (":INITIAL", last)])
    return await rows(database, EVENTS)


@pytest.mark.parametrize("older", ["", "ALTER TABLE data_manager.event_store DROP COLUMN txid;"])
async def test_version_1_keeps_every_event_and_becomes_as_a_fresh_one(database: Database, older: str) -> None:
    events, indexes = await written(database), await rows(database, INDEXES)
    await sql(database.dsn, TO_VERSION_1 + older)
    done = await migrate(database)
    assert (done.before, done.after, done.changed) == (1, VERSION, True)
    assert await rows(database, EVENTS) == events
    assert await rows(database, INDEXES) == indexes
    report = await verify(database)
    assert (report.mismatches, report.legacy) == ([], [])
    assert await drift(database) is None


async def test_version_2_gets_a_place_for_intents_and_one_way_to_claim(database: Database) -> None:
    events = await written(database)
    await sql(database.dsn, TO_VERSION_2)
    done = await migrate(database)
    assert (done.before, done.after) == (2, VERSION)
    assert await rows(database, EVENTS) == events
    assert await value(database, "SELECT pronargs FROM pg_proc WHERE proname = 'claim_tasks'") == 8
    assert await value(database, "SELECT count(*) FROM pg_proc WHERE proname = 'claim_tasks'") == 1
    assert await drift(database) is None


async def test_version_5_gets_one_way_to_claim_by_weight(database: Database) -> None:
    await sql(database.dsn, TO_VERSION_5)
    await migrate(database)
    count = "SELECT count(*) FROM pg_proc WHERE proname IN ('claim_tasks', 'claim_within_limits', 'within_limits')"
    assert await value(database, count) == 3
    assert await drift(database) is None


async def test_version_5_keeps_what_is_set_for_its_queues_and_gets_more_that_can_be(database: Database) -> None:
    indexes = await rows(database, INDEXES)
    await sql(database.dsn, TO_VERSION_5)
    done = await migrate(database)
    assert (done.before, done.after) == (5, VERSION)
    assert await rows(database, INDEXES) == indexes
    (etl,) = (await queues.stored(database)).values()
    assert etl == StoredQueue(name="etl", paused=False, rate="5/1m")
    await queues.change(database, "etl", Change({"key_rate": "1/1s", "aging": 60}, {}))
    with pytest.raises(errors.DamadError, match="key_rate"):
        await queues.change(database, "etl", Change({"key_rate": "fast"}, {}))
    assert await drift(database) is None


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """A version two beyond this one, each step with an upgrade that may run but once."""
    schema = tmp_path / "schema"
    shutil.copytree(migration._schema(), schema)
    for version in (VERSION + 1, VERSION + 2):
        step = f"CREATE TABLE made_up_{version} (); INSERT INTO steps VALUES ({version});"
        (schema / "upgrades" / f"{version:04}_made_up.sql").write_text(step)
    monkeypatch.setattr(migration, "_schema", lambda: schema)
    monkeypatch.setattr(migration, "VERSION", VERSION + 2)
    return VERSION + 2


@pytest.mark.parametrize("before", [1, VERSION, VERSION + 1])
async def test_every_step_from_the_version_that_is_there_is_made_once_and_in_order(
    database: Database, made_up: int, before: int
) -> None:
    events = await written(database)
    await sql(database.dsn, "CREATE TABLE steps (version int)")
    await sql(database.dsn, f"UPDATE data_manager.damad_schema SET version = {before}")
    done = await migrate(database)
    assert (done.before, done.after) == (before, made_up)
    steps = [version for (version,) in await rows(database, "SELECT version FROM steps")]
    assert steps == [version for version in (VERSION + 1, VERSION + 2) if version > before]
    assert not (await migrate(database)).changed
    assert await rows(database, EVENTS) == events


async def test_a_fresh_schema_needs_no_steps(database: Database, made_up: int) -> None:
    await sql(database.dsn, "DROP SCHEMA data_manager CASCADE")
    done = await migrate(database)
    assert (done.before, done.after) == (None, made_up)
    assert await value(database, f"SELECT to_regclass('made_up_{made_up}') IS NULL")


async def test_a_step_that_fails_leaves_the_version_that_was_there(
    database: Database, made_up: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (migration._schema() / "upgrades" / f"{made_up:04}_made_up.sql").write_text("SELECT nonsense")  # type: ignore[attr-defined]
    await sql(database.dsn, "CREATE TABLE steps (version int)")
    with pytest.raises(Exception, match="nonsense"):
        await migrate(database)
    assert await value(database, "SELECT max(version) FROM data_manager.damad_schema") == VERSION
    assert await value(database, "SELECT count(*) FROM steps") == 0
