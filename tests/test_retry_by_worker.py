"""What a worker says about trying again counts wherever it raises it: in a subclass, a thread, a group."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from daemon_support import Site, daemon_on, site_of

HEAD = "import asyncio\nfrom damad import errors, tasks\n\nasync def main():\n"
GROUP = "raise ExceptionGroup('outer', [ValueError(), ExceptionGroup('inner', [KeyError(), {}])])"
NO_RETRY = ("tasks.NoRetry('no use')", "type('Mine', (tasks.NoRetry,), {})('no use')")
SPAWNED = "async with asyncio.TaskGroup() as group:\n    group.create_task(asyncio.to_thread(tasks.retry_in, 3600))"

in_both = pytest.mark.parametrize("run_in", ["process", "daemon"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("again"), template) as site, daemon_on(site):
        yield site
        await site.verified()


def main_of(body: str) -> str:
    return HEAD + "".join(f"    {line}\n" for line in body.splitlines())


@in_both
@pytest.mark.parametrize("body", [f"raise {raised}" for raised in NO_RETRY] + [GROUP.format(NO_RETRY[0])])
async def test_no_retry_fails_at_once(site: Site, run_in: str, body: str) -> None:
    outcome = await site.run(main_of(body), retry_limit=5, run_in=run_in)
    assert "no use" in outcome.error["traceback"]
    assert outcome.task.attempt == 1


@in_both
@pytest.mark.parametrize(
    "body",
    [
        "tasks.retry_in(3600)",
        "tasks.retry_in('1h')",
        "await asyncio.to_thread(tasks.retry_in, 3600)",
        SPAWNED,
        GROUP.format("errors.RetryIn(3600)"),
        "raise type('Mine', (errors.RetryIn,), {})(3600)",
    ],
)
async def test_retry_in_says_when(site: Site, run_in: str, body: str) -> None:
    id_ = await site.queue(site.worker(main_of(body)), retry_limit=1, retry_delay=1, run_in=run_in)
    state = await site.reaches(id_, "retrying")
    (error,) = await site.events(id_, "dama/task:ERROR")
    assert abs(state.run_at - error.created_timestamp - timedelta(hours=1)) < timedelta(minutes=5)
    await site.cancel(id_)


@in_both
@pytest.mark.parametrize("seconds", ["pass", "seconds = 'soon'", "seconds = property(lambda self: 1 / 0)"])
async def test_one_that_does_not_say_when_failed_like_any_other(site: Site, run_in: str, seconds: str) -> None:
    mine = f"class Mine(errors.RetryIn):\n    {seconds}\n    def __init__(self): pass\nraise Mine"
    outcome = await site.run(main_of(mine), retry_limit=0, run_in=run_in)
    assert (outcome.error["kind"], outcome.error["type"]) == ("exception", "Mine")
