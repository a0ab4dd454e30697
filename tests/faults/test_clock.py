"""A host whose clock is an hour ahead, an hour behind, or jumps: tasks go by the clock of Postgres.

libfaketime turns the wall clock of the daemon and of everything that it starts. Postgres and the test have the right
one. (No clock of a kernel's own, CLOCK_MONOTONIC, jumps with the wall clock: that one is left alone.)
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, site_of, until
from debian_packages import library

AHEAD, BEHIND = "+3600", "-3600"
SETTINGS = {
    "DAMAD_GRACE": "300ms",
    "DAMAD_POLL_INTERVAL": "300ms",
    "DAMAD_LEASE": "3s",
    "DAMAD_QUEUE_COMMON_SHARED": "true",
    "DAMAD_QUEUE_DEFAULT_RETRY_DELAY": "10ms",
}
EMPTY = "def main():\n    return {}\n"
FAILS_ONCE = """
    from damad import context

    def main():
        if context.current().attempt == 1:
            raise ValueError("the second time it works")
        return {}
"""
DIES_ONCE = """
    import os, signal
    from damad import context

    def main():
        if context.current().attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}
"""
ENDLESS = """
    import signal
    from damad import events

    def main():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        events.dispatch_sync({"type": ":HERE"})
        while True:
            signal.pause()
