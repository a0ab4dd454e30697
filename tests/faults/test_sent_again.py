"""What was executed and nobody heard of: whoever sends it again has sent it once (I1)."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from proxy import Proxy, Trap, proxied

from damad import config, context, errors, events
from damad.context import EtlContext
from damad.eventstore.pools import Database
from damad.eventstore.schedule import Schedule
from damad.eventstore.store import Append, EventStore, NewTask
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY, Event
from damad.scheduler.supervisor import Supervisor

HOST = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1"


pytestmark = pytest.mark.fault(
    fault="the answer to an append is lost, of a run or of the supervisor",
    injected="the proxy resets the connection after the statement was executed",
    invariants="I1 I2 I8",
)


@pytest_asyncio.fixture
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    async with proxied(dsn) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def through(proxy: Proxy, dsn: str) -> AsyncIterator[Database]:
    """The fresh database, as one sees it whose answers may be lost."""
    database = Database("local", proxy.dsn(dsn))
    yield database
    await database.close()


def lost(proxy: Proxy, type_: str) -> Trap:
    """The answer to the next append of this type will be."""
    return proxy.trap("after", lambda batch: batch.commits_event(type_))


async def claimed(database: Database) -> int:
    """A task that HOST has claimed with fence 1."""
    initial = Event(type=":INITIAL", meta={SETTINGS_KEY: {"worker": "ok.py"}}, event_uuid=uuid4())
    (queued,) = await EventStore(database).queue([NewTask(initial=initial)])
    await Schedule(database, HOST).claim_one(queued.etl_context_id, holder="claimer", lease=60.0)
    return queued.etl_context_id


async def test_what_a_run_appends_is_there_once(store: EventStore, proxy: Proxy, through: Database) -> None:
    id_ = await claimed(store.database)
    trap = lost(proxy, "x:LOADED")
    with context.run_in(EtlContext(pg_env="local", database=through, etl_context_id=id_, fence=1)):
        recorded = await events.dispatch({"type": "x:LOADED"})
    assert trap.sprung.is_set()
    assert [event.as_dict() for event in await store.read(id_, types=["x:LOADED"])] == [recorded]


async def test_what_the_supervisor_appends_is_there_once_and_its_round_goes_on(
    store: EventStore, proxy: Proxy, through: Database, tmp_path: Path
) -> None:
    ids = [await claimed(store.database) for _ in range(2)]
    for id_ in ids:
        await store.append([Append(etl_context_id=id_, event=Event(type="dama/task:CANCEL_REQUESTED"))])
    settings = config.load(environ={"DAMAD_STATE_DIR": str(tmp_path), "DAMAD_PG_ENV_LOCAL_DSN": through.dsn})
    trap = lost(proxy, "dama/task:CANCELLED")
    await Supervisor(through, settings, HOST).round()
    assert trap.sprung.is_set()
    for id_ in ids:
        assert [event.type for event in await store.read(id_)][-2:] == [
            "dama/task:CANCEL_REQUESTED",
            "dama/task:CANCELLED",
        ]
    assert (await verify(store.database)).mismatches == []


async def test_what_carries_no_uuid_is_not_sent_again(store: EventStore, proxy: Proxy, through: Database) -> None:
    """Nobody could tell it from another of the same sort."""
    id_ = await claimed(store.database)
    trap = lost(proxy, "x:LOADED")
    with pytest.raises(errors.Unavailable):
        await EventStore(through).append([Append(etl_context_id=id_, event=Event(type="x:LOADED"))])
    assert trap.sprung.is_set()
    assert len(await store.read(id_, types=["x:LOADED"])) == 1
