"""A cluster that was restored, or whose standby took over: a reader of before begins again, or is told nothing twice.

Real clusters: a base backup, a standby that is promoted, a copy of the files of a stopped one.
"""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, gone, site_of, until
from postgres_support import in_database, make_template, sql

from damad import processes
from damad.errors import CursorGone
from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.feed import Cursor, Feed
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.model.event import Event


class Cluster:
    """A server in a folder, which may be stopped, copied, backed up and promoted."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedPostgres(folder)

    async def start(self) -> None:
        await asyncio.to_thread(self.server.join)

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.leave)

    async def crash(self) -> None:
        """Ends it with everything that it had not written yet."""
        postmaster = processes.identify(int((self.server.data / "postmaster.pid").read_text().split()[0]))
        assert postmaster is not None
        processes.send(postmaster, signal.SIGKILL)
        await gone(postmaster)

    async def backup(self, folder: Path, *more: str) -> "Cluster":
        """A base backup of this one while it runs, not started yet."""
        made = Cluster(folder)
        made.server.folder.mkdir(parents=True, mode=0o700)
        source = ("-d", f"host={self.server._socket_dir()} user=damad", "-X", "stream", "-c", "fast")
        await asyncio.to_thread(self.server._run, "pg_basebackup", "-D", made.server.data, *source, *more)
        return made

    async def standby(self, folder: Path) -> "Cluster":
        """A standby of this one that follows it."""
        made = await self.backup(folder, "-R")
        await made.start()
        return made

    async def copy(self, folder: Path) -> None:
        """Copies the files; the server is stopped."""
        await asyncio.to_thread(shutil.copytree, self.server.data, folder, symlinks=True)

    async def put_back(self, files: Path) -> None:
        """Has it begin again with these files; the server is stopped."""
        await asyncio.to_thread(shutil.rmtree, self.server.data)
        await asyncio.to_thread(shutil.move, files, self.server.data)
        await self.start()

    async def promote(self) -> None:
        await asyncio.to_thread(self.server._run, "pg_ctl", "-D", self.server.data, "-w", "promote")


@pytest_asyncio.fixture
async def primary(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path / "a")
    await cluster.start()
    await make_template(cluster.server.dsn)
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        await sql(cluster.server.dsn, f"ALTER SYSTEM RESET {name}")
    # After a promotion the first checkpoint takes its time: until then the control file knows the old timeline only.
    await sql(cluster.server.dsn, "ALTER SYSTEM SET checkpoint_timeout = '1h'")
    await sql(cluster.server.dsn, "SELECT pg_reload_conf()")
    await sql(cluster.server.dsn, "CREATE DATABASE log TEMPLATE damad_template")
    try:
        yield cluster
    finally:
        await cluster.stop()


def log_of(cluster: Cluster) -> Database:
    return Database("local", in_database(cluster.server.dsn, "log"))


async def append(database: Database, count: int) -> list[int]:
    """The ids of so many new events, the first an :INITIAL, in a context of their own."""
    store = EventStore(database)
    id_ = await store.create_context()
    types = [":INITIAL", *[":A"] * (count - 1)]
    done = await store.append([Append(etl_context_id=id_, event=Event(type=type_)) for type_ in types])
    return [one.event.event_id for one in done]


async def read(feed: Feed, cursor: Cursor | None) -> tuple[list[int], Cursor]:
    """The ids of the events after a cursor, and the cursor behind them. Pages are short, to be read in several."""
    ids: list[int] = []
    while True:
        page = await feed.page(cursor, limit=3)
        ids += [event.event_id for event in page.events]
        cursor = page.cursor
        if not page.full:
            return ids, cursor


async def caught_up(primary: Cluster, standby: Cluster) -> None:
    """Returns once the standby has replayed what the primary has written."""
    one, other = log_of(primary), log_of(standby)

    async with one.connection() as connection:
        written = await connection.fetchval("SELECT pg_current_wal_flush_lsn()::text")

    async def replayed() -> bool:
        async with other.connection() as connection:
            return bool(await connection.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written))

    await until(replayed)
    await one.close()
    await other.close()


@pytest.mark.fault(fault="failover", injected="a standby is promoted after the primary is gone", invariants="I2 I7")
async def test_a_cursor_of_before_is_gone_the_moment_a_standby_took_over(primary: Cluster, tmp_path: Path) -> None:
    before = log_of(primary)
    first = await append(before, 7)
    seen, cursor = await read(Feed(before), None)
    assert seen == first
    standby = await primary.standby(tmp_path / "b")
    try:
        second = await append(before, 2)
        await caught_up(primary, standby)
        await before.close()
        await primary.stop()
        await standby.promote()

        after = log_of(standby)
        with pytest.raises(CursorGone):
            await Feed(after).page(cursor)
        third = await append(after, 2)
        with pytest.raises(CursorGone):
            await Feed(after).page(cursor)
        everything, fresh = await read(Feed(after), None)
        assert everything == [*first, *second, *third]
        assert (await read(Feed(after), fresh))[0] == []
        await after.close()
    finally:
        await standby.stop()


@pytest.mark.fault(fault="restore", injected="a base backup is recovered up to its end", invariants="I2 I7")
async def test_a_cursor_of_before_is_gone_in_a_cluster_recovered_from_a_base_backup(
    primary: Cluster, tmp_path: Path
) -> None:
    log = log_of(primary)
    first = await append(log, 4)
    restored = await primary.backup(tmp_path / "b")
    await append(log, 4)
    cursor = (await read(Feed(log), None))[1]
    await log.close()
    (restored.server.data / "recovery.signal").touch()
    with (restored.server.data / "postgresql.auto.conf").open("a") as settings:
        settings.write("restore_command = 'false'\n")
    await restored.start()
    try:
        log = log_of(restored)
        await until(lambda: is_open(log))
        with pytest.raises(CursorGone):
            await Feed(log).page(cursor)
        anew = await append(log, 2)
        assert (await read(Feed(log), None))[0] == [*first, *anew]
        await log.close()
    finally:
        await restored.stop()


@pytest.mark.fault(
    fault="a crash after which transaction ids are given out again",
    injected="SIGKILL to Postgres, of whose last transactions nothing had reached the disk",
    invariants="I1 I7",
)
async def test_an_event_whose_transaction_id_was_another_ones_before_a_crash_is_shown(primary: Cluster) -> None:
    await sql(primary.server.dsn, "ALTER SYSTEM SET wal_writer_delay = '10s'")
    await sql(primary.server.dsn, "SELECT pg_reload_conf()")
    log = log_of(primary)
    first = await append(log, 3)
    async with log.connection() as connection:
        for _ in range(20):
            transaction = connection.transaction()
            await transaction.start()
            given = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
            await transaction.rollback()
    shown, cursor = await read(Feed(log), None)
    await primary.crash()
    await log.close()
    await primary.start()
    log = log_of(primary)
    anew = await append(log, 3)
    async with log.connection() as connection:
        assert await connection.fetchval("SELECT max(txid::text::bigint) FROM data_manager.event_store") <= given
    assert (shown, (await read(Feed(log), cursor))[0]) == (first, anew)
    assert (await read(Feed(log), None))[0] == [*first, *anew]
    await log.close()


async def is_open(log: Database) -> bool:
    """True once the server has recovered."""
    async with log.connection() as connection:
        return not await connection.fetchval("SELECT pg_is_in_recovery()")


@pytest.mark.fault(fault="restore", injected="the files of a stopped cluster are put back", invariants="I2 I7")
async def test_files_put_back_make_a_cursor_of_the_lost_future_gone_and_show_nothing_twice(
    primary: Cluster, tmp_path: Path
) -> None:
    """No timeline tells of it: it is the same cluster, only younger."""
    log = log_of(primary)
    first = await append(log, 5)
    _, kept = await read(Feed(log), None)
    await log.close()
    await primary.stop()
    await primary.copy(tmp_path / "copy")

    await primary.start()
    log = log_of(primary)
    for _ in range(20):
        await append(log, 1)
    lost = (await read(Feed(log), None))[1]
    await log.close()
    await primary.stop()
    await primary.put_back(tmp_path / "copy")
    log = log_of(primary)
    anew = await append(log, 2)
    with pytest.raises(CursorGone):
        await Feed(log).page(lost)
    assert (await read(Feed(log), kept))[0] == anew
    assert (await read(Feed(log), None))[0] == [*first, *anew]
    await log.close()


@pytest.mark.fault(
    fault="failover",
    injected="under a daemon whose task runs: a standby takes the primary's place",
    invariants="I1 I4 I6 I8",
)
async def test_a_daemon_and_its_worker_go_on_with_the_standby_that_took_over(primary: Cluster, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    settings = {"DAMAD_GRACE": "500ms", "DAMAD_POLL_INTERVAL": "500ms", "DAMAD_QUEUE_DEFAULT_CONCURRENCY": "1"}
    async with site_of(tmp_path / "site", primary.server.dsn, **settings) as site:
        standby = await primary.standby(tmp_path / "b")
        daemon = Daemon(site)
        await daemon.start()
        with site.gate() as gate:
            running = await site.hold(gate, retry_limit=0)
            later = await site.queue("hold.py", {"gate": str(gate.path)})  # there is no slot for it yet
            await caught_up(primary, standby)
            await primary.stop()
            await standby.promote()
            await standby.stop()
            await primary.put_back(standby.server.data)  # it is found where the primary was
        for id_ in (running, later):
            assert ((await site.ended(id_)).state, await site.types(id_)) == (
                "done", [":INITIAL", "CLAIMED", "STARTED", ":HERE", ":FINAL"]
            )  # fmt: skip
        await daemon.quiet()
        await site.verified()
        assert await daemon.stop() == 0
        assert "Traceback" not in daemon.log, daemon.log


@pytest.mark.fault(
    fault="restore",
    injected="under a daemon whose task runs: the log forgets that it was claimed",
    invariants="I3 I4 I6 I8",
)
async def test_a_task_whose_claim_is_forgotten_ends_all_the_same(primary: Cluster, tmp_path: Path) -> None:
    """Its process is of the lost future, and so is its fence, which is given to the next claim once more."""
    (tmp_path / "site").mkdir()
    async with site_of(tmp_path / "site", primary.server.dsn, DAMAD_GRACE="500ms", DAMAD_POLL_INTERVAL="500ms") as site:
        with site.gate() as gate:
            id_ = await site.queue("hold.py", {"gate": str(gate.path)})
            await site.store().database.close()
            await primary.stop()
            await primary.copy(tmp_path / "copy")
            await primary.start()
            daemon = Daemon(site)
            await daemon.start()
            await site.event(id_, ":HERE")
            await primary.stop()
            await primary.put_back(tmp_path / "copy")
            await site.event(id_, "dama/task:CLAIMED")
        assert (await site.ended(id_)).state == "done"
        types = await site.types(id_)
        assert types.count("STARTED") == 1 and types[-1] == ":FINAL", types
        await daemon.quiet()
        await site.verified()
        assert await daemon.stop() == 0
