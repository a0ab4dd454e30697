"""Programs that write straight into the tables, by mistake or worse: what they cannot spoil."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from damad import errors
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY, Event

INSERT = "INSERT INTO data_manager.event_store (etl_context_id, type, payload, meta, fence) VALUES ($1, $2, $3, $4, $5)"
HOST = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1"
SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""

Plain = "asyncpg.Connection[Any]"


async def context_with(plain: Plain, *events: tuple[str, Any]) -> int:
    """A context with these events, each a type and a payload (for an :INITIAL the settings of a task, if any)."""
    id_: int = await plain.fetchval("INSERT INTO data_manager.etl_contexts DEFAULT VALUES RETURNING etl_context_id")
    for type_, payload in events:
        task = type_ == ":INITIAL" and payload is not None
        meta = json.dumps({SETTINGS_KEY: payload}) if task else None
        await plain.execute(INSERT, id_, type_, None if task else json.dumps(payload), meta, None)
    return id_


async def running(plain: Plain) -> int:
    """A task that runs under fence 1."""
    return await context_with(
        plain,
        (":INITIAL", {"worker": "ok.py"}),
        ("dama/task:CLAIMED", {"fence": 1, "host_id": HOST}),
        ("dama/task:STARTED", {"attempt": 1, "pid": 4711}),
    )


async def nothing_is_amiss(database: Database) -> None:
    assert (await verify(database)).mismatches == []


async def test_the_same_uuid_in_two_contexts_at_once_leaves_no_gap(plain: Plain, database: Database) -> None:
    """ON CONFLICT DO NOTHING drops the row after the judge has let it in; then nothing else may stay of it."""
    one, other = await context_with(plain, (":INITIAL", None)), await context_with(plain, (":INITIAL", None))
    uuid = uuid4()
    statement = """
        INSERT INTO data_manager.event_store (etl_context_id, type, event_uuid) VALUES ($1, ':A', $2)
          ON CONFLICT DO NOTHING
    """
    second = await asyncpg.connect(database.dsn)
    try:
        async with plain.transaction():
            await plain.execute(statement, one, uuid)
            late = asyncio.create_task(second.execute(statement, other, uuid))
            await waits_for_a_lock(database)
        async with asyncio.timeout(SOON):
            with pytest.raises(asyncpg.PostgresError):
                await late
    finally:
        await second.close()
    await nothing_is_amiss(database)


async def test_a_uuid_that_is_there_is_refused_at_once_and_the_transaction_may_go_on(
    plain: Plain, database: Database
) -> None:
    id_, uuid = await context_with(plain, (":INITIAL", None)), uuid4()
    statement = "INSERT INTO data_manager.event_store (etl_context_id, type, event_uuid) VALUES ($1, $2, $3)"
    await plain.execute(statement, id_, ":A", uuid)
    async with plain.transaction():
        with pytest.raises(asyncpg.PostgresError) as refused:
            async with plain.transaction():
                await plain.execute(f"{statement} ON CONFLICT DO NOTHING", id_, ":A", uuid)
        assert refused.value.sqlstate == "DA004"
        await plain.execute(statement, id_, ":B", uuid4())
    assert await plain.fetchval("SELECT version FROM data_manager.etl_contexts") == 3
    await nothing_is_amiss(database)


async def waits_for_a_lock(database: Database) -> None:
    """Returns once some backend of this database waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(SOON), database.connection() as connection:
        while not await connection.fetchval(waiting):
            pass


@pytest.mark.parametrize(
    "settings",
    [
        "a text",
        7,
        ["worker"],
        {"worker": ""},
        {"worker": 7},
        {"worker": {"a": 1}},
        {"worker": "ok.py", "queue": 7},
        {"worker": "ok.py", "queue": ""},
        {"worker": "ok.py", "queue": ["default"]},
        {"worker": "ok.py", "priority": True},
        {"worker": "ok.py", "priority": 1.5},
        {"worker": "ok.py", "priority": "0x10"},
        {"worker": "ok.py", "idempotency_key": 7},
        {"worker": "ok.py", "retry_limit": "many"},
        {"worker": "ok.py", "retry_limit": 1.5},
        {"worker": "ok.py", "retry_limit": -1},
        {"worker": "ok.py", "dama_host_id": 7},
        {"worker": "ok.py", "start_after": "2030-01-01T00:00:00"},
        {"worker": "ok.py", "start_after": "tomorrow"},
        {"worker": "ok.py", "start_after": "-infinity"},
        {"worker": "ok.py", "start_after": True},
        {"worker": "ok.py", "start_after": {"seconds": 1}},
        {"worker": "ok.py", "start_after": -1},
        {"worker": "ok.py", "start_after": 1e300},
    ],
    ids=json.dumps,
)
async def test_a_task_whose_settings_cannot_be_read_is_refused_and_no_context_for_it_is_begun(
    plain: Plain, database: Database, settings: Any
) -> None:
    id_ = await context_with(plain)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await plain.execute(INSERT, id_, ":INITIAL", None, json.dumps({SETTINGS_KEY: settings}), None)
    assert refused.value.sqlstate == "DA007"
    assert await plain.fetchval("SELECT count(*) FROM data_manager.event_store") == 0
    await nothing_is_amiss(database)


