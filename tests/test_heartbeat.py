"""A worker that promised to give a sign of life and gives none is stopped, and its attempt fails with kind timeout."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, gone, site_of

from damad import processes
from damad.eventstore import leases
from damad.eventstore.schedule import FreeSlots, HeldTask, Schedule
from damad.eventstore.store import Append, EventStore, NewTask
from damad.model.event import SETTINGS_KEY, Event
from damad.model.retry import Counts
from damad.model.settings import TaskSettings
from damad.scheduler.decisions import ALIVE, ENDED, Conclude, Decision, Exit, Held, Kill, Observed, deadline, decide
from damad.scheduler.observation import held_task

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
GRACE = 10.0
HOST = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1"
SILENT = "the worker gave no sign of life for longer than its heartbeat (30.0 s)"


# --- the policy: pure ---


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def held(beaten: float | None, **given: Any) -> Held:
    """A running task with a heartbeat of 30 s, heard of so many seconds ago."""
    return Held(
        **{
            "etl_context_id": 1, "queue": "default", "state": "running", "fence": 3, "attempt": 2,
            "counts": Counts(0, 0), "settings": TaskSettings(worker="w.py", heartbeat=30.0), "started_at": ago(600),
            "beaten_at": None if beaten is None else ago(beaten), **given,
        }
    )  # fmt: skip


def decided(task: Held, process: str = ALIVE, **seen: Any) -> Decision | None:
    return decide(task, Observed(process=process, **seen), now=NOW, grace=GRACE)


def failure(task: Held, **seen: Any) -> tuple[str, str]:
    conclusion = decided(task, ENDED, **seen)
    assert isinstance(conclusion, Conclude)
    return conclusion.failure.kind, conclusion.failure.message


@pytest.mark.parametrize(("beaten", "expected"), [(0, None), (29.9, None), (30, Kill(False, SILENT))])
def test_a_worker_is_asked_to_stop_once_it_was_silent_for_too_long(beaten: float, expected: Any) -> None:
    assert decided(held(beaten)) == expected


def test_one_that_promised_nothing_may_be_silent() -> None:
    assert decided(held(1e6, settings=TaskSettings(worker="w.py"))) is None
    assert decided(held(None)) is None


def test_one_that_waits_for_others_need_not_beat() -> None:
    assert decided(held(31, waiting=True)) is None


@pytest.mark.parametrize(("asked", "expected"), [(0.0, None), (9.9, None), (10.0, Kill(True, SILENT))])
def test_after_the_grace_it_is_killed_even_if_it_beat_again(asked: float, expected: Any) -> None:
    assert decided(held(1), asked_at=ago(asked), asked_for=SILENT) == expected


def test_its_failure_says_so_whatever_it_did_when_it_was_asked_to_stop() -> None:
    for ended in (Exit(None, 9, False, ago(0)), Exit(None, 15, False, ago(0)), Exit(1, None, False, ago(0))):
        assert failure(held(1), exit=ended, asked_at=ago(5), asked_for=SILENT) == ("timeout", SILENT)


def test_who_asked_it_may_be_gone() -> None:
    assert failure(held(40), exit=Exit(None, 15, False, ago(1))) == ("timeout", SILENT)
    assert failure(held(40), exit=Exit(None, 15, False, ago(20)))[0] == "signal"


def test_one_that_died_by_itself_after_a_silence_died_of_that() -> None:
    assert failure(held(40), exit=Exit(None, 11, False, ago(1)))[0] == "signal"
    assert failure(held(40), exit=Exit(7, None, False, ago(1)))[0] == "exit"


def test_it_is_looked_at_again_when_the_next_sign_of_life_is_due() -> None:
    seen = Observed(process=ALIVE)
    assert deadline(held(10), seen, now=NOW, grace=GRACE) == ago(-20)
    limited = TaskSettings(worker="w.py", heartbeat=30.0, expire_in=610.0)
    assert deadline(held(10, settings=limited), seen, now=NOW, grace=GRACE) == ago(-10)
    assert deadline(held(10, waiting=True), seen, now=NOW, grace=GRACE) is None
    assert deadline(held(None, state="claimed"), seen, now=NOW, grace=GRACE) == ago(-30)


# --- what counts as a sign of life ---


@pytest.fixture
def schedule(database: Any) -> Schedule:
    return Schedule(database, HOST)


async def running(store: EventStore, schedule: Schedule, **settings: Any) -> tuple[int, int]:
    """A task that runs: its id and its fence."""
    initial = Event(type=":INITIAL", meta={SETTINGS_KEY: {"worker": "ok.py", **settings}}, event_uuid=uuid4())
    await store.queue([NewTask(initial=initial)])
    return await begun(store, schedule)


async def begun(store: EventStore, schedule: Schedule) -> tuple[int, int]:
    (task,) = await schedule.claim([FreeSlots("default", 1)], holder="me", lease=60.0)
    await append(store, task.etl_context_id, task.fence, "dama/task:STARTED", {"attempt": task.attempt, "pid": 1})
    return task.etl_context_id, task.fence


async def held_now(schedule: Schedule) -> HeldTask:
    (task,) = (await schedule.held()).tasks
    return task


async def append(store: EventStore, id_: int, fence: int | None, type_: str, payload: Any = None) -> None:
    await store.append([Append(etl_context_id=id_, event=Event(type=type_, payload=payload), fence=fence)])


async def test_to_begin_and_to_append_anything_is_a_sign_of_life(store: EventStore, schedule: Schedule) -> None:
    id_, fence = await running(store, schedule, heartbeat=30)
    for type_ in (None, ":A", "dama/task:PROGRESS"):
        if type_ is not None:
            await append(store, id_, fence, type_)
        last = (await store.read(id_))[-1]
        assert (await held_now(schedule)).beaten_at == last.created_timestamp
    await append(store, id_, None, "from.outside:A")
    assert (await held_now(schedule)).beaten_at == last.created_timestamp


async def test_a_beat_is_one_and_no_event(store: EventStore, schedule: Schedule) -> None:
    id_, fence = await running(store, schedule, heartbeat=30)
    before = await held_now(schedule)
    await leases.beat(store.database, id_, fence)
    after = await held_now(schedule)
    assert after.beaten_at is not None and before.beaten_at is not None and after.beaten_at > before.beaten_at
    assert after.version == before.version


async def test_to_come_back_from_a_wait_is_one(store: EventStore, schedule: Schedule) -> None:
    id_, fence = await running(store, schedule, heartbeat=30)
    before = await held_now(schedule)
    await leases.set_waiting(store.database, id_, fence, False)
    after = await held_now(schedule)
    assert after.beaten_at is not None and before.beaten_at is not None and after.beaten_at > before.beaten_at


async def test_a_task_without_heartbeat_has_none(store: EventStore, schedule: Schedule) -> None:
    id_, fence = await running(store, schedule)
    await leases.beat(store.database, id_, fence)
    assert (await held_now(schedule)).beaten_at is None


async def test_a_beat_counts_for_its_own_run_only(store: EventStore, schedule: Schedule) -> None:
    id_, fence = await running(store, schedule, heartbeat=30)
    before = await held_now(schedule)
    await leases.beat(store.database, id_, fence - 1)
    assert (await held_now(schedule)).beaten_at == before.beaten_at


async def test_a_run_begins_without_the_beats_of_the_one_before(store: EventStore, schedule: Schedule) -> None:
    id_, _ = await running(store, schedule, heartbeat=30)
    async with store.database.connection() as connection:
        await connection.execute("UPDATE data_manager.leases SET beat_at = '2030-01-31'")
        row = await connection.fetchrow("SELECT * FROM data_manager.leases")
        await append(store, id_, None, "dama/task:RELEASED")
        await connection.execute("INSERT INTO data_manager.leases VALUES ($1, $2, $3, $4, $5, $6)", *row.values())
    assert await begun(store, schedule) == (id_, 2)
    assert (await held_now(schedule)).beaten_at == (await store.read(id_))[-1].created_timestamp


async def test_nobody_was_silent_while_postgres_was_away(store: EventStore, schedule: Schedule) -> None:
    await running(store, schedule, heartbeat=30)
    task = await held_now(schedule)
    assert task.beaten_at is not None
    back = task.beaten_at + timedelta(hours=1)
    assert held_task(task, "me", HOST, back_since=back).beaten_at == back
    assert held_task(task, "me", HOST, back_since=task.beaten_at - timedelta(hours=1)).beaten_at == task.beaten_at


# --- with a daemon ---

BEATS = """
    import asyncio, time
    from damad import tasks

    async def main():
        begun = time.monotonic()
        while time.monotonic() < begun + 6:
            await tasks.heartbeat()
            await asyncio.sleep(0.1)
        return {"beats": True}
