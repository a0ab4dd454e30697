"""Schedules and real daemons: every tick once, over restarts and beside each other; overlaps go by the policy."""

import itertools
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import PG_ENV, Daemon, Site, daemon_on, site_of, until

from damad import failpoints, schedules
from damad import tasks as core
from damad.model.ticks import Schedule

SETTINGS = {
    "DAMAD_QUEUE_IDLE_CONCURRENCY": "0",
    "DAMAD_QUEUE_DEFAULT_CONCURRENCY": "9",
    "DAMAD_GRACE": "10m",
    "DAMAD_POLL_INTERVAL": "10m",
}
"""A queue that nobody takes from, for ticks alone; and nothing is found by looking now and then."""
EVERY_SECOND = "* * * * * *"
SECOND = timedelta(seconds=1)
MISSED = re.compile(r"ticks were missed .*first=(\S+) last=(\S+)")
STUBBORN = """
    import signal
    from damad import events

    def main(event):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        events.dispatch_sync({"type": ":HERE"})
        while True:
            signal.pause()
"""


@pytest_asyncio.fixture
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("schedules"), template, **SETTINGS) as site:
        site.worker("def main(event):\n    return event['payload'] or {}\n", "ok.py")
        yield site


async def add(site: Site, **given: Any) -> None:
    with site.here():
        await schedules.add("s", **{"cron": EVERY_SECOND, "worker": "ok.py", **given})


async def change(site: Site, **given: Any) -> None:
    with site.here():
        await schedules.change("s", **given)


async def schedule(site: Site) -> Schedule:
    with site.here():
        return (await schedules.get("s")).schedule


async def now(site: Site) -> datetime:
    with site.here():
        return (await schedules.get("s")).at


async def tasks(site: Site) -> list[Any]:
    """The tasks of the schedule, oldest first."""
    found = await site.store().tasks(limit=1000)
    return [state for state in reversed(found) if getattr(state, "schedule", None) == "s"]


async def ticks(site: Site) -> list[datetime]:
    """The ticks that made tasks, as often as they did."""
    return [datetime.fromisoformat(state.settings["tick"]) for state in await tasks(site)]


async def ticked(site: Site, count: int, *, after: datetime | None = None) -> None:
    """Returns once so many ticks, that came after a time, have made tasks."""

    async def enough() -> bool:
        return len([tick for tick in await ticks(site) if after is None or tick > after]) >= count

    await until(enough)


async def passed(site: Site, seconds: float) -> None:
    """Returns once so many more ticks are over, whatever became of them."""
    begin = await now(site)

    async def over() -> bool:
        last = (await schedule(site)).last_tick
        return last is not None and last > begin + timedelta(seconds=seconds)

    await until(over)


def seconds(first: datetime, last: datetime) -> list[datetime]:
    return [first + SECOND * count for count in range(int((last - first) / SECOND) + 1)]


@pytest.mark.parametrize("missed", ["skip", "one", "all"])
async def test_every_second_over_a_restart_of_five_seconds_each_policy_gives_its_ticks_and_no_other(
    site: Site, missed: str
) -> None:
    daemon = Daemon(site)
    await daemon.start()
    await add(site, overlap="allow_all", missed=missed, queue="idle")
    await ticked(site, 3)
    await daemon.kill()
    went = await now(site)

    async def five_seconds_have_passed() -> bool:
        return await now(site) > went + timedelta(seconds=5)

    await until(five_seconds_have_passed)
    came = await now(site)
    await daemon.start()
    await ticked(site, 3, after=came + 2 * SECOND)
    await change(site, paused=True)
    made, spans = await ticks(site), [map(datetime.fromisoformat, found) for found in MISSED.findall(daemon.log)]
    gaps = [seconds(*span) for span in spans]
    lost = {tick for gap in gaps for tick in (gap if missed == "skip" else gap[:-1] if missed == "one" else [])}
    assert made == [tick for tick in seconds(made[0], made[-1]) if tick not in lost]
    while_nobody_was_there = {tick for tick in seconds(made[0], made[-1]) if went < tick < came - SECOND}
    assert len(while_nobody_was_there) >= 4
    assert while_nobody_was_there <= {tick for gap in gaps for tick in gap}
    assert await daemon.stop() == 0
    await site.verified()


@pytest.mark.parametrize("action", ["kill", "raise", "delay"])
@pytest.mark.parametrize("name", [name for name in failpoints.NAMES if name.startswith("ticks.")])
async def test_every_tick_is_taken_once_whatever_happens_to_who_takes_it_at(site: Site, name: str, action: str) -> None:
    hit, clean = Daemon(site), Daemon(site)
    await hit.start(DAMAD_FAILPOINT=f"{name}:{action}")
    await add(site, overlap="allow_all", missed="all", queue="idle")
    if action == "kill":
        assert await hit.exits() == -9
    else:
        await ticked(site, 4)
        assert ("Failpoint" in hit.log) is (action == "raise")
        await hit.kill()
    await clean.start()
    await ticked(site, 3, after=await now(site))
    await change(site, paused=True)
    made = await ticks(site)
    assert made == seconds(made[0], made[-1])
    assert await clean.stop() == 0
    await site.verified()


