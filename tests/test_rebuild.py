"""Every projection can be made again out of the events, in place, while others append."""

import asyncio

import pytest
from test_lifecycle_table import WAYS, event, walked
from test_locks import SOON, in_the_way

from damad.eventstore.rebuild import rebuild
from damad.eventstore.store import Append, EventStore
from damad.eventstore.verify import verify


async def sql(store: EventStore, statement: str) -> None:
    async with store.database.connection() as connection:
        await connection.execute(statement)


async def table(store: EventStore) -> list[tuple[object, ...]]:
    async with store.database.connection() as connection:
        return [tuple(row) for row in await connection.fetch("SELECT * FROM data_manager.dama_tasks ORDER BY 1")]


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM data_manager.dama_tasks",
        "UPDATE data_manager.dama_tasks SET state = 'queued', attempt = 7, error = '{}', run_at = now(), pid = 1",
        "UPDATE data_manager.etl_contexts SET etl_status = 'OPEN', version = 1, latest_event_id = NULL",
        "INSERT INTO data_manager.dama_tasks (etl_context_id, worker, queue, priority, settings, state, "
        "initial_event_id, run_at) SELECT min(etl_context_id), 'x', 'x', 0, '{}', 'queued', 1, now() "
        "FROM data_manager.etl_contexts",
    ],
)
async def test_whatever_was_done_to_them_they_are_as_before(store: EventStore, damage: str) -> None:
    for state in ("open", *WAYS):
        await walked(store, WAYS[state])
    before = await table(store)
    await sql(store, damage)
    assert (await verify(store.database)).mismatches
    rebuilt = await rebuild(store.database)
    assert rebuilt.mended > 0 and rebuilt.broken == []
    assert await table(store) == before and (await verify(store.database)).mismatches == []
    assert (await rebuild(store.database)).mended == 0


async def test_appends_go_on_while_it_rebuilds(store: EventStore) -> None:
    walkers = [await walked(store, WAYS["running"]) for _ in range(30)]
    await sql(store, "UPDATE data_manager.dama_tasks SET queue = 'wrong'")

    async def go_on() -> None:
        for walker in walkers:
            await walker.take("PROGRESS")
            await walker.take("FINAL")

    await asyncio.gather(go_on(), rebuild(store.database), rebuild(store.database))
    assert (await verify(store.database)).mismatches == []


async def test_what_it_waited_for_is_right_and_is_not_mended(store: EventStore) -> None:
    walker = await walked(store, WAYS["running"])
    await sql(store, "UPDATE data_manager.dama_tasks SET attempt = 7")
    async with store.database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        progress = Append(etl_context_id=walker.id, event=event("PROGRESS"), fence=walker.fence)
        await store.append([progress], on=connection)
        await connection.execute("UPDATE data_manager.dama_tasks SET attempt = 1")
        rebuilt = await in_the_way(store.database, transaction.commit, rebuild(store.database))
    assert (rebuilt.mended, rebuilt.broken) == (0, [])


async def test_it_waits_for_nobody_whose_projection_is_right(store: EventStore) -> None:
    walker = await walked(store, WAYS["running"])
    async with store.database.connection() as connection, connection.transaction():
        progress = Append(etl_context_id=walker.id, event=event("PROGRESS"), fence=walker.fence)
        await store.append([progress], on=connection)
        async with asyncio.timeout(SOON):
            assert (await rebuild(store.database)).mended == 0
