"""A damad HTTP server for tests: real sockets, a real Postgres, and short ways to ask it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import fast_paths
import pytest
import pytest_asyncio
from aiohttp import web
from postgres_support import TEMPLATE, in_database, sql

from damad import logs
from damad.config import Config, Queue
from damad.context import EtlContext, Host
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.http import health
from damad.http.app import make_app
from damad.http.listening import Addresses, serve, taken
from damad.http.shutdown import WAITS
from damad.model.event import Event, RecordedEvent

TOKEN = "a-token-for-tests"
PG_ENV = "main"
SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""


class House:
    """A running server, with its database and a client that knows the token."""

    def __init__(self, app: web.Application, addresses: Addresses, client: aiohttp.ClientSession) -> None:
        self.app = app
        self.addresses = addresses
        self.client = client
        self.database: Database
        self.settings: Config

    @property
    def store(self) -> EventStore:
        return EventStore(self.database)

    def ask(self, method: str, path: str, **given: Any) -> Any:
        """A request below the root of the pg_env, or of a path from the top if it begins so."""
        return self.client.request(method, self.url(path), **given)

    def get(self, path: str, **given: Any) -> Any:
        return self.ask("GET", path, **given)

    def post(self, path: str, body: Any = None, **given: Any) -> Any:
        if body is not None:
            given["json"] = body
        return self.ask("POST", path, **given)

    def url(self, path: str) -> str:
        top = path.startswith(("/v1", "/dama-admin", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"))
        return self.addresses.url + (path if top else f"/v1/{PG_ENV}{path}")

    async def new_context(self, parent: int | None = None) -> int:
        """A context with its :INITIAL."""
        id_ = await self.store.create_context(parent_context_id=parent)
        await self.append(id_, ":INITIAL")
        return id_

    async def new_task(self, **settings: Any) -> int:
        async with self.post("/tasks", {"worker": "hello.py", **settings}) as response:
            assert response.status == 201, await response.text()
            return (await response.json())["etl_context_id"]

    async def append(self, id_: int, type_: str, payload: Any = None, fence: int | None = None) -> RecordedEvent:
        event = Event(type=type_, payload=payload, event_uuid=uuid4())
        return (await self.store.append([Append(etl_context_id=id_, event=event, fence=fence)]))[0].event

    async def start(self, id_: int, attempt: int = 1) -> int:
        """Claims a task and starts it, as a scheduler and a runner would; returns its fence."""
        claim = "SELECT data_manager.claim_task($1, gen_random_uuid(), 'test', interval '1 minute')"
        async with self.database.connection() as connection:
            await connection.execute(claim, id_)
        fence = (await self.store.state(id_)).fence  # type: ignore[attr-defined]
        await self.append(id_, "dama/task:STARTED", {"attempt": attempt, "pid": 1}, fence)
        return fence

    async def fail(self, id_: int, fence: int) -> None:
        error = {"attempt": 1, "kind": "exception", "message": "no", "traceback": None}
        events = [Event(type="dama/task:ERROR", payload=error), Event(type="dama/task:FAILED", payload={"attempt": 1})]
        await self.store.append([Append(etl_context_id=id_, event=event, fence=fence) for event in events])

    def write_log(self, id_: int, text: str, attempt: int = 1) -> None:
        """Adds to the log of an attempt, as its process would."""
        path = logs.path(self.settings.state_dir, PG_ENV, id_, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)

    async def waiting(self, count: int) -> None:
        """Returns once exactly so many requests wait for something without a near end."""
        async with asyncio.timeout(SOON):
            while len(self.app[WAITS]) != count:
                async with self.get("/healthz"):
                    pass

    async def event_count(self) -> int:
        async with self.database.connection() as connection:
            return await connection.fetchval("SELECT count(*) FROM data_manager.event_store")


async def refusal(response: aiohttp.ClientResponse, status: int, name: str, pointer: str | None = None) -> Any:
    """The problem document of an answer, which must be this one."""
    document = await response.json(content_type="application/problem+json")
    assert (response.status, document["status"], document["type"]) == (status, status, f"urn:damad:problem:{name}"), (
        document
    )
    assert document["title"] and document["detail"]
    if pointer is not None:
        assert document["pointer"] == pointer, document
    return document


@asynccontextmanager
async def running(folder: Path, dsn: str, **settings: Any) -> AsyncIterator[House]:
    """A server on a free port whose state and workers lie in the folder."""
    workers = folder / "workers"
    workers.mkdir(exist_ok=True)
    (workers / "hello.py").write_text("def main(initial_event):\n    return {}\n")
    given = {"state_dir": folder / "state", "port": 0, "worker_roots": (workers,)} | settings
    config = Config(**fast_paths.settings() | given, queues={"fast": Queue(defaults={"retry_limit": 7})})
    database = Database(PG_ENV, dsn, lock_timeout=1.0, groups=config.group_appends)
    host = Host.configured(config, str(uuid4()))
    app = make_app({PG_ENV: EtlContext(pg_env=PG_ENV, database=database, host=host)}, settings=config, token=TOKEN)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        addresses = await stack.enter_async_context(serve(app, await stack.enter_async_context(taken(config))))
        connector = aiohttp.TCPConnector(limit=0)
        client = aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}, connector=connector)
        await stack.enter_async_context(client)
        house = House(app, addresses, client)
        house.database, house.settings = database, config
        yield house


async def new_database(template: str) -> str:
    """The DSN of a migrated database of its own."""
    name = f"http_{uuid4().hex}"
    await sql(template, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    return in_database(template, name)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """One server for all tests of a module; each test works on contexts of its own."""
    async with running(tmp_path_factory.mktemp("house"), await new_database(template)) as found:
        yield found


@pytest.fixture(autouse=True)
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is ready though its loop, which is the test's too, is late. (In modules that name this fixture.)"""
    monkeypatch.setattr(health, "LAGGING", SOON)
    monkeypatch.setattr(health, "PATIENCE", SOON)


class Stream:
    """An SSE reader: one message after another, as EventSource would give them."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def line(self) -> str:
        async with asyncio.timeout(SOON):
            return (await self.response.content.readline()).decode()

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The cursor and the event of the next message. Comments are passed over."""
        fields: dict[str, str] = {}
        while True:
            line = await self.line()
            assert line, "the stream ended"
            if line == "\n" and fields:
                return fields["id"], json.loads(fields["data"])
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = value

    async def types(self, count: int) -> list[str]:
        return [(await self.next())[1]["type"] for _ in range(count)]


@asynccontextmanager
async def streaming(house: House, path: str, **headers: str) -> AsyncIterator[Stream]:
    """A stream of events that is open inside."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()} | {"Accept": "text/event-stream"}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=SOON)
    async with house.get(path, headers=headers, timeout=timeout) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        yield Stream(response)


async def raw(house: House, data: bytes) -> tuple[bytes, bytes]:
    """What comes back for some bytes on a TCP connection, up to its end: head and body."""
    reader, writer = await asyncio.open_connection(house.addresses.host, house.addresses.port)
    try:
        writer.write(data)
        async with asyncio.timeout(SOON):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return head, body
    finally:
        writer.close()
