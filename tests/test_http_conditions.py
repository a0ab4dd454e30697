"""Headers that make a write safe to send again, or have it refused: Idempotency-Key, If-Match, ETag; and HEAD."""

import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import http_support
import lost_answers
import pytest
import pytest_asyncio
from http_support import House, refusal

house, ready = http_support.house, http_support.ready
FIRST_TIME = lost_answers.first_time()


@pytest_asyncio.fixture(loop_scope="session")
async def unmoved(house: House, caplog: pytest.LogCaptureFixture) -> AsyncIterator[int]:
    """A context; no request of the test appends anything to it, or leaves more than quiet in the log."""
    id_ = await house.new_context()
    before = await house.event_count()
    yield id_
    async with house.get("/healthz") as response:
        assert response.status == 200
    assert await house.event_count() == before
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_etag_of_a_context_is_its_version(house: House) -> None:
    id_ = await house.new_context()
    for type_ in (":A", ":B"):
        async with house.get(f"/contexts/{id_}") as response:
            assert response.headers["ETag"] == f'"{(await response.json())["version"]}"'
        await house.append(id_, type_)
    async with house.post(f"/contexts/{id_}/events", [{"type": ":C"}, {"type": ":D"}]) as response:
        assert (response.status, response.headers["ETag"]) == (201, '"5"')


@pytest.mark.parametrize("match", ['"1"', '"7", "1"', '"1" , "2"', "*", 'W/"3", "1"'])
async def test_an_event_is_appended_to_the_version_that_if_match_names(house: House, match: str) -> None:
    id_ = await house.new_context()
    async with house.post(f"/contexts/{id_}/events", {"type": ":A"}, headers={"If-Match": match}) as response:
        assert (response.status, response.headers["ETag"]) == (201, '"2"')


@pytest.mark.parametrize("match", ['"0"', '"2"', '"2", "3"', 'W/"1"', '"x"', '""', f'"{2**63}"', '"01"', '"1x"'])
@pytest.mark.parametrize("body", [{"type": ":A"}, [{"type": ":A"}, {"type": ":B"}]])
async def test_an_event_for_another_version_is_412(house: House, unmoved: int, match: str, body: Any) -> None:
    async with house.ask("POST", f"/contexts/{unmoved}/events", json=body, headers={"If-Match": match}) as response:
        await refusal(response, 412, "precondition-failed")


@pytest.mark.parametrize("match", ["", "1", '"1', "x", '"1" "2"', "*, *", '"1",', "é"])
async def test_an_if_match_that_is_none_is_422(house: House, unmoved: int, match: str) -> None:
    path = f"/contexts/{unmoved}/events"
    async with house.post(path, {"type": ":A"}, headers={"If-Match": match}) as response:
        assert (await refusal(response, 422, "invalid-input"))["header"] == "If-Match"


async def test_if_match_and_expected_version_may_agree_and_not_differ(house: House, unmoved: int) -> None:
    path = f"/contexts/{unmoved}/events"
    differing = {"type": ":A", "expected_version": 2}
    async with house.post(path, differing, headers={"If-Match": '"1"'}) as response:
        assert (await refusal(response, 422, "invalid-input"))["header"] == "If-Match"
    agreeing = {"type": ":A", "expected_version": 7}
    async with house.post(path, agreeing, headers={"If-Match": '"7"'}) as response:
        await refusal(response, 412, "precondition-failed")
    async with house.post(path, agreeing) as response:
        await refusal(response, 409, "version-conflict")


@pytest.mark.parametrize("match", ['"1"', '"1", "2"', "*", 'W/"1"'])
async def test_a_context_that_is_not_there_is_404_whatever_is_to_match(house: House, match: str) -> None:
    async with house.post(f"/contexts/{2**62}/events", {"type": ":A"}, headers={"If-Match": match}) as response:
        await refusal(response, 404, "not-found")


@pytest.mark.parametrize("body", [{"type": ":A"}, [{"type": ":A"}], [{"type": ":A"}, {"type": ":A"}]])
async def test_the_same_key_and_events_again_are_200_and_the_first_rows(house: House, body: Any) -> None:
    id_, other = await house.new_context(), await house.new_context()
    headers = {"Idempotency-Key": f'"load of {uuid4()}"'}
    answers = []
    for statuses in (FIRST_TIME, (200,)):
        async with house.ask("POST", f"/contexts/{id_}/events", json=body, headers=headers) as response:
            assert response.status in statuses
            answers.append(await response.json())
    assert answers[0] == answers[1]
    async with house.ask("POST", f"/contexts/{other}/events", json=body, headers=headers) as response:
        assert response.status in FIRST_TIME  # a key is one of its context


