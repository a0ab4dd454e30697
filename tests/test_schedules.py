"""Schedules in a database: what is kept of them, what is refused, what a turn of the loop does with their ticks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from damad import context, queues, schedules, tasks
from damad.context import EtlContext
from damad.errors import Conflict, InvalidInput, InvalidWorker, NotFound
from damad.eventstore import listener
from damad.eventstore.pools import Database
from damad.eventstore.schedules import Schedules
from damad.eventstore.store import TaskState
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY
from damad.scheduler.ticks import Ticks

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""

pytestmark = pytest.mark.usefixtures("ctx")


@pytest.fixture
def hourly() -> str:
    """A cron whose next tick is half an hour away: none comes while a test looks."""
    return f"{(datetime.now(UTC).minute + 30) % 60} * * * *"


async def moved_back(plain: "asyncpg.Connection[Any]", hours: int) -> datetime:
    """As if nobody had looked for so many hours; returns what time it is."""
    await plain.execute(
        "UPDATE data_manager.dama_schedules SET next_tick = clock_timestamp() - $1::interval", timedelta(hours=hours)
    )
    now: datetime = await plain.fetchval("SELECT clock_timestamp()")
    return now


def ticks_of(hourly: str, now: datetime, count: int) -> list[str]:
    """The last so many ticks before now."""
    latest = now.replace(minute=int(hourly.split()[0]), second=0, microsecond=0)
    latest -= timedelta(hours=latest > now)
    return [(latest - timedelta(hours=back)).isoformat() for back in reversed(range(count))]


async def made(name: str = "s") -> list[str | None]:
    """The ticks that made the tasks of a schedule, oldest first."""
    found = [state for state in await everything() if state.schedule == name]
    return [state.settings.get("tick") for state in reversed(found)]


async def everything() -> list[TaskState]:
    found = await context.current().store.tasks(limit=1000)
    return [state for state in found if isinstance(state, TaskState)]


@asynccontextmanager
async def many_databases(dsn: str, count: int) -> AsyncIterator[list[Database]]:
    """Pools of their own on one database, as many daemons have them."""
    databases = [Database("local", dsn) for _ in range(count)]
    try:
        yield databases
    finally:
        for database in databases:
            await database.close()


async def turn_on(database: Database, ctx: EtlContext) -> None:
    """A turn of the loop of another daemon."""
    with context.run_in(msgspec.structs.replace(ctx, database=database)) as ambient:
        await loop(ambient).turn()


def loop(ctx: EtlContext) -> Ticks:
    return Ticks(ctx, poll_interval=5.0)


async def test_a_schedule_is_kept_as_it_was_given_and_says_when_it_ticks() -> None:
    read = await schedules.add(
        "nightly", cron="30 2 * * *", zone="Europe/Berlin", worker="ok.py", payload={"a": [1]}, jitter="1m",
        missed_within="2h", queue="night", retry_delay="5s", meta={"by": "me"},
    )  # fmt: skip
    shown = schedules.shown(read.schedule)
    assert {name: shown[name] for name in ("cron", "zone", "worker", "payload", "overlap", "missed", "paused")} == {
        "cron": "30 2 * * *", "zone": "Europe/Berlin", "worker": "ok.py", "payload": {"a": [1]}, "overlap": "skip",
        "missed": "one", "paused": False,
    }  # fmt: skip
    assert (shown["jitter"], shown["missed_within"], shown["queue"], shown["retry_delay"]) == (60, 7200, "night", 5)
    assert shown["next_tick"] == schedules.next_runs(read, 3)[0] > read.at
    assert (await schedules.get("nightly")).schedule == read.schedule
    assert [one.schedule for one in await schedules.page()] == [read.schedule]
    msgspec.json.encode(shown)


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"cron": "61 * * * *"}, "/cron"), ({"cron": 5}, "/cron"), ({"cron": None}, "/cron"),
        ({"zone": "Mars"}, "/zone"),
        ({"zone": 1}, "/zone"), ({"overlap": "often"}, "/overlap"), ({"missed": "some"}, "/missed"),
        ({"missed_within": "long"}, "/missed_within"), ({"jitter": -1}, "/jitter"), ({"paused": "yes"}, "/paused"),
        ({"payload": float("nan")}, "/payload"), ({"meta": {SETTINGS_KEY: {}}}, f"/meta/{SETTINGS_KEY}"),
        ({"meta": []}, "/meta"), ({"source_id": 0}, "/source_id"), ({"source_id": 99}, "/source_id"),
        ({"start_after": "5s"}, "/start_after"), ({"idempotency_key": "k"}, "/idempotency_key"),
        ({"singleton_key": "k"}, "/singleton_key"), ({"debounce": "1s"}, "/debounce"),
        ({"throttle": "1s"}, "/throttle"),
        ({"parent_context_id": 1}, "/parent_context_id"), ({"initial_event": {}}, "/initial_event"),
        ({"retry_limit": -1}, "/retry_limit"), ({"queue": "No"}, "/queue"), ({"prioritaet": 1}, "/prioritaet"),
        ({"schedule": "x"}, "/schedule"), ({"tick": "x"}, "/tick"), ({"next_tick": None, "last": 1}, "/last"),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_refused_where_it_stands(given: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await schedules.add("s", **{"cron": "@daily", "worker": "ok.py", **given})
    assert refused.value.pointer == pointer
    assert await schedules.page() == []


@pytest.mark.parametrize("name", ["", ".", "a/b", "ä", "-a", "x" * 64, "a b", "a\n"])
async def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await schedules.add(name, cron="@daily", worker="ok.py")
    assert refused.value.pointer == "/name"


async def test_a_worker_that_could_not_be_queued_is_refused_at_once() -> None:
    with pytest.raises(InvalidWorker):
        await schedules.add("s", cron="@daily", worker="gone.py")
    with pytest.raises(InvalidWorker):
        await schedules.add("s", cron="@daily", worker="ok.py", on_failure="gone.py")


async def test_a_limit_that_its_tasks_could_not_have_is_refused_at_once() -> None:
    await queues.change("inside", {"run_in": "daemon"})
    with pytest.raises(InvalidInput, match="memory_limit is for a process"):
        await schedules.add("s", cron="@daily", worker="ok.py", queue="inside", memory_limit="1GB")
    await schedules.add("s", cron="@daily", worker="ok.py", memory_limit="1GB")
    with pytest.raises(InvalidInput, match="memory_limit is for a process"):
        await schedules.change("s", queue="inside")
    await queues.change("default", {"run_in": "daemon"})
    assert (await schedules.change("s", paused=True)).schedule.paused


async def test_a_name_that_is_taken_is_refused_and_one_that_is_not_there_is_not_found() -> None:
    await schedules.add("s", cron="@daily", worker="ok.py")
    with pytest.raises(Conflict, match="already"):
        await schedules.add("s", cron="@daily", worker="ok.py")
    for call in (schedules.get, schedules.remove, schedules.pause, schedules.trigger):
        with pytest.raises(NotFound, match="no schedule 'other'"):
            await call("other")


async def test_a_change_keeps_what_it_does_not_name_and_none_takes_back() -> None:
    await schedules.add("s", cron="@daily", worker="ok.py", payload=1, retry_limit=5, missed_within="1h")
    read = await schedules.change("s", zone="Asia/Tokyo", payload=None, missed_within=None, priority=3)
    shown = schedules.shown(read.schedule)
    assert (shown["zone"], shown["payload"], shown["missed_within"]) == ("Asia/Tokyo", None, None)
    assert (shown["retry_limit"], shown["priority"], shown["cron"]) == (5, 3, "@daily")
    with pytest.raises(InvalidInput, match="hour"):
        await schedules.change("s", cron="0 25 * * *")
    with pytest.raises(InvalidInput, match="keeps its name"):
        await schedules.change("s", name="t")


async def test_pages_go_by_the_names() -> None:
    for name in ("b", "B", "a", "c"):
        await schedules.add(name, cron="@daily", worker="ok.py")
    assert [read.schedule.name for read in await schedules.page(limit=3)] == ["B", "a", "b"]
    assert [read.schedule.name for read in await schedules.page(after="b")] == ["c"]


async def test_a_tick_makes_a_task_that_says_which_schedule_and_which_tick(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", hourly: str
) -> None:
    await schedules.add("s", cron=hourly, worker="ok.py", payload={"n": 1}, queue="night", meta={"by": "me"})
    now = await moved_back(plain, 1)
    await loop(ctx).turn()
    (state,) = await everything()
    (tick,) = ticks_of(hourly, now, 1)
    assert (state.schedule, state.settings["tick"], state.queue) == ("s", tick, "night")
    (event,) = await ctx.store.read(state.etl_context_id)
    assert event.payload == {"n": 1}
    assert event.meta is not None
    assert (event.meta["by"], event.meta[SETTINGS_KEY]["schedule"]) == ("me", "s")
    read = await schedules.get("s")
    assert read.schedule.last_tick == datetime.fromisoformat(tick)
    assert read.schedule.next_tick == datetime.fromisoformat(tick) + timedelta(hours=1)


@pytest.mark.parametrize(("missed", "count"), [("skip", 0), ("one", 1), ("all", 5)])
async def test_after_a_gap_the_policy_says_which_ticks_make_a_task(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", hourly: str, missed: str, count: int
) -> None:
    await schedules.add("s", cron=hourly, worker="ok.py", overlap="allow_all", missed=missed)
    now = await moved_back(plain, 5)
    for _ in range(2):
        await loop(ctx).turn()
        assert await made() == ticks_of(hourly, now, count)


async def test_of_many_loops_at_once_none_takes_a_tick_of_another(
    ctx: EtlContext, dsn: str, plain: "asyncpg.Connection[Any]", hourly: str
) -> None:
    names = [f"s{number}" for number in range(6)]
    for name in names:
        await schedules.add(name, cron=hourly, worker="ok.py", overlap="allow_all", missed="all")
    async with many_databases(dsn, 4) as databases:
        with capture_logs() as said:
            for hours in (30, 7, 3):
                now = await moved_back(plain, hours)
                await asyncio.gather(*(turn_on(database, ctx) for database in databases for _ in range(2)))
                for name in names:
                    ticks = await made(name)
                    assert len(set(ticks)) == len(ticks)
                    assert {*ticks_of(hourly, now, hours)} <= {*ticks}
    assert {entry["event"] for entry in said} == {"ticks were missed"}, said
    assert (await verify(databases[0])).mismatches == []


async def test_a_tick_that_made_its_task_makes_no_second_one_even_if_the_schedule_is_set_back(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", hourly: str
) -> None:
    await schedules.add("s", cron=hourly, worker="ok.py", overlap="allow_all", missed="all")
    now = await moved_back(plain, 3)
    await loop(ctx).turn()
    await moved_back(plain, 6)
    await loop(ctx).turn()
    ticks = await made()
    assert len(set(ticks)) == len(ticks)
    assert {*ticks_of(hourly, now, 6)} <= {*ticks}


async def test_a_schedule_that_is_not_due_any_more_is_left_alone(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]"
) -> None:
    """Another daemon took its ticks between our look and the lock."""
    await schedules.add("s", cron="@yearly", worker="ok.py")
    rows = Schedules(ctx.store.database)
    async with ctx.store.transaction() as connection:
        assert await rows.lock_due("s", on=connection) is None
    await moved_back(plain, 1)
    async with ctx.store.transaction() as connection:
        assert await rows.lock_due("s", on=connection) is not None


async def test_two_schedules_of_one_name_one_after_the_other_are_two(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", hourly: str
) -> None:
    for payload in (1, 2):
        await schedules.add("s", cron=hourly, worker="ok.py", payload=payload, overlap="allow_all")
        await moved_back(plain, 1)
        await loop(ctx).turn()
        await schedules.remove("s")
    payloads = [(await ctx.store.read(state.etl_context_id))[0].payload for state in await everything()]
    assert payloads == [2, 1]


async def test_a_paused_schedule_makes_no_task_and_one_that_is_resumed_ticks_from_then_on(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", hourly: str
) -> None:
    await schedules.add("s", cron=hourly, worker="ok.py", missed="all", overlap="allow_all", paused=True)
    await moved_back(plain, 5)
    await loop(ctx).turn()
    assert await made() == []
    read = await schedules.resume("s")
    assert read.schedule.next_tick is not None
    assert read.schedule.next_tick > read.at
    await loop(ctx).turn()
    assert await made() == []


async def test_what_waits_is_started_when_the_task_before_it_has_ended(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]"
) -> None:
    await schedules.add("s", cron="@daily", worker="ok.py", overlap="buffer_all")
    ticks = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
    await plain.execute("UPDATE data_manager.dama_schedules SET buffered = $1", ticks)
    seen = []
    for _ in ticks:
        _, waiting = await loop(ctx).turn()
        (run,) = [state for state in await everything() if state.state == "queued"]
        assert len(await made()) == len(seen) + 1
        seen.append(run.settings["tick"])
        await loop(ctx).turn()
        await tasks.cancel(run.etl_context_id)
    assert seen == [tick.isoformat() for tick in ticks]
    assert waiting is False


@pytest.mark.parametrize("overlap", ["cancel_other", "terminate_other"])
async def test_a_tick_that_stops_others_cancels_them_and_then_makes_its_task(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", hourly: str, overlap: str
) -> None:
    await schedules.add("s", cron=hourly, worker="ok.py", overlap=overlap)
    first = (await schedules.trigger("s")).etl_context_id
    await moved_back(plain, 1)
    await loop(ctx).turn()
    assert (await tasks.status(first)).state == "cancelled"
    asked = (await ctx.store.read(first, types=["dama/task:CANCEL_REQUESTED"]))[0]
    assert (asked.payload == {"terminate": True}) is (overlap == "terminate_other")
    await loop(ctx).turn()
    assert [state.state for state in await everything()] == ["queued", "cancelled"]


async def test_a_trigger_makes_a_task_whatever_else_there_is() -> None:
    await schedules.add("s", cron="@yearly", worker="ok.py", paused=True)
    ids = [(await schedules.trigger("s")).etl_context_id for _ in range(2)]
    assert [state.etl_context_id for state in await everything()] == ids[::-1]
    assert await made() == [None, None]


async def test_a_backfill_makes_the_tasks_that_are_missing_in_a_range_and_those_once() -> None:
    await schedules.add("s", cron="0 6 * * *", worker="ok.py")
    begin, end = (datetime(2026, 1, day, 6, tzinfo=UTC) for day in (2, 4))
    done = await schedules.backfill("s", begin, end)
    assert [tick.tick.day for tick in done] == [2, 3, 4]
    assert await made() == [f"2026-01-0{day}T06:00:00+00:00" for day in (2, 3, 4)]
    again = await schedules.backfill("s", begin - timedelta(days=1), end)
    assert [tick.tick.day for tick in again] == [1]


async def test_a_range_that_is_none_or_too_long_or_to_come_is_refused() -> None:
    await schedules.add("s", cron="* * * * *", worker="ok.py")
    day = datetime(2026, 1, 2, tzinfo=UTC)
    for begin, end in (
        (day, day - timedelta(days=1)), (day, day + timedelta(days=3000)), (day, day + timedelta(days=2)),
        (day.replace(tzinfo=None), day), (day.replace(year=9999), day),
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            await schedules.backfill("s", begin, end)
    assert await everything() == []


async def test_jitter_has_the_task_start_later_and_not_later_than_it_says(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", hourly: str
) -> None:
    read = await schedules.add("s", cron=hourly, worker="ok.py", jitter="1h")
    now = await moved_back(plain, 1)
    await loop(ctx).turn()
    (state,) = await everything()
    tick = datetime.fromisoformat(ticks_of(hourly, now, 1)[0])
    assert state.run_at == tick + timedelta(seconds=round(read.schedule.delay(tick), 6))


async def test_a_worker_that_is_gone_when_its_time_comes_is_queued_all_the_same(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", hourly: str
) -> None:
    (ctx.here.worker_roots[0] / "leaving.py").write_text("def main():\n    return {}\n")
    (ctx.here.worker_roots[0] / "leaving.py").chmod(0o644)
    await schedules.add("s", cron=hourly, worker="leaving.py")
    (ctx.here.worker_roots[0] / "leaving.py").unlink()
    await moved_back(plain, 1)
    await loop(ctx).turn()
    assert [state.state for state in await everything()] == ["queued"]
    with pytest.raises(InvalidWorker):
        await schedules.trigger("s")


async def test_a_schedule_that_plain_sql_wrote_wrong_keeps_no_other_from_ticking(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", hourly: str
) -> None:
    await plain.execute(
        "INSERT INTO data_manager.dama_schedules (name, cron, worker) VALUES ('broken', 'now and then', 'ok.py')"
    )
    await schedules.add("s", cron=hourly, worker="ok.py")
    await moved_back(plain, 1)
    pause, _ = await loop(ctx).turn()
    assert len(await made()) == 1
    assert pause > 0.05


async def test_whoever_waits_for_a_tick_hears_of_every_change_and_of_no_tick(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", hourly: str
) -> None:
    heard = asyncio.Queue[str]()
    await plain.add_listener(listener.SCHEDULE, lambda *said: heard.put_nowait(str(said[3])))
    await schedules.add("s", cron=hourly, worker="ok.py")
    await moved_back(plain, 1)
    await loop(ctx).turn()
    await schedules.pause("s")
    await schedules.remove("s")
    await plain.execute(f"NOTIFY \"{listener.SCHEDULE}\", 'end'")
    async with asyncio.timeout(SOON):
        said = [await heard.get()]
        while said[-1] != "end":
            said.append(await heard.get())
    assert said == ["", "", "", "end"]
