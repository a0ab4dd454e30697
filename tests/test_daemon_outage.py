"""Postgres goes away under a running daemon and comes back: nothing is lost, and nobody has to do anything.

Also the embedded one: whoever uses it keeps it, and the last one out stops it.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, gone, site_of, until
from postgres_support import make_template, sql

from damad import events, processes, schedules
from damad.eventstore.embedded import EmbeddedPostgres

SETTINGS = {"DAMAD_POLL_INTERVAL": "500ms", "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0", "DAMAD_GRACE": "500ms"}

SPEAKS_LATER = """
    import gate
    from damad import events

    def main(event):
        events.dispatch_sync({"type": ":HERE"})
        gate.wait(event["payload"]["gate"])
        print("the gate is open", flush=True)
        events.dispatch_sync({"type": ":LATER"})
        return {"n": 1}
"""


class Postgres:
    """A server of one test's own, which may be killed."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedPostgres(folder)
        self.server.join()

    @property
    def dsn(self) -> str:
        return self.server.dsn

    async def crash(self) -> None:
        """Ends it as a crash does: every connection is cut, nothing is written down."""
        pid = int((self.server.data / "postmaster.pid").read_text().split()[0])
        process = processes.identify(pid)
        assert process is not None
        os.kill(pid, signal.SIGQUIT)
        await gone(process)

    async def start(self) -> None:
        await asyncio.to_thread(self.server.join)


@pytest_asyncio.fixture
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Postgres]:
    postgres = await asyncio.to_thread(Postgres, tmp_path_factory.mktemp("pg"))
    await make_template(postgres.dsn)
    await sql(postgres.dsn, "ALTER SYSTEM RESET synchronous_commit")  # what is acknowledged outlives a crash
    await sql(postgres.dsn, "SELECT pg_reload_conf()")
    yield postgres
    await asyncio.to_thread(postgres.server.leave)


@pytest_asyncio.fixture
async def site(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("outage"), postgres.dsn, **SETTINGS) as site:
        yield site
        await postgres.start()


async def test_what_runs_goes_on_what_it_says_arrives_and_the_daemon_is_back_by_itself(
    site: Site, postgres: Postgres
) -> None:
    daemon = Daemon(site)
    await daemon.start()
    with site.gate() as gate:
        speaks = await site.queue(site.worker(SPEAKS_LATER), {"gate": str(gate.path)})
        waits, dies = await site.hold(gate), await site.queue("hold.py", {"gate": str(gate.path)})
        scheduled = await site.queue(site.worker("def main():\n    return {}\n"), start_after="1s")
        await site.event(speaks, ":HERE")
        await site.event(dies, ":HERE")
        worker, victim = await site.process(speaks), await site.process(dies)
        await postgres.crash()
        processes.send(victim, signal.SIGKILL)
        gate.open()
        log = site.state_dir / "logs" / "local" / str(speaks) / "1.log"
        await until(lambda: "trying again" in log.read_text())  # it waits for Postgres, and lives
        assert processes.alive(worker)
        assert daemon.pid in site.processes()
        await postgres.start()
    for id_ in (speaks, waits, scheduled):
        state = await site.ended(id_)
        assert (state.state, state.attempt) == ("done", 1)
    assert await site.types(speaks) == [":INITIAL", "CLAIMED", "STARTED", ":HERE", ":LATER", ":FINAL"]
    assert (await site.ended(dies)).error["signal"] == 9
    assert (await site.run("def main():\n    return {}\n")).state == "done"
    await daemon.quiet()
    await site.verified()
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log


async def test_ticks_that_come_while_postgres_is_away_are_missed_and_made_up_for(
    site: Site, postgres: Postgres
) -> None:
    async def ticks() -> list[datetime]:
        found = await events.persist(lambda: site.store().tasks(limit=1000))
        return sorted(datetime.fromisoformat(state.settings["tick"]) for state in found)

    site.worker("def main():\n    return {}\n", "ok.py")
    daemon = Daemon(site)
    await daemon.start()
    with site.here():
        await schedules.add("s", cron="* * * * * *", worker="ok.py", overlap="allow_all", missed="all")

    async def three() -> bool:
        return len(await ticks()) >= 3

    await until(three)
    await postgres.crash()
    await until(lambda: "ticks wait for Postgres" in daemon.log)
    went = time.time()
    await until(lambda: time.time() > went + 3)
    await postgres.start()

    async def some_after_it() -> bool:
        return (await ticks())[-1].timestamp() > went + 6

    await until(some_after_it)
    with site.here():
        await schedules.remove("s")
    made = await ticks()
    assert made == [made[0] + timedelta(seconds=number) for number in range(len(made))]
    assert "ticks were missed" in daemon.log
    await daemon.quiet()
    await site.verified()
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log


