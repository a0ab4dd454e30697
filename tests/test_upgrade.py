"""`damad migrate` on a database that the original made: in place, with every context and event, under damad's rules."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest
import pytest_asyncio
from original_support import (
    BROKEN,
    CATALOGUE,
    EVENTS,
    HOST,
    KINDS,
    START,
    TASK,
    copy_of,
    named,
    rows,
    template_of,
    value,
)
from postgres_support import in_database, sql

from damad.errors import IllegalTransition
from damad.eventstore.feed import Feed
from damad.eventstore.migrate import VERSION, drift, migrate
from damad.eventstore.pools import Database
from damad.eventstore.rebuild import rebuild
from damad.eventstore.store import Append, EventStore
from damad.eventstore.verify import verify
from damad.model.event import Event

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""
ORIGINAL, UPGRADED = "original_template", "upgraded_template"

CONTEXTS = "SELECT etl_context_id, parent_context_id, source_id, etl_task_id FROM data_manager.etl_contexts ORDER BY 1"
OTHERS = """
    SELECT to_jsonb(t)::text FROM data_manager.sources t
    UNION ALL SELECT to_jsonb(t)::text FROM data_manager.views t
    UNION ALL SELECT to_jsonb(t)::text FROM data_manager.database_id t
    UNION ALL SELECT to_jsonb(t)::text FROM pgboss.job t
    UNION ALL SELECT to_jsonb(t)::text FROM _data_manager_admin.dama_sources_comprehensive t
    ORDER BY 1
