"""The log of an attempt: what a worker prints, in one file, however much it is."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, site_of

LOG_LIMIT = 200_000


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    settings = {"DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0", "DAMAD_LOG_LIMIT": str(LOG_LIMIT)}
    async with site_of(tmp_path_factory.mktemp("logs"), template, **settings) as site, daemon_on(site) as daemon:
        yield daemon


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


async def test_stdout_and_stderr_go_to_one_file_an_attempt_in_the_order_they_came(site: Site) -> None:
    source = """
        import os, subprocess, sys

        def main():
            attempt = os.environ["DAMAD_ATTEMPT"]
            print("one of", attempt, flush=True)
            print("two of", attempt, file=sys.stderr, flush=True)
            subprocess.run(["echo", "three of", attempt])
            os.write(2, b"four\\n")
            print("five")
            if attempt == "1":
                raise ValueError("said in the log too")
            return {}
    """
    outcome = await site.run(source, retry_limit=1, retry_delay="10ms")
    first, second = await site.log(outcome.id, 1), await site.log(outcome.id, 2)
    assert second.splitlines() == ["one of 2", "two of 2", "three of 2", "four", "five"]
    assert first.startswith("one of 1\ntwo of 1\nthree of 1\nfour\n")
    assert "said in the log too" in first
    assert await site.log(outcome.id) == second


async def test_what_was_printed_last_is_there_however_the_worker_died(site: Site) -> None:
    source = """
        import os

        def main():
            print("one")
            print("two")
            os.kill(os.getpid(), 9)
    """
    outcome = await site.run(source)
    assert await site.log(outcome.id) == "one\ntwo\n"


async def test_the_contexts_logger_writes_there(site: Site) -> None:
    source = "from damad import context\n\ndef main():\n    context.current().logger.info('heard')\n    return {}\n"
    assert "heard" in await site.log((await site.run(source)).id)


@pytest.mark.parametrize("megabytes", [1, 300])
async def test_a_log_over_its_limit_keeps_head_and_tail_with_a_mark_between(
    daemon: Daemon, site: Site, megabytes: int
) -> None:
    source = """
        import os

        def main(event):
            print("the first line", flush=True)
            for _ in range(event["payload"]):
                os.write(1, (b"x" * 99 + b"\\n") * 10_000)
            print("the last line", flush=True)
            return {}
    """
    outcome = await site.run(source, megabytes)
    assert outcome.state == "done"
    await daemon.quiet()
    log = await site.log(outcome.id)
    assert len(log) <= LOG_LIMIT
    assert log.startswith("the first line\n")
    assert log.endswith("the last line\n")
    assert "was dropped here" in log


async def test_a_worker_that_prints_while_it_is_cut_loses_only_the_middle(daemon: Daemon, site: Site) -> None:
    source = """
        import sys

        def main():
            for n in range(200_000):
                print(n)
            return {}
    """
    outcome = await site.run(source)
    await daemon.quiet()
    log = await site.log(outcome.id)
    head, _, tail = log.partition("[damad: ")
    numbers = [int(line) for line in head.splitlines()[:-1]]
    assert numbers == list(range(len(numbers)))
    last = [int(line) for line in tail.splitlines()[2:]]
    assert last == list(range(200_000 - len(last), 200_000))


async def test_logs_belong_to_the_owner_alone(site: Site) -> None:
    outcome = await site.run("def main():\n    print('mine')\n    return {}\n")
    assert await site.log(outcome.id) == "mine\n"
    logs = site.state_dir / "logs"
    for path in (logs, *(path for path in logs.rglob("*") if path.is_file())):
        assert path.stat().st_mode & 0o077 == 0, path
