"""A statement that is executed and not answered is sent again and changes nothing more, or its outcome is unknown.

What tests start loses answers as their run does.
"""

from pathlib import Path

import lost_answers
import pytest
from daemon_support import Site

from damad import failpoints
from damad.errors import Unavailable
from damad.eventstore.store import Append, EventStore
from damad.eventstore.uuids import new_uuid
from damad.model.event import Event


async def test_an_event_whose_answer_is_lost_each_time_but_the_last_is_there_once(store: EventStore) -> None:
    id_ = await store.create_context()
    event = Event(type=":INITIAL", event_uuid=new_uuid())
    with lost_answers.every_one():
        appended = await store.append([Append(etl_context_id=id_, event=event)])
    assert [one.replayed for one in appended] == [True]
    assert [one.event_uuid for one in await store.read(id_)] == [event.event_uuid]


async def test_what_cannot_be_sent_again_is_done_once_and_its_outcome_unknown(store: EventStore) -> None:
    before = await store.create_context()
    with lost_answers.every_one(), pytest.raises(Unavailable):
        await store.create_context()
    assert await store.create_context() == before + 2


async def test_a_commit_may_be_in_doubt(store: EventStore) -> None:
    id_ = await store.create_context()
    event = Event(type=":INITIAL", event_uuid=new_uuid())
    with lost_answers.every_one(), pytest.raises(Unavailable, match="COMMIT"):
        async with store.transaction() as connection:
            await store.append([Append(etl_context_id=id_, event=event)], on=connection)
    assert [one.type for one in await store.read(id_)] == [":INITIAL"]


def test_a_command_loses_what_the_run_loses_and_a_daemon_the_rest_too(tmp_path: Path) -> None:
    before = failpoints.arm("database.executed:0.05")
    try:
        assert Site(tmp_path, {}).environment["DAMAD_FAILPOINT"] == "database.executed:0.05"
        assert lost_answers.of_a_daemon() == {"DAMAD_FAILPOINT": "database.executed:0.05:all"}
    finally:
        failpoints.arm(before)
