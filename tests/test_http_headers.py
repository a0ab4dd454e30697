"""What every answer says to browsers and caches, whichever part of damad gives it."""

from collections.abc import Iterable
from pathlib import Path

import aiohttp
import http_support
import pytest
from http_support import House, raw, running, streaming

house = http_support.house

ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "server": "damad",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"


def check(pairs: Iterable[tuple[str, str]], policy: str = NOTHING) -> None:
    """Fails unless each of the headers is there once and right."""
    found = [(name.lower(), value) for name, value in pairs]
    for name, value in {**ALWAYS, "content-security-policy": policy}.items():
        assert [each for other, each in found if other == name] == [value], (name, found)


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        ("GET", "/tasks", {}, 200),
        ("HEAD", "/tasks", {}, 200),
        ("GET", "/healthz", {}, 200),
        ("GET", "/metrics", {}, 200),
        ("GET", "/openapi.json", {}, 200),
        ("GET", "/tasks", {"Authorization": "Bearer wrong"}, 401),
        ("GET", "/tasks", {"Origin": "http://evil.example"}, 403),
        ("GET", "/nowhere", {}, 404),
        ("PUT", "/tasks", {}, 405),
        ("POST", "/tasks", {}, 415),
        ("GET", "/tasks", {"Host": "evil.example"}, 421),
        ("GET", "/tasks?no=1", {}, 422),
    ],
)
async def test_every_answer_is_guarded(house: House, method: str, path: str, sent: dict[str, str], status: int) -> None:
    async with house.ask(method, path, headers=sent) as response:
        assert response.status == status
        check(response.headers.items())


async def test_so_is_a_stream_of_events_and_a_log(house: House) -> None:
    id_ = await house.new_task()
    async with streaming(house, f"/contexts/{id_}/events") as stream:
        check(stream.response.headers.items())
    await house.start(id_)
    house.write_log(id_, "begun\n")
    async with house.get(f"/contexts/{id_}/logs") as response:
        assert response.status == 200
        check(response.headers.items())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n", b"505"),
        (b"GET /healthz HTT", b"408"),
    ],
)
async def test_so_is_the_answer_to_what_is_no_request(dsn: str, tmp_path: Path, sent: bytes, status: bytes) -> None:
    async with running(tmp_path, dsn, body_timeout=0.2) as house:
        head, _ = await raw(house, sent)
        first, *lines = head.split(b"\r\n")
        assert first.split()[1] == status
        pairs = [line.decode().partition(": ") for line in lines]
        check([(name, value) for name, _, value in pairs])


async def test_the_page_may_have_its_own_style_and_nothing_else_and_stand_in_no_frame(house: House) -> None:
    async with house.get("/docs") as response:
        assert response.status == 200
        check(response.headers.items(), "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")


async def test_a_page_of_an_origin_that_is_let_in_can_read_the_answer_all_the_same(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn, compat_open=("https://front.example",)) as house, aiohttp.ClientSession() as page:
        url = house.url("/dama-admin/main/etl/new-context-id")
        async with page.get(url, headers={"Origin": "https://front.example"}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://front.example"
            check(response.headers.items())
