"""Many who read the feed live share its reading; who is slow reads by itself and is cut in the end; tasks live."""

import asyncio
import json
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from http_support import SOON, TOKEN, House, new_database, refusal, running, streaming

from damad.eventstore.feed import PAGE, Cursor, Feed, Page
from damad.eventstore.listener import EVENT
from damad.eventstore.pools import Database
from damad.eventstore.store import Append
from damad.http import head, sse
from damad.model.event import Event


@pytest_asyncio.fixture(loop_scope="session")
async def house(template: str, tmp_path: Path) -> AsyncIterator[House]:
    """A server whose log is empty."""
    async with running(tmp_path, await new_database(template)) as found:
        yield found


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each statement is asked for inside."""
    counts: Counter[str] = Counter()
    fetch = Database.fetch

    async def counting(self: Database, name: str, *arguments: Any, **given: Any) -> Any:
        counts[name] += 1
        return await fetch(self, name, *arguments, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "fetch", counting)
        yield counts


async def types(house: House, path: str, count: int, **headers: str) -> list[tuple[int, str]]:
    """The contexts and types of the first events of a stream."""
    async with streaming(house, path, **headers) as stream:
        events = [(await stream.next())[1] for _ in range(count)]
    return [(event["etl_context_id"], event["type"].removeprefix("dama/task:")) for event in events]


@pytest.mark.parametrize(("path", "subscribers"), [("/events", 500), ("/tasks?queue=fast", 100)])
async def test_five_hundred_subscribers_cost_one_listener_and_one_reading(
    house: House, monkeypatch: pytest.MonkeyPatch, path: str, subscribers: int
) -> None:
    id_ = await house.new_task(queue="fast")
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(streaming(house, path)) for _ in range(subscribers)]
        for stream in streams:
            assert (await stream.next())[1]["type"] == ":INITIAL"
        await house.waiting(subscribers)
        with counted(monkeypatch) as counts:
            for number in range(5):
                await house.append(id_, ":A", number)
                shown = await asyncio.gather(*(stream.next() for stream in streams))
                assert [event["payload"] for _, event in shown] == [number] * subscribers
        assert counts["feed_difference"] >= 5 and counts.total() < subscribers, counts
        async with house.database.connection() as connection:
            listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^NOTIFY'"
            assert await connection.fetchval(listening) == 1


async def test_nobody_looks_at_the_log_for_readers_that_are_gone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = await house.new_context()
    for _ in range(2):
        assert await types(house, "/events", 1) == [(id_, ":INITIAL")]
        await house.waiting(0)
        with counted(monkeypatch) as counts:
            for _ in range(3):
                await house.append(id_, ":A")
            async with house.get(f"/contexts/{id_}") as response:
                assert response.status == 200
        assert not counts.keys() & {"feed_now", "feed_difference"}


async def test_a_reader_that_is_behind_what_is_kept_reads_by_itself_and_joins_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "KEPT", 0)
    ids = [await house.new_context() for _ in range(3)]
    async with streaming(house, "/events") as eager, streaming(house, "/events") as late:
        assert await eager.types(3) == [":INITIAL"] * 3
        for turn in range(3):
            for id_ in ids:
                await house.append(id_, ":A", "x" * 300_000)
                event = (await eager.next())[1]
                assert (event["etl_context_id"], event["version"]) == (id_, turn + 2)
        seen = [(event["etl_context_id"], event["version"]) for event in [(await late.next())[1] for _ in range(12)]]
        assert sorted(seen) == sorted((id_, version) for id_ in ids for version in range(1, 5))
        await house.append(ids[0], ":B")
        assert (await eager.types(1), await late.types(1)) == ([":B"], [":B"])


async def test_who_is_behind_gets_a_few_first_and_then_more_each_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For some come for a few events and are gone again."""
    id_ = await house.new_context()
    await house.store.append([Append(etl_context_id=id_, event=Event(type=":A", payload=n)) for n in range(2, 401)])
    page, limits = Feed.page, []

    async def noted(self: Feed, cursor: Cursor | None = None, *, limit: int = PAGE) -> Page:
        limits.append(limit)
        return await page(self, cursor, limit=limit)

    with monkeypatch.context() as patch:
        patch.setattr(Feed, "page", noted)
        async with streaming(house, "/events") as stream:
            seen = [(await stream.next())[1]["version"] for _ in range(400)]
    assert seen == list(range(1, 401))
    assert [limit for limit in limits if 1 < limit < PAGE] == [head.FIRST * factor for factor in (1, 2, 4, 8)]


