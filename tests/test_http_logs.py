"""GET /contexts/{id}/logs: what a worker printed."""

import asyncio

import http_support
import pytest
from http_support import SOON, House, refusal

house = http_support.house


async def test_a_log_is_plain_text(house: House) -> None:
    id_ = await house.new_task()
    house.write_log(id_, "loading ☃\nloaded\n")
    async with house.get(f"/contexts/{id_}/logs") as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        assert await response.text() == "loading ☃\nloaded\n"


async def test_the_log_is_that_of_the_last_attempt_unless_one_is_named(house: House) -> None:
    id_ = await house.new_task()
    house.write_log(id_, "first", 1)
    house.write_log(id_, "second", 2)
    for query, text in (("", "second"), ("?attempt=1", "first"), ("?attempt=2&follow=0", "second")):
        async with house.get(f"/contexts/{id_}/logs{query}") as response:
            assert await response.text() == text


async def test_a_log_that_is_not_there_is_404(house: House) -> None:
    id_ = await house.new_task()
    async with house.get(f"/contexts/{id_}/logs") as response:
        await refusal(response, 404, "not-found")
    house.write_log(id_, "first")
    async with house.get(f"/contexts/{id_}/logs?attempt=2") as response:
        await refusal(response, 404, "not-found")
    async with house.get(f"/contexts/{await house.new_context()}/logs?follow=1") as response:
        await refusal(response, 404, "not-found")


async def test_a_log_is_followed_until_the_task_has_ended(house: House) -> None:
    id_ = await house.new_task()
    fence = await house.start(id_)
    house.write_log(id_, "one\n")
    async with house.get(f"/contexts/{id_}/logs?follow=1") as response:
        assert await _line(response) == "one\n"
        house.write_log(id_, "two\n")
        assert await _line(response) == "two\n"
        house.write_log(id_, "three\n")
        await house.append(id_, ":FINAL", {}, fence)
        assert await _line(response) == "three\n"
        assert await _line(response) == ""


async def test_a_log_is_followed_from_before_there_is_one(house: House) -> None:
    id_ = await house.new_task()
    async with house.get(f"/contexts/{id_}/logs?follow=true") as response:
        assert response.status == 200
        house.write_log(id_, "begun\n")
        await house.start(id_)
        assert await _line(response) == "begun\n"


async def test_the_log_of_an_attempt_ends_when_the_next_one_begins(house: House) -> None:
    id_ = await house.new_task()
    house.write_log(id_, "first\n")
    await house.fail(id_, await house.start(id_))
    async with house.post(f"/contexts/{id_}/retry") as response:
        assert response.status == 202
    await house.start(id_, attempt=2)
    async with house.get(f"/contexts/{id_}/logs?attempt=1&follow=1") as response:
        assert await response.text() == "first\n"


async def test_following_a_task_that_ended_without_a_log_ends(house: House) -> None:
    id_ = await house.new_task()
    async with house.get(f"/contexts/{id_}/logs?follow=1") as response:
        async with house.post(f"/contexts/{id_}/cancel"):
            pass
        async with asyncio.timeout(SOON):
            assert await response.text() == ""


@pytest.mark.parametrize("path", ["logs?follow=1", "logs?follow=1&attempt=9", "final?timeout=300"])
async def test_a_client_that_left_is_waited_for_no_longer(house: House, path: str) -> None:
    id_ = await house.new_task()
    await house.start(id_)
    house.write_log(id_, "begun\n")
    await house.waiting(0)
    request = asyncio.create_task(_text(house, f"/contexts/{id_}/{path}"))
    await house.waiting(1)
    request.cancel()
    await house.waiting(0)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("attempt=0", "attempt"),
        ("attempt=x", "attempt"),
        ("attempt=-1", "attempt"),
        ("attempt=2147483648", "attempt"),
        ("follow=maybe", "follow"),
        ("follow=", "follow"),
        ("lines=3", "lines"),
    ],
)
async def test_a_parameter_that_does_not_fit_is_refused(house: House, query: str, parameter: str) -> None:
    async with house.get(f"/contexts/{await house.new_task()}/logs?{query}") as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] == parameter


async def _line(response) -> str:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(SOON):
        return (await response.content.readline()).decode()


async def _text(house: House, path: str) -> str:
    async with house.get(path) as response:
        return await response.text()
