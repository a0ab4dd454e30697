"""Long polls, and reads that are spared who knows already what there is."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import http_support
import pytest
import pytest_asyncio
from http_support import House, new_database, refusal, running

house = http_support.house


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(template: str, tmp_path: Path) -> AsyncIterator[House]:
    """A server whose log is empty."""
    async with running(tmp_path, await new_database(template)) as found:
        yield found


async def body(house: House, path: str) -> Any:
    async with house.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_a_page_that_would_be_empty_waits_for_the_first_event(fresh: House) -> None:
    id_ = await fresh.new_context()
    cursor = (await body(fresh, "/events"))["next"]
    paths = [
        f"/contexts/{id_}/events?after_version=1&wait=300s", f"/contexts/{id_}/events?type=:A&wait=5m",
        f"/contexts/{id_}/events?tree=1&type=:A&wait=300", f"/events?cursor={cursor}&wait=300s",
    ]  # fmt: skip
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(body(fresh, path)) for path in paths]
        await fresh.waiting(len(paths))
        await fresh.append(id_, ":A")
    for each in asked:
        assert [event["type"] for event in each.result()["items"]] == [":A"]


async def test_a_page_that_is_not_empty_waits_for_nothing(fresh: House) -> None:
    id_ = await fresh.new_context()
    for path in (f"/contexts/{id_}/events", f"/contexts/{id_}/events?tree=1", "/events"):
        separator = "&" if "?" in path else "?"
        assert len((await body(fresh, f"{path}{separator}wait=300s"))["items"]) == 1


async def test_a_wait_that_is_over_is_answered_with_an_empty_page(fresh: House) -> None:
    id_ = await fresh.new_context()
    for path in (f"/contexts/{id_}/events?after_version=1&wait=0", f"/contexts/{id_}/events?type=:A&wait=10ms"):
        assert await body(fresh, path) == {"items": [], "next": None}
    cursor = (await body(fresh, "/events"))["next"]
    assert await body(fresh, f"/events?cursor={cursor}&wait=10ms") == {"items": [], "next": None}


async def test_waits_end_when_the_server_does(template: str, tmp_path: Path) -> None:
    log = await new_database(template)
    async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as group, running(tmp_path, log) as ending:
        id_ = await ending.new_context()
        paths = [f"/contexts/{id_}/events?after_version=1&wait=300s", f"/contexts/{id_}/events?tree=1&type=:A&wait=5m"]
        headers = dict(ending.client.headers)
        asked = [group.create_task(_read(client, ending.url(path), headers)) for path in paths]
        await ending.waiting(len(paths))
    assert [each.result() for each in asked] == [{"items": [], "next": None}] * 2


async def _read(client: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> Any:
    async with client.get(url, headers=headers) as response:
        return await response.json()


@pytest.mark.parametrize("path", ["/contexts/{}", "/contexts/{}/events", "/contexts/{}/events?tree=1", "/events"])
@pytest.mark.parametrize("wait", ["x", "-1s", "301s", "1h", ""])
async def test_a_wait_that_is_no_duration_or_too_long_is_422(house: House, path: str, wait: str) -> None:
    path = path.format(await house.new_context())
    async with house.get(path, params={"wait": wait}) as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] == "wait"


@pytest.mark.parametrize("path", ["/contexts/{}/events", "/contexts/{}/events?tree=1", "/events"])
async def test_a_stream_takes_no_wait(house: House, path: str) -> None:
    path = path.format(await house.new_context())
    async with house.get(path, params={"wait": "1s"}, headers={"Accept": "text/event-stream"}) as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] == "wait"


@pytest.mark.parametrize("path", ["/contexts/{}", "/contexts/{}/events"])
async def test_who_knows_the_version_is_told_that_nothing_has_changed(house: House, path: str) -> None:
    path = path.format(id_ := await house.new_context())
    async with house.get(path) as response:
        tag = response.headers["ETag"]
    for known in (tag, f"W/{tag}", f'"7", {tag}', "*"):
        async with house.get(path, headers={"If-None-Match": known}) as response:
            assert (response.status, response.headers["ETag"], await response.read()) == (304, tag, b"")
    await house.append(id_, ":A")
    for known in (tag, '"x"'):
        async with house.get(path, headers={"If-None-Match": known}) as response:
            assert response.status == 200 and response.headers["ETag"] == '"2"'


async def test_a_state_is_waited_for_until_it_is_another_one(house: House) -> None:
    id_ = await house.new_context()

    async def changed() -> tuple[int, str]:
        async with house.get(f"/contexts/{id_}?wait=300s", headers={"If-None-Match": '"1"'}) as response:
            return response.status, response.headers["ETag"]

    async with asyncio.TaskGroup() as group:
        asked = group.create_task(changed())
        await house.waiting(1)
        await house.append(id_, ":A")
    assert asked.result() == (200, '"2"')
    async with house.get(f"/contexts/{id_}?wait=10ms", headers={"If-None-Match": '"2"'}) as response:
        assert response.status == 304


async def test_a_queued_task_is_shown_to_whoever_asks_for_more_than_its_events_says_when_it_runs(house: House) -> None:
    id_ = await house.new_task()
    async with house.get(f"/contexts/{id_}", headers={"If-None-Match": '"1"'}) as response:
        assert (response.status, (await response.json())["state"]) == (200, "queued")


@pytest.mark.parametrize("tag", ["3", "", '"3', "x"])
async def test_what_is_no_etag_is_422(house: House, tag: str) -> None:
    async with house.get(f"/contexts/{await house.new_context()}", headers={"If-None-Match": tag}) as response:
        assert (await refusal(response, 422, "invalid-input"))["header"] == "If-None-Match"
