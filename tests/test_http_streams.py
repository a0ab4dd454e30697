"""Events live: GET …/events with Accept: text/event-stream."""

import asyncio
from contextlib import AsyncExitStack

import http_support
import pytest
from http_support import SOON, House, Stream, refusal, streaming

from damad.eventstore.store import Append
from damad.http import cursors, sse
from damad.model.event import Event

house = http_support.house


async def test_a_stream_gives_what_is_there_and_then_each_new_event(house: House) -> None:
    id_ = await house.new_context()
    await house.append(id_, ":A")
    async with streaming(house, f"/contexts/{id_}/events") as stream:
        assert await stream.types(2) == [":INITIAL", ":A"]
        for type_ in (":B", ":C", ":FINAL"):
            recorded = await house.append(id_, type_, {"n": 1})
            cursor, event = await stream.next()
            assert (event["type"], event["event_id"], event["payload"]) == (type_, recorded.event_id, {"n": 1})
            assert cursor == cursors.context(id_, recorded.version)


async def test_a_stream_resumes_after_the_last_event_id(house: House) -> None:
    id_ = await house.new_context()
    for type_ in (":A", ":B"):
        await house.append(id_, type_)
    async with streaming(house, f"/contexts/{id_}/events") as stream:
        await stream.next()
        cursor, _ = await stream.next()
    for query in ("", "?after_version=0", f"?cursor={cursors.context(id_, 1)}"):
        async with streaming(house, f"/contexts/{id_}/events{query}", Last_Event_ID=cursor) as stream:
            assert (await stream.next())[1]["type"] == ":B"


async def test_a_stream_begins_after_the_version_or_the_cursor_that_is_named(house: House) -> None:
    id_ = await house.new_context()
    await house.append(id_, ":A")
    for query in ("after_version=1", f"cursor={cursors.context(id_, 1)}"):
        async with streaming(house, f"/contexts/{id_}/events?{query}") as stream:
            assert (await stream.next())[1]["type"] == ":A"


async def test_a_stream_gives_only_the_types_that_are_asked_for(house: House) -> None:
    id_ = await house.new_context()
    async with streaming(house, f"/contexts/{id_}/events?type=:B,:FINAL") as stream:
        for type_ in (":A", ":B", ":A", ":FINAL"):
            await house.append(id_, type_)
        assert await stream.types(2) == [":B", ":FINAL"]


async def test_a_stream_of_a_tree_gives_the_events_of_children_that_come_later(house: House) -> None:
    top = await house.new_context()
    async with streaming(house, f"/contexts/{top}/events?tree=1") as stream:
        assert (await stream.next())[1]["etl_context_id"] == top
        child = await house.new_context(top)
        assert (await stream.next())[1]["etl_context_id"] == child
        grandchild = await house.new_context(child)
        cursor, event = await stream.next()
        assert event["etl_context_id"] == grandchild
    await house.append(child, ":A")
    async with streaming(house, f"/contexts/{top}/events?tree=1", Last_Event_ID=cursor) as stream:
        assert (await stream.next())[1]["type"] == ":A"
        await house.append(top, ":B")
        assert (await stream.next())[1]["type"] == ":B"


async def test_a_stream_of_a_tree_skips_nothing_though_events_commit_out_of_order(house: House) -> None:
    top = await house.new_context()
    slow, fast = await house.new_context(top), await house.new_context(top)
    async with streaming(house, f"/contexts/{top}/events?tree=1") as stream:
        await stream.types(3)
        async with house.store.transaction() as connection:
            late = Append(etl_context_id=slow, event=Event(type=":LATE"))
            (appended,) = await house.store.append([late], on=connection)
            early = await house.append(fast, ":EARLY")
            assert appended.event.event_id < early.event_id
            cursor, event = await stream.next()
            assert event["type"] == ":EARLY"
        assert (await stream.next())[1]["type"] == ":LATE"
    async with streaming(house, f"/contexts/{top}/events?tree=1", Last_Event_ID=cursor) as stream:
        assert (await stream.next())[1]["type"] == ":LATE"


