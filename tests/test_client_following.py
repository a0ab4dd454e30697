"""What the client follows has no gap and nothing twice, however often the connection breaks."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import client_support
import http_support
import pytest
from client_support import client_of
from daemon_support import daemon_on, site_of
from http_support import SOON, House, new_database, running
from resetting_proxy import ResettingProxy, resetting

from damad.client import Client
from damad.client.following import messages
from damad.errors import (
    CursorGone,
)

house, damad, cut = http_support.house, client_support.damad, client_support.cut


async def test_a_context_is_followed_and_then_each_new_event(house: House, damad: Client) -> None:
    id_ = await house.new_context()
    stream = damad.follow(id_)
    assert (await anext(stream)).type == ":INITIAL"
    next_one = asyncio.create_task(anext(stream))
    await house.append(id_, ":A", {"text": "lines\nand ünicode\u2028"})
    event = await next_one
    assert event.payload == {"text": "lines\nand ünicode\u2028"} and [event] == await damad.read(id_, types=[":A"])
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await house.waiting(0)


async def test_a_following_goes_on_at_the_cursor_of_one_before_it(house: House, damad: Client) -> None:
    id_ = await house.new_context()
    await damad.append(id_, {"type": ":A"}, {"type": ":B"})
    for follow in (lambda **given: damad.follow(id_, **given), lambda **given: damad.follow(id_, tree=True, **given)):
        first = follow()
        assert [(await anext(first)).type for _ in range(2)] == [":INITIAL", ":A"]
        assert (await anext(follow(cursor=first.cursor))).type == ":B"
    assert (await anext(damad.follow(id_, after_version=1, types=[":B"]))).version == 3


async def test_who_stopped_waiting_for_the_next_event_may_ask_again(house: House, damad: Client) -> None:
    id_ = await house.new_context()
    stream = damad.follow(id_)
    await anext(stream)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await anext(stream)
    await house.append(id_, ":A")
    assert (await anext(stream)).type == ":A"


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_however_often_the_connection_breaks_each_event_is_followed_once(
    template: str, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(running(tmp_path, await new_database(template)))
        proxy, address = await stack.enter_async_context(resetting(house.addresses.port))
        damad = await stack.enter_async_context(client_of(address))
        proxy.budget = lambda: chance.randrange(100, 6000)
        ids = [await house.new_context() for _ in range(3)]

        async def write(id_: int) -> None:
            for number in range(40):
                await house.append(id_, ":A", {"n": number, "text": "x" * chance.randrange(300)})

        async with asyncio.timeout(4 * SOON), asyncio.TaskGroup() as group:
            for id_ in ids:
                group.create_task(write(id_))
            seen: dict[int, list[int]] = {id_: [] for id_ in ids}
            stream = damad.follow()
            while sum(map(len, seen.values())) < 3 * 41:
                event = await anext(stream)
                seen[event.etl_context_id].append(event.version)
        await stream.aclose()
        assert proxy.cuts > 3
    assert list(seen.values()) == [list(range(1, 42))] * 3


async def test_a_daemon_that_is_away_for_a_while_is_followed_on(
    house: House, cut: tuple[ResettingProxy, Client]
) -> None:
    proxy, damad = cut
    id_ = await house.new_context()
    stream = damad.follow(id_)
    assert (await anext(stream)).version == 1
    proxy.refusing = True
    proxy.cut_all()
    next_one = asyncio.create_task(anext(stream))
    await house.append(id_, ":A")
    await house.waiting(0)
    proxy.refusing = False
    assert (await next_one).version == 2


async def test_a_daemon_that_dies_meanwhile_is_waited_for_and_followed_on(template: str, tmp_path: Path) -> None:
    async with (
        site_of(tmp_path, template) as site,
        daemon_on(site) as daemon,
        Client(site.state_dir / "damad.sock") as damad,
    ):
        with site.gate() as gate:
            id_ = await damad.queue("hold.py", {"gate": str(gate.path)})
            stream, waiting = damad.follow(id_), asyncio.create_task(damad.wait(id_))
            while (await anext(stream)).type != ":HERE":
                pass
            await daemon.kill()
            await daemon.start()
        assert (await waiting).type == ":FINAL"
        assert await anext(stream) == await site.event(id_, ":FINAL")
        await stream.aclose()


async def test_a_cursor_of_another_log_is_said_to_be_gone(template: str, tmp_path: Path, damad: Client) -> None:
    (tmp_path / "other").mkdir()
    async with running(tmp_path / "other", await new_database(template)) as other:
        await other.new_context()
        async with client_of(other.addresses.url) as stranger:
            stream = stranger.follow()
            await anext(stream)
    with pytest.raises(CursorGone):
        await anext(damad.follow(cursor=stream.cursor))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_messages_are_the_same_however_the_bytes_are_cut(size: int) -> None:
    text = b': ping\n\nid: one\ndata: {"a": 1}\n\n: ping\n\nid: two\ndata: {"b": ": "}\n\n'
    text += b'event: cut\ndata: {"type": "x"}\n\nid: three\ndata: half'

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(text), size):
            yield text[start : start + size]

    assert [shown async for shown in messages(chunks())] == [("one", b'{"a": 1}'), ("two", b'{"b": ": "}')]
