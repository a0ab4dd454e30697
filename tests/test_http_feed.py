"""GET /events: every event of every context once, page by page and live, whoever overlaps."""

import asyncio
import base64
import json
import logging
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import http_support
import msgspec
import pytest
import pytest_asyncio
from http_support import SOON, TOKEN, House, Stream, new_database, refusal, running, streaming

from damad.eventstore.feed import Feed
from damad.eventstore.store import Append
from damad.http import cursors, sse
from damad.model.event import Event

house = http_support.house


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(template: str, tmp_path: Path) -> AsyncIterator[House]:
    """A server whose log is empty."""
    async with running(tmp_path, await new_database(template)) as found:
        yield found


async def page(house: House, cursor: str | None = None, limit: int = 100) -> tuple[list[dict[str, Any]], str | None]:
    params = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
    async with house.get("/events", params=params) as response:
        assert response.status == 200, await response.text()
        found = await response.json()
    assert set(found) == {"items", "next"}
    return found["items"], found["next"]


async def rest(house: House, cursor: str | None = None, limit: int = 100) -> tuple[list[dict[str, Any]], str | None]:
    """All that is there after a cursor, and the cursor behind it."""
    items: list[dict[str, Any]] = []
    while True:
        found, following = await page(house, cursor, limit)
        if not found:
            assert following is None
            return items, cursor
        items, cursor = items + found, following


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_pages_of_any_size_show_every_event_once(house: House, limit: int) -> None:
    _, before = await rest(house)
    ids = [await house.new_context() for _ in range(3)]
    for id_ in ids:
        await house.append(id_, ":A", {"of": id_})
    shown, cursor = await rest(house, before, limit)
    assert [event["etl_context_id"] for event in shown] == ids * 2
    assert list(shown[0])[:3] == ["event_id", "etl_context_id", "version"]
    assert (await rest(house, cursor, limit))[0] == []


async def test_an_empty_log_has_an_empty_page_and_then_what_comes(fresh: House) -> None:
    assert await page(fresh) == ([], None)
    id_ = await fresh.new_context()
    assert [event["etl_context_id"] for event in (await page(fresh))[0]] == [id_]


async def test_an_event_that_commits_late_is_shown_then(house: House) -> None:
    slow, fast = await house.new_context(), await house.new_context()
    _, cursor = await rest(house)
    async with house.store.transaction() as connection:
        await house.store.append([Append(etl_context_id=slow, event=Event(type=":LATE"))], on=connection)
        await house.append(fast, ":EARLY")
        shown, cursor = await rest(house, cursor)
        assert [event["type"] for event in shown] == [":EARLY"]
    assert [event["type"] for event in (await rest(house, cursor))[0]] == [":LATE"]


async def test_a_stream_shows_what_is_there_and_then_each_new_event_of_any_context(fresh: House) -> None:
    first = await fresh.new_context()
    async with streaming(fresh, "/events") as stream:
        assert (await stream.next())[1]["etl_context_id"] == first
        second = await fresh.new_context()
        cursor, event = await stream.next()
        assert (event["etl_context_id"], event["type"]) == (second, ":INITIAL")
        await fresh.append(first, ":A")
        assert (await stream.next())[1]["type"] == ":A"
    async with streaming(fresh, "/events", Last_Event_ID=cursor) as stream:
        assert (await stream.next())[1]["type"] == ":A"
    async with streaming(fresh, f"/events?cursor={cursor}") as stream:
        assert (await stream.next())[1]["type"] == ":A"
    assert [event["type"] for event in (await page(fresh, cursor))[0]] == [":A"]


async def test_readers_that_come_and_go_see_each_event_once_however_writers_overlap(fresh: House) -> None:
    dice = random.Random(5)
    ids = [await fresh.new_context() for _ in range(4)]
    total = 4 + 4 * 6

    async def write(id_: int) -> None:
        for number in range(6):
            async with fresh.store.transaction() as connection:
                appends = [Append(etl_context_id=id_, event=Event(type=":A", payload=number))]
                await fresh.store.append(appends, on=connection)
                await asyncio.sleep(dice.uniform(0, 0.02))

    async def read() -> list[tuple[int, int]]:
        shown: list[tuple[int, int]] = []
        headers: dict[str, str] = {}
        while len(shown) < total:
            async with streaming(fresh, "/events", **headers) as stream:
                for _ in range(min(dice.randint(1, 9), total - len(shown))):
                    headers["Last_Event_ID"], event = await stream.next()
                    shown.append((event["etl_context_id"], event["version"]))
        return shown

    async with asyncio.timeout(3 * SOON), asyncio.TaskGroup() as group:
        readers = [group.create_task(read()) for _ in range(4)]
        for id_ in ids:
            group.create_task(write(id_))
    expected = {(id_, version) for id_ in ids for version in range(1, 8)}
    for reader in readers:
        assert len(reader.result()) == total and set(reader.result()) == expected
        for id_ in ids:
            assert [version for of, version in reader.result() if of == id_] == list(range(1, 8))


