"""Clients that say half, nothing, or far too much: each is answered or closed, and nobody else waits for them."""

import asyncio
import gzip
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from daemon_support import PG_ENV, SOON, Daemon, Site, until

SETTINGS = {"DAMAD_BODY_TIMEOUT": "10s", "DAMAD_MAX_CONNECTIONS": "5000"}
"""The limit of connections would close the idle ones; here all of them stay."""

IDLE, HALVES, TOO_MUCH = 2000, 100, 20
MOST = 150_000
"""kB by which the daemon may grow: some 20 for each connection, and the bodies that it reads at the same time. The
bombs alone would be a GB."""


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """This process, and the daemon that it starts, may open as many files as the machine lets them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 3 * IDLE:
        pytest.skip(f"no more than {before[1]} files can be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.fault(
    fault="clients send half a head, half a body, nothing at all, a gzip bomb, and JSON without end",
    injected="2,000 idle connections, 100 halves of each sort, 20 bodies of each of the others, all at once",
    invariants="I1 I8 I11",
)
async def test_clients_that_mean_no_good_are_answered_or_closed_and_others_are_served(
    daemon: Daemon, site: Site, record_property: Any
) -> None:
    token = (site.state_dir / "token").read_text().strip()
    there = urlsplit(daemon.url)
    head = f"POST /v1/{PG_ENV}/contexts HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n"
    bomb, deep = gzip.compress(b"[" * 50_000_000), b"[" * 100_000
    hostile = [
        *[(b"GET /healthz HTTP/1.1\r\nHost: loc", 408)] * HALVES,
        *[(f"{head}Content-Length: 100\r\n\r\n{{".encode(), 408)] * HALVES,
        *[(f"{head}Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode() + bomb, 415)] * TOO_MUCH,
        *[(f"{head}Content-Length: {len(deep)}\r\n\r\n".encode() + deep, 400)] * TOO_MUCH,
    ]
    async with AsyncExitStack() as stack, aiohttp.ClientSession(daemon.url) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        before = memory(daemon.pid, "VmRSS")
        for number in range(IDLE):
            await stack.enter_async_context(idle(there.hostname, there.port, asked=number % 2 == 0))
        async with asyncio.timeout(6 * SOON), asyncio.TaskGroup() as group:
            answers = [group.create_task(sent(there.hostname, there.port, data)) for data, _ in hostile]
            served = 0
            while not all(answer.done() for answer in answers):
                async with client.post(f"/v1/{PG_ENV}/contexts", json={}) as answer:
                    assert answer.status == 201, await answer.text()
                served += 1
        assert [answer.result() for answer in answers] == [status for _, status in hostile]
        assert served > 0
        async with client.get("/healthz") as answer:
            assert answer.status == 200
    grown = memory(daemon.pid, "VmHWM") - before
    print(f"{served} requests of others; {grown / 1000:.0f} MB more at most")
    assert grown < MOST
    record_property("injected", IDLE + len(hostile))
    await until(lambda: open_files(daemon.pid) < IDLE, lambda: open_files(daemon.pid))


@asynccontextmanager
async def idle(host: str | None, port: int | None, *, asked: bool) -> AsyncIterator[None]:
    """A connection on which nothing is said, or nothing more after a first request."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        if asked:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(SOON):
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        yield
    finally:
        writer.close()


async def sent(host: str | None, port: int | None, data: bytes) -> int:
    """The status with which some bytes are answered; then the connection is closed."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        answer = await reader.read()
    except ConnectionResetError:  # closed while there was more to send, behind an answer
        answer = b""
    finally:
        writer.close()
    return int(answer[9:12] or 0)


def memory(pid: int, what: str) -> int:
    """kB that a process holds now (VmRSS), or held at most (VmHWM)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status[what].split()[0])


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
