"""`damad.testing`: a worker is run in the process of its test, on a Postgres that is thrown away."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from node_support import needs_node, node_on_the_path

from damad import events, tasks
from damad.errors import IllegalTransition, InvalidInput, InvalidWorker
from damad.testing.trials import Trials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where workers lie."""
    folder = tmp_path / "workers"
    folder.mkdir(mode=0o755)
    return folder


def write(folder: Path, source: str, name: str = "worker.py") -> Path:
    path = folder / name
    path.write_text(dedent(source))
    return path


@pytest.mark.parametrize("form", ["def", "async def"])
def test_a_worker_runs_in_this_process_under_a_real_claim(damad: Trials, folder: Path, form: str) -> None:
    source = f"import os\n{form} main(event):\n    return {{'pid': os.getpid(), 'n': event['payload']}}\n"
    trial = damad.run_worker(write(folder, source), 7)
    assert trial.result == {"pid": os.getpid(), "n": 7}
    assert [event.type for event in trial.events] == [
        ":INITIAL", "dama/task:CLAIMED", "dama/task:STARTED", ":FINAL",
    ]  # fmt: skip
    assert (trial.state.state, trial.state.attempt, trial.etl_context_id) == ("done", 1, 1)


@pytest.mark.parametrize("form", ["def", "async def"])
async def test_a_test_that_has_a_loop_can_run_workers_too(damad: Trials, folder: Path, form: str) -> None:
    trial = damad.run_worker(write(folder, f"{form} main():\n    return {{}}\n"))
    assert trial.result == {}
    with damad.here(trial.etl_context_id):
        assert [event["type"] for event in await events.read()][-1] == ":FINAL"


def test_its_events_and_its_rows_can_be_asserted(damad: Trials, folder: Path) -> None:
    source = """
        from damad import events

        async def main(event):
            async with events.transaction() as db:
                await db.execute("CREATE TABLE rows AS SELECT 1 AS n")
                await events.dispatch({"type": "x:MADE", "payload": {"rows": 1}})
            await events.dispatch({"type": "x:SAID"})
            return {"rows": await (await __import__("asyncpg").connect(event["payload"])).fetchval("TABLE rows")}
    """
    trial = damad.run_worker(write(folder, source), damad.dsn)
    trial.assert_events("x:MADE", "x:SAID", ":FINAL")
    assert (trial.payloads("x:MADE"), trial.result) == ([{"rows": 1}], {"rows": 1})
    with pytest.raises(AssertionError, match="x:MADE"):
        trial.assert_events(":FINAL")


def test_a_failure_is_shown_where_a_result_was_expected(damad: Trials, folder: Path) -> None:
    trial = damad.run_worker(write(folder, "def main(event):\n    raise ValueError('seven')\n"))
    assert (trial.state.state, trial.error["kind"], trial.error["message"]) == (
        "failed",
        "exception",
        "ValueError: seven",
    )
    with pytest.raises(AssertionError, match=r"(?s)worker\.py.*ValueError: seven"):
        _ = trial.result
    done = damad.run_worker(write(folder, "def main():\n    return {}\n"))
    with pytest.raises(AssertionError, match="done"):
        _ = done.error


def test_the_next_attempt_has_what_the_one_before_recorded(damad: Trials, folder: Path) -> None:
    source = """
        from damad import context, tasks

        async def main(event):
            first = await tasks.step("who", lambda: context.current().attempt)
            if context.current().attempt < event["payload"]:
                raise ValueError("not yet")
            return {"first": first}
    """
    worker = write(folder, source)
    failed = damad.run_worker(worker, 2)
    assert failed.state.state == "failed"
    assert damad.run_again(failed).result == {"first": 1}
    retrying = damad.run_worker(worker, 2, retry_limit=1, retry_delay=3600)
    assert (retrying.state.state, retrying.error["kind"]) == ("retrying", "exception")
    assert damad.run_again(retrying).result == {"first": 1}


