"""No space left on the disk of Postgres, or on that of the state folder: nobody lies, nobody dies, and it goes on."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, site_of, until
from postgres_support import sql
from small_disk import SmallDisk

from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.pools import Database

SETTINGS = {
    "DAMAD_GRACE": "500ms",
    "DAMAD_POLL_INTERVAL": "500ms",
    "DAMAD_LOG_LIMIT": "64kB",
    "DAMAD_QUEUE_DEFAULT_RETRY_DELAY": "10ms",
    "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0",
}
EMPTY = "def main():\n    return {}\n"
AFTER_A_GATE = """
    import gate, os, sys
    from damad import events

    def main(event):
        print("y" * 200_000, flush=True)
        events.dispatch_sync({"type": ":HERE"})
        gate.wait(event["payload"]["gate"])
        DOES
        return {}
"""


# --- Postgres ---


@pytest_asyncio.fixture
async def alone(tmp_path: Path) -> AsyncIterator[tuple[Site, SmallDisk]]:
    """A site whose state folder, and so its embedded Postgres, lies on a small disk."""
    disk = SmallDisk(tmp_path / "disk", megabytes=160)
    (tmp_path / "site").mkdir()
    site = Site(tmp_path / "site", {}, **SETTINGS)
    site.state_dir = disk.folder / "state"
    site.environment["DAMAD_STATE_DIR"] = str(site.state_dir)
    site.databases["local"] = Database("local", EmbeddedPostgres(site.state_dir).dsn)
    try:
        yield site, disk
    finally:
        await site.close()
        disk.unmount()


@asynccontextmanager
async def client_of(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(site.state_dir / "damad.sock"))
    async with aiohttp.ClientSession("http://damad", connector=connector) as client:
        yield client


async def post(client: aiohttp.ClientSession, path: str, body: object) -> tuple[int, dict[str, object]]:
    """Status and body of an answer, which is a good one or an honest one."""
    async with client.post(path, json=body) as response:
        assert response.status in (201, 503), await response.text()
        assert response.status == 201 or int(response.headers["Retry-After"]) >= 1
        return response.status, await response.json()


@pytest.mark.parametrize("crashes", [False, True], ids=["no room for a table", "no room for its own log"])
@pytest.mark.fault(
    fault="full disk",
    injected="the disk of Postgres, while a task runs and clients append",
    invariants="I1 I2 I6 I8 I11",
)
async def test_a_full_disk_of_postgres_is_a_503_and_all_goes_on_once_there_is_room(
    alone: tuple[Site, SmallDisk], crashes: bool
) -> None:
    """Without room for its own log it crashes, and cannot start again before there is some."""
    site, disk = alone
    daemon, acknowledged = Daemon(site), []
    await daemon.start()
    async with client_of(site) as client:
        with site.gate() as gate:
            running = await site.hold(gate)
            context = (await post(client, "/v1/local/contexts", {}))[1]["etl_context_id"]
            assert isinstance(context, int)
            events = f"/v1/local/contexts/{context}/events"
            await post(client, events, {"type": ":INITIAL"})
            disk.fill()
            if crashes:
                with suppress(asyncpg.PostgresError, OSError):
                    for _ in range(3):
                        await sql(
                            site.databases["local"].dsn, "SELECT pg_switch_wal(), pg_logical_emit_message(true, '', '')"
                        )
            while True:
                status, answer = await post(client, events, {"type": ":A", "payload": secrets.token_hex(50_000)})
                if status == 503:
                    break
                acknowledged.append(answer["event_id"])
        for _ in range(5):
            await post(client, "/v1/local/tasks", {"worker": "hold.py"})
        async with client.get("/healthz") as response:
            assert response.status == 200
        assert daemon.pid in site.processes()
        assert crashes == ("PANIC" in (site.state_dir / "postgres" / "log").read_text())
        disk.free()

        async def takes() -> bool:
            return (await post(client, events, {"type": ":LATER"}))[0] == 201

        await until(takes)
    assert (await site.ended(running)).state == "done"
    assert (await site.run(EMPTY)).state == "done"
    assert [event.event_id for event in await site.events(context, ":A")][: len(acknowledged)] == acknowledged
    await site.verified()
    await site.databases["local"].close()
    assert await daemon.stop() == 0
    assert "\nTraceback" not in daemon.log, daemon.log


# --- the state folder ---


@pytest_asyncio.fixture
async def disk(tmp_path: Path) -> AsyncIterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk", megabytes=4)
    yield disk
    disk.unmount()


@pytest_asyncio.fixture
async def site(template: str, tmp_path: Path, disk: SmallDisk) -> AsyncIterator[Site]:
    """A site whose state folder lies on the small disk; Postgres does not."""
    (tmp_path / "site").mkdir()
    async with site_of(tmp_path / "site", template, **SETTINGS) as site:
        site.state_dir = disk.folder / "state"
        site.environment["DAMAD_STATE_DIR"] = str(site.state_dir)
        yield site


async def at_a_gate(site: Site, gate: object, does: str, **settings: object) -> int:
    """A task that printed more than a log may hold, waits for the gate, and then does that."""
    worker = site.worker(AFTER_A_GATE.replace("DOES", does))
    id_ = await site.queue(worker, {"gate": str(gate.path)}, **settings)  # type: ignore[attr-defined]
    await site.event(id_, ":HERE")
    return id_


@pytest.mark.fault(
    fault="full disk", injected="the disk of the state folder: no run can be recorded", invariants="I6 I12"
)
async def test_what_cannot_be_recorded_is_not_started_and_burns_nothing(site: Site, disk: SmallDisk) -> None:
    daemon = Daemon(site)
    await daemon.start()
    disk.fill()
    ids = [await site.queue(site.worker(EMPTY)) for _ in range(3)]
    await site.event(ids[-1], "dama/task:RELEASED")
    disk.free()
    for id_ in ids:
        state = await site.ended(id_)
        assert (state.state, state.attempt) == ("done", 1)
    await daemon.quiet()
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log


@pytest.mark.parametrize(
    ("does", "kinds"),
    [
        ("pass", {None}),
        ("print('z')", {None}),
        ("print('z' * 1_000_000, flush=True)", {"exception"}),
        ("os._exit(7)", {"lost", "exit"}),
        ("os.kill(os.getpid(), 9)", {"lost", "signal"}),
    ],
)
@pytest.mark.fault(
    fault="full disk", injected="the disk of the state folder, while a task runs", invariants="I6 I10 I12"
)
async def test_whatever_a_worker_does_on_a_full_disk_it_ends(
    site: Site, disk: SmallDisk, does: str, kinds: set[str | None]
) -> None:
    daemon = Daemon(site)
    await daemon.start()
    with site.gate() as gate:
        id_ = await at_a_gate(site, gate, does)
        disk.fill()
    state = await site.ended(id_)
    assert (state.error and state.error["kind"]) in kinds, state.error
    disk.free()
    assert (await site.run(EMPTY)).state == "done"
    await daemon.quiet()
    await site.verified()
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log


@pytest.mark.fault(
    fault="full disk", injected="room for the record of an exit, none to shorten the log", invariants="I6 I10"
)
async def test_a_log_that_cannot_be_shortened_hides_no_exit_code(site: Site, disk: SmallDisk) -> None:
    daemon = Daemon(site)
    await daemon.start()
    with site.gate() as gate:
        id_ = await at_a_gate(site, gate, "os._exit(7)")
        disk.fill(but=6)
    state = await site.ended(id_)
    assert (state.error["kind"], state.error["exit_code"]) == ("exit", 7)
    await daemon.quiet()
    assert not list(site.state_dir.glob("logs/**/*.new"))
    assert "y" * 1000 in await site.log(id_)
    assert await daemon.stop() == 0


@pytest.mark.fault(
    fault="full disk", injected="the disk of the state folder, under a run in the daemon", invariants="I6 I11"
)
async def test_a_run_in_the_daemon_whose_log_cannot_be_written_ends(site: Site, disk: SmallDisk) -> None:
    daemon = Daemon(site)
    await daemon.start()
    disk.fill()
    source = "async def main():\n    print('said')\n    return {}\n"
    ended = [await site.run(source, run_in="daemon") for _ in range(2)]
    disk.free()
    for one in ended:
        assert one.error["kind"] == "exception" and "No space left" in one.error["message"]
    assert (await site.run(source, run_in="daemon")).state == "done"
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log


@pytest.mark.fault(
    fault="full disk", injected="the disk of the state folder, before the daemon begins", invariants="I10 I11"
)
async def test_a_daemon_begins_on_a_full_disk_that_it_knows_and_refuses_a_new_one_in_one_line(
    site: Site, disk: SmallDisk
) -> None:
    disk.fill()
    done = await site.damad("serve", "--port", "0")
    assert done.code == 2 and done.err.count("\n") == 1 and "No space left" in done.err, done.err
    disk.free()
    daemon = Daemon(site)
    await daemon.start()
    assert await daemon.stop() == 0
    names = {path.name for path in site.state_dir.iterdir()}
    disk.fill()
    await daemon.start()
    id_ = await site.queue(site.worker(EMPTY))
    await site.event(id_, "dama/task:RELEASED")
    disk.free()
    assert (await site.ended(id_)).state == "done"
    await daemon.quiet()
    assert await daemon.stop() == 0
    assert {path.name for path in site.state_dir.iterdir()} == names
    assert "Traceback" not in daemon.log, daemon.log
