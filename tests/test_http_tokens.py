"""What a token with a name may do over HTTP, and from when on it may not."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import http_support
import pytest
from http_support import PG_ENV, SOON, TOKEN, House, Stream, refusal, running

from damad import tokens
from damad.http import auth

house = http_support.house

ROLES = ("read", "write", "admin")


@asynccontextmanager
async def holder(house: House, role: str, name: str, pg_env: str | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that has a token with this role, and nothing else."""
    made = tokens.add(house.settings.state_dir, name, role, pg_env=pg_env)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {made}"}) as client:
        yield client
    if name in [token.name for token in tokens.every(house.settings.state_dir)]:
        tokens.revoke(house.settings.state_dir, name)


def routes(house: House) -> list[tuple[str, str]]:
    """Every route that asks for a token, with values in the place of its parameters."""
    found = [(route.method, route.resource.canonical) for route in house.app.router.routes() if route.resource]
    values = {"pg_env": PG_ENV, "id": "999999999", "name": "nobody"}
    return [
        (method, re.sub(r"\{(\w+)\}", lambda parameter: values[parameter[1]], path))
        for method, path in found
        if path not in auth.OPEN_PATHS
    ]


def needed(method: str, path: str) -> str:
    """The role that docs/http.md names for a route."""
    if path.endswith("/new-context-id"):
        return "write"
    if method in ("GET", "HEAD"):
        return "read"
    return "admin" if re.fullmatch(r"/v1/\w+/(queues|schedules)(/\w+)?", path) else "write"


@pytest.mark.parametrize("role", ROLES)
async def test_a_token_may_ask_each_route_that_its_role_is_enough_for_and_no_other(house: House, role: str) -> None:
    before = await house.event_count()
    async with holder(house, role, f"of_{role}") as client:
        for method, path in routes(house):
            async with client.request(method, house.addresses.url + path) as response:
                if ROLES.index(role) >= ROLES.index(needed(method, path)):
                    assert response.status not in (401, 403), (method, path)
                elif method == "HEAD":
                    assert response.status == 403
                else:
                    document = await refusal(response, 403, "forbidden")
                    assert document["role"] == needed(method, path)
                    assert f"of_{role}" in document["detail"], document
    assert await house.event_count() == before


async def test_a_description_says_which_role_each_route_needs(house: House) -> None:
    async with house.get("/openapi.json") as response:
        paths = (await response.json())["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            roles = (
                []
                if path in auth.OPEN_PATHS
                else [{"bearer": [needed(method.upper(), path.replace("{pg_env}", "x").replace("{name}", "x"))]}]
            )
            assert operation["security"] == roles, (method, path)


async def test_a_token_that_may_write_queues_and_appends(house: House) -> None:
    async with holder(house, "write", "writer") as client:
        async with client.post(house.url("/tasks"), json={"worker": "hello.py"}) as response:
            assert response.status == 201
            id_ = (await response.json())["etl_context_id"]
        async with client.post(house.url(f"/contexts/{id_}/events"), json={"type": ":NOTE"}) as response:
            assert response.status == 201
        async with client.post(house.url(f"/contexts/{id_}/cancel")) as response:
            assert response.status == 202


async def test_who_asks_for_what_is_not_there_is_told_so_with_any_token(house: House) -> None:
    async with holder(house, "read", "reader") as client:
        for method, path, status in (("GET", "/nowhere", 404), ("POST", "/nowhere", 404), ("PUT", "/tasks", 405)):
            async with client.request(method, house.addresses.url + f"/v1/{PG_ENV}{path}") as response:
                assert response.status == status


async def test_a_token_of_a_pg_env_is_good_for_nothing_else(house: House) -> None:
    async with holder(house, "admin", "bound", pg_env=PG_ENV) as client:
        for path in ("/tasks", f"/dama-admin/{PG_ENV}/events/query?etl_context_id=1&event_id=1"):
            async with client.get(house.url(path)) as response:
                assert response.status == 200
        for path in ("/metrics", "/v1/other/tasks", "/v1/nowhere", "/dama-admin/other/etl/new-context-id"):
            async with client.get(house.url(path)) as response:
                assert (await refusal(response, 403, "forbidden"))["pg_env"] == PG_ENV
        async with client.get(house.url("/healthz")) as response:
            assert response.status == 200


async def test_a_token_is_dead_with_the_next_request_once_it_is_revoked(house: House) -> None:
    async with holder(house, "admin", "brief") as client:  # its one connection stays open
        for _ in range(2):
            async with client.get(house.url("/tasks")) as response:
                assert response.status == 200
        tokens.revoke(house.settings.state_dir, "brief")
        async with client.get(house.url("/tasks")) as response:
            await refusal(response, 401, "unauthorized")


async def test_a_stream_ends_once_its_token_is_revoked(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "LOOK_AGAIN", 0.05)
    id_ = await house.new_context()
    timeout = aiohttp.ClientTimeout(total=None, sock_read=SOON)
    async with holder(house, "read", "watcher") as client:
        stream = {"Accept": "text/event-stream"}
        async with client.get(house.url(f"/contexts/{id_}/events"), headers=stream, timeout=timeout) as response:
            reader = Stream(response)
            assert await reader.types(1) == [":INITIAL"]
            await house.append(id_, ":A")
            assert await reader.types(1) == [":A"]
            tokens.revoke(house.settings.state_dir, "watcher")
            async with asyncio.timeout(SOON):  # comments come for ever where it does not end
                with pytest.raises(aiohttp.ClientError):
                    await response.content.read()


async def test_who_said_the_first_token_on_a_connection_gains_nothing_for_one_with_a_name(house: House) -> None:
    made = tokens.add(house.settings.state_dir, "small", "read")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as client:
        for token, status in ((TOKEN, 415), (made, 403), (TOKEN, 415), (made, 403)):
            headers = {"Authorization": f"Bearer {token}"}
            async with client.post(house.url("/tasks"), headers=headers) as response:
                assert response.status == status
    tokens.revoke(house.settings.state_dir, "small")


_STRANGER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as unix:
    unix.connect(sys.argv[1])
    token = f"Authorization: Bearer {sys.argv[2]}\\r\\n" if len(sys.argv) > 2 else ""
    unix.sendall(f"GET /v1/main/tasks HTTP/1.1\\r\\nHost: localhost\\r\\n{token}Connection: close\\r\\n\\r\\n".encode())
    print(unix.makefile("rb").readline().decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_another_user_who_can_open_the_socket_needs_a_token(dsn: str, tmp_path: Any) -> None:
    async with running(tmp_path, dsn) as house:
        folder = house.addresses.socket.parent
        opened = [folder, *[parent for parent in folder.parents if not parent.stat().st_mode & 0o001]]
        modes = [path.stat().st_mode for path in opened]
        try:
            for path in opened:
                path.chmod(0o755)
            house.addresses.socket.chmod(0o666)
            for words, status in (((), "401"), (("wrong",), "401"), ((TOKEN,), "200")):
                command = [sys.executable, "-I", "-c", _STRANGER, str(house.addresses.socket), *words]
                async with asyncio.timeout(SOON):
                    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
                assert done.stdout.split()[1:2] == [status], done
        finally:
            for path, mode in zip(opened, modes, strict=True):
                path.chmod(mode)
