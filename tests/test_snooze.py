"""A worker that cannot do its work yet hands the task back until later, and nothing is burnt."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
import pytest_asyncio
from daemon_support import Site, daemon_on, site_of

HEAD = "import asyncio\nfrom damad import context, errors, events, tasks\n\nasync def main():\n"
THREE = """
print("tried", context.current().attempt)
if len([event for event in await events.read() if event["type"] == "dama/task:STARTED"]) < 3:
    raise tasks.snooze(0.2)
return {"done": True}
"""
GROUP = "raise ExceptionGroup('outer', [ValueError(), ExceptionGroup('inner', [KeyError(), {}])])"
SPAWNED = "async with asyncio.TaskGroup() as group:\n    group.create_task(asyncio.to_thread(tasks.snooze, 3600))"

in_both = pytest.mark.parametrize("run_in", ["process", "daemon"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("snooze"), template) as site, daemon_on(site):
        yield site
        await site.verified()


def main_of(body: str) -> str:
    return HEAD + "".join(f"    {line}\n" for line in body.splitlines())


@in_both
async def test_a_snooze_costs_no_retry_and_the_task_runs_again_then(site: Site, run_in: str) -> None:
    outcome = await site.run(main_of(THREE), retry_limit=0, run_in=run_in)
    assert outcome.result == {"done": True}
    run = ["CLAIMED", "STARTED"]
    assert await site.types(outcome.id) == [":INITIAL", *run, "RELEASED", *run, "RELEASED", *run, ":FINAL"]
    released = await site.events(outcome.id, "dama/task:RELEASED")
    claimed = await site.events(outcome.id, "dama/task:CLAIMED")
    for given_back, again in zip(released, claimed[1:], strict=True):
        assert given_back.payload["reason"] == "snoozed"
        assert datetime.fromisoformat(given_back.payload["run_at"]) <= again.created_timestamp


@in_both
async def test_a_run_that_was_snoozed_keeps_its_number_and_its_log(site: Site, run_in: str) -> None:
    outcome = await site.run(main_of(THREE), run_in=run_in)
    started = await site.events(outcome.id, "dama/task:STARTED")
    assert [event.payload["attempt"] for event in started] == [1, 1, 1]
    assert outcome.task.attempt == 1
    assert (await site.log(outcome.id)).split("\n")[:3] == ["tried 1"] * 3


async def test_the_retry_after_a_snooze_is_the_next_attempt(site: Site) -> None:
    body = THREE.replace("return {", "if context.current().attempt == 1:\n    raise KeyError\nreturn {")
    outcome = await site.run(main_of(body), retry_delay=0.01)
    started = await site.events(outcome.id, "dama/task:STARTED")
    assert [event.payload["attempt"] for event in started] == [1, 1, 1, 2]
    (failed,) = await site.events(outcome.id, "dama/task:ERROR")
    assert failed.payload["attempt"] == 1


@in_both
@pytest.mark.parametrize(
    "body",
    [
        "tasks.snooze('1h')",
        SPAWNED,
        GROUP.format("errors.Snooze(3600)"),
        "raise type('Mine', (errors.Snooze,), {})(3600)",
    ],
)
async def test_a_snooze_says_when_wherever_it_is_raised(site: Site, run_in: str, body: str) -> None:
    id_ = await site.queue(site.worker(main_of(body)), retry_limit=0, run_in=run_in)
    released = await site.event(id_, "dama/task:RELEASED")
    state = await site.state(id_)
    assert (state.state, state.attempt, state.error) == ("scheduled", 1, None)
    counted = await site.store().assignment(id_)
    assert (counted.errors, counted.crashes) == (0, 0)
    assert abs(state.run_at - released.created_timestamp - timedelta(hours=1)) < timedelta(minutes=5)
    await site.cancel(id_)


@in_both
async def test_what_is_of_no_use_is_not_put_off(site: Site, run_in: str) -> None:
    body = "raise ExceptionGroup('both', [errors.Snooze(0.01), errors.NoRetry('no use')])"
    outcome = await site.run(main_of(body), retry_limit=5, run_in=run_in)
    assert "no use" in outcome.error["traceback"]


@in_both
async def test_a_snooze_that_does_not_say_until_when_is_a_failure(site: Site, run_in: str) -> None:
    outcome = await site.run(main_of("raise tasks.snooze('soon')"), retry_limit=0, run_in=run_in)
    assert (outcome.error["kind"], outcome.error["type"]) == ("exception", "Snooze")


async def test_on_a_terminal_a_snoozed_task_runs_to_its_end(site: Site) -> None:
    done = await site.damad("run", site.worker(main_of(THREE)))
    assert done.json == {"done": True}
