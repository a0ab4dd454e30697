"""A schedule that plain SQL wrote and that is none: shown with what is wrong, said once, and in nobody's way."""

from typing import Any, TypeAlias

import asyncpg
import pytest
from structlog.testing import capture_logs

from damad import schedules
from damad.context import EtlContext
from damad.errors import InvalidInput
from damad.scheduler.ticks import Ticks

WRITTEN = "INSERT INTO data_manager.dama_schedules (name, cron, worker) VALUES ($1, '* * * * *', 'ok.py')"
WRONG = {
    "a cron": ("cron = 'every tuesday'", "cron 'every tuesday'"),
    "a cron of no day": ("cron = '0 0 31 2 *'", "day-of-month"),
    "an empty cron": ("cron = ''", "cron ''"),
    "a zone": ("zone = 'Europe/Atlantis'", "'Europe/Atlantis' is no IANA time zone"),
    "settings": ("""settings = '{"retry_limit": "often"}'""", "retry_limit"),
    "a setting that nobody knows": ("""settings = '{"colour": 1}'""", "colour"),
    "settings that are none": ("settings = '[1]'", "settings"),
    "a setting for no schedule": ("""settings = '{"start_after": "1h"}'""", "start_after"),
    "a jitter": ("jitter = -1", "jitter"),
    "a jitter without end": ("jitter = 'infinity'", "jitter"),
    "missed_within": ("missed_within = -5", "missed_within"),
    "meta": ("meta = '[]'", "meta"),
}
"""What is set, and what the schedule says is wrong then."""

pytestmark = pytest.mark.usefixtures("ctx")
Plain: TypeAlias = "asyncpg.Connection[Any]"


async def written(plain: Plain, name: str, wrong: str) -> None:
    await plain.execute(WRITTEN, name)
    await plain.execute(f"UPDATE data_manager.dama_schedules SET {wrong} WHERE name = $1", name)


async def ticks_of(ctx: EtlContext, name: str) -> int:
    return len([task for task in await ctx.store.tasks(limit=100) if getattr(task, "schedule", None) == name])


@pytest.mark.parametrize("wrong", WRONG)
async def test_one_that_is_none_is_shown_with_what_is_wrong_beside_the_others(plain: Plain, wrong: str) -> None:
    sets, says = WRONG[wrong]
    await written(plain, "b", sets)
    for name in ("a", "c"):
        await schedules.add(name, cron="@daily", worker="ok.py")
    shown = {read.schedule.name: schedules.shown(read.schedule) for read in await schedules.page()}
    assert {name: each["error"] is None for name, each in shown.items()} == {"a": True, "b": False, "c": True}
    assert says in shown["b"]["error"]
    one = schedules.with_runs(await schedules.get("b"), 5)
    assert one == {**shown["b"], "next_runs": []}
    assert len(schedules.with_runs(await schedules.get("a"), 5)["next_runs"]) == 5
    with pytest.raises(InvalidInput):
        await schedules.trigger("b")
    await schedules.remove("b")


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_daemon_takes_the_ticks_of_the_others_and_says_what_is_wrong_once(
    ctx: EtlContext, plain: Plain, wrong: str
) -> None:
    for name in ("a", "b", "c"):
        await plain.execute(WRITTEN, name)
    await plain.execute(f"UPDATE data_manager.dama_schedules SET {WRONG[wrong][0]} WHERE name = 'b'")
    await plain.execute("UPDATE data_manager.dama_schedules SET next_tick = clock_timestamp() - interval '5 minutes'")
    loop = Ticks(ctx, poll_interval=5.0)
    with capture_logs() as said:
        for _ in range(3):
            await loop.turn()
    assert [await ticks_of(ctx, name) for name in ("a", "b", "c")] == [1, 0, 1]
    (line,) = [entry for entry in said if entry.get("schedule") == "b"]
    assert WRONG[wrong][1] in line["reason"]
    assert "exc_info" not in line


async def test_one_that_is_mended_ticks(ctx: EtlContext, plain: Plain) -> None:
    await written(plain, "b", "cron = 'every tuesday', next_tick = clock_timestamp() - interval '5 minutes'")
    loop = Ticks(ctx, poll_interval=5.0)
    await loop.turn()
    with pytest.raises(InvalidInput):
        await schedules.change("b", zone="Europe/Atlantis")
    assert (await schedules.change("b", cron="@daily")).schedule.cron == "@daily"
    assert schedules.fault((await schedules.get("b")).schedule) is None
    await plain.execute("UPDATE data_manager.dama_schedules SET next_tick = clock_timestamp() - interval '2 days'")
    await loop.turn()
    assert await ticks_of(ctx, "b") == 1
