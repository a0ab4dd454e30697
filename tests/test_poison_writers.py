"""Values that jsonb takes and no reader can: refused at the door, shown for what they are past it."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from damad.errors import InvalidInput
from damad.eventstore.feed import Feed
from damad.eventstore.pools import Database
from damad.eventstore.rebuild import rebuild
from damad.eventstore.store import Append, EventStore, NewTask
from damad.eventstore.verify import verify
from damad.model import json_value
from damad.model.event import SETTINGS_KEY, Event
from damad.model.json_value import Unreadable

Plain = "asyncpg.Connection[Any]"

INSERT = "INSERT INTO data_manager.event_store (etl_context_id, type, payload, meta) VALUES ($1, $2, $3, $4)"

TOO_BIG = ["1e500", "-1e500", '{"x": 1e309}', '{"a": [{"b": [1, -1e400]}]}', "[" + "1e131071," * 200 + "0]"]
TOO_DEEP = [
    open_ * depth + "0" + close * depth for open_, close in (("[", "]"), ('{"a":', "}")) for depth in (129, 3000)
]
PAST = ["1e500", TOO_BIG[-1], "[" * 3000 + "]" * 3000, "[" * 300 + "]" * 300]
GREATEST = 1.7976931348623157e308
FITS = [
    *("null", "0", "[]", "{}", '"1e500"', "1e-400", "1e308", "-1e308", "18446744073709551616", '{"1e500": ["NaN"]}'),
    repr(GREATEST), f"{GREATEST:.1f}", f"-{GREATEST:.1f}", "[" * 128 + "0" + "]" * 128, '{"a":' * 128 + "0" + "}" * 128,
]  # fmt: skip

pytestmark = pytest.mark.fault(
    fault="a value enters the log that Python cannot read back",
    injected="plain SQL with the judge, and past it with triggers off",
    invariants="I2 I7 I8 I11",
)


def short(value: Any) -> str:
    return repr(value)[:24]


async def context_of(plain: Plain, payload: str | None = None, meta: str | None = None) -> int:
    id_: int = await plain.fetchval("INSERT INTO data_manager.etl_contexts DEFAULT VALUES RETURNING etl_context_id")
    await plain.execute(INSERT, id_, ":INITIAL", payload, meta)
    return id_


@pytest.fixture
async def unjudged(dsn: str) -> AsyncIterator[Plain]:
    """A connection of a superuser who has switched triggers off."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def spoil(unjudged: Plain, id_: int, *, payload: str | None = None, meta: str | None = None) -> None:
    """Puts values into the latest event of a context that nobody judged."""
    await unjudged.execute(
        """
        UPDATE data_manager.event_store SET payload = coalesce($2, payload), meta = coalesce($3, meta)
          WHERE event_id = (SELECT latest_event_id FROM data_manager.etl_contexts WHERE etl_context_id = $1)
        """,
        id_, payload, meta,
    )  # fmt: skip


# --- at the door ---


@pytest.mark.parametrize("value", [*TOO_BIG, *TOO_DEEP], ids=short)
async def test_what_nobody_can_read_back_is_refused_whoever_inserts(
    plain: Plain, database: Database, value: str
) -> None:
    id_ = await context_of(plain)
    for type_, payload, meta in ((":A", value, None), (":A", None, f'{{"m": {value}}}'), (":FINAL", value, None)):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await plain.execute(INSERT, id_, type_, payload, meta)
        assert refused.value.sqlstate == "DA007"
    with pytest.raises(asyncpg.PostgresError) as refused:
        await context_of(plain, value, json.dumps({SETTINGS_KEY: {"worker": "ok.py"}}))
    assert refused.value.sqlstate == "DA007"
    with pytest.raises(asyncpg.PostgresError) as refused:
        await context_of(plain, None, f'{{"{SETTINGS_KEY}": {{"worker": "ok.py", "more": {value}}}}}')
    assert refused.value.sqlstate == "DA007"
    assert (await verify(database)).mismatches == []


@pytest.mark.parametrize("value", FITS, ids=short)
async def test_what_can_be_read_back_is_taken(plain: Plain, store: EventStore, value: str) -> None:
    (event,) = await store.read(await context_of(plain, value))
    assert not isinstance(event.payload, Unreadable)
    json_value.dumps(event.payload)


async def test_damads_own_functions_say_invalid_input(store: EventStore) -> None:
    id_ = await store.create_context()
    deep: Any = 0
    for _ in range(129):
        deep = [deep]
    for payload in (deep, {"x": deep}):
        with pytest.raises(InvalidInput, match="nested deeper"):
            await store.append(
                [Append(etl_context_id=id_, event=Event(type=":INITIAL", payload=payload, event_uuid=uuid4()))]
            )


# --- what came past it ---


@pytest.mark.parametrize("value", PAST, ids=short)
async def test_what_came_past_the_judge_is_shown_for_what_it_is_and_stops_nothing_else(
    plain: Plain, unjudged: Plain, database: Database, store: EventStore, value: str
) -> None:
    before, bad, after = [await context_of(plain, '{"n": 1}') for _ in range(3)]
    await spoil(unjudged, bad, payload=value)
    (event,) = await store.read(bad)
    assert isinstance(event.payload, Unreadable) and event.payload["unreadable"]
    assert [shown.etl_context_id for shown in (await Feed(database).page()).events] == [before, bad, after]
    for id_ in (before, after):
        assert [event.payload for event in await store.read(id_)] == [{"n": 1}]
    json_value.dumps(event.as_dict()["payload"])

    (mismatch,) = (await verify(database)).mismatches
    assert (mismatch.etl_context_id, mismatch.folded) == (bad, "events that can be read")
    assert mismatch.projected == [event.event_id]
    rebuilt = await rebuild(database)
    assert (rebuilt.mended, [one.etl_context_id for one in rebuilt.broken]) == (0, [bad])


async def test_a_task_whose_settings_or_progress_came_past_the_judge_keeps_no_other_from_being_listed(
    unjudged: Plain, store: EventStore
) -> None:
    settings = {SETTINGS_KEY: {"worker": "ok.py"}}
    queued = [
        await store.queue([NewTask(initial=Event(type=":INITIAL", meta=settings, event_uuid=uuid4()))])
        for _ in range(3)
    ]
    ids = [one.etl_context_id for (one,) in queued]
    await unjudged.execute(
        "UPDATE data_manager.dama_tasks SET settings = '{\"x\": 1e500}', progress = '1e500' WHERE etl_context_id = $1",
        ids[1],
    )
    assert {state.etl_context_id for state in await store.tasks()} == set(ids)
    assert isinstance((await store.assignment(ids[1])).settings, Unreadable)
