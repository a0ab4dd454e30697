"""How much one may ask: requests in a time, connections at a time; and that others are served meanwhile."""

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest
from daemon_support import until
from http_support import SOON, TOKEN, House, raw, refusal, running, streaming

from damad import tokens, units
from damad.errors import InvalidInput
from damad.http import limits
from damad.http.limits import Rate
from damad.http.problems import TooManyRequests

HOURLY = (2, 3600.0)


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def took(rate: Rate, caller: str = "a") -> bool:
    try:
        rate.take(caller)
    except TooManyRequests:
        return False
    return True


def test_so_many_may_come_at_once_and_as_many_again_in_each_time() -> None:
    clock = Clock()
    rate = Rate(3, 10.0, clock)
    assert [took(rate) for _ in range(5)] == [True, True, True, False, False]
    clock.now += 3.4  # a third of the time, and a little
    assert [took(rate) for _ in range(2)] == [True, False]
    clock.now += 1000.0
    assert [took(rate) for _ in range(4)] == [True, True, True, False]


def test_each_caller_has_a_bucket_of_their_own() -> None:
    rate = Rate(1, 10.0, Clock())
    assert [took(rate, "a"), took(rate, "a"), took(rate, "b")] == [True, False, True]


def test_whoever_waits_as_long_as_was_said_is_served() -> None:
    clock = Clock()
    rate = Rate(2, 60.0, clock)
    assert took(rate) and took(rate)
    with pytest.raises(TooManyRequests) as refused:
        rate.take("a")
    clock.now += refused.value.values["seconds"]
    assert took(rate)


def test_callers_who_ask_no_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_KNOWN", 10)
    clock = Clock()
    rate = Rate(1, 10.0, clock)
    for number in range(10):
        assert took(rate, str(number))
    clock.now += 100.0
    assert took(rate, "late") and len(rate) == 1


@pytest.mark.parametrize(
    ("text", "found"), [("100/1m", (100, 60.0)), ("1/250ms", (1, 0.25)), ("5/2", (5, 2.0)), (" 7 / 1h ", (7, 3600.0))]
)
def test_a_rate_is_a_number_and_a_duration(text: str, found: tuple[int, float]) -> None:
    assert units.rate(text) == found


@pytest.mark.parametrize(
    "value", ["", "5", "/1s", "0/1s", "-1/1s", "1.5/1s", "5/0", "5/never", "5/1s/1s", 5, None, True]
)
def test_what_is_no_rate_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="no rate"):
        units.rate(value)


async def test_one_request_too_many_is_429_and_says_how_long_to_wait(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn, request_rate=HOURLY) as house:
        for _ in range(2):
            async with house.get("/tasks") as response:
                assert response.status == 200
        async with house.post("/tasks", {"worker": "hello.py"}) as response:
            document = await refusal(response, 429, "too-many-requests")
            assert int(response.headers["Retry-After"]) == document["seconds"] > 0
        assert await house.event_count() == 0


async def test_who_asks_too_much_keeps_no_other_token_waiting_and_never_the_owner(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn, request_rate=HOURLY) as house:
        made = {name: tokens.add(house.settings.state_dir, name, "read") for name in ("a", "b")}
        async with aiohttp.ClientSession() as client:
            for token in (*made.values(), TOKEN):
                headers = {"Authorization": f"Bearer {token}"}
                for status in (200, 200, 429):
                    async with client.get(house.url("/tasks"), headers=headers) as response:
                        assert response.status == status
        connector = aiohttp.UnixConnector(str(house.addresses.socket))
        async with aiohttp.ClientSession(connector=connector) as owner:
            for _ in range(5):
                async with owner.get("http://localhost/v1/main/tasks") as response:
                    assert response.status == 200


async def test_strangers_are_counted_by_their_address(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn, request_rate=HOURLY) as house, aiohttp.ClientSession() as stranger:
        wrong = {"Authorization": "Bearer wrong"}
        for path, headers, status in (("/healthz", {}, 200), ("/tasks", wrong, 401), ("/tasks", wrong, 429)):
            async with stranger.get(house.url(path), headers=headers) as response:
                assert response.status == status
        async with house.get("/tasks") as response:
            assert response.status == 200


async def test_where_every_connection_is_at_work_one_more_is_refused_but_for_the_owner(
    dsn: str, tmp_path: Path
) -> None:
    async with running(tmp_path, dsn, max_connections=2) as house, AsyncExitStack() as streams:
        async with house.post("/contexts", {}) as response:
            id_ = (await response.json())["etl_context_id"]
        for _ in range(2):
            await streams.enter_async_context(streaming(house, f"/contexts/{id_}/events"))
        head, body = await raw(house, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert head.split()[1] == b"429" and b"Retry-After: " in head and b"no-store" in head
        assert json.loads(body)["type"] == "urn:damad:problem:too-many-connections"
        connector = aiohttp.UnixConnector(str(house.addresses.socket))
        owner = await streams.enter_async_context(aiohttp.ClientSession(connector=connector))
        async with owner.get("http://localhost/v1/main/tasks") as response:
            assert response.status == 200
        await streams.aclose()
        await served(house)


async def served(house: House) -> None:
    """Returns once a newcomer is answered with 200."""

    async def is_served() -> bool:
        head, _ = await raw(house, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return head.startswith(b"HTTP/1.1 200")

    await until(is_served)


async def closed(reader: asyncio.StreamReader) -> None:
    """Returns once the other side has closed the connection, without a word."""
    with suppress(ConnectionResetError):
        async with asyncio.timeout(SOON):
            assert await reader.read() == b""


async def test_who_was_refused_and_asks_nothing_is_closed(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn, max_connections=1) as house:
        async with house.post("/contexts", {}) as response:
            id_ = (await response.json())["etl_context_id"]
        async with streaming(house, f"/contexts/{id_}/events"):
            reader, writer = await asyncio.open_connection(house.addresses.host, house.addresses.port)
            await closed(reader)
            writer.close()


async def test_the_connection_that_was_idle_for_the_longest_makes_room(dsn: str, tmp_path: Path) -> None:
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with running(tmp_path, dsn, max_connections=2) as house, asyncio.timeout(SOON):
        first, second = [await asyncio.open_connection(house.addresses.host, house.addresses.port) for _ in range(2)]
        for reader, writer in (second, first):  # the second is now the one that was heard of before
            writer.write(ask)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        await served(house)
        await closed(second[0])
        first[1].write(ask)
        assert (await first[0].readuntil(b"}")).startswith(b"HTTP/1.1 200")
        for _, writer in (first, second):
            writer.close()


async def test_many_idle_connections_and_half_heads_keep_nobody_out(dsn: str, tmp_path: Path) -> None:
    room, opened = 20, []
    async with running(tmp_path, dsn, max_connections=room, body_timeout=600.0) as house:
        try:
            for number in range(10 * room):
                reader, writer = await asyncio.open_connection(house.addresses.host, house.addresses.port)
                opened.append((reader, writer))
                if number % 2:
                    writer.write(b"GET /healthz HT")
                if number % room == 0:
                    await served(house)
            for reader, _ in opened[: -2 * room]:
                await closed(reader)
            await served(house)
        finally:
            for _, writer in opened:
                writer.close()