@pytest.mark.parametrize(
    "settings",
    [
        {"worker": "ok.py"},
        {"worker": "ok.py", "queue": None, "priority": None, "start_after": None, "retry_limit": None},
        {"worker_path": "old/worker.py", "priority": "5"},
        {"worker": "ok.py", "priority": -3, "retry_limit": 0, "dama_host_id": HOST, "idempotency_key": "k"},
        {"worker": "ok.py", "start_after": 90},
        {"worker": "ok.py", "start_after": 0.1234565},
        {"worker": "ok.py", "start_after": 12345678.1234565},
        {"worker": "ok.py", "start_after": "10m"},
        {"worker": "ok.py", "start_after": "1.5 h"},
        {"worker": "ok.py", "start_after": "250ms"},
        {"worker": "ok.py", "start_after": "2030-01-31T08:00:00+01:00"},
        {"worker": "ok.py", "start_after": "2030-01-31T08:00:00.123456Z"},
        {"worker": "ok.py", "start_after": "2030-01-31t08:00:00z"},
        {"worker": "ok.py", "unheard_of": {"a": [1]}},
    ],
    ids=json.dumps,
)
async def test_a_task_from_plain_sql_is_folded_as_it_was_projected(
    plain: Plain, database: Database, settings: Any
) -> None:
    await plain.execute("SET TimeZone = 'Australia/Brisbane'; SET DateStyle = 'SQL, DMY'")
    await context_with(plain, (":INITIAL", settings))
    await nothing_is_amiss(database)
    assert await plain.fetchval("SELECT count(*) FROM data_manager.dama_task_queue") == 1


@pytest.mark.parametrize("given", ["10m", 600, "600s", "0.16666666666666666h"])
async def test_a_start_after_from_plain_sql_may_be_a_duration(plain: Plain, store: EventStore, given: Any) -> None:
    id_ = await context_with(plain, (":INITIAL", {"worker": "ok.py", "start_after": given}))
    state: Any = await store.state(id_)
    assert state.state == "scheduled"
    assert (state.run_at - state.created_at).total_seconds() == pytest.approx(600, abs=SOON)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("CLAIMED", None),
        ("CLAIMED", {}),
        ("CLAIMED", "text"),
        ("CLAIMED", {"fence": 2}),
        ("CLAIMED", {"fence": "2", "host_id": None}),
        ("CLAIMED", {"fence": 2, "host_id": "nobody"}),
        ("CLAIMED", {"fence": 1, "host_id": HOST}),
        ("STARTED", None),
        ("STARTED", {"attempt": 1}),
        ("STARTED", {"attempt": "1", "pid": "7"}),
        ("STARTED", {"attempt": "first"}),
        ("PROGRESS", None),
        ("PROGRESS", [1]),
        ("RELEASED", None),
        ("RELEASED", []),
        ("RELEASED", {"run_at": None}),
        ("RELEASED", {"run_at": "tomorrow"}),
        ("RELEASED", {"run_at": "2030-01-31 08:00:00"}),
        ("RELEASED", {"run_at": "2030-01-31T08:00:00+01:00"}),
        ("RELEASED", {"keeps_attempt": True}),
        ("RELEASED", {"keeps_attempt": "true"}),
    ],
    ids=str,
)
async def test_an_event_of_damads_own_by_a_strangers_hand_is_folded_as_it_was_projected_or_refused(
    plain: Plain, database: Database, kind: str, payload: Any
) -> None:
    id_ = (
        await running(plain)
        if kind in ("PROGRESS", "RELEASED")
        else await context_with(plain, (":INITIAL", {"worker": "ok.py"}))
    )
    if kind == "STARTED":
        await plain.execute(INSERT, id_, "dama/task:CLAIMED", json.dumps({"fence": 1, "host_id": HOST}), None, None)
    elif kind == "CLAIMED":
        claim = json.dumps({"fence": 1, "host_id": HOST})
        await plain.execute(INSERT, id_, "dama/task:CLAIMED", claim, None, None)
        await plain.execute(INSERT, id_, "dama/task:RELEASED", None, None, None)
    try:
        await plain.execute(INSERT, id_, f"dama/task:{kind}", json.dumps(payload), None, None)
    except asyncpg.PostgresError as refused:
        assert refused.sqlstate in ("DA001", "DA007"), refused
    await nothing_is_amiss(database)


