"""Behind PgBouncer in transaction mode, where no session is one's own: nothing is heard, and everything still happens.

Whoever asks for a statement may get another server session each time: what a session remembers (settings, prepared
statements, LISTEN, advisory locks) is lost, or somebody else's.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import aiohttp
import pytest
import pytest_asyncio
from daemon_support import SOON, Daemon, Site, daemon_on, site_of, until
from debian_packages import program
from postgres_support import make_template

from damad.eventstore.embedded import EmbeddedPostgres, _as_ordinary_user
from damad.eventstore.migrate import DAEMONS
from damad.eventstore.pools import Database
from damad.eventstore.serving import Host, serving
from damad.eventstore.sessions import _OF_ITS_OWN

SETTINGS = {"DAMAD_QUEUE_DEFAULT_RETRY_DELAY": "10ms", "DAMAD_GRACE": "500ms"}
SESSIONS = 3
"""Server sessions that all of damad's connections share."""
REFUSES, IGNORES = "", ", ".join([*_OF_ITS_OWN, "lock_timeout"])
"""What it does with the startup parameters that it does not know: `ignore_startup_parameters`."""

PARENT = """
    from damad import context, events, tasks

    async def main(event):
        async with events.transaction() as db:
            await db.execute("CREATE TABLE IF NOT EXISTS written (n int)")
            await db.executemany("INSERT INTO written VALUES ($1)", [(n,) for n in range(3)])
            await events.dispatch({"type": ":WRITTEN", "payload": await db.fetchval("SELECT count(*) FROM written")})
        children = [await tasks.subtask(f"child {n}", worker="child.py", payload=n) for n in range(4)]
        return {"sum": sum(found["n"] for found in await tasks.gather(*children))}
"""
CHILD = """
    from damad import context, events

    async def main(event):
        await events.dispatch({"type": ":HERE", "payload": event["payload"]})
        if context.current().attempt == 1 and event["payload"] == 2:
            raise ValueError("the second time it works")
        return {"n": event["payload"]}
"""


class PgBouncer:
    """A PgBouncer before the server of a DSN, which may be killed and started again. `dsn`: where it listens."""

    def __init__(self, folder: Path, target: str, *, ignored: str = REFUSES) -> None:
        self._folder = folder
        self._binary = program("pgbouncer", package="pgbouncer")
        self._process: asyncio.subprocess.Process | None = None
        self.dsn = f"{target.partition('?')[0]}?host={quote(str(folder))}&port=6432"
        folder.mkdir()
        (folder / "pgbouncer.ini").write_text(f"""
[databases]
* = host={unquote(urlsplit(target).query.removeprefix("host="))} user=damad
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = {SESSIONS}
max_client_conn = 500
ignore_startup_parameters = {ignored}
""")

    async def start(self) -> None:
        socket_file, log_file = self._folder / ".s.PGSQL.6432", self._folder / "log"
        socket_file.unlink(missing_ok=True)
        with log_file.open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_as_ordinary_user(), str(self._binary), str(self._folder / "pgbouncer.ini"), stdout=log, stderr=log
            )
        await until(socket_file.exists, log_file.read_text)

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def behind(site: Site, folder: Path, *, ignored: str = REFUSES) -> AsyncIterator[PgBouncer]:
    """Has damad on this site reach Postgres through a PgBouncer only; the test itself has its own connections to it."""
    pooler = PgBouncer(folder, site.databases["local"].dsn, ignored=ignored)
    await pooler.start()
    site.environment["DAMAD_PG_ENV_LOCAL_DSN"] = pooler.dsn
    try:
        yield pooler
    finally:
        await pooler.kill()


@pytest_asyncio.fixture(params=[REFUSES, IGNORES], ids=["refuses settings", "ignores settings"])
async def site(request: pytest.FixtureRequest, template: str, tmp_path: Path) -> AsyncIterator[Site]:
    """A site whose damad reaches Postgres through PgBouncer only."""
    (tmp_path / "site").mkdir()
    async with (
        site_of(tmp_path / "site", template, **SETTINGS) as site,
        behind(site, tmp_path / "pooler", ignored=request.param),
    ):
        yield site


async def health(daemon: Daemon) -> dict[str, Any]:
    """What GET /healthz says, which is 200 whatever it says."""
    async with aiohttp.ClientSession() as client, client.get(f"{daemon.url}/healthz") as response:
        assert response.status == 200
        return dict(await response.json())


@pytest.mark.fault(
    fault="PgBouncer in transaction mode", injected="before the daemon starts", invariants="I1 I2 I3 I6 I8 I9 I11"
)
async def test_tasks_run_and_end_behind_a_pooler_that_shares_its_sessions(site: Site) -> None:
    async with daemon_on(site) as daemon:
        site.worker(CHILD, "child.py")
        parents = [await site.queue(site.worker(PARENT), run_in=run_in) for run_in in ("process", "daemon")]
        assert [(await site.ended(id_)).state for id_ in parents] == ["done", "done"]
        for id_ in parents:
            assert (await site.events(id_, ":FINAL"))[0].payload == {"sum": 6}
        held = [await site.queue(site.worker("def main():\n    return {}\n")) for _ in range(12)]
        assert {(await site.ended(id_)).state for id_ in held} == {"done"}
        await daemon.quiet()
    await site.verified()
    assert "prepared statement" not in daemon.log


