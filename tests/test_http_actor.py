"""Who appended an event over HTTP stands in its meta, and is no part of what they sent."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import http_support
import pytest
from http_support import House, refusal

from damad import tokens

house = http_support.house

KEY = "__dama_actor__"


@contextmanager
def token(house: House, name: str, role: str = "admin") -> Iterator[dict[str, str]]:
    """The headers of who has a token of this name."""
    made = tokens.add(house.settings.state_dir, name, role)
    try:
        yield {"Authorization": f"Bearer {made}"}
    finally:
        tokens.revoke(house.settings.state_dir, name)


@asynccontextmanager
async def by_socket(house: House) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(house.addresses.socket))
    async with aiohttp.ClientSession(connector=connector, base_url="http://localhost") as client:
        yield client


async def sent(house: House, path: str, body: Any, status: int, headers: dict[str, str] | None = None) -> Any:
    async with house.post(path, body, headers=headers or {}) as response:
        assert response.status == status, await response.text()
        return await response.json()


@pytest.mark.parametrize("meta", [None, {}, {"by": "me"}])
async def test_the_name_of_the_token_stands_beside_the_meta_that_was_sent(house: House, meta: Any) -> None:
    id_ = await house.new_context()
    with token(house, "loader") as headers:
        recorded = await sent(house, f"/contexts/{id_}/events", {"type": ":A", "meta": meta}, 201, headers)
    assert recorded["meta"] == {**(meta or {}), KEY: "loader"}
    assert (await house.store.read(id_))[-1].meta == recorded["meta"]


@pytest.mark.parametrize("meta", [None, {}, {"by": "me"}])
async def test_who_has_the_first_token_has_no_name_and_the_meta_is_as_it_was_sent(house: House, meta: Any) -> None:
    id_ = await house.new_context()
    assert (await sent(house, f"/contexts/{id_}/events", {"type": ":A", "meta": meta}, 201))["meta"] == meta


async def test_who_comes_by_the_socket_is_known_by_their_user(house: House) -> None:
    id_ = await house.new_context()
    async with by_socket(house) as client:
        for type_ in (":A", ":B"):  # the second is let in for having said the same as the first
            async with client.post(f"/v1/main/contexts/{id_}/events", json={"type": type_}) as response:
                assert (await response.json())["meta"] == {KEY: f"uid:{os.geteuid()}"}


async def test_every_event_that_a_request_appends_says_so(house: House) -> None:
    with token(house, "operator") as headers:
        made = await sent(house, "/tasks", {"worker": "hello.py", "meta": {"by": "me"}}, 201, headers)
        task = made["etl_context_id"]
        for what in ("cancel", "retry"):
            async with house.post(f"/contexts/{task}/{what}", headers=headers) as response:
                assert response.status == 202
        schedule = {"name": "by_hand", "cron": "@daily", "worker": "hello.py", "paused": True}
        await sent(house, "/schedules", schedule, 201, headers)
        async with house.post("/schedules/by_hand/trigger", headers=headers) as response:
            triggered = (await response.json())["etl_context_id"]
    events = await house.store.read(task)
    assert [event.type.rpartition(":")[2] for event in events] == [
        "INITIAL", "CANCEL_REQUESTED", "CANCELLED", "REQUEUED"
    ]  # fmt: skip
    assert {event.meta[KEY] for event in (*events, *await house.store.read(triggered)) if event.meta} == {"operator"}
    assert all(event.meta for event in events)
    assert events[0].meta is not None and events[0].meta["by"] == "me"


@pytest.mark.parametrize("meta", [None, {"by": "me"}])
async def test_the_same_event_again_is_the_first_row_whoever_sends_it(house: House, meta: Any) -> None:
    id_ = await house.new_context()
    event = {"type": ":A", "payload": 1, "event_uuid": str(uuid4()), "meta": meta}
    path = f"/contexts/{id_}/events"
    with token(house, "first") as one, token(house, "second") as other:
        recorded = await sent(house, path, event, 201, one)
        for headers in (one, other, None):
            assert await sent(house, path, event, 200, headers) == recorded
        async with house.post(path, {**event, "meta": {"by": "you"}}, headers=other) as response:
            await refusal(response, 409, "event-uuid-conflict")
    assert recorded["meta"][KEY] == "first"
    assert len(await house.store.read(id_)) == 2


async def test_what_the_first_token_appended_is_the_same_when_a_named_one_sends_it(house: House) -> None:
    id_ = await house.new_context()
    event = {"type": ":A", "event_uuid": str(uuid4())}
    recorded = await sent(house, f"/contexts/{id_}/events", event, 201)
    with token(house, "later") as headers:
        assert await sent(house, f"/contexts/{id_}/events", event, 200, headers) == recorded
    assert recorded["meta"] is None


async def test_the_same_task_again_is_the_first_one_whoever_asks_for_it(house: House) -> None:
    asked = {"worker": "hello.py", "payload": 1, "idempotency_key": str(uuid4())}
    with token(house, "first") as one, token(house, "second") as other:
        made = await sent(house, "/tasks", asked, 201, one)
        for headers in (one, other, None):
            again = await sent(house, "/tasks", asked, 200, headers)
            assert again["etl_context_id"] == made["etl_context_id"]
        async with house.post("/tasks", {**asked, "meta": {"by": "you"}}, headers=other) as response:
            await refusal(response, 409, "idempotency-conflict")


async def test_nobody_says_by_themselves_who_they_are(house: House) -> None:
    id_ = await house.new_context()
    before = await house.event_count()
    meta = {KEY: "somebody else"}
    for path, body, pointer in (
        (f"/contexts/{id_}/events", {"type": ":A", "meta": meta}, f"/meta/{KEY}"),
        ("/tasks", {"worker": "hello.py", "meta": meta}, f"/meta/{KEY}"),
        ("/tasks", {"worker": "hello.py", "initial_event": {"type": ":INITIAL", "meta": meta}}, None),
    ):
        async with house.post(path, body) as response:
            await refusal(response, 422, "invalid-input", pointer)
    assert await house.event_count() == before
