"""Every refusal that docs/http.md names, once: and after each of them nothing has happened."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import http_support
import msgspec
import pytest
import pytest_asyncio
from http_support import TOKEN, House, new_database, raw, running
from postgres_support import in_database, sql

from damad.errors import DamadError
from damad.eventstore.feed import Feed
from damad.http import cursors

PAGE = Path(__file__).parent.parent / "docs" / "http.md"
JSON = {"Content-Type": "application/json"}
EVENTS = "/contexts/{id}/events"
TASK = {"worker": "hello.py"}
UUID = "5f9f7d6e-3f3b-4a55-8f6e-0d1f0c6f8b11"
"""Of an event that is in the log."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A server which takes small bodies only."""
    async with running(tmp_path_factory.mktemp("small"), await new_database(template), max_body=1000) as found:
        id_ = await found.store.create_context()
        async with found.post(EVENTS.format(id=id_), {"type": ":INITIAL", "event_uuid": UUID}) as response:
            assert response.status == 201
        await found.new_task(payload=1, idempotency_key="k")
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
    *[
        (400, "invalid-json", "POST", "/tasks", {"data": body, "headers": JSON})
        for body in (
            b"",
            b"{",
            b"\xef\xbb\xbf{}",
            b'{"worker": "\xff"}',
            b'{"worker": 1, "worker": 1}',
            b'{"payload": NaN}',
            b'{"payload": "\\ud800"}',
            b"[" * 65 + b"]" * 65,
        )
    ],
    (401, "unauthorized", "GET", "/tasks", {"headers": {"Authorization": "Bearer no"}}),
    (403, "forbidden-origin", "GET", "/tasks", {"headers": {"Origin": "http://evil.example"}}),
    *[
        (404, "not-found", "GET", path, {})
        for path in (
            "/contexts/x",
            f"/contexts/{2**62}",
            f"/contexts/{2**70}",
            "/queues/none",
            "/schedules/none",
            "/nothing",
            "/v1/other/tasks",
            "/contexts/{id}/logs",
        )
    ],
    (405, "method-not-allowed", "DELETE", "/events", {}),
    (409, "illegal-transition", "POST", EVENTS, {"json": {"type": ":A"}}),
    (409, "version-conflict", "POST", EVENTS, {"json": {"type": ":A", "expected_version": 1}}),
    (409, "conflict", "POST", "/contexts/{id}/cancel", {}),
    (409, "conflict", "POST", "/contexts/{id}/retry", {}),
    (409, "event-uuid-conflict", "POST", EVENTS, {"json": {"type": ":A", "event_uuid": UUID}}),
    (409, "event-uuid-conflict", "POST", EVENTS, {"json": {"type": ":A"}, "headers": {"Idempotency-Key": UUID}}),
    (409, "idempotency-conflict", "POST", "/tasks", {"json": {**TASK, "payload": 2, "idempotency_key": "k"}}),
    (409, "idempotency-conflict", "POST", "/tasks", {"json": TASK, "headers": {"Idempotency-Key": "k"}}),
    (410, "cursor-gone", "GET", "/events?cursor={gone}", {}),
    (412, "precondition-failed", "POST", EVENTS, {"json": {"type": ":A"}, "headers": {"If-Match": '"1"'}}),
    (413, "too-large", "POST", "/tasks", {"json": {**TASK, "payload": "x" * 1000}}),
    (415, "unsupported-media-type", "POST", "/tasks", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}),
    (415, "unsupported-media-type", "POST", "/tasks", {"data": b"{}", "headers": {**JSON, "Content-Encoding": "gzip"}}),
    (417, "expectation-failed", "POST", "/tasks", {"json": TASK, "headers": {"Expect": "miracles"}}),
    (421, "misdirected", "GET", "/tasks", {"headers": {"Host": "evil.example"}}),
    (422, "invalid-input", "POST", EVENTS, {"json": {"type": "dama/task:FAILED"}}),
    *[
        (422, "invalid-input", "POST", EVENTS, {"data": body, "headers": JSON})
        for body in (
            b"[]",
            b"{}",
            b'{"type": ":a"}',
            b'{"type": "A"}',
            b'{"type": ":A", "more": 1}',
            b'{"type": ":A", "payload": "\\u0000"}',
            b'{"type": ":A", "payload": 9223372036854775808}',
            b'{"type": ":A", "payload": 1e400}',
            b'{"type": ":A", "meta": {"__dama_task_manager__": {}}}',
            b'{"type": ":A", "expected_version": -1}',
            b'{"type": ":A", "event_uuid": "x"}',
        )
    ],
    *[
        (422, "invalid-input", "GET", path, {})
        for path in (
            "/events?cursor=x",
            "/events?limit=0",
            "/events?limit=1001",
            "/events?wait=301s",
            "/events?more=1",
            "/tasks?state=x",
            "/contexts/{id}/final?timeout=x",
            "/contexts/{id}/events?after_version=x",
        )
    ],
    (422, "invalid-input", "POST", "/contexts", {"json": {"parent_context_id": 2**62}}),
    (422, "invalid-input", "POST", "/tasks", {"json": {**TASK, "retry_limit": -1}}),
    (422, "invalid-input", "PATCH", "/queues/fast", {"json": {"concurrency": -1}}),
    (422, "invalid-input", "POST", "/schedules", {"json": {**TASK, "name": "s", "cron": "x"}}),
    *[
        (422, "invalid-worker", "POST", "/tasks", {"json": {"worker": worker}})
        for worker in ("../hello.py", "none.py", ".", "/etc/passwd", "")
    ],
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