@pytest.mark.fault(
    fault="PgBouncer in transaction mode", injected="the daemon's listener hears nothing", invariants="I7 I11"
)
async def test_who_cannot_be_notified_polls_and_says_so_everywhere(site: Site, tmp_path: Path) -> None:
    notified = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(notified))
        systemd.setblocking(False)
        site.environment["NOTIFY_SOCKET"] = str(notified)
        async with daemon_on(site) as daemon:
            async with asyncio.timeout(SOON):
                while b"degraded" not in await asyncio.get_running_loop().sock_recv(systemd, 4096):
                    pass
            assert await health(daemon) == {"status": "alive", "degraded": "no NOTIFY comes back; polling"}
            assert daemon.log.count("degraded") == 1, daemon.log

            done = await site.damad("doctor", "--json")
            findings = {finding["what"]: finding for finding in done.json}
            assert done.code == 1 and not findings["listener"]["well"] and "degraded" in findings["listener"]["detail"]
            assert "pooler" in findings["listener"]["advice"]
            assert [name for name, found in findings.items() if not found["well"]] == ["listener"]


@pytest.mark.fault(
    fault="PgBouncer in transaction mode", injected="readers and waiters hear nothing", invariants="I2 I6 I7"
)
async def test_who_follows_and_who_waits_gets_everything_by_polling(site: Site) -> None:
    async with daemon_on(site):
        site.worker(CHILD, "child.py")
        with site.gate() as gate:
            id_ = await site.hold(gate)
            async with site.command("events", "--follow", "--json") as follower:
                waiting = asyncio.create_task(site.damad("queue", "child.py", "--payload", "1", "--wait"))
                gate.open()
                assert (await waiting).json == {"n": 1}
                seen = await read_until(follower, lambda seen: sum(one["type"] == ":FINAL" for one in seen) == 2)
        stored = [event.event_id for ids in (id_, id_ + 1) for event in await site.events(ids)]
        assert sorted(one["event_id"] for one in seen) == sorted(stored)


async def read_until(follower: asyncio.subprocess.Process, holds: Callable[[list[Any]], bool]) -> list[Any]:
    """The events that a command printed, once they are what is waited for."""
    seen: list[Any] = []
    assert follower.stdout is not None
    async with asyncio.timeout(SOON):
        while not holds(seen):
            seen.append(json.loads(await follower.stdout.readline()))
    return seen


@pytest.mark.fault(
    fault="PgBouncer in transaction mode",
    injected="somebody holds a context in an open transaction",
    invariants="I6 I11",
)
async def test_a_context_that_somebody_holds_keeps_nobody_waiting(site: Site) -> None:
    """A session's lock_timeout would be the pooler's, or nobody's."""
    async with daemon_on(site) as daemon:
        id_ = await site.queue(site.worker("def main():\n    return {}\n"), start_after="1h")
        async with site.store().transaction() as holder:
            await holder.execute("SELECT FROM data_manager.etl_contexts WHERE etl_context_id = $1 FOR UPDATE", id_)
            async with asyncio.timeout(SOON):
                assert await post(site, f"/v1/local/contexts/{id_}/cancel") == (503, "1")
            assert (await site.run("def main():\n    return {}\n")).state == "done"
        assert (await site.ended(id_)).state == "cancelled"  # it was noted
        assert daemon.pid


async def post(site: Site, path: str, body: object = None) -> tuple[int, str | None]:
    """Status and Retry-After of a request through the Unix socket."""
    connector = aiohttp.UnixConnector(str(site.state_dir / "damad.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as client,
        client.post(f"http://damad{path}", json=body) as response,
    ):
        return response.status, response.headers.get("Retry-After")


@pytest.mark.fault(
    fault="PgBouncer in transaction mode", injected="a daemon ends, the pooler's sessions stay", invariants="I10"
)
async def test_a_daemon_that_has_gone_leaves_no_lock_in_the_sessions_of_the_pooler(site: Site) -> None:
    async with serving(
        Database("local", site.environment["DAMAD_PG_ENV_LOCAL_DSN"]), Host("a host", Path("dama_host_id"))
    ):
        pass
    async with site.store().database.connection() as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert await connection.fetchval(others), "the pooler keeps its sessions"
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = $1"
        assert await connection.fetchval(locks, DAEMONS) == 0
    async with daemon_on(site) as daemon:
        assert (await site.run("def main():\n    return {}\n")).state == "done"
        assert "nobody can tell whether another daemon is this same host" in daemon.log
    for command in ("migrate", "rebuild", "verify"):
        assert (await site.damad(command)).code == 0


@pytest_asyncio.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server of one test's own, which may be stopped."""
    own = EmbeddedPostgres(tmp_path / "pg")
    await asyncio.to_thread(own.join)
    await make_template(own.dsn)
    yield own
    await asyncio.to_thread(own.leave)


@pytest.mark.parametrize("away", ["the pooler", "Postgres"])
@pytest.mark.fault(
    fault="PgBouncer in transaction mode", injected="it, or Postgres behind it, goes away", invariants="I1 I6 I11"
)
async def test_an_outage_of_the_pooler_or_behind_it_is_one_of_postgres(
    postgres: EmbeddedPostgres, tmp_path: Path, away: str
) -> None:
    (tmp_path / "site").mkdir()
    async with (
        site_of(tmp_path / "site", postgres.dsn, **SETTINGS) as site,
        behind(site, tmp_path / "pooler") as pooler,
        daemon_on(site),
    ):
        with site.gate() as gate:
            running = await site.hold(gate)
            await site.databases["local"].close()
            await (pooler.kill() if away == "the pooler" else asyncio.to_thread(postgres.leave))
            async with asyncio.timeout(SOON):
                assert await post(site, "/v1/local/tasks", {"worker": "hold.py"}) == (503, "1")
        await (pooler.start() if away == "the pooler" else asyncio.to_thread(postgres.join))
        assert (await site.ended(running)).state == "done"
        assert (await site.run("def main():\n    return {}\n")).state == "done"
        await site.verified()
