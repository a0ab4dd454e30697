"""What is wrong with one task stops nothing else, and is said once; a broken log is told from any other fault."""

from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from damad.errors import BrokenLog, Unavailable
from damad.eventstore.pools import Database
from damad.eventstore.schedule import FreeSlots, Schedule
from damad.eventstore.store import Append, EventStore, NewTask
from damad.model.event import SETTINGS_KEY, Event
from damad.scheduler.bulkhead import Bulkhead

UNJUDGED = """
    INSERT INTO data_manager.event_store (event_id, etl_context_id, version, event_uuid, type, txid, _created_timestamp)
      SELECT nextval('data_manager.event_store_event_id_seq'), etl_context_id, version + 1, gen_random_uuid(),
             'dama/task:CLAIMED', pg_current_xact_id(), clock_timestamp()
        FROM data_manager.etl_contexts WHERE etl_context_id = $1
"""


async def failing(error: Exception) -> str:
    raise error


async def well() -> str:
    return "well"


@pytest.mark.parametrize("kind", [BrokenLog, KeyError])
async def test_a_fault_is_said_once_and_again_only_after_it_was_mended(kind: type[Exception]) -> None:
    bulkhead = Bulkhead()
    with capture_logs() as said:
        for id_ in (1, 1, 2, 1):
            assert await bulkhead.alone(failing(kind("broken")), "otherwise", etl_context_id=id_) == "otherwise"
        assert [line["etl_context_id"] for line in said] == [1, 2]
        assert await bulkhead.alone(well(), "otherwise", etl_context_id=1) == "well"
        await bulkhead.alone(failing(kind("broken")), "otherwise", etl_context_id=1)
    assert [line["etl_context_id"] for line in said] == [1, 2, 1]


async def test_only_a_broken_log_parks_a_task_and_only_while_it_is_broken() -> None:
    bulkhead = Bulkhead()
    with capture_logs():
        await bulkhead.alone(failing(BrokenLog("broken")), "otherwise", etl_context_id=1)
        await bulkhead.alone(failing(KeyError("fault")), "otherwise", etl_context_id=2)
    assert [bulkhead.parks(etl_context_id=id_) for id_ in (1, 2, 3)] == [True, False, False]
    await bulkhead.alone(well(), "otherwise", etl_context_id=1)
    assert not bulkhead.parks(etl_context_id=1)


async def test_that_postgres_is_away_concerns_all_of_them() -> None:
    with pytest.raises(Unavailable):
        await Bulkhead().alone(failing(Unavailable("away")), "otherwise", etl_context_id=1)


async def test_a_broken_log_is_refused_by_its_name_and_others_are_claimed_without_it(
    store: EventStore, database: Database, plain: "asyncpg.Connection[Any]"
) -> None:
    schedule = Schedule(database, str(uuid4()))
    initials = [Event(type=":INITIAL", meta={SETTINGS_KEY: {"worker": "ok.py"}}, event_uuid=uuid4()) for _ in range(2)]
    broken, other = [one.etl_context_id for one in await store.queue([NewTask(initial=event) for event in initials])]
    await plain.execute("SET session_replication_role = replica")
    await plain.execute(UNJUDGED, broken)
    with pytest.raises(BrokenLog, match=f"the log of context {broken} holds events that nobody judged") as refused:
        await store.append([Append(etl_context_id=broken, event=Event(type=":A", event_uuid=uuid4()))])
    assert refused.value.values == {"etl_context_id": broken}
    with pytest.raises(BrokenLog):
        await schedule.claim([FreeSlots("default", 9)], holder="me", lease=60.0)
    claimed = await schedule.claim([FreeSlots("default", 9)], holder="me", lease=60.0, leave_out=[broken])
    assert [task.etl_context_id for task in claimed] == [other]