"""
STUBBORN = """
    import signal, subprocess
    from damad import events, tasks

    def main():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tasks.heartbeat_sync()
        subprocess.Popen(["setsid", "--fork", "sh", "-c", "trap '' TERM; sleep 1000"])
        events.dispatch_sync({"type": ":HERE"})
        while True:
            signal.pause()
"""
TALKS_LAST = """
    import signal
    from damad import events

    def main():
        try:
            signal.pause()
        finally:
            events.dispatch_sync({"type": ":LAST_WORDS"})
"""
HANGS = "import asyncio\n\nasync def main():\n    await asyncio.Event().wait()\n"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    settings = {"DAMAD_GRACE": "500ms", "DAMAD_POLL_INTERVAL": "10m"}
    async with site_of(tmp_path_factory.mktemp("beats"), template, **settings) as site, daemon_on(site) as daemon:
        yield daemon
        await site.verified()


async def test_a_worker_that_beats_goes_on(daemon: Daemon) -> None:
    outcome = await daemon.site.run(BEATS, heartbeat="5s")
    assert outcome.result == {"beats": True}
    assert [event.type for event in outcome.events if event.type.startswith("dama/")] == [
        "dama/task:CLAIMED",
        "dama/task:STARTED",
    ]


async def test_one_that_falls_silent_is_killed_with_its_family_before_that_is_said(daemon: Daemon) -> None:
    site = daemon.site
    id_ = await site.queue(site.worker(STUBBORN), heartbeat="500ms", retry_limit=0)
    state = await site.ended(id_)
    assert (state.state, state.error["kind"]) == ("failed", "timeout")
    assert "heartbeat (0.5 s)" in state.error["message"]
    assert not processes.alive(await site.process(id_))
    assert not [line for line in site.at_work(daemon.pid).values() if "sleep 1000" in line]


@pytest.mark.parametrize(("source", "run_in"), [(TALKS_LAST, "process"), (HANGS, "daemon")])
async def test_what_it_says_when_it_is_stopped_makes_no_difference(daemon: Daemon, source: str, run_in: str) -> None:
    outcome = await daemon.site.run(source, heartbeat="500ms", retry_limit=0, run_in=run_in)
    assert outcome.error["kind"] == "timeout"
    assert "heartbeat" in outcome.error["message"]


async def test_it_is_kept_across_daemons(template: str, tmp_path: Path) -> None:
    async with site_of(tmp_path, template, DAMAD_GRACE="500ms") as site:
        first = Daemon(site)
        await first.start()
        with site.gate() as gate:
            id_ = await site.queue("hold.py", {"gate": str(gate.path)}, heartbeat="1s", retry_limit=0)
            worker = await site.process(id_)
            await first.kill()
            async with daemon_on(site):
                assert "heartbeat" in (await site.ended(id_)).error["message"]
            await gone(worker)
        await site.verified()


async def test_it_is_kept_without_a_daemon(site: Site) -> None:
    worker = site.worker("import signal\n\ndef main():\n    signal.pause()\n")
    done = await site.damad("run", worker, "--heartbeat", "300ms")
    assert (done.code, done.out) == (1, "")
    assert "heartbeat" in done.err


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site