async def test_a_database_without_damads_schema_is_503(template: str, tmp_path: Path) -> None:
    name = f"bare_{uuid4().hex}"
    await sql(template, f"CREATE DATABASE {name}")
    async with running(tmp_path, in_database(template, name)) as bare:
        for method, path in (("GET", "/tasks"), ("GET", "/events"), ("POST", "/tasks")):
            async with bare.ask(method, path, **({"json": TASK} if method == "POST" else {})) as response:
                await http_support.refusal(response, 503, "schema-missing")
                assert response.headers["Retry-After"]


OUTAGE = "tests/test_http_outage.py"
ELSEWHERE = {
    "too-slow": "tests/test_http_head.py",
    "forbidden": "tests/test_http_tokens.py",
    "busy": "tests/test_http_refusals.py",
    "schema-missing": "tests/test_http_refusals.py",
    "unavailable": OUTAGE,
    "not-ready": OUTAGE,
    "internal": OUTAGE,
    "too-many-requests": "tests/test_http_limits.py",
    "too-many-connections": "tests/test_http_limits.py",
    "broken-log": "tests/test_bulkhead.py",
    "singleton-conflict": "tests/test_singleton_key.py",
}
"""Where what no request can have refused by itself is refused."""
NEVER = {"stale-fence", "no-context", "task-failed", "task-cancelled", "configuration"}
"""What no request can bring about: it carries no fence, waits for no result, and configures nothing."""


def test_every_problem_that_there_is_is_refused_somewhere() -> None:
    def names(of: type[DamadError]) -> set[str]:
        own = {of.problem} if of.__module__ == "damad.errors" or of.__module__.startswith("damad.http") else set()
        return own.union(*(names(kind) for kind in of.__subclasses__()))

    here = {name for _, name, *_ in (*REFUSED, *BROKEN)} - {"method-not-allowed"}  # which is aiohttp's own
    assert names(DamadError) == here | ELSEWHERE.keys() | NEVER
    for name, place in ELSEWHERE.items():
        said = name, "".join(part.title() for part in name.split("-"))
        assert any(word in (PAGE.parent.parent / place).read_text() for word in said), name