async def test_many_readers_that_come_and_go_see_every_event_once_in_order(house: House) -> None:
    id_ = await house.new_context()

    async def read_with_a_new_connection_now_and_then() -> list[int]:
        versions: list[int] = []
        headers: dict[str, str] = {}
        while len(versions) < 31:
            async with streaming(house, f"/contexts/{id_}/events", **headers) as stream:
                for _ in range(min(7, 31 - len(versions))):
                    headers["Last_Event_ID"], event = await stream.next()
                    versions.append(event["version"])
        return versions

    async with asyncio.timeout(3 * SOON), asyncio.TaskGroup() as group:
        readers = [group.create_task(read_with_a_new_connection_now_and_then()) for _ in range(8)]
        for _ in range(30):
            await house.append(id_, ":A")
    assert [reader.result() for reader in readers] == [list(range(1, 32))] * 8


async def test_a_comment_goes_out_while_nothing_happens(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_INTERVAL", 0.05)
    id_ = await house.store.create_context()
    async with streaming(house, f"/contexts/{id_}/events") as stream:
        assert (await stream.line()).startswith(":")


async def test_one_listener_serves_many_streams(house: House) -> None:
    id_ = await house.new_context()
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(streaming(house, f"/contexts/{id_}/events")) for _ in range(40)]
        for stream in streams:
            await stream.types(1)
        await house.append(id_, ":A")
        assert [await stream.types(1) for stream in streams] == [[":A"]] * 40
        async with house.database.connection() as connection:
            listening = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query ~ '^(LISTEN|NOTIFY)'"
            )
        assert listening == 1


async def test_a_reader_that_left_is_waited_for_no_longer(house: House) -> None:
    id_ = await house.new_context()
    await house.waiting(0)
    async with streaming(house, f"/contexts/{id_}/events") as stream:
        await stream.next()
        await house.waiting(1)
        stream.response.close()
        await house.waiting(0)


@pytest.mark.parametrize(
    "accept",
    [
        "text/html, text/event-stream;q=0.9", "TEXT/EVENT-STREAM", "text/event-stream", "text/event-stream, */*;q=0.1",
        "text/event-stream; q=0.5, application/json;q=0.4, */*", "text/event-stream, application/json",
    ],
)  # fmt: skip
async def test_a_stream_is_for_whoever_accepts_one(house: House, accept: str) -> None:
    id_ = await house.new_context()
    async with house.get(f"/contexts/{id_}/events", headers={"Accept": accept}) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert (await Stream(response).next())[1]["type"] == ":INITIAL"


@pytest.mark.parametrize(
    "accept",
    [
        "*/*", "application/json", "", "text/*", "text/event-stream;q=0", "text/event-stream;q=0.000, */*",
        "text/event-stream;q=0.9, application/json", "text/event-stream;q=0.1, */*;q=0.2", "text/event-stream;q=-1",
    ],
)  # fmt: skip
async def test_everybody_else_gets_a_page(house: House, accept: str) -> None:
    id_ = await house.new_context()
    async with house.get(f"/contexts/{id_}/events", headers={"Accept": accept}) as response:
        assert len((await response.json())["items"]) == 1


@pytest.mark.parametrize("last", ["x", "1", cursors.context(2**62, 1), cursors.tree(1, {}), "é"])
async def test_a_last_event_id_that_is_no_cursor_of_the_stream_is_refused(house: House, last: str) -> None:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
    async with house.get(f"/contexts/{await house.new_context()}/events", headers=headers) as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] == "cursor"


async def test_a_stream_of_a_context_that_is_not_there_is_404(house: House) -> None:
    async with house.get(f"/contexts/{2**62}/events", headers={"Accept": "text/event-stream"}) as response:
        await refusal(response, 404, "not-found")