def test_subtasks_run_too_and_are_tried_again(damad: Trials, folder: Path) -> None:
    write(folder, """
        from damad import context

        def main(event):
            if event["payload"] == 2 and context.current().attempt == 1:
                raise ValueError("two fails once")
            return {"n": event["payload"]}
    """, "child.py")  # fmt: skip
    write(folder, "N = 4", "beside.py")
    parent = write(folder, """
        from damad import tasks

        async def main():
            children = [await tasks.subtask(f"number {n}", worker="child.py", payload=n) for n in (1, 2, 3)]
            results = await tasks.gather(*children)
            import beside
            return {"children": results, "beside": beside.N}
    """, "parent.py")  # fmt: skip
    assert damad.run_worker(parent).result == {"children": [{"n": 1}, {"n": 2}, {"n": 3}], "beside": 4}


@pytest.mark.parametrize(("wait_in_process", "runs"), [(5.0, 1), (0, 2)])
def test_main_runs_again_after_a_wait_for_subtasks_that_was_longer_than_its_process(
    damad: Trials, folder: Path, wait_in_process: float, runs: int
) -> None:
    write(folder, "def main():\n    return {}\n", "child.py")
    parent = write(folder, """
        from damad import events, tasks

        async def main():
            await events.dispatch({"type": "x:BEGUN"})
            child = await tasks.subtask("only", worker="child.py")
            return {"children": await tasks.gather(child)}
    """, "parent.py")  # fmt: skip
    damad.wait_in_process = wait_in_process
    trial = damad.run_worker(parent)
    assert trial.result == {"children": [{}]}
    assert (len(trial.payloads("x:BEGUN")), trial.state.attempt) == (runs, 1)


def test_a_worker_that_waits_goes_on_once_the_test_said_what_it_waits_for(damad: Trials, folder: Path) -> None:
    source = """
        from damad import tasks

        async def main():
            return {"by": (await tasks.wait_for(":APPROVED"))["payload"]}
    """
    damad.wait_in_process = 0
    trial = damad.run_worker(write(folder, source))
    assert trial.state.state == "waiting"
    with pytest.raises(IllegalTransition):
        damad.run_again(trial)
    with damad.here(trial.etl_context_id):
        events.dispatch_sync({"type": ":APPROVED", "payload": "me"})
    assert damad.run_again(trial).result == {"by": "me"}


def test_what_lies_beside_a_worker_is_imported_anew_by_the_next(damad: Trials, tmp_path: Path) -> None:
    path = list(sys.path)
    for n in (1, 2):
        folder = tmp_path / f"workers_{n}"
        folder.mkdir(mode=0o755)
        write(folder, f"N = {n}", "beside.py")
        worker = write(folder, "import beside\n\ndef main():\n    return {'n': beside.N}\n")
        assert damad.run_worker(worker).result == {"n": n}
    assert sys.path == path and "beside" not in sys.modules


def test_what_could_not_be_queued_is_refused_here_too(damad: Trials, folder: Path) -> None:
    worker = write(folder, "def main():\n    return {}\n")
    with pytest.raises(InvalidInput):
        damad.run_worker(worker, retry_limit=-1)
    with pytest.raises(InvalidWorker):
        damad.run_worker(folder / "vanished.py")


@needs_node
def test_a_worker_on_node_runs_too_and_its_end_ends_no_test(damad: Trials, folder: Path) -> None:
    with node_on_the_path():
        worker = write(folder, "export default (event) => process.exit(event.payload);", "ends.mjs")
        trial = damad.run_worker(worker, 7)
    assert (trial.error["kind"], trial.error["exit_code"]) == ("exit", 7)


async def test_each_test_has_a_database_of_its_own(damad: Trials) -> None:
    with damad.here():
        assert await events.create_context() == 1
        with pytest.raises(InvalidWorker):
            await tasks.queue("nothing.py")


def test_pytest_finds_the_fixture_and_damad_costs_nothing_until_it_is_asked_for(tmp_path: Path) -> None:
    source = """
        import sys

        def test_first():
            assert "damad.testing.plugin" in sys.modules
            assert not {"asyncpg", "msgspec", "damad.context"} & sys.modules.keys()

        def test_second(damad, tmp_path):
            worker = tmp_path / "worker.py"
            worker.write_text("async def main():\\n    return {'n': 1}\\n")
            assert damad.run_worker(worker).result == {"n": 1}
    """
    write(tmp_path, source, "test_mine.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:hypothesispytest", "--basetemp", "t"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
