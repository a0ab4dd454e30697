"""Every refusal that docs/http.md names, once: and after each of them nothing has happened."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import http_support
import msgspec
import pytest
import pytest_asyncio
from http_support import TOKEN, House, new_database, raw, running

from damad.eventstore.feed import Feed
from damad.http import cursors

PAGE = Path(__file__).parent.parent / "docs" / "http.md"
JSON = {"Content-Type": "application/json"}
EVENTS = "/contexts/{id}/events"
TASK = {"worker": "hello.py"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A server which takes small bodies only."""
    async with running(tmp_path_factory.mktemp("small"), await new_database(template), max_body=1000) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hasty(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A server in a hurry."""
    folder = tmp_path_factory.mktemp("hasty")
    async with running(folder, await new_database(template), body_timeout=0.3) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def id_(house: House, caplog: pytest.LogCaptureFixture) -> AsyncIterator[int]:
    """A context that has ended. What a test has refused appends nothing, and leaves nothing but quiet in the log."""
    id_ = await house.new_context()
    await house.append(id_, ":FINAL")
    before = await house.event_count()
    yield id_
    async with house.get("/healthz") as response:
        assert response.status == 200
    assert await house.event_count() == before
    assert [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info] == []


REFUSED: list[tuple[int, str, str, str, dict[str, Any]]] = [
    (400, "invalid-json", "POST", "/tasks", {"data": b"{", "headers": JSON}),
    (401, "unauthorized", "GET", "/tasks", {"headers": {"Authorization": "Bearer no"}}),
    (403, "forbidden-origin", "GET", "/tasks", {"headers": {"Origin": "http://evil.example"}}),
    (404, "not-found", "GET", "/contexts/x", {}),
    (405, "method-not-allowed", "DELETE", "/events", {}),
    (409, "illegal-transition", "POST", EVENTS, {"json": {"type": ":A"}}),
    (409, "version-conflict", "POST", EVENTS, {"json": {"type": ":A", "expected_version": 1}}),
    (409, "conflict", "POST", "/contexts/{id}/cancel", {}),
    (410, "cursor-gone", "GET", "/events?cursor={gone}", {}),
    (412, "precondition-failed", "POST", EVENTS, {"json": {"type": ":A"}, "headers": {"If-Match": '"1"'}}),
    (413, "too-large", "POST", "/tasks", {"json": {**TASK, "payload": "x" * 1000}}),
    (415, "unsupported-media-type", "POST", "/tasks", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}),
    (417, "expectation-failed", "POST", "/tasks", {"json": TASK, "headers": {"Expect": "miracles"}}),
    (421, "misdirected", "GET", "/tasks", {"headers": {"Host": "evil.example"}}),
    (422, "invalid-input", "POST", EVENTS, {"json": {"type": "dama/task:FAILED"}}),
    (422, "invalid-input", "GET", "/events?cursor=x", {}),
    (422, "invalid-worker", "POST", "/tasks", {"json": {"worker": "../hello.py"}}),
]


@pytest.mark.parametrize(("status", "name", "method", "path", "given"), REFUSED)
async def test_what_is_refused_says_so_and_has_changed_nothing(
    house: House, id_: int, status: int, name: str, method: str, path: str, given: dict[str, Any]
) -> None:
    place = (await Feed(house.database).page()).cursor
    gone = cursors.feed(msgspec.structs.replace(place, timeline=77))
    async with house.ask(method, path.format(id=id_, gone=gone), **given) as response:
        await http_support.refusal(response, status, name)


BROKEN: list[tuple[int, str, bytes]] = [
    (400, "bad-request", b"nonsense\r\n\r\n"),
    (408, "head-timeout", b"GET /healthz HTT"),
    (408, "body-timeout", b"POST /v1/main/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + TOKEN.encode()
     + b"\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"),
    (505, "http-version", b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "name", "sent"), BROKEN)
async def test_what_is_half_a_request_or_none_is_refused_and_closed(
    hasty: House, caplog: pytest.LogCaptureFixture, status: int, name: str, sent: bytes
) -> None:
    head, body = await raw(hasty, sent)
    assert (int(head[9:12]), json.loads(body)["type"]) == (status, f"urn:damad:problem:{name}")
    assert await hasty.event_count() == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info] == []


async def test_a_context_that_somebody_holds_is_busy(house: House, id_: int) -> None:
    async with house.store.transaction() as connection:
        await connection.execute("SELECT FROM data_manager.etl_contexts FOR UPDATE")
        async with house.post(EVENTS.format(id=id_), {"type": ":A"}) as response:
            await http_support.refusal(response, 503, "busy")
            assert response.headers["Retry-After"]


async def test_what_many_send_at_once_that_is_refused_leaves_room_for_others(house: House, id_: int) -> None:
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as stranger:
        for _ in range(50):
            group.create_task(_refused(stranger, house))
        async with house.get("/tasks") as response:
            assert response.status == 200


async def _refused(stranger: aiohttp.ClientSession, house: House) -> None:
    async with stranger.get(house.url("/tasks")) as response:
        assert response.status == 401


def test_every_status_that_the_document_names_is_refused_here() -> None:
    table = PAGE.read_text().split("## Refusals")[1]
    named = {int(number) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.M) for number in row.split(", ")}
    assert named == {status for status, *_ in (*REFUSED, *BROKEN)} | {429, 503}  # 429: test_http_limits.py