async def test_a_claim_that_never_started_has_no_number_to_keep(plain: Plain, database: Database) -> None:
    claimed = [(":INITIAL", {"worker": "ok.py"}), ("dama/task:CLAIMED", {"fence": 1, "host_id": HOST})]
    id_ = await context_with(plain, *claimed, ("dama/task:RELEASED", {"keeps_attempt": True}))
    assert (await EventStore(database).assignment(id_)).attempt == 1
    await nothing_is_amiss(database)


@pytest.mark.parametrize(("said", "attempt"), [({"keeps_attempt": True}, 1), ({"reason": "snoozed"}, 2)], ids=str)
async def test_a_run_that_was_handed_back_keeps_its_number_and_in_older_logs_it_did_not(
    plain: Plain, database: Database, said: Any, attempt: int
) -> None:
    id_ = await running(plain)
    await plain.execute(INSERT, id_, "dama/task:RELEASED", json.dumps(said), None, None)
    assert (await EventStore(database).assignment(id_)).attempt == attempt
    await nothing_is_amiss(database)


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        ({"kind": "exit"}, {"run_at": "2030-01-31T08:00:00Z"}),
        (None, {"run_at": "2030-01-31T08:00:00Z"}),
        ("text", {"run_at": "2030-01-31T08:00:00Z"}),
        ({"kind": 7}, {"run_at": "2030-01-31T08:00:00Z"}),
        ({"kind": "exit"}, None),
        ({"kind": "exit"}, {"run_at": "soon"}),
        ({"kind": "exit"}, {"run_at": "2030-01-31 08:00"}),
    ],
    ids=str,
)
async def test_a_failure_by_a_strangers_hand_is_folded_as_it_was_projected_or_refused(
    plain: Plain, database: Database, error: Any, retry: Any
) -> None:
    id_ = await running(plain)
    try:
        async with plain.transaction():
            await plain.execute(INSERT, id_, "dama/task:ERROR", json.dumps(error), None, None)
            await plain.execute(INSERT, id_, "dama/task:RETRY", json.dumps(retry), None, None)
    except asyncpg.PostgresError as refused:
        assert refused.sqlstate == "DA007", refused
    await nothing_is_amiss(database)


