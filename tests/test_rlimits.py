"""What a task may take of its machine: the kernel keeps it, and the failure says which limit it was."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import Site, daemon_on, site_of
from node_support import needs_node, node, node_on_the_path
from worker_support import Outcome

from damad import queues
from damad.errors import InvalidInput
from damad.model.lifecycle import ENDED
from damad.model.settings import parse

MB = 1_000_000
LIMITS = {"memory_limit": "200MB", "cpu_limit": "1h", "open_files": 100}
LONG = 300.0
"""Seconds until some of CPU time are used, however many want the processor."""


@pytest_asyncio.fixture(
    scope="module", loop_scope="session", params=["true", "false"], ids=["forked", "started by itself"]
)
async def site(
    request: pytest.FixtureRequest, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    settings = {"DAMAD_FORK_SERVER": request.param, "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0"}
    folder = tmp_path_factory.mktemp("rlimits")
    with node_on_the_path() if node() is not None else nullcontext():
        async with site_of(folder, template, **settings) as site, daemon_on(site):
            yield site
            await site.verified()


async def failure(site: Site, source: str, suffix: str = ".py", **limits: Any) -> dict[str, Any]:
    """The error of a task whose worker is this text, and whose only attempt fails."""
    id_ = await site.queue(site.worker(source, f"w{abs(hash(source))}{suffix}"), **limits)
    state = await site.reaches(id_, *ENDED, within=LONG)
    return Outcome(id_, state.state, state, await site.events(id_)).error


async def test_the_process_and_those_that_it_starts_are_under_the_limits_when_its_file_is_loaded(site: Site) -> None:
    source = """
        import os, resource, subprocess, sys
        NAMES = ("RLIMIT_DATA", "RLIMIT_CPU", "RLIMIT_NOFILE")
        LOADED = [resource.getrlimit(getattr(resource, name))[0] for name in NAMES]
        SAYS = "import resource; print(*[resource.getrlimit(getattr(resource, name))[0] for name in %r])"

        def main():
            child = subprocess.run([sys.executable, "-c", SAYS % (NAMES,)], capture_output=True, check=True)
            return {"loaded": LOADED, "child": [int(word) for word in child.stdout.split()]}
    """
    outcome = await site.run(source, **LIMITS)
    assert outcome.result == {who: [200 * MB, 3600, 100] for who in ("loaded", "child")}


@pytest.mark.parametrize(
    "take",
    [
        "taken = bytearray(300_000_000)",
        "taken = []\n    while True:\n        taken.append(bytes(1000))",
        "raise ExceptionGroup('of two', [ValueError(), MemoryError()])",
    ],
    ids=["at once", "bit by bit", "in a group"],
)
async def test_more_memory_is_not_given_and_the_failure_is_an_oom_that_names_the_limit(site: Site, take: str) -> None:
    error = await failure(site, f"def main():\n    {take}\n", memory_limit="200MB")
    assert (error["kind"], error["exit_code"]) == ("oom", 101)
    assert "(the memory_limit is 200000000 bytes)" in error["message"]
    assert "MemoryError" in error["traceback"]


async def test_it_counts_while_the_file_is_loaded_too(site: Site) -> None:
    error = await failure(site, "TAKEN = bytearray(300_000_000)\n\ndef main(): ...\n", memory_limit="200MB")
    assert error["kind"] == "oom" and "memory_limit is 200000000" in error["message"]


async def test_without_a_limit_a_memory_error_is_an_exception_as_any(site: Site) -> None:
    error = await failure(site, "def main():\n    raise MemoryError('of my own')\n")
    assert (error["kind"], error["message"]) == ("exception", "MemoryError: of my own")


async def test_a_program_that_dies_for_want_of_memory_has_the_limit_in_its_failure(site: Site) -> None:
    error = await failure(site, "import os\n\ndef main():\n    os.abort()\n", memory_limit="200MB")
    assert (error["kind"], error["signal"]) == ("signal", 6)
    assert "its memory_limit is 200000000 bytes" in error["message"]


async def test_cpu_time_beyond_the_limit_ends_the_process_and_the_kind_says_so(site: Site) -> None:
    error = await failure(site, "def main():\n    while True: pass\n", cpu_limit="1s")
    assert (error["kind"], error["signal"]) == ("cpu_limit", 24)
    assert error["message"] == "the attempt used more CPU time than its cpu_limit (1 s)"


async def test_one_that_does_not_heed_that_is_killed(site: Site) -> None:
    source = "import signal\n\ndef main():\n    signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n    while True: pass\n"
    error = await failure(site, source, cpu_limit="2s")  # of which the process may need a part to come to its main
    assert (error["kind"], error["signal"]) == ("cpu_limit", 9)


async def test_a_kill_that_comes_before_is_no_matter_of_the_limit(site: Site) -> None:
    error = await failure(site, "import os\n\ndef main():\n    os.kill(os.getpid(), 9)\n", cpu_limit="1h")
    assert (error["kind"], error["signal"]) == ("signal", 9)


async def test_more_files_are_not_opened_and_the_failure_names_the_limit(site: Site) -> None:
    source = "def main():\n    files = [open('/dev/null') for _ in range(200)]\n"
    error = await failure(site, source, open_files=100)
    assert (error["kind"], error["type"]) == ("exception", "OSError")
    assert "Too many open files" in error["message"] and error["message"].endswith("(open_files is 100)")


async def test_who_has_taken_all_that_it_may_can_still_say_what_became_of_it(site: Site) -> None:
    """Without a fork server that takes a connection to Postgres, of which there is none yet."""
    source = """
        TAKEN = []

        def main():
            try:
                while True:
                    TAKEN.append(open("/dev/null"))
            except OSError:
                files = len(TAKEN)
            try:
                while True:
                    TAKEN.append(bytes(10_000))
            except MemoryError:
                return {"files": files > 20, "pieces": len(TAKEN) > files}
    """
    outcome = await site.run(source, memory_limit="200MB", open_files=100)
    assert outcome.result == {"files": True, "pieces": True}


@needs_node
@pytest.mark.parametrize(
    ("body", "limit", "kind", "says"),
    [
        ("new ArrayBuffer(3e9)", {"memory_limit": "900MB"}, "oom", "the memory_limit is 900000000"),
        ("while (true);", {"cpu_limit": 1}, "cpu_limit", "its cpu_limit (1 s)"),
        (
            "const fs = await import('node:fs'); while (true) fs.openSync('/dev/null')",
            {"open_files": 100},
            "exception",
            "(open_files is 100)",
        ),
    ],
    ids=["memory", "cpu", "files"],
)
async def test_node_is_under_the_limits_too(site: Site, body: str, limit: dict[str, Any], kind: str, says: str) -> None:
    error = await failure(site, f"export default async function main() {{ {body} }}\n", ".mjs", **limit)
    assert error["kind"] == kind and says in error["message"], error


@pytest.mark.parametrize("name", LIMITS)
def test_without_a_process_there_is_nothing_to_keep_a_limit_in(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} is for a process") as refused:
        parse({"worker": "x", name: LIMITS[name], "run_in": "daemon"}, pointer="/0")
    assert refused.value.pointer == f"/0/{name}"


async def test_a_queue_that_runs_in_the_daemon_refuses_it_at_once(site: Site) -> None:
    with site.here():
        await queues.change("inside", {"run_in": "daemon"})
        with pytest.raises(InvalidInput, match="cpu_limit"):
            await queues.change("inside", {"cpu_limit": "1m"})
        await queues.change("outside", {"cpu_limit": "1m"})
        with pytest.raises(InvalidInput, match="cpu_limit"):
            await queues.change("outside", {"run_in": "daemon"})
    worker = site.worker("async def main():\n    return {}\n")
    with pytest.raises(InvalidInput, match="open_files is for a process"):
        await site.queue(worker, queue="inside", open_files=100)
    await site.ended(await site.queue(worker, queue="inside", run_in="process", open_files=100))


async def test_one_that_came_in_another_way_fails_and_says_why(site: Site) -> None:
    worker = site.worker("async def main():\n    return {}\n")
    statement = f"""SELECT data_manager.queue_task('{worker}', NULL, '{{"run_in": "daemon", "memory_limit": "1GB"}}')"""
    async with site.store().database.connection() as connection:
        id_ = await connection.fetchval(statement)
    state = await site.ended(id_)
    assert state.state == "failed" and "has a memory_limit, and this queue runs in the daemon" in state.error["message"]


def test_what_damad_needs_to_come_to_an_end_is_there_after_main() -> None:
    said = """
from resource import RLIMIT_CPU, RLIMIT_DATA, RLIMIT_NOFILE, getrlimit
from damad.model.settings import TaskSettings
from damad.runner.limits import Kept

with Kept(TaskSettings(worker="x", memory_limit=200_000_000, cpu_limit=10.5, open_files=100)):
    print(*[getrlimit(which)[0] for which in (RLIMIT_DATA, RLIMIT_CPU, RLIMIT_NOFILE)])
print(*[getrlimit(which)[0] for which in (RLIMIT_DATA, RLIMIT_CPU, RLIMIT_NOFILE)])
"""
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == f"{200 * MB} 11 100\n{264 * MB} 13 116\n"


def test_a_limit_that_is_there_already_is_not_lifted() -> None:
    said = """
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from damad.model.settings import TaskSettings
from damad.runner.limits import Kept

setrlimit(RLIMIT_NOFILE, (80, 90))
with Kept(TaskSettings(worker="x", open_files=100)):
    print(*getrlimit(RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "90 90\n"
