"""Who may ask: token, Unix socket, Host and Origin."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import http_support
import pytest
from http_support import TOKEN, House, raw, refusal

from damad import tokens
from damad.errors import ConfigError

house = http_support.house


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer é"},
    ],
)
async def test_who_has_not_the_token_may_not_ask(house: House, sent: dict[str, str]) -> None:
    async with aiohttp.ClientSession(headers=sent) as stranger:
        for path in ("/v1/main/tasks", "/v1/nowhere/tasks", "/nowhere"):
            async with stranger.get(house.addresses.url + path) as response:
                await refusal(response, 401, "unauthorized")
                assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_who_has_the_token_may_ask(house: House, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as friend, friend.get(house.url("/tasks")) as response:
        assert response.status == 200


async def test_anybody_may_ask_whether_damad_is_alive(house: House) -> None:
    async with aiohttp.ClientSession() as stranger:
        async with stranger.get(house.url("/healthz")) as response:
            assert (response.status, await response.json()) == (200, {"status": "alive"})
        async with stranger.head(house.url("/healthz")) as response:
            assert response.status == 200


async def test_who_can_open_the_unix_socket_needs_no_token(house: House) -> None:
    assert stat.S_IMODE(house.addresses.socket.stat().st_mode) == 0o600
    connector = aiohttp.UnixConnector(str(house.addresses.socket))
    async with aiohttp.ClientSession(connector=connector) as owner:
        for host in ("localhost", "damad"):
            async with owner.get(f"http://{host}/v1/main/tasks") as response:
                assert response.status == 200


@pytest.mark.parametrize(
    ("headers", "status", "name"),
    [
        ({"Host": "evil.example"}, 421, "misdirected"),
        ({"Host": "8.8.8.8"}, 421, "misdirected"),
        ({"Host": "[::2]"}, 421, "misdirected"),
        ({"Host": ""}, 421, "misdirected"),
        ({"Origin": "http://evil.example"}, 403, "forbidden-origin"),
        ({"Origin": "null"}, 403, "forbidden-origin"),
    ],
)
async def test_host_and_origin_are_asked_on_the_unix_socket_too(
    house: House, headers: dict[str, str], status: int, name: str
) -> None:
    connector = aiohttp.UnixConnector(str(house.addresses.socket), limit=1)
    async with aiohttp.ClientSession(connector=connector) as owner:
        for sent, expected in (({}, 200), (headers, status), ({"Origin": "http://localhost"}, 200)):
            async with owner.get("http://localhost/v1/main/tasks", headers=sent) as response:
                assert response.status == expected
                if expected != 200:
                    await refusal(response, status, name)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "", "local host", "localhost:x", "8.8.8.8", "[::2]", "@localhost"],
)
async def test_another_host_is_misdirected(house: House, host: str) -> None:
    for path in ("/healthz", "/v1/main/tasks"):
        async with house.get(path, headers={"Host": host}) as response:
            await refusal(response, 421, "misdirected")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8420", "127.0.0.1", "127.0.0.2:1", "[::1]:8420"])
async def test_the_names_of_this_machine_to_itself_are_taken(house: House, host: str) -> None:
    async with house.get("/healthz", headers={"Host": host}) as response:
        assert response.status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://localhost:1", "file://localhost:8420"])
async def test_a_page_of_another_origin_may_not_ask(house: House, origin: str) -> None:
    headers = {"Origin": origin, "Host": "localhost:8420"}
    for path in ("/healthz", "/v1/main/tasks"):
        async with house.get(path, headers=headers) as response:
            await refusal(response, 403, "forbidden-origin")


@pytest.mark.parametrize("origin", ["http://localhost:8420", "https://LOCALHOST:8420"])
async def test_a_page_of_this_origin_may_ask(house: House, origin: str) -> None:
    async with house.get("/healthz", headers={"Origin": origin, "Host": "localhost:8420"}) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": ""}, 401),
        ({"Host": "elsewhere"}, 421),
        ({"Origin": "http://elsewhere"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_who_was_let_in_is_asked_again_when_they_say_something_else(
    house: House, change: dict[str, str], status: int
) -> None:
    known = {"Host": "localhost", "Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as client:
        for sent, expected in ((known, 200), (known, 200), (known | change, status), (known, 200)):
            async with client.get(house.url("/tasks"), headers=sent) as response:
                assert response.status == expected


async def test_who_asks_whether_damad_is_alive_is_not_let_in_by_that(house: House) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as client:
        for path, expected in (("/healthz", 200), ("/tasks", 401), ("/healthz", 200)):
            async with client.get(house.url(path)) as response:
                assert response.status == expected


async def test_the_host_is_asked_before_the_origin_and_the_origin_before_the_token(house: House) -> None:
    for headers, status in (
        ("Host: evil.example\r\nOrigin: http://evil.example\r\n", b"421"),
        ("Host: localhost\r\nOrigin: http://evil.example\r\n", b"403"),
        ("Host: localhost\r\nOrigin: http://localhost\r\n", b"401"),
    ):
        head, _ = await raw(house, f"GET /v1/main/tasks HTTP/1.1\r\n{headers}Connection: close\r\n\r\n".encode())
        assert head[9:12] == status


def test_the_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    made = tokens.first(tmp_path / "state")
    assert len(made) >= 32
    assert stat.S_IMODE((tmp_path / "state" / "token").stat().st_mode) == 0o600
    assert tokens.first(tmp_path / "state") == made
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["token"]


def test_all_who_start_at_once_get_one_token(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        made = set(threads.map(lambda _: tokens.first(tmp_path), range(64)))
    assert len(made) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606])
def test_a_token_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "token").chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        tokens.first(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\n"])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match="token"):
        tokens.first(tmp_path)
