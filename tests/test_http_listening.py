"""Listening: port and socket are had, refused, and given back; what waits ends when the server does."""

import asyncio
import os
import socket
import stat
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from http_support import SOON, House, Stream, running

from damad.config import Config
from damad.errors import ConfigError
from damad.http.listening import taken


async def test_port_0_is_a_free_one_and_said(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn) as house:
        assert house.addresses.url == f"http://127.0.0.1:{house.addresses.port}" and house.addresses.port > 0
        assert house.addresses.socket == house.settings.state_dir / "damad.sock"


async def test_an_address_of_ipv6_is_said_in_brackets(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn, host="::1") as house:
        assert house.addresses.url == f"http://[::1]:{house.addresses.port}"
        async with house.get("/healthz") as response:
            assert response.status == 200


async def test_a_port_that_is_taken_is_one_line_that_names_it(dsn: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            async with running(tmp_path, dsn, port=port):
                pass
    assert not (tmp_path / "state" / "damad.sock").exists()


@pytest.mark.parametrize("host", ["999.1.1.1", "no.such.host.invalid", "a..b", "192.0.2.1", "x" * 300])
async def test_a_host_that_is_not_here_is_one_line_that_names_it(dsn: str, tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=f"host {host}") as refused:
        async with running(tmp_path, dsn, host=host):
            pass
    assert "\n" not in str(refused.value)


async def test_nobody_is_let_in_before_the_server_serves(tmp_path: Path) -> None:
    async with taken(Config(state_dir=tmp_path, port=0)) as doors:
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(doors.tcp.sockets[0].getsockname())
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(doors.path))
    assert list(tmp_path.iterdir()) == []


async def test_the_socket_is_gone_when_the_server_is(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn) as house:
        assert stat.S_ISSOCK(house.addresses.socket.stat().st_mode)
    assert list((tmp_path / "state").iterdir()) == []


async def test_a_socket_that_a_dead_daemon_left_is_replaced(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "state" / "damad.sock"))
    async with running(tmp_path, dsn) as house:
        assert await _over_the_socket(house) == 200


async def test_a_socket_on_which_a_daemon_listens_is_left_to_it(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn) as first:
        with pytest.raises(ConfigError, match="another damad listens"):
            async with running(tmp_path, dsn):
                pass
        assert await _over_the_socket(first) == 200


async def test_a_file_that_is_no_socket_is_left_alone(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "damad.sock").write_text("mine")
    with pytest.raises(ConfigError, match="no socket"):
        async with running(tmp_path, dsn):
            pass
    assert (tmp_path / "state" / "damad.sock").read_text() == "mine"


async def test_a_socket_of_somebody_else_is_not_removed_in_the_end(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn) as house:
        house.addresses.socket.unlink()
        house.addresses.socket.write_text("mine")
    assert house.addresses.socket.read_text() == "mine"


async def test_the_state_folder_may_lie_deep(dsn: str, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80) / ("e" * 80)
    async with running(tmp_path, dsn, state_dir=deep) as house:
        assert stat.S_IMODE(house.addresses.socket.stat().st_mode) == 0o600
        folder = os.open(deep, os.O_RDONLY)
        connector = aiohttp.UnixConnector(f"/proc/self/fd/{folder}/damad.sock")
        async with aiohttp.ClientSession(connector=connector) as client, client.get("http://damad/healthz") as response:
            assert response.status == 200
        os.close(folder)
    assert list(deep.iterdir()) == []


async def test_whatever_waits_ends_at_once_when_the_server_does(dsn: str, tmp_path: Path) -> None:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=SOON)
    async with AsyncExitStack() as clients, AsyncExitStack() as servers:
        house = await servers.enter_async_context(running(tmp_path, dsn))
        other = await clients.enter_async_context(aiohttp.ClientSession(headers=house.client.headers, timeout=timeout))
        task = await house.new_task()
        await house.start(task)
        house.write_log(task, "begun\n")

        sse = {"Accept": "text/event-stream"}
        stream = await other.get(house.url(f"/contexts/{task}/events"), headers=sse)
        tree = await other.get(house.url(f"/contexts/{task}/events?tree=1"), headers=sse)
        log = await other.get(house.url(f"/contexts/{task}/logs?follow=1"))
        final = asyncio.create_task(_status_of(other, house.url(f"/contexts/{task}/final?timeout=300")))
        for reader in (Stream(stream), Stream(tree)):
            await reader.types(3)
        assert await log.content.readline() == b"begun\n"
        await house.waiting(4)

        async with asyncio.timeout(SOON):
            await servers.aclose()
        for response in (stream, tree, log):
            assert await response.content.read() == b""
        assert await final == 202


async def _status_of(client: aiohttp.ClientSession, url: str) -> int:
    async with client.get(url) as response:
        return response.status


async def _over_the_socket(house: House) -> int:
    connector = aiohttp.UnixConnector(str(house.addresses.socket))
    async with aiohttp.ClientSession(connector=connector) as client:
        return await _status_of(client, "http://damad/v1/main/tasks")
