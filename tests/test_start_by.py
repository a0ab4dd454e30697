"""Tasks that are of no use once they are late: what did not begin by its start_by fails, whoever looks first."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from daemon_support import Daemon, daemon_on, site_of

from damad.errors import BrokenLog
from damad.eventstore.schedule import FreeSlots, Schedule
from damad.eventstore.store import Append, EventStore, NewTask, TaskState
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY, Event
from damad.scheduler.lateness import Lateness

HOST = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1"
PAST, FUTURE = "2020-01-31T08:00:00+01:00", "2030-01-31T08:00:00+01:00"
BY_HAND = """
    INSERT INTO data_manager.event_store (event_id, etl_context_id, version, event_uuid, type, txid, _created_timestamp)
      SELECT 1000000, $1, 2, gen_random_uuid(), ':A', txid, _created_timestamp
        FROM data_manager.event_store WHERE etl_context_id = $1
"""
SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""
LATE = ["dama/task:ERROR", "dama/task:FAILED"]


@pytest.fixture
def schedule(database: Any) -> Schedule:
    return Schedule(database, HOST)


async def queued(store: EventStore, **settings: Any) -> int:
    initial = Event(type=":INITIAL", meta={SETTINGS_KEY: {"worker": "ok.py", **settings}}, event_uuid=uuid4())
    return (await store.queue([NewTask(initial=initial)]))[0].etl_context_id


async def claimed(schedule: Schedule) -> list[int]:
    return [task.etl_context_id for task in await schedule.claim([FreeSlots("default", 10)], holder="me", lease=60.0)]


async def append(store: EventStore, id_: int, kind: str, payload: Any = None) -> None:
    await store.append([Append(etl_context_id=id_, event=Event(type=f"dama/task:{kind}", payload=payload))])


async def types(store: EventStore, id_: int) -> list[str]:
    return [event.type for event in await store.read(id_)]


async def failed(schedule: Schedule) -> list[int]:
    return [late.etl_context_id for late in await schedule.fail_late(1000)]


@pytest.mark.parametrize(
    "settings", [{}, {"start_after": FUTURE}, {"start_after": "1ms"}], ids=["queued", "scheduled", "due"]
)
async def test_a_task_that_did_not_begin_in_time_fails_and_is_claimed_by_nobody(
    store: EventStore, schedule: Schedule, settings: Any
) -> None:
    late, other = await queued(store, start_by=PAST, **settings), await queued(store, start_by=FUTURE, **settings)
    assert late not in await claimed(schedule)
    assert await failed(schedule) == [late]
    assert await types(store, late) == [":INITIAL", *LATE]
    state = await store.state(late)
    assert isinstance(state, TaskState) and state.state == "failed"
    assert state.error == {
        "attempt": 0, "kind": "start_by", "message": "it did not start by 2020-01-31T07:00:00+00:00",
        "type": None, "traceback": None, "exit_code": None, "signal": None,
    }  # fmt: skip
    assert (await store.state(other)).state in ("claimed", "scheduled")
    assert (await verify(store.database)).mismatches == []


async def test_a_duration_counts_from_when_it_was_queued(store: EventStore, schedule: Schedule) -> None:
    soon, later = await queued(store, start_by="0s"), await queued(store, start_by="1h")
    assert await claimed(schedule) == [later]
    assert await failed(schedule) == [soon]


async def test_one_that_has_begun_is_never_late(store: EventStore, schedule: Schedule) -> None:
    id_ = await queued(store, start_by=FUTURE)
    assert await claimed(schedule) == [id_]
    await append(store, id_, "STARTED", {"attempt": 1})
    async with store.database.connection() as connection:
        assert await connection.fetchval("SELECT start_by FROM data_manager.dama_tasks") is None
    assert (await verify(store.database)).mismatches == []


async def test_one_that_was_handed_back_before_it_began_is_late(store: EventStore, schedule: Schedule) -> None:
    id_ = await queued(store, start_by=PAST)
    await append(store, id_, "CLAIMED", {"fence": 1, "host_id": HOST})
    assert await failed(schedule) == []
    await append(store, id_, "RELEASED")
    assert await failed(schedule) == [id_]


async def test_a_person_who_retries_it_wants_it_all_the_same(store: EventStore, schedule: Schedule) -> None:
    id_ = await queued(store, start_by=PAST)
    assert await failed(schedule) == [id_]
    await append(store, id_, "REQUEUED")
    assert await failed(schedule) == []
    assert await claimed(schedule) == [id_]
    assert (await verify(store.database)).mismatches == []


async def test_thousands_are_failed_a_thousand_at_a_time_and_each_once(store: EventStore, schedule: Schedule) -> None:
    initial = Event(type=":INITIAL", meta={SETTINGS_KEY: {"worker": "ok.py", "start_by": PAST}})
    await store.queue([NewTask(initial=initial) for _ in range(2100)])
    done = await asyncio.gather(*(schedule.fail_late(1000) for _ in range(5)))
    ids = [late.etl_context_id for some in done for late in some]
    while some := await failed(schedule):
        ids += some
    assert len(ids) == len(set(ids)) == 2100
    assert (await verify(store.database)).mismatches == []


async def test_a_context_that_somebody_holds_is_left_out_and_not_waited_for(
    store: EventStore, schedule: Schedule
) -> None:
    held, free = await queued(store, start_by=PAST), await queued(store, start_by=PAST)
    async with store.transaction() as connection:
        await store.append([Append(etl_context_id=held, event=Event(type=":A"))], on=connection)
        async with asyncio.timeout(SOON):
            assert await failed(schedule) == [free]
    assert await failed(schedule) == [held]


async def test_one_that_somebody_wants_cancelled_is_left_to_that(store: EventStore, schedule: Schedule) -> None:
    id_ = await queued(store, start_by=PAST)
    await store.database.fetch("note_cancel", id_)
    assert await failed(schedule) == []


async def test_one_with_a_broken_log_keeps_none_of_the_others(store: EventStore, schedule: Schedule) -> None:
    broken, whole = await queued(store, start_by=PAST), await queued(store, start_by=PAST)
    async with store.database.connection() as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(BY_HAND, broken)
        await connection.execute("RESET session_replication_role")
    with pytest.raises(BrokenLog):
        await failed(schedule)
    await Lateness(schedule).end()
    assert [(await store.state(id_)).state for id_ in (broken, whole)] == ["queued", "failed"]


@pytest.mark.parametrize("waits", [False, True])
async def test_what_has_its_time_between_two_looks_of_a_round_is_due_at_once(
    store: EventStore, schedule: Schedule, waits: bool
) -> None:
    now = (await schedule.held()).at
    id_ = await queued(store, **({} if waits else {"start_by": PAST}))
    if waits:
        await append(store, id_, "CLAIMED", {"fence": 1})
        await append(store, id_, "STARTED", {"attempt": 1})
        await append(store, id_, "WAITING", {"for": "sleep", "until": PAST})
    assert await schedule.next_due(looked_at=datetime.fromisoformat(PAST) - timedelta(seconds=1)) == 0.0
    assert await schedule.next_due(looked_at=now) is None  # the round that began then has seen it


async def test_the_look_for_late_ones_reads_an_index_that_others_are_not_in(store: EventStore) -> None:
    for _ in range(50):
        await queued(store)
    async with store.database.connection() as connection:
        await connection.execute("SET enable_seqscan = off")
        plan = await connection.fetch(
            "EXPLAIN SELECT FROM data_manager.dama_tasks t WHERE t.start_by <= statement_timestamp()"
            " AND t.state IN ('queued', 'scheduled')"
        )
        assert "dama_tasks_late_idx" in "".join(line[0] for line in plan)


# --- with a daemon ---


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    settings = {"DAMAD_POLL_INTERVAL": "10m", "DAMAD_QUEUE_SHUT_CONCURRENCY": "0"}
    async with site_of(tmp_path_factory.mktemp("late"), template, **settings) as site, daemon_on(site) as daemon:
        yield daemon
        await site.verified()


async def test_a_daemon_says_it_when_the_time_has_come(daemon: Daemon) -> None:
    site = daemon.site
    id_ = await site.queue("hold.py", queue="shut", start_by="300ms")
    state = await site.ended(id_)
    assert (state.state, state.error["kind"]) == ("failed", "start_by")
    assert state.finished_at >= state.created_at + timedelta(milliseconds=300)


async def test_any_daemon_says_it_also_of_another_hosts_task(daemon: Daemon) -> None:
    site, start_by = daemon.site, (datetime.now(UTC) + timedelta(milliseconds=300)).isoformat()
    id_ = await queued(site.store(), start_by=start_by, dama_host_id=HOST)
    assert (await site.ended(id_)).error["kind"] == "start_by"


async def test_what_begins_in_time_runs_to_its_end(daemon: Daemon) -> None:
    outcome = await daemon.site.run("def main():\n    return {'n': 1}\n", start_by="1h")
    assert outcome.result == {"n": 1}


async def test_what_became_late_while_no_daemon_was_there_fails_when_one_comes(template: str, tmp_path: Path) -> None:
    async with site_of(tmp_path, template) as site:
        id_ = await site.queue("hold.py", start_by="0s")
        async with daemon_on(site):
            assert (await site.ended(id_)).error["kind"] == "start_by"
        assert await site.types(id_) == [":INITIAL", "ERROR", "FAILED"]
