"""Schemathesis reads /openapi.json and asks a daemon what it allows, and much that it does not: all checks are green.

The same requests in each run: examples are drawn from a fixed seed, and the log is a fresh one.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from daemon_support import PG_ENV, Daemon, site_of
from postgres_support import make_template

from damad.eventstore.embedded import EmbeddedPostgres

PATIENCE = 1000.0
"""Seconds for a run of half a minute, however busy the machine is."""

CONFIG = """
[parameters]
"path.pg_env" = "{pg_env}"
"path.id" = {id}
"query.etl_context_id" = {id}
"query.etlContextId" = {id}
"query.timeout" = "1ms"
"query.wait" = "1ms"
[[operations]]
include-path = "/v1/{{pg_env}}/contexts/{{id}}/events"
include-method = "GET"
checks.negative_data_rejection.expected-statuses = ["2xx", "304", "4xx"]
[[operations]]
include-path-regex = "/queues/"
parameters = {{ "path.name" = "slow" }}
[[operations]]
include-path-regex = "/schedules/"
parameters = {{ "path.name" = "nightly" }}
"""
"""What is there to be asked about. A wait is one that ends. One check asks less of one operation: `?type=:A` is
an array of one text to damad, and a text where an array should be to Schemathesis."""

# What a schema cannot say: which files are workers, what a cursor is, which sources exist, what a cron may be.
UNSAYABLE = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "304", "404", "409", "412", "422"]
"""
# Without Postgres it is 503, or what is refused before it is asked. Which of the two comes first is not promised, so
# the check that wrong data is refused is left out there.
AWAY = """
[checks]
positive_data_acceptance.expected-statuses = ["422", "503"]
not_a_server_error.expected-statuses = ["4xx", "503"]
"""


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    own = EmbeddedPostgres(tmp_path / "pg")
    own.join()
    yield own
    own.leave()


@pytest_asyncio.fixture
async def daemon(postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon on a Postgres of its own, with a task and some names in its log."""
    await make_template(postgres.dsn)
    async with site_of(tmp_path, postgres.dsn) as site:
        site.worker("def main():\n    return {}\n", "hello.py")
        daemon = Daemon(site)
        await daemon.start()
        yield daemon
        assert await daemon.stop() == 0, daemon.log


async def prepared(daemon: Daemon) -> int:
    """Makes what the configuration names: a queue, a schedule, and a task that is not due, whose id it returns."""
    token = (daemon.site.state_dir / "token").read_text().strip()
    root, headers = f"{daemon.url}/v1/{PG_ENV}", {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as client:
        async with client.patch(f"{root}/queues/slow", json={"concurrency": 1}) as answer:
            assert answer.status == 200
        schedule = {"name": "nightly", "cron": "@yearly", "worker": "hello.py", "paused": True}
        async with client.post(f"{root}/schedules", json=schedule) as answer:
            assert answer.status == 201
        async with client.post(f"{root}/tasks", json={"worker": "hello.py", "start_after": "9h"}) as answer:
            return (await answer.json())["etl_context_id"]


async def schemathesis(daemon: Daemon, config: str, id_: int, *options: str) -> str:
    """Runs it with all checks, and returns what it printed. It found nothing."""
    folder = daemon.site.folder / "schemathesis"
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(CONFIG.format(pg_env=PG_ENV, id=id_) + config)
    token = (daemon.site.state_dir / "token").read_text().strip()
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("st"), "run", f"{daemon.url}/openapi.json", "--checks", "all", "--no-color",
        "--seed", "1", "--generation-deterministic", "--request-timeout", "60", "--suppress-health-check", "all",
        "-H", f"Authorization: Bearer {token}", *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=folder,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    return printed


@pytest.mark.answered("503 is none of the answers that it takes: a statement that is not sent again has it then")
async def test_whatever_the_description_allows_is_answered_as_it_says(daemon: Daemon) -> None:
    id_ = await prepared(daemon)
    printed = await schemathesis(daemon, UNSAYABLE, id_, "--phases", "coverage,fuzzing", "--max-examples", "3")
    assert _tested(printed) == await _operations(daemon)
    assert "Traceback" not in daemon.log, daemon.log
    await daemon.site.verified()


async def test_without_postgres_whatever_is_asked_is_503_or_refused(daemon: Daemon, postgres: EmbeddedPostgres) -> None:
    id_ = await prepared(daemon)
    await asyncio.to_thread(postgres.leave)
    try:
        printed = await schemathesis(
            daemon, AWAY, id_, "--phases", "fuzzing", "--max-examples", "3", "--workers", "4",
            "--include-path-regex", "pg_env", "--exclude-checks", "negative_data_rejection",
        )  # fmt: skip
    finally:
        await asyncio.to_thread(postgres.join)
    assert _tested(printed) > 20
    assert "Traceback" not in daemon.log, daemon.log


def _tested(printed: str) -> int:
    """How many operations were tested."""
    found = re.search(r"Tested: (\d+)", printed)
    assert found, printed
    return int(found[1])


async def _operations(daemon: Daemon) -> int:
    """How many there are."""
    async with aiohttp.ClientSession() as client, client.get(f"{daemon.url}/openapi.json") as answer:
        return sum(len(methods) for methods in (await answer.json())["paths"].values())
