"""What the client sends again is done once, and it does not come before it was told to."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import client_support
import http_support
import pytest
from aiohttp import web
from client_support import client_of
from http_support import SOON, House
from resetting_proxy import ResettingProxy

from damad.client import Client, Refused
from damad.errors import (
    Unavailable,
)

house, damad, cut = http_support.house, client_support.damad, client_support.cut


@pytest.mark.parametrize("lost", [1, 3])
async def test_an_append_whose_answers_are_lost_after_its_commit_is_recorded_once(
    house: House, cut: tuple[ResettingProxy, Client], lost: int
) -> None:
    proxy, damad = cut
    id_ = await house.new_context()
    proxy.lose = lost
    recorded = await damad.append(id_, {"type": ":A"}, {"type": ":B"})
    assert proxy.lost == lost
    assert recorded == await house.store.read(id_, after_version=1) and [event.version for event in recorded] == [2, 3]


async def test_a_final_whose_answer_is_lost_is_no_conflict(house: House, cut: tuple[ResettingProxy, Client]) -> None:
    proxy, damad = cut
    id_ = await house.new_context()
    proxy.lose = 1
    assert [event.version for event in await damad.append(id_, {"type": ":FINAL"}, expected_version=1)] == [2]


async def test_a_task_whose_answers_are_lost_is_queued_once(house: House, cut: tuple[ResettingProxy, Client]) -> None:
    proxy, damad = cut
    before = await house.event_count()
    proxy.lose = 2
    id_ = await damad.queue("hello.py", {"n": 1})
    assert proxy.lost == 2
    assert await house.event_count() == before + 1
    assert (await house.store.state(id_)).version == 1


async def test_two_tasks_that_are_asked_for_alike_are_two(damad: Client) -> None:
    assert await damad.queue("hello.py") != await damad.queue("hello.py")
    assert await damad.queue("hello.py", idempotency_key="mine") == await damad.queue(
        "hello.py", idempotency_key="mine"
    )


async def test_who_waits_goes_on_waiting_when_the_connection_breaks(
    house: House, cut: tuple[ResettingProxy, Client]
) -> None:
    proxy, damad = cut
    id_ = await damad.queue("hello.py")
    waiting = asyncio.create_task(damad.wait(id_))
    await house.waiting(1)
    proxy.cut_all()
    fence = await house.start(id_)
    await house.append(id_, ":FINAL", {}, fence)
    assert (await waiting).type == ":FINAL"


async def test_a_context_that_is_busy_is_asked_for_again(house: House, cut: tuple[ResettingProxy, Client]) -> None:
    proxy, damad = cut
    id_ = await house.new_context()
    async with house.store.transaction() as connection:
        lock = "SELECT FROM data_manager.etl_contexts WHERE etl_context_id = $1 FOR UPDATE"
        await connection.execute(lock, id_)
        appending = asyncio.create_task(damad.append(id_, {"type": ":A"}))
        await proxy.until(lambda: 503 in proxy.statuses)
    assert [event.version for event in await appending] == [2]
    assert len(await house.store.read(id_)) == 2


async def test_nobody_who_answers_is_unavailable_once_the_patience_is_over() -> None:
    async with client_of("http://127.0.0.1:1", patience=0.3) as damad:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 does not answer"):
            await damad.queue("hello.py")
    async with client_of(Path("/nowhere/damad.sock"), patience=0.3) as damad:
        with pytest.raises(Unavailable, match=r"/nowhere/damad\.sock does not answer"):
            await anext(damad.follow())


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[Client]:
    """A client of a server that answers as it is told: for what a daemon does not do when it is asked to."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with client_of(f"http://127.0.0.1:{runner.addresses[0][1]}", patience=SOON) as client:
            yield client
    finally:
        await runner.cleanup()


async def test_who_is_told_when_to_come_back_does_not_come_before() -> None:
    asked: list[tuple[float, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((time.monotonic(), await request.read()))
        if len(asked) == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.json_response({"etl_context_id": 7}, status=201)

    async with answering(answer) as damad:
        assert await damad.queue("hello.py") == 7
    (first, body), (second, again) = asked
    assert second - first >= 1 and body == again


async def test_who_is_told_to_come_back_after_its_patience_is_over_gives_up_at_once() -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=429, headers={"Retry-After": "3600"})

    async with answering(answer) as damad:
        with pytest.raises(Refused, match="429"):
            await damad.queue("hello.py")
    assert len(asked) == 1


async def test_no_token_goes_where_an_answer_sends_it() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with answering(answer) as damad:
        with pytest.raises(Refused, match="307"):
            await damad.queue("hello.py")