async def test_a_key_that_is_a_uuid_is_the_event_uuid(house: House) -> None:
    id_, key = await house.new_context(), str(uuid4())
    async with house.post(f"/contexts/{id_}/events", {"type": ":A"}, headers={"Idempotency-Key": key}) as response:
        assert (await response.json())["event_uuid"] == key
    async with house.post(f"/contexts/{id_}/events", {"type": ":A", "event_uuid": key}) as response:
        assert response.status == 200


async def test_the_same_key_with_another_event_is_409(house: House) -> None:
    id_, headers = await house.new_context(), {"Idempotency-Key": "k"}
    async with house.post(f"/contexts/{id_}/events", {"type": ":A"}, headers=headers) as response:
        assert response.status in FIRST_TIME
    before = await house.event_count()
    async with house.post(f"/contexts/{id_}/events", {"type": ":B"}, headers=headers) as response:
        await refusal(response, 409, "event-uuid-conflict")
    assert await house.event_count() == before


async def test_a_retry_under_its_key_and_if_match_is_answered_with_the_first_event(house: House) -> None:
    id_, headers = await house.new_context(), {"Idempotency-Key": "again", "If-Match": '"1"'}
    for statuses in (FIRST_TIME, (200,)):
        async with house.post(f"/contexts/{id_}/events", {"type": ":A"}, headers=headers) as response:
            assert response.status in statuses
            assert (await response.json())["version"] == 2


async def test_the_key_of_a_task_is_its_idempotency_key(house: House) -> None:
    key = f"nightly {uuid4()}"
    body = {"worker": "hello.py"}
    ids = set()
    for sent, headers, status in (
        (body, {"Idempotency-Key": key}, 201),
        ([body], {"Idempotency-Key": f'"{key}"'}, 200),
        ({**body, "idempotency_key": key}, {"Idempotency-Key": key}, 200),
        ({**body, "idempotency_key": key}, {}, 200),
    ):
        async with house.ask("POST", "/tasks", json=sent, headers=headers) as response:
            assert response.status == status
            queued = await response.json()
            ids.add((queued[0] if isinstance(sent, list) else queued)["etl_context_id"])
    assert len(ids) == 1
    async with house.post("/tasks", {**body, "payload": 1}, headers={"Idempotency-Key": key}) as response:
        await refusal(response, 409, "idempotency-conflict")


@pytest.mark.parametrize("key", ["", '""', "x" * 1025, "é", "a\tb"])
async def test_a_key_that_is_none_is_422(house: House, unmoved: int, key: str) -> None:
    for path, body in (("/tasks", {"worker": "hello.py"}), (f"/contexts/{unmoved}/events", {"type": ":A"})):
        async with house.post(path, body, headers={"Idempotency-Key": key}) as response:
            assert (await refusal(response, 422, "invalid-input"))["header"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tasks", [{"worker": "hello.py"}, {"worker": "hello.py"}]),
        ("/tasks", {"worker": "hello.py", "idempotency_key": "other"}),
        ("/contexts/{}/events", {"type": ":A", "event_uuid": str(uuid4())}),
    ],
)
async def test_a_key_that_does_not_go_with_the_body_is_422(house: House, unmoved: int, path: str, body: Any) -> None:
    headers = {"Idempotency-Key": "k"}
    async with house.ask("POST", path.format(unmoved), json=body, headers=headers) as response:
        assert (await refusal(response, 422, "invalid-input"))["header"] == "Idempotency-Key"


@pytest.mark.parametrize(
    "path",
    [
        "/tasks", "/contexts/{}", "/contexts/{}/tree", "/contexts/{}/events", "/contexts/{}/final?timeout=0",
        "/contexts/{}/logs", "/events", "/healthz", "/readyz", "/queues", "/metrics", "/openapi.json", "/docs",
        "/dama-admin/main/events/query?etl_context_id={}",
    ],
)  # fmt: skip
async def test_the_head_of_whatever_can_be_got_can_be_asked_for(house: House, path: str) -> None:
    task = await house.new_task()
    await house.start(task)
    house.write_log(task, "printed\n")
    path = path.format(task)
    async with house.get(path) as got, house.ask("HEAD", path) as response:
        assert (response.status, response.content_type) == (got.status, got.content_type)
        assert await response.read() == b""
    async with house.ask("HEAD", "/contexts/x") as response:
        assert response.status == 404


async def test_the_head_of_a_log_that_is_followed_ends_at_once(house: House) -> None:
    task = await house.new_task()
    await house.start(task)
    house.write_log(task, "printed\n")
    async with house.ask("HEAD", f"/contexts/{task}/logs?follow=1") as response:
        assert (response.status, response.content_type) == (200, "text/plain")


@pytest.mark.parametrize("path", ["/contexts/{}/events", "/contexts/{}/events?tree=1", "/events"])
async def test_the_head_of_a_stream_ends_at_once(house: House, path: str) -> None:
    path = path.format(await house.new_context())
    async with house.ask("HEAD", path, headers={"Accept": "text/event-stream"}) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert await response.read() == b""