"""


@pytest_asyncio.fixture(scope="module")
async def templates(template: str) -> AsyncIterator[str]:
    """The DSN of a server with a database of the original, and with one that was upgraded."""
    async with template_of(template, ORIGINAL):
        await sql(template, f"CREATE DATABASE {UPGRADED} TEMPLATE {ORIGINAL}")
        await migrate(Database("main", in_database(template, UPGRADED)))
        yield template
        await sql(template, f"DROP DATABASE {UPGRADED} WITH (FORCE)")


@pytest_asyncio.fixture
async def original(templates: str) -> AsyncIterator[Database]:
    """A database as the original had it."""
    async with copy_of(templates, ORIGINAL) as database:
        yield database


@pytest_asyncio.fixture
async def upgraded(templates: str) -> AsyncIterator[Database]:
    """The same, upgraded."""
    async with copy_of(templates, UPGRADED) as database:
        yield database


async def rest_of_the_feed(database: Database) -> list[int]:
    feed, cursor, ids = Feed(database), None, []
    while True:
        page = await feed.page(cursor)
        ids += [event.event_id for event in page.events]
        cursor = page.cursor
        if not page.full:
            return ids


# --- what stays ---


async def test_every_context_and_every_event_is_kept_with_its_id_and_what_it_says(original: Database) -> None:
    events, contexts, others = [await rows(original, what) for what in (EVENTS, CONTEXTS, OTHERS)]
    assert len(events) > 20_000
    done = await migrate(original)
    assert (done.before, done.after, done.changed) == (None, VERSION, True)
    assert await rows(original, EVENTS) == events
    assert await rows(original, CONTEXTS) == contexts
    assert await rows(original, OTHERS) == others
    assert await drift(original) is None


async def test_events_are_numbered_without_a_gap_in_the_order_of_their_ids(upgraded: Database) -> None:
    out_of_place = """
        SELECT count(*) FROM (SELECT version, row_number() OVER (PARTITION BY etl_context_id ORDER BY event_id) AS place
          FROM data_manager.event_store) e WHERE version <> place
    """
    assert await value(upgraded, out_of_place) == 0
    assert await value(upgraded, "SELECT count(DISTINCT event_uuid) = count(*) FROM data_manager.event_store")


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu"])
async def test_old_timestamps_are_read_in_the_servers_time_zone(original: Database, zone: str) -> None:
    name = await value(original, "SELECT current_database()")
    await sql(original.dsn, f"ALTER DATABASE {name} SET timezone = '{zone}'")
    id_ = await named(original, "begun")
    await migrate(original)
    (event,) = await EventStore(original).read(id_)
    assert event.created_timestamp == datetime(2021, 7, 4, 9, 0, tzinfo=ZoneInfo(zone)).astimezone(UTC)


async def test_an_upgraded_database_has_the_tables_of_a_fresh_one(upgraded: Database, database: Database) -> None:
    shape = """
        SELECT c.relname || ' ' || what FROM pg_class c JOIN (
          SELECT attrelid AS oid, format('%s %s %s', attname, format_type(atttypid, atttypmod), attnotnull) AS what
            FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped
          UNION ALL SELECT indrelid, pg_get_indexdef(indexrelid) FROM pg_index
          UNION ALL SELECT tgrelid, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
          UNION ALL SELECT conrelid, conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        ) AS parts USING (oid)
        WHERE c.relnamespace = 'data_manager'::regnamespace AND c.relkind IN ('r', 'v')
          AND c.relname NOT IN ('sources', 'views', 'database_id') ORDER BY 1
    """
    assert await rows(upgraded, shape) == await rows(database, shape)


async def test_what_is_not_damads_is_left_alone(upgraded: Database) -> None:
    keys = "SELECT count(*) FROM pg_constraint WHERE conname = 'views_etl_ctx_id_fkey' AND convalidated"
    assert await value(upgraded, keys) == 1
    await sql(upgraded.dsn, "UPDATE data_manager.sources SET display_name = 'x'")
    assert await value(upgraded, "SELECT every(_modified_timestamp > _created_timestamp) FROM data_manager.sources")


# --- what breaks the rules ---


@pytest.mark.parametrize("name", KINDS)
async def test_a_context_has_the_state_that_its_lawful_events_give_it(upgraded: Database, name: str) -> None:
    store, id_ = EventStore(upgraded), await named(upgraded, name)
    kind, state = KINDS[name], await store.state(id_)
    assert [event.type for event in await store.read(id_)] == list(kind.types)
    assert (state.state, state.version) == (kind.state, len(kind.types))
    marks = await rows(
        upgraded, "SELECT version FROM data_manager.event_store WHERE etl_context_id = $1 AND legacy ORDER BY 1", id_
    )
    assert [version for (version,) in marks] == list(kind.breaks)
    if kind.state == "done":
        assert [event.type for event in await store.end_events([id_])] == [
            type_ for place, type_ in enumerate(kind.types, 1) if type_.endswith(":FINAL") and place not in kind.breaks
        ]


async def test_verify_lists_what_breaks_the_rules_and_finds_no_mismatch(upgraded: Database) -> None:
    report = await verify(upgraded)
    assert report.mismatches == []
    listed = {(left.etl_context_id, left.rule): len(left.event_ids) for left in report.legacy}
    expected: dict[tuple[int, str], int] = {}
    for name, kind in BROKEN.items():
        id_ = await named(upgraded, name)
        for rule in kind.breaks.values():
            expected[id_, rule] = expected.get((id_, rule), 0) + 1
    assert listed == expected


async def test_rebuild_finds_nothing_to_mend(upgraded: Database) -> None:
    rebuilt = await rebuild(upgraded)
    assert (rebuilt.mended, rebuilt.broken) == (0, [])


async def test_a_projection_that_is_wrong_is_still_found_beside_what_is_legacy(upgraded: Database) -> None:
    id_ = await named(upgraded, "everything")
    change = "UPDATE data_manager.etl_contexts SET version = 1, etl_status = 'OPEN' WHERE etl_context_id ="
    await sql(upgraded.dsn, f"{change} {id_}")
    found = [(mismatch.etl_context_id, mismatch.field) for mismatch in (await verify(upgraded)).mismatches]
    assert found == [(id_, "etl_status"), (id_, "version")]
    assert (await rebuild(upgraded)).mended == 1
    assert (await verify(upgraded)).mismatches == []


async def test_in_whatever_order_events_were_written_the_projections_are_their_fold(original: Database) -> None:
    types = [
        ":INITIAL", "x:INITIAL", ":FINAL", "x:FINAL", ":ERROR", "x:UPDATE", "x", "", ":INITIAL ", "x:INITIALx",
        "x:INITIAL:FINAL", "x:FINAL:INITIAL", "dama/task:INITIAL", "dama/task:FINAL", "dama/task:ERROR", "dama/task:",
        "dama/task:EVENT", "dama/task:EVENT_ERROR", "dama/task:TASK_INITIAL", "dama/task:CLAIMED", "dama/taskx:A",
    ]  # fmt: skip
    chosen = random.Random(4711)
    written = [(1000 + n % 300, chosen.choice(types), chosen.choice([TASK, None, "[]"])) for n in range(3000)]
    async with original.connection() as connection:
        await connection.execute("ALTER TABLE data_manager.event_store DISABLE TRIGGER USER")
        await connection.execute(
            "INSERT INTO data_manager.etl_contexts (etl_context_id) SELECT n FROM generate_series(1000, 1299) AS n"
        )
        await connection.executemany(
            "INSERT INTO data_manager.event_store (etl_context_id, type, meta) VALUES ($1, $2, $3::text::jsonb)",
            written,
        )
        await connection.execute("ALTER TABLE data_manager.event_store ENABLE TRIGGER USER")
    await migrate(original)
    report = await verify(original)
    assert report.mismatches == []
    assert len({left.rule for left in report.legacy}) == 4
    assert (await rebuild(original)).mended == 0


async def test_no_one_can_mark_an_event_legacy(upgraded: Database) -> None:
    insert = (
        "INSERT INTO data_manager.event_store (etl_context_id, type, legacy) VALUES ($1, $2, true) RETURNING legacy"
    )
    assert await value(upgraded, insert, await named(upgraded, "begun"), "x:UPDATE") is False
    with pytest.raises(asyncpg.PostgresError, match="may not follow"):
        await value(upgraded, insert, await named(upgraded, "done"), "x:FINAL")
    with pytest.raises(asyncpg.PostgresError, match="UPDATE refused"):
        await sql(upgraded.dsn, "UPDATE data_manager.event_store SET legacy = true")


# --- tasks ---


async def test_nothing_that_the_original_queued_is_a_task_that_damad_would_run(upgraded: Database) -> None:
    claimed = (
        "SELECT data_manager.claim_tasks(ARRAY['default'], ARRAY[1000], ARRAY[1000], ARRAY[true], $1::uuid, 'host', "
        "interval '1 min', '{}')"
    )
    assert await rows(upgraded, claimed, HOST) == []
    await rebuild(upgraded)
    assert await value(upgraded, "SELECT count(*) FROM data_manager.dama_tasks") == 0


async def test_a_context_of_the_original_goes_on_and_ends(upgraded: Database) -> None:
    store = EventStore(upgraded)
    for name in ("half way", "tried again", "failed", "two :INITIAL"):
        id_ = await named(upgraded, name)
        await store.append([Append(etl_context_id=id_, event=Event(type=type_)) for type_ in ("gis:NEXT", "gis:FINAL")])
        assert (await store.state(id_)).state == "done"
        with pytest.raises(IllegalTransition):
            await store.append([Append(etl_context_id=id_, event=Event(type="gis:LATE"))])
    assert (await verify(upgraded)).mismatches == []


async def test_a_context_without_an_initial_event_begins_with_one(upgraded: Database) -> None:
    store = EventStore(upgraded)
    for name in ("nothing", "no :INITIAL", "only :FINAL"):
        id_ = await named(upgraded, name)
        with pytest.raises(IllegalTransition):
            await store.append([Append(etl_context_id=id_, event=Event(type="gis:UPDATE"))])
        await store.append([Append(etl_context_id=id_, event=Event(type=type_)) for type_ in (":INITIAL", ":FINAL")])
        assert (await store.state(id_)).state == "done"
    assert (await verify(upgraded)).mismatches == []


# --- the original's clients, afterwards ---


async def test_the_originals_way_of_writing_still_works_and_is_judged(upgraded: Database) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    client: Any = await asyncpg.connect(upgraded.dsn)
    try:
        await client.add_listener("ETL_CONTEXT_FINAL_EVENT", lambda *said: heard.put_nowait(said[3]))
        id_ = await client.fetchval(
            "INSERT INTO data_manager.etl_contexts (parent_context_id, source_id) VALUES ($1, 1)"
            " RETURNING etl_context_id",
            await named(upgraded, "done"),
        )
        assert id_ > 900_000
        insert = (
            "INSERT INTO data_manager.event_store (etl_context_id, type, payload, meta, error)"
            " VALUES ($1, $2, $3, $4, $5) RETURNING *"
        )
        with pytest.raises(asyncpg.PostgresError, match="must be its :INITIAL"):
            await client.fetchrow(insert, id_, "x:UPDATE", None, None, False)
        written = [
            await client.fetchrow(insert, id_, type_, '{"a": 1}', None, False)
            for type_ in (":INITIAL", ":ERROR", ":FINAL")
        ]
        assert written[0]["event_id"] > 800_000
        assert [row["version"] for row in written] == [1, 2, 3]
        for type_ in (":INITIAL", "x:UPDATE", ":FINAL"):
            with pytest.raises(asyncpg.PostgresError, match="may not follow"):
                await client.fetchrow(insert, id_, type_, None, None, False)
        async with asyncio.timeout(SOON):
            assert await heard.get() == str(id_)
    finally:
        await client.close()


async def test_an_initial_event_of_an_original_client_is_a_task_from_now_on(upgraded: Database) -> None:
    client: Any = await asyncpg.connect(upgraded.dsn)
    try:
        async with client.transaction():
            insert = "INSERT INTO data_manager.etl_contexts (source_id) VALUES (1) RETURNING etl_context_id"
            id_ = await client.fetchval(insert)
            await client.execute(
                "INSERT INTO data_manager.event_store (etl_context_id, type, payload, meta) VALUES ($1, $2, $3, $4)",
                id_, "gis:INITIAL", "{}", TASK,
            )  # fmt: skip
    finally:
        await client.close()
    state: Any = await EventStore(upgraded).state(id_)
    assert (state.state, state.worker, str(state.host_id)) == ("queued", "/srv/dama/tasks/load.worker.ts", HOST)
    assert (await verify(upgraded)).mismatches == []


async def test_its_programs_may_start_again_and_change_nothing_that_matters(upgraded: Database) -> None:
    before = await rows(upgraded, CATALOGUE)
    await sql(upgraded.dsn, START)
    known = "event_store_etl_context_status_update_fn()"
    assert [what for what in await rows(upgraded, CATALOGUE) if known not in what[0]] == before
    store = EventStore(upgraded)
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=type_)) for type_ in (":INITIAL", ":FINAL")])
    assert (await verify(upgraded)).mismatches == []


async def test_the_view_and_the_tree_are_there_with_their_columns(upgraded: Database) -> None:
    id_ = await named(upgraded, "done")
    view = "SELECT * FROM data_manager.dama_task_queue WHERE etl_context_id = $1"
    async with upgraded.connection() as connection:
        row = await connection.fetchrow(view, id_)
    assert list(row.keys()) == [
        "etl_context_id", "parent_context_id", "source_id", "etl_status", "initial_event_id", "latest_event_id",
        "task_queue_name", "task_priority", "task_state", "task_retry_limit", "task_retry_count", "task_start_after",
        "task_started_on", "task_completed_on", "task_output",
    ]  # fmt: skip
    assert (row["etl_status"], row["task_state"], row["latest_event_id"] - row["initial_event_id"]) == ("DONE", None, 2)
    root = await value(upgraded, "SELECT min(etl_context_id) FROM data_manager.etl_contexts")
    tree = f"data_manager.show_etl_context_tree({root})"
    assert await value(upgraded, f"SELECT count(*) FROM data_manager.views JOIN {tree} USING (etl_context_id)") == 1


async def test_ids_go_on_after_the_highest_and_beyond_32_bits(upgraded: Database) -> None:
    store = EventStore(upgraded)
    await sql(upgraded.dsn, "SELECT setval('data_manager.event_store_event_id_seq', 2147483647)")
    await sql(upgraded.dsn, "SELECT setval('data_manager.etl_contexts_etl_context_id_seq', 2147483647)")
    id_ = await store.create_context()
    (appended,) = await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL"))])
    assert (id_, appended.event.event_id) == (2**31, 2**31)


async def test_the_feed_begins_with_what_the_original_wrote_and_goes_on(upgraded: Database) -> None:
    store = EventStore(upgraded)
    id_ = await store.create_context()
    await store.append([Append(etl_context_id=id_, event=Event(type=":INITIAL"))])
    logged = await rows(upgraded, "SELECT event_id FROM data_manager.event_store ORDER BY event_id")
    assert await rest_of_the_feed(upgraded) == [event_id for (event_id,) in logged]
