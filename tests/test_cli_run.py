"""`damad run`: one task on this terminal, without any daemon."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import SOON, Daemon, Site, gone, kill, site_of

from damad import processes


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("run"), template, DAMAD_GRACE="500ms") as site:
        site.worker("def main(event):\n    print('printed')\n    return {'got': event['payload']}\n", "echo.py")
        yield site
        await site.quiet()
        await site.verified()


async def only_task(site: Site) -> int:
    """The id of the newest task."""
    return (await site.store().tasks(limit=1))[0].etl_context_id


async def test_the_result_is_on_stdout_and_what_the_worker_printed_on_stderr(site: Site) -> None:
    done = await site.damad("run", "echo.py", "--payload", '{"n": 1}')
    assert (done.code, done.json) == (0, {"got": {"n": 1}})
    assert done.out.count("\n") == 1
    assert "printed" in done.err
    assert await site.types(await only_task(site)) == [":INITIAL", "CLAIMED", "STARTED", ":FINAL"]


@pytest.mark.parametrize(
    ("body", "says"),
    [("raise ValueError('seven')", "ValueError: seven"), ("return None", "no_final"), ("os._exit(7)", "exit code 7"),
     ("os.kill(os.getpid(), 9)", "signal 9"), ("raise SystemExit(0)", "SystemExit")],
)  # fmt: skip
async def test_a_failure_is_on_stderr_and_ends_with_1_and_is_not_retried(site: Site, body: str, says: str) -> None:
    done = await site.damad("run", site.worker(f"import os\n\ndef main():\n    {body}\n"))
    assert (done.code, done.out) == (1, "")
    assert says in done.err
    state = await site.state(await only_task(site))
    assert (state.state, state.attempt) == ("failed", 1)


async def test_it_is_retried_if_that_is_asked(site: Site) -> None:
    worker = site.worker("import os\n\ndef main():\n    1 / (int(os.environ['DAMAD_ATTEMPT']) - 1)\n    return {}\n")
    done = await site.damad("run", worker, "--retry-limit", "1", "--retry-delay", "10ms")
    assert (done.code, done.json) == (0, {})


async def test_a_cancelled_run_ends_with_2(site: Site) -> None:
    with site.gate() as gate:
        payload = json.dumps({"gate": str(gate.path)})
        async with site.command("run", "hold.py", "--payload", payload) as command, asyncio.timeout(SOON):
            id_ = await here(site)
            await site.cancel(id_)
            out, err = await command.communicate()
    assert (command.returncode, out) == (2, b"")
    assert b"cancelled" in err


async def here(site: Site) -> int:
    """The id of the task that runs, once it does."""
    while True:
        running = await site.store().tasks(states=["running"], limit=1)
        if running:
            await site.event(running[0].etl_context_id, ":HERE")
            return running[0].etl_context_id


async def test_ctrl_c_is_heard_by_the_worker_which_says_how_it_ended(site: Site) -> None:
    with site.gate() as gate:
        payload = json.dumps({"gate": str(gate.path)})
        async with site.command("run", "hold.py", "--payload", payload) as command, asyncio.timeout(SOON):
            worker = await site.process(await here(site))
            os.kill(command.pid, signal.SIGINT)
            processes.send(worker, signal.SIGINT)
            out, err = await command.communicate()
    assert (command.returncode, out) == (1, b"")
    assert b"KeyboardInterrupt" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("body", "state"), [("raise ValueError('seven')", "retrying"), ("raise tasks.snooze('1h')", "scheduled")]
)
async def test_who_leaves_while_the_task_is_put_off_is_gone_at_once_and_told_how_to_take_it_up_again(
    site: Site, body: str, state: str, number: int
) -> None:
    worker = site.worker(f"from damad import tasks\n\ndef main():\n    {body}\n")
    words = ["run", worker, "--retry-limit", "3", "--retry-delay", "1h"]
    async with site.command(*words) as command, asyncio.timeout(SOON):
        id_ = await newest_of(site, worker)
        await site.reaches(id_, state)
        os.kill(command.pid, number)
        out, err = await command.communicate()
    assert (command.returncode, out) == (2, b"")
    *_, last = err.decode().splitlines()
    assert last == (f"damad: task {id_} is {state}; damad run --context {id_} takes it up again, and so does a daemon")
    assert err.count(b"Traceback") == (1 if state == "retrying" else 0)
    assert (await site.state(id_)).state == state
    (site.workers / worker).write_text("def main():\n    return {'n': 2}\n")
    done = await site.damad("run", "--context", str(id_))
    assert (done.code, done.json) == (0, {"n": 2})


async def newest_of(site: Site, worker: str) -> int:
    """The id of the task of a worker, once it is queued."""
    while True:
        if ids := [task.etl_context_id for task in await site.store().tasks(limit=5) if task.worker == worker]:
            return ids[0]


async def test_whose_worker_was_interrupted_does_not_see_it_start_again(site: Site) -> None:
    with site.gate() as gate:
        payload = json.dumps({"gate": str(gate.path)})
        words = ["run", "hold.py", "--payload", payload, "--retry-limit", "3", "--retry-delay", "500ms"]
        async with site.command(*words) as command, asyncio.timeout(SOON):
            id_ = await here(site)
            os.kill(command.pid, signal.SIGINT)
            processes.send(await site.process(id_), signal.SIGINT)
            out, err = await command.communicate()
        assert (command.returncode, out) == (2, b"")
        assert err.decode().splitlines()[-1].startswith(f"damad: task {id_} is retrying; ")
        assert (await site.types(id_)).count("STARTED") == 1
        await site.cancel(id_)


@pytest.mark.parametrize("ignores", [False, True])
async def test_terminated_it_ends_the_worker_and_says_how_it_ended(site: Site, ignores: bool) -> None:
    source = """
        import signal, time
        from damad import events

        def main(event):
            if event["payload"]["ignores"]:
                signal.signal(signal.SIGTERM, lambda *_: events.dispatch_sync({"type": ":ASKED"}))
            events.dispatch_sync({"type": ":HERE"})
            while True:
                time.sleep(3600)
    """
    payload = json.dumps({"ignores": ignores})
    async with site.command("run", site.worker(source), "--payload", payload) as command, asyncio.timeout(SOON):
        id_ = await here(site)
        command.terminate()
        if ignores:
            await site.event(id_, ":ASKED")
            command.terminate()
        await command.communicate()
    assert command.returncode == 1
    assert (await site.state(id_)).error["signal"] == (signal.SIGKILL if ignores else signal.SIGTERM)


async def test_a_daemon_beside_it_does_not_take_its_task(site: Site) -> None:
    daemon = Daemon(site)
    await daemon.start()
    done = await site.damad("run", site.worker("import os\n\ndef main():\n    return {'pid': os.getppid()}\n"))
    assert done.code == 0
    claim = (await site.events(await only_task(site), "dama/task:CLAIMED"))[0]
    assert str(daemon.pid) not in claim.payload["holder"].split("/")
    assert await daemon.stop() == 0


async def test_a_worker_for_the_daemon_runs_in_a_process_here(site: Site) -> None:
    worker = site.worker("import os\n\nasync def main():\n    return {'n': 1}\n")
    assert (await site.damad("run", worker, "--run-in", "daemon")).json == {"n": 1}


async def test_the_worker_reads_the_terminal(site: Site) -> None:
    worker = site.worker("def main():\n    return {'read': input()}\n")
    done = await site.damad("run", worker, stdin="a line\n")
    assert (done.code, done.json) == (0, {"read": "a line"})


async def test_expire_in_is_kept_without_a_daemon(site: Site) -> None:
    done = await site.damad(
        "run", site.worker("import signal\n\ndef main():\n    signal.pause()\n"), "--expire-in", "300ms"
    )
    assert (done.code, done.out) == (1, "")
    assert "timeout" in done.err


async def test_a_worker_goes_on_when_its_run_is_killed(site: Site) -> None:
    with site.gate() as gate:
        payload = json.dumps({"gate": str(gate.path)})
        async with site.command("run", "hold.py", "--payload", payload) as command, asyncio.timeout(SOON):
            id_ = await here(site)
            runs = processes.identify(command.pid)
            assert runs is not None
            command.kill()
            await gone(runs)
            assert (await site.state(id_)).state == "running"
            gate.open()
    assert (await site.ended(id_)).state == "done"


async def test_who_waits_for_a_task_where_no_daemon_runs_is_told_so(site: Site) -> None:
    async with site.command("queue", "echo.py", "--wait") as command, asyncio.timeout(SOON):
        assert command.stderr is not None
        assert b"no daemon" in await command.stderr.readline()
        id_ = await only_task(site)
        done = await site.damad("run", "--context", str(id_))
        assert done.code == 0
        assert json.loads((await command.communicate())[0]) == done.json


async def test_what_it_printed_is_in_its_log_too_and_its_failure_is_said_once(site: Site) -> None:
    source = """
        import os, subprocess, sys

        def main():
            print("from python", flush=True)
            print("to stderr", file=sys.stderr)
            subprocess.run(["echo", "from a child"], check=True)
            raise ValueError("seven")
    """
    done = await site.damad("run", site.worker(source))
    log = await site.log(await only_task(site))
    for said in ("from python\n", "to stderr\n", "from a child\n", "ValueError: seven\n"):
        assert (log.count(said), done.err.count(said)) == (1, 1 + ("seven" in said)), done.err
    assert done.err.count("Traceback") == 1


async def test_without_a_daemon_it_runs_the_subtasks_too_as_their_queues_say(site: Site) -> None:
    source = """
        from damad import tasks

        async def main(event):
            n = event["payload"]
            if n == 0:
                return {"sum": 1}
            children = [await tasks.subtask(str(i), worker="adds.py", payload=n - 1) for i in range(3)]
            return {"sum": sum(done["sum"] for done in await tasks.gather(*children))}
    """
    site.worker(source, "adds.py")
    other = await site.queue("echo.py", {})
    done = await site.damad("run", "adds.py", "--payload", "2")
    assert (done.code, done.json) == (0, {"sum": 9})
    assert (await site.state(other)).state == "queued"
    await site.cancel(other)


async def test_a_failed_subtask_is_retried_without_a_daemon_too(site: Site) -> None:
    source = """
        from damad import context, tasks

        async def main(event):
            if event["payload"] is None:
                child = await tasks.subtask("one", worker="fails_once.py", payload=1)
                return (await tasks.gather(child))[0]
            if context.current().attempt == 1:
                raise ValueError
            return {"ok": True}
    """
    site.worker(source, "fails_once.py")
    done = await site.damad("run", "fails_once.py")
    assert (done.code, done.json) == (0, {"ok": True})


# --- --context ---


@pytest.mark.parametrize("given", [{}, {"start_after": "1h"}, {"run_in": "daemon"}])
async def test_a_queued_task_is_claimed_and_run(site: Site, given: dict[str, Any]) -> None:
    id_ = await site.queue(site.worker("async def main():\n    return {'n': 1}\n"), **given)
    done = await site.damad("run", "--context", str(id_))
    assert (done.code, done.json) == (0, {"n": 1})
    assert "REQUEUED" not in await site.types(id_)


async def test_a_failed_and_a_cancelled_task_are_requeued_and_run(site: Site) -> None:
    worker = site.worker("def main():\n    raise ValueError\n")
    await site.damad("run", worker)
    failed = await only_task(site)
    (site.workers / worker).write_text("def main():\n    return {'n': 2}\n")
    done = await site.damad("run", "--context", str(failed))
    assert (done.code, done.json) == (0, {"n": 2})
    assert (await site.state(failed)).attempt == 2
    cancelled = await site.queue(worker)
    await site.cancel(cancelled)
    done = await site.damad("run", "--context", str(cancelled))
    assert (done.code, done.json) == (0, {"n": 2})
    assert "REQUEUED" in await site.types(cancelled)


async def test_a_daemon_beside_it_does_not_take_a_task_that_is_requeued_to_be_run_here(site: Site) -> None:
    daemon = Daemon(site)
    await daemon.start()
    worker = site.worker("import os\n\ndef main():\n    return {'here': bool(os.environ['HERE'])}\n")
    failed = [await site.queue(worker, retry_limit=0) for _ in range(4)]
    for id_ in failed:
        assert (await site.ended(id_)).state == "failed"
        done = await site.damad("run", "--context", str(id_), HERE="1")
        assert (done.code, done.json) == (0, {"here": True}), done.err
        assert (await site.types(id_))[-4:] == ["REQUEUED", "CLAIMED", "STARTED", ":FINAL"]
    assert await daemon.stop() == 0


async def test_a_task_that_waits_for_its_retry_is_run_now(site: Site) -> None:
    worker = site.worker("def main():\n    raise ValueError\n")
    async with site.command("run", worker, "--retry-limit", "3", "--retry-delay", "1h") as command:
        id_ = None
        async with asyncio.timeout(SOON):
            while id_ is None:
                waiting = await site.store().tasks(states=["retrying"], limit=1)
                id_ = waiting[0].etl_context_id if waiting else None
        command.kill()
        await command.wait()
    (site.workers / worker).write_text("def main():\n    return {'n': 3}\n")
    done = await site.damad("run", "--context", str(id_))
    assert (done.code, done.json) == (0, {"n": 3})


async def test_a_task_that_died_with_its_daemon_is_taken_up_and_one_that_lives_is_refused(site: Site) -> None:
    daemon = Daemon(site)
    await daemon.start()
    with site.gate() as gate:
        id_ = await site.hold(gate, retry_delay="1h")
        worker = await site.process(id_)
        await daemon.kill()
        done = await site.damad("run", "--context", str(id_))
        assert (done.code, done.out) == (2, "") and "running" in done.err
        assert processes.alive(worker)
        kill(*site.processes())
        await site.quiet()
    done = await site.damad("run", "--context", str(id_))
    assert done.code == 0, done.err
    assert (await site.types(id_))[3:] == [":HERE", "ERROR", "RETRY", "CLAIMED", "STARTED", ":HERE", ":FINAL"]
    assert (await site.event(id_, "dama/task:ERROR")).payload["kind"] == "lost"


async def test_a_task_that_its_daemon_claimed_and_never_started_is_taken_up(site: Site) -> None:
    daemon = Daemon(site)
    await daemon.start(DAMAD_FAILPOINT="supervisor.claimed:kill")
    id_ = await site.queue("echo.py", {"n": 4})
    await daemon.exits()
    done = await site.damad("run", "--context", str(id_))
    assert (done.code, done.json) == (0, {"got": {"n": 4}}), done.err
    assert await site.types(id_) == [":INITIAL", "CLAIMED", "RELEASED", "CLAIMED", "STARTED", ":FINAL"]


async def test_a_running_and_a_done_task_are_refused(site: Site) -> None:
    with site.gate() as gate:
        payload = json.dumps({"gate": str(gate.path)})
        async with site.command("run", "hold.py", "--payload", payload) as command, asyncio.timeout(SOON):
            id_ = await here(site)
            done = await site.damad("run", "--context", str(id_))
            assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
            assert "running" in done.err
            gate.open()
            await command.communicate()
    done = await site.damad("run", "--context", str(id_))
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "done" in done.err
