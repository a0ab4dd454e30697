"""A bench yields every line of the goals, with its yardsticks, and leaves nothing behind. What it says of speed, no
test asks."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio
from daemon_support import Site, site_of, until
from postgres_support import sql

from damad.bench import figures
from damad.bench.figures import Document
from damad.bench.goals import GOALS
from damad.bench.sizes import Sizes

PATIENCE = 600.0
"""Seconds for a whole bench in its smallest size, however busy the machine is."""


@pytest_asyncio.fixture(scope="module")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("bench"), template) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def said(site: Site) -> Any:
    done = await site.damad("bench", "--smallest", "--json", patience=PATIENCE)
    assert done.code == 0, done.out + done.err
    return done.json


def test_a_bench_measures_every_line(said: Any) -> None:
    lines = {line["key"]: line for line in said["lines"]}
    assert list(lines) == [goal.key for goal in GOALS]
    for goal in GOALS:
        line = lines[goal.key]
        assert (line["title"], line["unit"], line["goal"]) == (goal.title, goal.unit, goal.goal)
        assert line["failed"] is None and line["damad"] is not None


def test_each_figure_stands_beside_its_yardsticks_with_the_ratio_and_its_spread(said: Any) -> None:
    lines = {line["key"]: line for line in said["lines"]}
    for goal in GOALS:
        compared = {each["yardstick"]: each for each in lines[goal.key]["compared"]}
        assert list(compared) == [against.yardstick for against in goal.against]
        for each in compared.values():
            assert each["figure"]["median"] > 0
            assert each["ratio"]["least"] <= each["ratio"]["median"] <= each["ratio"]["most"]


def test_a_bench_says_what_it_ran_on(said: Any) -> None:
    document = msgspec.json.decode(json.dumps(said), type=Document, strict=True)
    assert document.runs == 1 and document.postgres["fsync"] in ("on", "off")
    assert document.machine.keys() == {"cores", "load", "system", "python"}


def test_a_goal_is_not_judged_by_a_bench_that_is_too_small_for_it(said: Any) -> None:
    lines = {line["key"]: line for line in said["lines"]}
    assert lines["growth.append"]["short"] == "measured with 100 events, not 10,000,000"
    assert lines["growth.append"]["met"] is None


def test_what_changes_as_the_log_grows_is_measured_in_each_size_beside_a_new_one(said: Any) -> None:
    assert [curve["key"] for curve in said["curves"]] == ["growth.append", "growth.queue", "growth.drain"]
    lines = {line["key"]: line for line in said["lines"]}
    for curve in said["curves"]:
        assert [point["events"] for point in curve["points"]] == [100]
        assert curve["points"][-1]["damad"] == lines[curve["key"]]["damad"]


def test_growth_is_looked_for_from_ten_thousand_events_on() -> None:
    assert Sizes().grown == (10_000, 100_000, 1_000_000)
    assert Sizes(growth=7).events == 10_000_000
    assert Sizes(growth=2).grown == (100,)


@pytest.mark.usefixtures("said")
async def test_a_bench_leaves_no_process_no_folder_and_no_database(site: Site, template: str) -> None:
    await nothing_is_left(site, template)


async def nothing_is_left(site: Site, template: str) -> None:
    await site.quiet()
    assert list(site.state_dir.glob("bench-*")) == []
    connection = await asyncpg.connect(template)
    left = await connection.fetch("SELECT datname FROM pg_database WHERE datname LIKE 'damad_bench_%'")
    await connection.close()
    assert left == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_bench_that_is_stopped_leaves_nothing_behind_either(site: Site, template: str, number: int) -> None:
    async with site.command("bench", "waiting") as process, asyncio.timeout(PATIENCE):
        assert process.stderr is not None
        await process.stderr.readline()
        await until(lambda: any("runner.forkserver" in line for line in site.processes().values()))
        process.send_signal(number)
        assert await process.wait() == 130
    await nothing_is_left(site, template)


async def test_a_role_that_may_make_no_database_is_told_so(site: Site, template: str) -> None:
    await sql(template, "CREATE ROLE bench_stranger LOGIN")
    dsn = site.databases["local"].dsn.replace("//damad@", "//bench_stranger@")
    done = await site.damad("bench", "queue", DAMAD_PG_ENV_LOCAL_DSN=dsn)
    assert done.code == 2 and len(done.err.strip().splitlines()) == 1
    assert "may not make a database" in done.err


async def test_a_line_that_does_not_exist_is_refused(site: Site) -> None:
    done = await site.damad("bench", "nonsense")
    assert done.code == 2 and "no line begins with 'nonsense'" in done.err


async def test_a_log_of_more_events_than_anybody_waits_for_is_refused(site: Site) -> None:
    done = await site.damad("bench", "--growth", "9")
    assert done.code == 2 and "--growth is a number from 1 to 8" in done.err


def test_percentiles_are_samples_that_were_measured() -> None:
    assert [figures.percentile([4.0, 1.0, 3.0, 2.0], percent) for percent in (1, 50, 75, 99)] == [1.0, 2.0, 3.0, 4.0]


def test_ratios_are_taken_run_by_run() -> None:
    ratio = figures.ratio([1.0, 20.0, 3.0], [2.0, 10.0, 3.0])
    assert (ratio.median, ratio.least, ratio.most) == (1.0, 0.5, 2.0)