async def test_an_event_that_commits_late_is_shown_once_to_who_was_there_and_to_who_comes_meanwhile(
    house: House,
) -> None:
    slow, fast = await house.new_context(), await house.new_context()
    async with streaming(house, "/events") as before:
        await before.types(2)
        async with house.store.transaction() as connection:
            late = [Append(etl_context_id=slow, event=Event(type=":LATE"))]
            await house.store.append(late, on=connection)
            await house.append(fast, ":EARLY")
            cursor, event = await before.next()
            assert event["type"] == ":EARLY"
            async with streaming(house, "/events", Last_Event_ID=cursor) as meanwhile:
                await house.append(fast, ":NEXT")
                assert await meanwhile.types(1) == await before.types(1) == [":NEXT"]
                await house.append(fast, ":LAST")
                assert await meanwhile.types(1) == [":LAST"]
        assert await before.types(2) == [":LAST", ":LATE"]
        assert await types(house, "/events", 3, Last_Event_ID=cursor) == [
            (fast, ":NEXT"), (fast, ":LAST"), (slow, ":LATE")
        ]  # fmt: skip


async def test_who_comes_with_a_cursor_that_is_ahead_of_the_last_look_sees_nothing_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = await house.new_context()
    async with streaming(house, "/events") as there:
        await there.types(1)
        with monkeypatch.context() as patch:
            listener = house.database.listener()
            patch.setattr(listener, "_subscriptions", set())  # a hint rings nowhere but here, so nobody looks
            with listener.subscribe(EVENT) as bell:
                await house.append(id_, ":A")
                assert await bell.wait(SOON)
            async with house.get("/events") as response:
                cursor = (await response.json())["next"]
        async with streaming(house, "/events", Last_Event_ID=cursor) as ahead:
            await house.waiting(2)
            await house.append(id_, ":B")
            assert (await ahead.types(1), await there.types(2)) == ([":B"], [":A", ":B"])


async def test_a_reader_that_is_cut_is_told_so_behind_what_it_had_been_sent(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sse, "SEND_TIMEOUT", 0.3)
    id_ = await house.new_context()
    loop = asyncio.get_running_loop()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        await loop.sock_connect(slow, (house.addresses.host, house.addresses.port))
        request = f"GET /v1/main/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        await loop.sock_sendall(slow, f"{request}Accept: text/event-stream\r\n\r\n".encode())
        await house.waiting(1)
        await house.append(id_, ":A", "x" * 7_000_000)  # more than lies between the two
        await house.waiting(0)
        received = await everything(slow)
    messages = received.partition(b"\r\n\r\n")[2].split(b"\n\n")
    assert [json.loads(each.partition(b"data: ")[2])["type"] for each in messages[:-1]] == [
        ":INITIAL", ":A", "urn:damad:problem:too-slow",
    ]  # fmt: skip
    assert b"event: cut\n" in messages[2] and received.endswith(b"\n\n\r\n0\r\n\r\n")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def everything(from_: socket.socket) -> bytes:
    """What a socket receives until the other side closes."""
    received = b""
    async with asyncio.timeout(SOON):
        while part := await asyncio.get_running_loop().sock_recv(from_, 1 << 20):
            received += part
    return received


async def test_the_events_of_a_list_of_tasks_come_live_and_those_of_others_do_not(house: House) -> None:
    parent = await house.new_context()
    first = await house.new_task(queue="fast")
    await house.new_task()
    async with streaming(house, "/tasks?queue=fast") as listed, streaming(house, "/tasks") as everyone:
        child = await house.new_task(queue="fast", parent_context_id=parent)
        await house.append(first, ":A")
        cursor, event = await listed.next()
        assert (event["etl_context_id"], event["type"]) == (first, ":INITIAL")
        assert [(await listed.next())[1]["etl_context_id"] for _ in range(2)] == [child, first]
        assert await everyone.types(4) == [":INITIAL", ":INITIAL", ":INITIAL", ":A"]
        await house.append(child, ":B")
    for headers, query in (({"Last_Event_ID": cursor}, ""), ({}, f"&cursor={cursor}")):
        shown = await types(house, f"/tasks?queue=fast{query}", 3, **headers)
        assert shown == [(child, ":INITIAL"), (first, ":A"), (child, ":B")]
    assert await types(house, f"/tasks?parent={parent}", 2) == [(child, ":INITIAL"), (child, ":B")]


async def test_a_list_of_tasks_in_some_states_shows_the_events_by_which_they_came_there(house: House) -> None:
    failing, running_ = await house.new_task(), await house.new_task()
    fence = await house.start(failing)
    await house.start(running_)
    await house.append(failing, ":A")
    await house.fail(failing, fence)
    assert await types(house, "/tasks?state=running", 2) == [(failing, "STARTED"), (running_, "STARTED")]
    assert await types(house, "/tasks?state=failed,queued", 3) == [
        (failing, ":INITIAL"), (running_, ":INITIAL"), (failing, "FAILED")
    ]  # fmt: skip


@pytest.mark.parametrize("query", ["state=x", "queue=", "limit=0", "cursor=x", "wait=1s"])
async def test_a_stream_of_tasks_that_cannot_be_is_422(house: House, query: str) -> None:
    async with house.get(f"/tasks?{query}", headers={"Accept": "text/event-stream"}) as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] == query.partition("=")[0]