async def test_a_reader_that_takes_nothing_is_cut_and_keeps_nobody_waiting(
    fresh: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    id_ = await fresh.new_context()
    with socket.socket() as slow, monkeypatch.context() as hasty:
        hasty.setattr(sse, "SEND_TIMEOUT", 0.5)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, (fresh.addresses.host, fresh.addresses.port))
        head = f"GET /v1/main/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        await loop.sock_sendall(slow, f"{head}Accept: text/event-stream\r\n\r\n".encode())
        await fresh.waiting(1)
        hasty.undo()  # who takes what comes has all the time that it needs
        async with streaming(fresh, "/events") as stream:
            await stream.next()
            await fresh.waiting(2)
            for number in range(30):
                await fresh.append(id_, ":A", "x" * 400_000)
                assert (await stream.next())[1]["version"] == number + 2
            await fresh.waiting(1)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def _changed(house: House, **changes: Any) -> str:
    place = (await Feed(house.database).page()).cursor
    return cursors.feed(msgspec.structs.replace(place, **changes))


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("changes", [{"system_id": 1}, {"timeline": 77}])
async def test_a_cursor_of_another_cluster_is_410(house: House, changes: dict[str, int], live: bool) -> None:
    await house.new_context()
    await _refused(house, await _changed(house, **changes), live, 410, "cursor-gone")


@pytest.mark.parametrize("live", [False, True])
async def test_a_cursor_of_a_past_that_was_restored_over_is_410(house: House, live: bool) -> None:
    await house.new_context()
    place = (await Feed(house.database).page()).cursor
    assert place.shown is not None
    later = msgspec.structs.replace(place.shown, last=place.shown.last + 1_000_000)
    await _refused(house, await _changed(house, shown=later), live, 410, "cursor-gone")


async def test_a_cursor_of_another_pg_env_is_410(house: House, fresh: House) -> None:
    await house.new_context()
    _, cursor = await rest(house)
    async with fresh.get("/events", params={"cursor": cursor}) as response:
        await refusal(response, 410, "cursor-gone")


def _encoded(*place: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(["feed", *place]).encode()).decode().rstrip("=")


def _sight(snapshot: str) -> list[Any]:
    return [snapshot, 1, None]


NONSENSE = [
    "x", "1", "é", "a" * 5000, cursors.tasks(1), cursors.context(1, 1), _encoded(), _encoded(1, 2),
    _encoded(1, 1, None, None, -1),
    _encoded(True, 1, None, None, 0), _encoded("1", 1, None, None, 0), _encoded(2**63, 1, None, None, 0),
    _encoded(1, 1, "x", None, 0), _encoded(1, 1, [], None, 0),
    *(
        _encoded(1, 1, _sight(snapshot), None, 0)
        for snapshot in (
            "", "x", "1:2", "0:0:", "2:1:", "1:2:2", "1:9:4,3", "1:9:3,3", "1:9:0", "1:9223372036854775808:",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("cursor", NONSENSE)
async def test_what_is_no_cursor_is_422(house: House, cursor: str, live: bool) -> None:
    await _refused(house, cursor, live, 422, "invalid-input")


async def _refused(house: House, cursor: str, live: bool, status: int, name: str) -> None:
    before = await house.event_count()
    headers = {"Accept": "text/event-stream"} if live else {}
    async with house.get("/events", params={"cursor": cursor}, headers=headers) as response:
        await refusal(response, status, name)
    async with house.get("/healthz") as response:
        assert response.status == 200
    assert await house.event_count() == before


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "after=1", "cursor="])
async def test_a_parameter_that_does_not_fit_is_422(house: House, query: str) -> None:
    async with house.get(f"/events?{query}") as response:
        document = await refusal(response, 422, "invalid-input")
        assert document["parameter"] == query.partition("=")[0]


async def test_the_feed_ends_when_the_server_does(template: str, tmp_path: Path) -> None:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=SOON)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        async with running(tmp_path, await new_database(template)) as ending:
            await ending.new_context()
            headers = {"Accept": "text/event-stream", **ending.client.headers}
            response = await client.get(ending.url("/events"), headers=headers)
            await Stream(response).next()
            await ending.waiting(1)
        assert await response.content.read() == b""
