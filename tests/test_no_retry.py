"""Who queues a task names the errors and exit codes for which it is not retried."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import Site, daemon_on, site_of

from damad.errors import InvalidInput
from damad.model import queue
from damad.model.event import SETTINGS_KEY
from damad.model.settings import decode, from_texts, parse

HEAD = "import os\n\nclass Mine(LookupError): pass\n\nasync def main():\n    "
GROUP = "raise ExceptionGroup('outer', [OSError(), ExceptionGroup('inner', [Mine()])])"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("no_retry"), template) as site, daemon_on(site):
        yield site
        await site.verified()


async def fails_at_once(site: Site, body: str, named: str | int, **settings: Any) -> None:
    outcome = await site.run(HEAD + body + "\n", no_retry=["ZeroDivisionError", named], retry_limit=5, **settings)
    assert outcome.events[-1].payload["reason"] == f"not retryable: {named} is in no_retry"
    assert outcome.task.attempt == 1


@pytest.mark.parametrize("run_in", ["process", "daemon"])
@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("raise Mine", "Mine"),
        ("raise Mine", "LookupError"),
        ("raise Mine", "builtins.LookupError"),
        (GROUP, "Mine"),
        ("raise SystemExit(7)", 7),
    ],
)
async def test_an_error_of_a_class_that_no_retry_names_fails_the_task_at_once(
    site: Site, run_in: str, body: str, named: str | int
) -> None:
    await fails_at_once(site, body, named, run_in=run_in)


async def test_an_exit_code_that_no_retry_names_fails_the_task_at_once(site: Site) -> None:
    await fails_at_once(site, "os._exit(7)", 7)


async def test_what_no_retry_does_not_name_is_retried(site: Site) -> None:
    given = {"no_retry": ["ValueError", 8], "retry_limit": 1, "retry_delay": 0.01}
    outcome = await site.run(HEAD + "os._exit(7)\n", **given)
    assert (outcome.state, outcome.task.attempt) == ("failed", 2)


async def test_the_flag_takes_names_and_codes_with_commas(site: Site) -> None:
    worker = site.worker(HEAD + "raise Mine\n")
    words = ("queue", worker, "--no-retry", "Mine, 7", "--retry-limit", "5", "--wait")
    assert (await site.damad(*words)).code == 1
    state = (await site.store().tasks(states=["failed"], limit=1))[0]
    (initial,) = await site.events(state.etl_context_id, ":INITIAL")
    assert decode((initial.meta or {})[SETTINGS_KEY]).no_retry == ("Mine", 7)


def test_no_retry_is_a_list_of_names_and_exit_codes_and_may_be_set_for_a_queue() -> None:
    assert from_texts({"no_retry": "ValueError, a.B,7"}) == {"no_retry": ["ValueError", "a.B", 7]}
    assert queue.parse({"no_retry": ["a.B", 7]}).settings == {"no_retry": ["a.B", 7]}
    assert decode({"worker": "x", "no_retry": "ValueError,7"}).no_retry == ("ValueError", 7)
    assert decode({"worker": "x", "no_retry": [None]}).no_retry == ()


@pytest.mark.parametrize("wrong", ["ValueError", [""], ["x" * 256], [-1], [256], [True], [1.5], [None], {}])
def test_a_no_retry_that_is_no_such_list_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse({"worker": "x", "no_retry": wrong})
    assert (refused.value.pointer or "").startswith("/no_retry")
