"""Writers that know nothing of damad INSERT into event_store, and are judged like everybody else."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from damad.eventstore.pools import Database
from damad.eventstore.store import EventStore
from damad.eventstore.verify import verify

INSERT = "INSERT INTO data_manager.event_store (etl_context_id, type, payload) VALUES ($1, $2, $3) RETURNING *"
TASK = {"__dama_task_manager__": {"worker": "ok.py"}}


async def new_context(database: Database, *types: str) -> int:
    """As the original's clients do it."""
    async with database.connection() as connection:
        id_ = await connection.fetchval(
            "INSERT INTO data_manager.etl_contexts (parent_context_id, source_id) VALUES (NULL, NULL) "
            "RETURNING etl_context_id"
        )
        for type_ in types:
            await connection.fetch(INSERT, id_, type_, {})
    return int(id_)


async def insert(database: Database, id_: int, type_: str) -> Any:
    async with database.connection() as connection:
        return await connection.fetchrow(INSERT, id_, type_, {})


async def row(database: Database, id_: int) -> Any:
    async with database.connection() as connection:
        return await connection.fetchrow("SELECT * FROM data_manager.etl_contexts WHERE etl_context_id = $1", id_)


async def refused(database: Database, statement: str, *arguments: Any) -> str:
    """The SQLSTATE that a statement is refused with."""
    async with database.connection() as connection:
        with pytest.raises(asyncpg.PostgresError) as error:
            await connection.execute(statement, *arguments)
    return str(error.value.sqlstate)


async def test_what_the_original_inserts_is_given_its_place(database: Database) -> None:
    id_ = await new_context(database, ":INITIAL", "x:LOADED")
    final = await insert(database, id_, "x:FINAL")
    context = await row(database, id_)
    assert (final["version"], final["error"], context["etl_status"]) == (3, None, "DONE")
    assert (context["latest_event_id"], context["version"]) == (final["event_id"], 3)


@pytest.mark.parametrize("type_", [":FINAL", ":INITIAL"])
async def test_of_50_at_once_one_is_accepted(database: Database, type_: str) -> None:
    id_ = await new_context(database, *([":INITIAL"] if type_ == ":FINAL" else []))
    done = await asyncio.gather(*(insert(database, id_, type_) for _ in range(50)), return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in done) == 1


async def test_an_event_that_races_a_final_never_reopens_the_context(database: Database) -> None:
    for _ in range(20):
        id_ = await new_context(database, ":INITIAL")
        racing = [insert(database, id_, type_) for type_ in (":A", ":FINAL", ":A", ":ERROR")]
        await asyncio.gather(*racing, return_exceptions=True)
        assert (await row(database, id_))["etl_status"] == "DONE"


async def test_whatever_columns_are_filled_in_the_judge_fills_them(database: Database) -> None:
    id_ = await new_context(database, ":INITIAL")
    async with database.connection() as connection:
        columns = await connection.fetch(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_schema = 'data_manager' AND table_name = 'event_store'"
        )
        nonsense = {
            "event_id": "1", "etl_context_id": str(id_), "version": "99", "event_uuid": f"'{uuid4()}'", "type": "':A'",
            "payload": "'{}'", "meta": "'{}'", "error": "true", "fence": "NULL", "_created_timestamp": "'1999-01-01Z'",
        }  # fmt: skip
        names = [column["column_name"] for column in columns]
        event = await connection.fetchrow(
            f"INSERT INTO data_manager.event_store ({', '.join(names)}) "
            f"VALUES ({', '.join(nonsense.get(name, 'DEFAULT') for name in names)}) RETURNING *"
        )
    assert event["version"] == 2 and event["event_id"] > 1 and event["_created_timestamp"].year > 2000
    assert (await verify(database)).mismatches == []


@pytest.mark.parametrize("moment", ["2099-01-01Z", "infinity"])
async def test_no_writer_dates_a_context_or_its_events_into_the_future(database: Database, moment: str) -> None:
    async with database.connection() as connection:
        id_ = await connection.fetchval(
            "INSERT INTO data_manager.etl_contexts (_created_timestamp, _modified_timestamp) "
            f"VALUES ('{moment}', '{moment}') RETURNING etl_context_id"
        )
        await insert(database, id_, ":INITIAL")
        assert await connection.fetchval(
            "SELECT greatest(c._created_timestamp, c._modified_timestamp, e._created_timestamp) <= clock_timestamp() "
            "FROM data_manager.etl_contexts c JOIN data_manager.event_store e USING (etl_context_id)"
        )