@pytest.mark.parametrize(
    "ended",
    [
        ["dama/task:RELEASED"],
        ["dama/task:WAITING"],
        ["dama/task:ERROR", "dama/task:RETRY"],
        ["dama/task:ERROR", "dama/task:FAILED"],
        ["dama/task:CANCEL_REQUESTED", "dama/task:CANCELLED"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("late", [":FINAL", "x:LOADED", "dama/task:PROGRESS"])
async def test_a_run_that_is_over_appends_nothing_even_while_nobody_claimed_its_task_again(
    plain: Plain, store: EventStore, ended: list[str], late: str
) -> None:
    """Its fence has not been raised yet, but the claim that it stands for is over: a late worker must not complete
    what others were told has failed."""
    id_ = await running(plain)
    payloads = {"dama/task:ERROR": {"kind": "lost"}, "dama/task:RETRY": {"run_at": "2030-01-31T08:00:00Z"}}
    await store.append(
        [Append(etl_context_id=id_, event=Event(type=type_, payload=payloads.get(type_))) for type_ in ended]
    )
    with pytest.raises(errors.Conflict):
        await store.append([Append(etl_context_id=id_, event=Event(type=late), fence=1)])
    await nothing_is_amiss(store.database)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO data_manager.event_store (etl_context_id, type, event_uuid) VALUES ($1, ':B', $2)"
        " ON CONFLICT (event_uuid) DO UPDATE SET type = ':C'",
        "MERGE INTO data_manager.event_store e USING (SELECT $1::bigint AS id, $2::uuid AS uuid) s"
        " ON e.event_uuid = s.uuid WHEN MATCHED AND e.etl_context_id = s.id THEN UPDATE SET type = ':C'",
        "MERGE INTO data_manager.event_store e USING (SELECT $1::bigint AS id, $2::uuid AS uuid) s"
        " ON e.event_uuid = s.uuid WHEN MATCHED AND e.etl_context_id = s.id THEN DELETE",
        "WITH gone AS (DELETE FROM data_manager.event_store WHERE etl_context_id = $1 AND event_uuid = $2 RETURNING 1)"
        " SELECT * FROM gone",
        "UPDATE data_manager.event_store SET _created_timestamp = now() WHERE etl_context_id = $1 AND event_uuid = $2",
    ],
)
async def test_no_statement_changes_an_event(plain: Plain, statement: str) -> None:
    id_, uuid = await context_with(plain, (":INITIAL", None)), uuid4()
    insert = "INSERT INTO data_manager.event_store (etl_context_id, type, event_uuid) VALUES ($1, ':A', $2)"
    await plain.execute(insert, id_, uuid)
    before = await plain.fetch("SELECT * FROM data_manager.event_store ORDER BY event_id")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await plain.execute(statement, id_, uuid)
    assert refused.value.sqlstate in ("DA006", "DA004")
    assert await plain.fetch("SELECT * FROM data_manager.event_store ORDER BY event_id") == before


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE data_manager.event_store",
        "TRUNCATE data_manager.event_store CASCADE",
        "TRUNCATE data_manager.etl_contexts CASCADE",
        "DELETE FROM data_manager.etl_contexts",
        "UPDATE data_manager.etl_contexts SET etl_context_id = etl_context_id + 1000",
    ],
)
async def test_no_statement_takes_the_events_away(plain: Plain, statement: str) -> None:
    await context_with(plain, (":INITIAL", None), (":A", 1))
    with pytest.raises(asyncpg.PostgresError):
        await plain.execute(statement)
    assert await plain.fetchval("SELECT count(*) FROM data_manager.event_store") == 2


async def test_many_rows_of_one_statement_are_judged_one_after_the_other(plain: Plain, database: Database) -> None:
    id_ = await context_with(plain)
    rows = "INSERT INTO data_manager.event_store (etl_context_id, type) SELECT $1, type FROM unnest($2::text[]) AS type"
    with pytest.raises(asyncpg.PostgresError):
        await plain.execute(rows, id_, [":INITIAL", ":A", ":FINAL", ":B"])
    await plain.execute(rows, id_, [":INITIAL", ":A", ":FINAL"])
    found = await plain.fetch("SELECT version, type FROM data_manager.event_store ORDER BY event_id")
    assert [tuple(row) for row in found] == [(1, ":INITIAL"), (2, ":A"), (3, ":FINAL")]
    await nothing_is_amiss(database)


async def test_a_savepoint_that_is_rolled_back_leaves_no_gap(plain: Plain, database: Database) -> None:
    id_ = await context_with(plain, (":INITIAL", None))
    async with plain.transaction():
        await plain.execute(INSERT, id_, ":A", None, None, None)
        with pytest.raises(ZeroDivisionError):
            async with plain.transaction():
                await plain.execute(INSERT, id_, ":FINAL", None, None, None)
                raise ZeroDivisionError
        await plain.execute(INSERT, id_, ":B", None, None, None)
    await nothing_is_amiss(database)
    assert await plain.fetchval("SELECT version FROM data_manager.etl_contexts") == 3


async def test_an_append_that_is_not_committed_yet_keeps_nobody_from_queueing_a_child(
    plain: Plain, store: EventStore
) -> None:
    parent = await context_with(plain, (":INITIAL", None))
    async with plain.transaction():
        await plain.execute(INSERT, parent, ":A", None, None, None)
        async with asyncio.timeout(SOON):
            child = await store.create_context(parent_context_id=parent)
    assert (await store.state(child)).parent_context_id == parent


async def test_an_attempt_that_failed_while_it_was_cancelled_is_cancelled_in_one_statement(
    plain: Plain, store: EventStore
) -> None:
    id_ = await running(plain)
    error = Append(etl_context_id=id_, event=Event(type="dama/task:ERROR", payload={"kind": "signal"}), fence=1)
    gone = Append(etl_context_id=id_, event=Event(type="dama/task:CANCELLED"), fence=1)
    await plain.execute(INSERT, id_, "dama/task:CANCEL_REQUESTED", None, None, None)
    with pytest.raises(errors.Conflict, match="one statement"):
        await store.append([error])
    await store.append([error, gone])
    assert (await store.state(id_)).state == "cancelled"