"""


class Clock:
    """The wall clock of whatever has `environment`: so many seconds off that of everybody else."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.turn("+0")
        self.environment = {
            "LD_PRELOAD": str(library("libfaketimeMT.so.1", package="faketime")),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def turn(self, seconds: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(seconds)
        new.rename(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest_asyncio.fixture
async def site(template: str, tmp_path: Path, clock: Clock) -> AsyncIterator[Site]:
    (tmp_path / "site").mkdir()
    async with site_of(tmp_path / "site", template, **SETTINGS) as site:
        site.environment |= clock.environment
        yield site


async def several_rounds(site: Site) -> None:
    """Returns once the daemon has looked at everything several times."""
    for _ in range(3):
        assert (await site.run(EMPTY)).state == "done"


@pytest.mark.parametrize("off", [AHEAD, BEHIND])
@pytest.mark.fault(fault="wrong clock", injected="the host is an hour ahead or behind", invariants="I4 I6 I8 I12")
async def test_retries_and_starts_are_due_by_the_clock_of_postgres(site: Site, clock: Clock, off: str) -> None:
    clock.turn(off)
    async with daemon_on(site):
        fails = await site.queue(site.worker(FAILS_ONCE))
        dies = await site.queue(site.worker(DIES_ONCE), expire_in="30m")
        later = await site.queue(site.worker(EMPTY), start_after="1s")
        for id_ in (fails, dies, later):
            assert (await site.ended(id_)).state == "done"
    retried = [":INITIAL", "CLAIMED", "STARTED", "ERROR", "RETRY", "CLAIMED", "STARTED", ":FINAL"]
    assert [await site.types(id_) for id_ in (fails, dies)] == [retried, retried]
    assert [error.payload["kind"] for error in await site.events(dies, "dama/task:ERROR")] == ["signal"]
    await site.verified()


@pytest.mark.parametrize("off", [AHEAD, BEHIND])
@pytest.mark.fault(fault="wrong clock", injected="the host is an hour ahead or behind", invariants="I4 I6")
async def test_an_attempt_expires_when_it_took_too_long_and_not_before(site: Site, clock: Clock, off: str) -> None:
    clock.turn(off)
    async with daemon_on(site):
        with site.gate() as gate:
            in_time = await site.hold(gate, expire_in="30m")
            too_long = await site.queue(site.worker(ENDLESS), expire_in="500ms", retry_limit=0)
            assert (await site.ended(too_long)).error["kind"] == "timeout"
            await several_rounds(site)
        assert (await site.ended(in_time)).state == "done"
    assert await site.types(in_time) == [":INITIAL", "CLAIMED", "STARTED", ":HERE", ":FINAL"]


@pytest.mark.fault(fault="wrong clock", injected="the host's clock jumps while a task runs", invariants="I4 I6 I12")
async def test_a_clock_that_jumps_kills_nothing_and_saves_nothing_from_being_killed(site: Site, clock: Clock) -> None:
    async with daemon_on(site) as daemon:
        with site.gate() as gate:
            running = await site.hold(gate, expire_in="30m")
            cancelled = await site.queue(site.worker(ENDLESS))
            await site.event(cancelled, ":HERE")
            clock.turn(AHEAD)
            await several_rounds(site)
            await site.cancel(cancelled)
            await until(lambda: "stopping a worker" in daemon.log)
            clock.turn(BEHIND)  # the grace began two hours from now
            assert (await site.ended(cancelled)).state == "cancelled"
        assert (await site.ended(running)).state == "done"
    assert "STARTED" in (types := await site.types(running)) and types.count("CLAIMED") == 1
    await site.verified()


@pytest.mark.parametrize("off", [AHEAD, BEHIND])
@pytest.mark.fault(fault="wrong clock", injected="one of two hosts is an hour ahead or behind", invariants="I4 I5 I6")
async def test_no_live_task_is_rescued_from_a_host_or_by_a_host_with_a_wrong_clock(
    site: Site, clock: Clock, tmp_path: Path, off: str
) -> None:
    clock.turn(off)
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other", {name: db.dsn for name, db in site.databases.items()}, **SETTINGS)
    other.environment["DAMAD_WORKER_ROOTS"] = str(site.workers)
    wrong, right = Daemon(site), Daemon(other)
    try:
        with site.gate() as gate:
            await wrong.start()
            on_wrong = await site.hold(gate, queue="common")
            await wrong.stop()
            await right.start()
            on_right = await other.hold(gate, queue="common")
            await wrong.start()
            for id_ in (on_wrong, on_right):
                await lease_outlasted(site, id_)
        for id_ in (on_wrong, on_right):
            assert (await site.ended(id_)).state == "done"
            assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":HERE", ":FINAL"]
        assert [await daemon.stop() for daemon in (wrong, right)] == [0, 0]
    finally:
        await other.close()


async def lease_outlasted(site: Site, id_: int) -> None:
    """Returns once the lease that a task has now would be over, had nobody renewed it."""
    statement = "SELECT until FROM data_manager.leases WHERE etl_context_id = $1"
    async with site.store().database.connection() as connection:
        first = await connection.fetchval(statement, id_)
        assert first is not None

        async def renewed() -> bool:
            until_ = await connection.fetchval(statement, id_)
            return bool(until_ is not None and until_ > first + timedelta(seconds=4))

        await until(renewed)


@pytest.mark.parametrize("off", [AHEAD, BEHIND])
@pytest.mark.fault(fault="wrong clock", injected="a host without a daemon is an hour ahead or behind", invariants="I6")
async def test_run_without_a_daemon_retries_by_the_clock_of_postgres_too(site: Site, clock: Clock, off: str) -> None:
    clock.turn(off)
    done = await site.damad("run", site.worker(FAILS_ONCE), "--retry-limit", "2", "--retry-delay", "10ms")
    assert (done.code, done.json) == (0, {}), done.err


@pytest.mark.parametrize("off", [AHEAD, BEHIND])
@pytest.mark.fault(fault="wrong clock", injected="the host is an hour ahead or behind", invariants="I11")
async def test_doctor_says_how_far_the_clocks_are_apart(site: Site, clock: Clock, off: str) -> None:
    clock.turn(off)
    async with daemon_on(site):
        done = await site.damad("doctor", "--json")
        (found,) = [finding for finding in done.json if finding["what"] == "clock"]
        assert done.code == 1 and not found["well"] and "time server" in found["advice"]
        assert abs(float(found["detail"].split()[2])) == pytest.approx(3600, abs=30)