@pytest.mark.parametrize("end", ["", "ON CONFLICT DO NOTHING"])
async def test_no_event_gets_past_the_judge_by_saying_that_it_was_judged(database: Database, end: str) -> None:
    """What damad's own functions insert carries the number of its transaction, which anybody can find out."""
    id_ = await new_context(database, ":INITIAL", ":FINAL")
    async with database.connection() as connection:
        latest = await connection.fetchval("SELECT max(event_id) FROM data_manager.event_store")
        before = await connection.fetch("SELECT * FROM data_manager.event_store ORDER BY event_id")
        for version in (-1, 0, 1, 2, 3, 1000):
            for event_id in (-1, latest, latest + 1, latest + 1000):
                try:
                    await connection.execute(
                        "INSERT INTO data_manager.event_store (event_id, etl_context_id, version, event_uuid, type, "
                        "txid, _created_timestamp) "
                        "VALUES ($1, $2, $3, gen_random_uuid(), ':A', pg_current_xact_id(), now()) " + end,
                        event_id,
                        id_,
                        version,
                    )
                except asyncpg.PostgresError as error:
                    assert error.sqlstate in ("DA001", "23505")
                assert await connection.fetch("SELECT * FROM data_manager.event_store ORDER BY event_id") == before
    assert (await verify(database)).mismatches == []


async def test_a_second_final_with_every_column_filled_in_is_refused(database: Database) -> None:
    id_ = await new_context(database, ":INITIAL", ":FINAL")
    statement = """
        INSERT INTO data_manager.event_store
            (event_id, etl_context_id, version, event_uuid, type, payload, meta, error, _created_timestamp)
          VALUES (987654, $1, 1000, gen_random_uuid(), $2, '{}', '{}', false, now())
    """
    for type_ in (":FINAL", ":INITIAL", ":A"):
        assert await refused(database, statement, id_, type_) == "DA001"


async def test_no_setting_of_a_session_opens_a_back_door(database: Database) -> None:
    id_ = await new_context(database, ":INITIAL", ":FINAL")
    async with database.connection() as connection:
        for name in ("damad.append", "damad.trusted", "damad.mark"):
            await connection.execute("SELECT set_config($1, 'on', false)", name)
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(INSERT, id_, ":A", {})


async def test_on_conflict_do_nothing_neither_passes_the_judge_nor_leaves_a_gap(database: Database) -> None:
    id_, uuid = await new_context(database, ":INITIAL"), uuid4()
    statement = """
        INSERT INTO data_manager.event_store (etl_context_id, type, event_uuid) VALUES ($1, ':A', $2)
          ON CONFLICT DO NOTHING
    """
    async with database.connection() as connection:
        await connection.execute(statement, id_, uuid)
    assert await refused(database, statement, id_, uuid) == "DA004"
    assert (await insert(database, id_, ":B"))["version"] == 3
    assert (await verify(database)).mismatches == []


async def test_copy_is_judged_too(database: Database) -> None:
    id_ = await new_context(database, ":INITIAL")
    async with database.connection() as connection:
        table = {"table_name": "event_store", "schema_name": "data_manager", "columns": ["etl_context_id", "type"]}
        await connection.copy_records_to_table(**table, records=[(id_, ":A"), (id_, ":FINAL")])
        with pytest.raises(asyncpg.PostgresError):
            await connection.copy_records_to_table(**table, records=[(id_, ":B")])
    assert (await row(database, id_))["version"] == 3


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE data_manager.event_store SET payload = '1' WHERE event_id = 1",
        "UPDATE data_manager.event_store SET type = type",
        "DELETE FROM data_manager.event_store",
        "DELETE FROM data_manager.event_store WHERE false",
        "TRUNCATE data_manager.event_store",
        "TRUNCATE data_manager.etl_contexts CASCADE",
        "INSERT INTO data_manager.event_store (etl_context_id, type) VALUES (1, ':A') "
        "ON CONFLICT (event_id) DO UPDATE SET type = ':B'",
    ],
)
async def test_events_are_never_changed_or_removed(database: Database, statement: str) -> None:
    await new_context(database, ":INITIAL")
    assert await refused(database, statement) == "DA006"


async def test_a_context_with_events_cannot_be_deleted(database: Database) -> None:
    id_ = await new_context(database, ":INITIAL")
    assert await refused(database, "DELETE FROM data_manager.etl_contexts WHERE etl_context_id = $1", id_) == "DA006"