async def test_two_daemons_take_no_tick_twice_and_when_one_dies_the_other_leaves_none_out(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("other")
    other = Site(folder, {PG_ENV: site.databases[PG_ENV].dsn}, **SETTINGS)
    (other.workers / "ok.py").write_text((site.workers / "ok.py").read_text())
    one, two = Daemon(site), Daemon(other)
    try:
        await one.start()
        await two.start()
        await add(site, overlap="allow_all", missed="skip", queue="idle")
        await ticked(site, 6)
        await one.kill()
        gone = await now(site)
        await ticked(site, 4, after=gone)
        await change(site, paused=True)
        made = await ticks(site)
        assert "ticks were missed" not in one.log + two.log
        assert made == seconds(made[0], made[-1])
        assert await two.stop() == 0
        await site.verified()
    finally:
        await other.close()


async def test_a_schedule_that_is_added_changed_or_resumed_is_heard_of_at_once(site: Site) -> None:
    async with daemon_on(site):
        await add(site, cron="@yearly", overlap="allow_all", queue="idle")
        await change(site, cron=EVERY_SECOND)
        await ticked(site, 2)
        await change(site, paused=True)
        count = len(await ticks(site))
        await change(site, paused=False)
        await ticked(site, count + 2)
        with site.here():
            await schedules.remove("s")


async def test_skip_makes_no_task_while_one_runs(site: Site) -> None:
    async with daemon_on(site):
        with site.gate() as gate:
            await add(site, worker="hold.py", payload={"gate": str(gate.path)}, overlap="skip")
            await ticked(site, 1)
            await passed(site, 2)
            assert len(await tasks(site)) == 1
        await ticked(site, 2)
        await change(site, paused=True)
        first, second = (await ticks(site))[:2]
        assert second - first >= 2 * SECOND


async def test_buffer_one_has_the_first_that_waited_run_when_the_one_before_it_has_ended(site: Site) -> None:
    async with daemon_on(site):
        with site.gate() as gate:
            await add(site, worker="hold.py", payload={"gate": str(gate.path)}, overlap="buffer_one")
            await ticked(site, 1)
            await passed(site, 3)
            waiting = (await schedule(site)).buffered
            assert len(await tasks(site)) == len(waiting) == 1
            await change(site, cron="@yearly")
        await ticked(site, 2)
        assert (await ticks(site))[1:] == waiting
        assert await after_one_another(site) == 2


async def test_buffer_all_has_each_run_one_after_another(site: Site) -> None:
    async with daemon_on(site):
        with site.gate() as gate:
            await add(site, worker="hold.py", payload={"gate": str(gate.path)}, overlap="buffer_all")
            await ticked(site, 1)

            async def three_wait() -> bool:
                return len((await schedule(site)).buffered) >= 3

            await until(three_wait)
            await change(site, cron="@yearly")
            waiting = (await schedule(site)).buffered
        await ticked(site, 1 + len(waiting))
        made = await ticks(site)
        assert made[1:] == waiting
        assert made == seconds(made[0], made[-1])
        assert await after_one_another(site) == len(made)


async def after_one_another(site: Site) -> int:
    """How many tasks of the schedule there are, each of which was queued when the one before it had ended."""
    ids = [state.etl_context_id for state in await tasks(site)]
    for id_ in ids:
        await site.ended(id_)
    histories = [await site.events(id_) for id_ in ids]
    for before, after in itertools.pairwise(histories):
        assert before[-1].created_timestamp < after[0].created_timestamp
    return len(ids)


async def test_cancel_other_lets_the_one_that_runs_come_to_its_end_and_then_runs(site: Site) -> None:
    async with daemon_on(site):
        with site.gate() as gate:
            await add(site, worker="hold.py", payload={"gate": str(gate.path)}, overlap="cancel_other")
            await ticked(site, 2)
            await change(site, paused=True)
        first, *_ = await tasks(site)
        assert (await site.ended(first.etl_context_id)).state == "cancelled"
        await after_one_another(site)


async def test_terminate_other_kills_one_that_would_not_hear_of_it_and_then_runs(site: Site) -> None:
    async with daemon_on(site):
        await add(site, worker=site.worker(STUBBORN), overlap="terminate_other")
        await ticked(site, 2)
        await change(site, paused=True)
        *_, last = await tasks(site)
        with site.here():
            await core.cancel(last.etl_context_id, terminate=True)
        assert {(await site.ended(state.etl_context_id)).state for state in await tasks(site)} == {"cancelled"}
        await after_one_another(site)


async def test_allow_all_has_them_run_beside_each_other(site: Site) -> None:
    async with daemon_on(site):
        with site.gate() as gate:
            await add(site, worker="hold.py", payload={"gate": str(gate.path)}, overlap="allow_all")
            await ticked(site, 3)
            await change(site, paused=True)
            for state in (await tasks(site))[:3]:
                await site.reaches(state.etl_context_id, "running")
        for state in await tasks(site):
            assert (await site.ended(state.etl_context_id)).state == "done"


async def test_a_worker_that_is_gone_fails_as_one_that_cannot_be_loaded(site: Site) -> None:
    async with daemon_on(site):
        worker = site.worker("def main():\n    return {}\n", "leaving.py")
        await add(site, worker=worker, retry_limit=0, cron="@yearly")
        (site.workers / worker).unlink()
        await change(site, cron=EVERY_SECOND)
        await ticked(site, 1)
        await change(site, paused=True)
        (state, *_) = await tasks(site)
        assert (await site.ended(state.etl_context_id)).state == "failed"
        assert [event.payload["kind"] for event in await site.events(state.etl_context_id, "dama/task:ERROR")] == [
            "load"
        ]