async def test_a_daemon_that_starts_before_postgres_is_ready_and_runs_tasks_once_it_is_there(
    site: Site, postgres: Postgres
) -> None:
    id_ = await site.queue(site.worker("def main():\n    return {}\n"))
    await postgres.crash()
    daemon = Daemon(site)
    await daemon.start()
    await until(lambda: "away" in daemon.log)
    await postgres.start()
    assert (await site.ended(id_)).state == "done"
    assert await daemon.stop() == 0


@pytest.mark.parametrize("run_in", ["process", "daemon"])
async def test_a_daemon_stops_within_reason_while_postgres_is_away(site: Site, postgres: Postgres, run_in: str) -> None:
    source = """
        import asyncio
        from damad import events

        async def main():
            await events.dispatch({"type": ":HERE"})
            await asyncio.sleep(3600)
    """
    daemon = Daemon(site)
    await daemon.start()
    id_ = await site.queue(site.worker(source), run_in=run_in, retry_limit=1)
    await site.event(id_, ":HERE")
    await postgres.crash()
    assert await daemon.stop() == 0
    await postgres.start()


# --- embedded ---


@pytest_asyncio.fixture
async def alone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A site without any DSN: damad brings its own Postgres."""
    folder = tmp_path_factory.mktemp("alone")
    site = Site(folder, {"local": EmbeddedPostgres(folder / "state").dsn}, **SETTINGS)
    del site.environment["DAMAD_PG_ENV_LOCAL_DSN"]
    yield site
    await site.close()


def server_runs(site: Site) -> bool:
    return (site.state_dir / "postgres" / "data" / "postmaster.pid").exists()


async def test_with_nothing_configured_a_daemon_brings_its_own_postgres_and_says_where(alone: Site) -> None:
    daemon = Daemon(alone)
    await daemon.start()
    assert str(alone.state_dir / "postgres") in daemon.log
    assert (await alone.run("def main():\n    return {}\n")).state == "done"
    await daemon.quiet()
    await alone.databases["local"].close()
    assert await daemon.stop() == 0
    assert not server_runs(alone)


async def test_a_worker_that_outlives_its_daemon_keeps_its_database_and_stops_it_at_last(alone: Site) -> None:
    daemon = Daemon(alone)
    await daemon.start()
    with alone.gate() as gate:
        id_ = await alone.hold(gate)
        assert await daemon.stop() == 0
        assert server_runs(alone)
        assert (await alone.state(id_)).state == "running"
    assert (await alone.ended(id_)).state == "done"
    await alone.databases["local"].close()
    await alone.quiet()
    assert not server_runs(alone)
    done = await alone.damad("show", str(id_), "--json")
    assert (done.json["state"], done.json["attempt"]) == ("done", 1)
    assert not server_runs(alone)


async def test_a_killed_daemons_postgres_goes_on_until_the_next_one_stops_it(alone: Site) -> None:
    daemon = Daemon(alone)
    await daemon.start()
    with alone.gate() as gate:
        id_ = await alone.hold(gate)
        await daemon.kill()
        await daemon.start()
    assert (await alone.ended(id_)).state == "done"
    await daemon.quiet()
    await alone.databases["local"].close()
    assert await daemon.stop() == 0
    assert not server_runs(alone)


async def test_an_embedded_postgres_that_crashed_is_started_again(alone: Site) -> None:
    daemon = Daemon(alone)
    await daemon.start()
    with alone.gate() as gate:
        id_ = await alone.hold(gate)
        pid = int((alone.state_dir / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
    state = await alone.ended(id_)
    assert state.state == "done", state.error
    await daemon.quiet()
    assert await daemon.stop() == 0


async def test_commands_need_no_daemon_and_leave_no_postgres_running(alone: Site) -> None:
    worker = alone.worker("def main(event):\n    return {'n': event['payload']}\n")
    done = await alone.damad("run", worker, "--payload", "3")
    assert (done.code, done.json) == (0, {"n": 3})
    listed = await alone.damad("tasks", "--json")
    assert [task["state"] for task in listed.json] == ["done"]
    assert not server_runs(alone)