async def test_a_context_begins_without_events_whatever_its_row_claims(database: Database) -> None:
    async with database.connection() as connection:
        id_ = await connection.fetchval(
            "INSERT INTO data_manager.etl_contexts (etl_status, initial_event_id, latest_event_id, version) "
            "VALUES ('DONE', 7, 7, 7) RETURNING etl_context_id"
        )
    context = await row(database, id_)
    assert (context["etl_status"], context["initial_event_id"], context["version"]) == (None, None, 0)


BEGUN = """
    INSERT INTO data_manager.etl_contexts (etl_context_id, etl_status, initial_event_id, latest_event_id, version)
      VALUES (10001, 'OPEN', 10001, 10001, 1)
"""
WITH_EVENT = """
    WITH event AS (
      INSERT INTO data_manager.event_store
          (event_id, etl_context_id, version, event_uuid, type, txid, _created_timestamp)
        VALUES (10001, 10001, 1, gen_random_uuid(), ':A', pg_current_xact_id(), now())
    )
"""


@pytest.mark.parametrize("event", ["", WITH_EVENT])
async def test_a_context_that_claims_an_event_it_has_not_is_refused(database: Database, event: str) -> None:
    assert await refused(database, event + BEGUN) == "DA001"


async def test_a_context_with_events_keeps_its_id(database: Database) -> None:
    id_ = await new_context(database, ":INITIAL")
    statement = "UPDATE data_manager.etl_contexts SET etl_context_id = 10001 WHERE etl_context_id = $1"
    assert await refused(database, statement, id_) == "DA006"


async def test_a_task_is_queued_by_a_plain_insert_and_may_run_on_any_host(
    database: Database, store: EventStore
) -> None:
    id_ = await new_context(database)
    async with database.connection() as connection:
        statement = "INSERT INTO data_manager.event_store (etl_context_id, type, payload, meta) VALUES ($1, $2, $3, $4)"
        await connection.execute(statement, id_, ":INITIAL", {"n": 1}, TASK)
    state: Any = await store.state(id_)
    assert (state.state, state.queue, state.priority, state.host_id, state.worker) == (
        "queued",
        "default",
        0,
        None,
        "ok.py",
    )
    assert (await verify(database)).mismatches == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"worker": None},
        {"worker": "ok.py", "priority": "high"},
        {"worker": "ok.py", "priority": 2**40},
        {"worker": "ok.py", "start_after": "tomorrow-ish"},
        {"worker": "ok.py", "start_after": "infinity"},
        {"worker": "ok.py", "dama_host_id": "nobody"},
    ],
)
async def test_settings_that_nobody_can_schedule_by_are_refused(database: Database, settings: dict[str, Any]) -> None:
    id_ = await new_context(database)
    statement = "INSERT INTO data_manager.event_store (etl_context_id, type, meta) VALUES ($1, ':INITIAL', $2)"
    assert await refused(database, statement, id_, {"__dama_task_manager__": settings}) == "DA007"
    assert (await row(database, id_))["version"] == 0


async def test_the_view_of_the_original_has_a_row_per_context(database: Database) -> None:
    plain, task = await new_context(database, ":INITIAL"), await new_context(database)
    async with database.connection() as connection:
        statement = "INSERT INTO data_manager.event_store (etl_context_id, type, meta) VALUES ($1, ':INITIAL', $2)"
        await connection.execute(
            statement, task, {"__dama_task_manager__": {"worker": "ok.py", "queue": "q", "priority": 3}}
        )
        rows = {r["etl_context_id"]: r for r in await connection.fetch("SELECT * FROM data_manager.dama_task_queue")}
    assert set(rows) == {plain, task} and set(rows[task].keys()) >= {
        "etl_context_id", "parent_context_id", "source_id", "etl_status", "initial_event_id", "latest_event_id",
        "task_queue_name", "task_priority", "task_state", "task_retry_limit", "task_retry_count", "task_start_after",
        "task_started_on", "task_completed_on", "task_output",
    }  # fmt: skip
    assert (rows[plain]["task_state"], rows[plain]["etl_status"]) == (None, "OPEN")
    found = rows[task]
    assert (found["task_queue_name"], found["task_priority"], found["task_state"]) == ("q", 3, "queued")
    assert (found["task_retry_limit"], found["task_retry_count"]) == (2, 0)


async def test_ids_are_64_bits_wide_and_times_have_a_zone(database: Database) -> None:
    async with database.connection() as connection:
        columns = await connection.fetch(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'data_manager' "
            "AND table_name IN ('event_store', 'etl_contexts')"
        )
    for column in columns:
        if column["column_name"].endswith("_id") and column["column_name"] != "etl_task_id":
            assert column["data_type"] == "bigint", column["column_name"]
        if column["column_name"].endswith("timestamp"):
            assert column["data_type"] == "timestamp with time zone"
