"""The process that a worker runs in: what it finds there, and that what it does to itself harms nobody else."""

import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, gone, site_of, until

from damad import processes
from damad.processes import Process

FORMS = pytest.mark.parametrize("form", ["def", "async def"])
SECRET = "s3cret-in-the-dsn"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    folder = tmp_path_factory.mktemp("process")
    settings = {
        "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0",
        "DAMAD_GRACE": "500ms",
        "DAMAD_LEASE": "1s",  # it is renewed as often as a busy worker can stand
        "DAMAD_UNKNOWN": "ignored",
        "PGPASSWORD": "s3cret-of-libpq",
        "HARMLESS": "kept",
    }
    for module in ("json", "asyncio", "uuid", "msgspec", "http"):  # in the daemon's working folder
        (folder / f"{module}.py").write_text("raise RuntimeError('a stranger was imported')\n")
    dsn = template.replace("damad@", f"damad:{SECRET}@")
    async with site_of(folder, dsn, **settings) as site, daemon_on(site) as daemon:
        yield daemon


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


async def result(site: Site, source: str, payload: object = None) -> dict:
    return (await site.run(source, payload)).result


def process(pid: int) -> Process | None:
    return processes.identify(pid)


# --- what a worker finds ---


async def test_a_sync_main_runs_in_the_main_thread_and_has_no_loop(site: Site) -> None:
    source = """
        import asyncio, threading

        def main():
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return {"main": threading.current_thread() is threading.main_thread()}
    """
    assert await result(site, source) == {"main": True}


async def test_an_async_main_runs_on_the_main_threads_loop(site: Site) -> None:
    source = """
        import asyncio, os, signal, threading

        async def main():
            heard = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heard.set)
            os.kill(os.getpid(), signal.SIGUSR1)
            await heard.wait()
            return {"main": threading.current_thread() is threading.main_thread()}
    """
    assert await result(site, source) == {"main": True}


async def test_the_environment_is_the_daemons_less_secrets_plus_three_names(site: Site) -> None:
    outcome = await site.run("import os\n\ndef main():\n    return dict(os.environ)\n")
    environment = outcome.result
    assert environment["AVAIL_DAMA_PG_ENV"] == "local"
    assert environment["AVAIL_DAMA_ETL_CONTEXT_ID"] == str(outcome.id)
    assert environment["HARMLESS"] == "kept"
    assert {name: value for name, value in environment.items() if name.startswith("DAMAD_")} == {"DAMAD_ATTEMPT": "1"}
    assert "PGPASSWORD" not in environment


async def test_no_secret_stands_where_others_can_read_it(site: Site) -> None:
    source = """
        import os
        from pathlib import Path

        def main():
            places = [f"/proc/{pid}/{name}" for pid in (os.getpid(), os.getppid()) for name in ("environ", "cmdline")]
            read = {place: Path(place).read_text() for place in places}
            return {"all": str(read) + str(dict(os.environ))}
    """
    everything = (await result(site, source))["all"]
    assert "HARMLESS" in everything
    assert "s3cret" not in everything


async def test_the_dsn_is_in_no_file_of_the_state_folder(site: Site) -> None:
    with site.gate() as gate:
        id_ = await site.hold(gate)
        runs = site.state_dir / "runs" / "local"
        await until(lambda: [run.stem for run in runs.iterdir()] == [str(id_)], lambda: list(runs.iterdir()))
        for path in site.state_dir.rglob("*"):
            if path.is_file() and SECRET in path.read_text(errors="replace"):
                assert path.stat().st_mode & 0o077 == 0, path
    await site.ended(id_)


async def test_the_attempt_is_in_the_environment_of_each(site: Site) -> None:
    source = """
        import os

        def main():
            if os.environ["DAMAD_ATTEMPT"] == "1":
                raise ValueError
            return {"attempt": os.environ["DAMAD_ATTEMPT"]}
    """
    outcome = await site.run(source, retry_limit=1, retry_delay="10ms")
    assert outcome.result == {"attempt": "2"}


async def test_the_workers_folder_is_the_last_entry_of_sys_path(site: Site) -> None:
    site.worker("VALUE = 7", "inner/beside.py")
    name = site.worker(
        "import sys, beside\n\ndef main():\n    return {'last': sys.path[-1], 'beside': beside.VALUE}\n", "inner/job.py"
    )
    id_ = await site.queue(name)
    await site.ended(id_)
    (final,) = await site.events(id_, ":FINAL")
    assert final.payload == {"last": str(site.workers / "inner"), "beside": 7}


async def test_a_json_py_beside_the_worker_breaks_neither_damad_nor_the_worker(site: Site) -> None:
    for module in ("json", "asyncio", "msgspec", "asyncpg", "typing"):
        site.worker("raise RuntimeError('a stranger was imported')", f"shadows/{module}.py")
    name = site.worker("import json\n\ndef main():\n    return json.loads('{\"n\": 1}')\n", "shadows/job.py")
    id_ = await site.queue(name)
    assert (await site.ended(id_)).state == "done"


async def test_the_ambient_context_is_set_around_main_also_in_threads(site: Site) -> None:
    source = """
        import asyncio, threading
        from damad import context

        async def main(event):
            ctx, seen = context.current(), []
            thread = threading.Thread(target=lambda: seen.append(context.current_id()))
            thread.start()
            thread.join()
            seen.append(await asyncio.to_thread(context.current_id))
            seen.append(await asyncio.create_task(asyncio.sleep(0, context.current_id())))
            return {"ids": seen, "pg_env": ctx.pg_env, "attempt": ctx.attempt, "event": ctx.initial_event == event}
    """
    outcome = await site.run(source)
    assert outcome.result == {"ids": [outcome.id] * 3, "pg_env": "local", "attempt": 1, "event": True}


async def test_the_lease_is_renewed_while_main_keeps_the_main_thread_busy(site: Site, tmp_path: Path) -> None:
    source = """
        import os
        from damad import events

        def main(event):
            events.dispatch_sync({"type": ":HERE"})
            while not os.path.exists(event["payload"]):
                pass
            return {}
    """
    until_ = "SELECT until FROM data_manager.leases WHERE etl_context_id = $1"
    id_ = await site.queue(site.worker(source), str(tmp_path / "enough"))
    await site.event(id_, ":HERE")
    async with site.databases["local"].connection() as connection:
        first = await connection.fetchval(until_, id_)

        async def renewed_twice() -> bool:
            return await connection.fetchval(until_, id_) > first + timedelta(seconds=0.5)

        await until(renewed_twice)
        (tmp_path / "enough").touch()
        assert (await site.ended(id_)).attempt == 1
        assert await connection.fetchval(until_, id_) is None


async def test_stdin_is_empty(site: Site) -> None:
    source = """
        import os, sys

        def main():
            return {"read": sys.stdin.read(), "is": os.readlink("/proc/self/fd/0")}
    """
    assert await result(site, source) == {"read": "", "is": "/dev/null"}


async def test_the_process_leads_a_session_of_its_own_with_the_signals_of_any_python(site: Site) -> None:
    source = """
        import os, signal

        def main():
            return {"leads": os.getsid(0) == os.getpid() == os.getpgrp(),
                    "ignored": [n for n in range(1, 32) if signal.getsignal(n) == signal.SIG_IGN],
                    "interrupts": signal.getsignal(signal.SIGINT) == signal.default_int_handler,
                    "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, []))}
    """
    ignored = [signal.SIGPIPE, signal.SIGXFSZ]
    assert await result(site, source) == {"leads": True, "ignored": ignored, "interrupts": True, "blocked": 0}


async def test_a_connection_that_breaks_is_an_exception_and_no_death(site: Site) -> None:
    source = """
        import socket

        def main():
            mine, other = socket.socketpair()
            other.close()
            try:
                mine.send(b"anybody there?")
            except BrokenPipeError:
                return {"lives": True}
    """
    assert await result(site, source) == {"lives": True}


# --- what a worker does to itself ---


async def test_a_worker_that_closes_all_its_files_is_recorded_all_the_same(site: Site) -> None:
    assert await result(site, "import os\n\ndef main():\n    os.closerange(0, 4096)\n    return {'n': 1}\n") == {"n": 1}


async def test_a_worker_that_closes_all_its_files_and_raises_is_too(site: Site) -> None:
    outcome = await site.run("import os\n\ndef main():\n    os.closerange(0, 4096)\n    raise ValueError('after')\n")
    assert (outcome.error["kind"], outcome.error["exit_code"]) == ("exception", 101)


async def test_a_worker_that_closes_its_streams_is_recorded_too(site: Site) -> None:
    source = "import sys\n\ndef main():\n    sys.stdout.close()\n    sys.stderr.close()\n    raise ValueError\n"
    assert (await site.run(source)).error["kind"] == "exception"


@FORMS
@pytest.mark.parametrize("after", ["return {'pid': os.getpid()}", "raise ValueError(os.getpid())"])
async def test_a_worker_that_forks_reports_once_though_its_child_returns_too(site: Site, form: str, after: str) -> None:
    outcome = await site.run(f"import os\n\n{form} main():\n    os.fork()\n    {after}\n")
    if outcome.state == "done":
        assert outcome.result["pid"] == outcome.events[2].payload["pid"]
    else:
        assert str(outcome.events[2].payload["pid"]) in outcome.error["message"]


async def test_a_child_that_a_worker_forked_may_dispatch_events_too(site: Site) -> None:
    source = """
        import os
        from damad import events

        def main():
            if child := os.fork():
                os.waitpid(child, 0)
                return {}
            events.dispatch_sync({"type": ":CHILD"})
            os._exit(0)
    """
    outcome = await site.run(source)
    assert [event.type for event in outcome.events][3:] == [":CHILD", ":FINAL"]


async def test_grandchildren_are_ended_also_in_sessions_of_their_own(daemon: Daemon, site: Site) -> None:
    source = """
        import subprocess

        def main():
            sleep = ["sleep", "1000"]
            children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True),
                        subprocess.Popen(["setsid", "--fork", "--wait", *sleep])]
            return {"pids": [child.pid for child in children]}
    """
    outcome = await site.run(source)
    assert outcome.state == "done"
    await daemon.quiet()
    assert [process(pid) for pid in outcome.result["pids"]] == [None] * 3


async def test_a_thread_that_never_ends_does_not_hold_the_process(daemon: Daemon, site: Site) -> None:
    source = """
        import threading

        def main():
            threading.Thread(target=threading.Event().wait).start()
            return {"n": 1}
    """
    outcome = await site.run(source)
    assert outcome.result == {"n": 1}
    await daemon.quiet()


async def test_a_workers_own_exit_functions_run(template: str, tmp_path: Path) -> None:
    source = "import atexit\n\ndef main():\n    atexit.register(print, 'goodbye')\n    return {}\n"
    async with site_of(tmp_path, template, DAMAD_GRACE="10m") as site, daemon_on(site) as daemon:
        outcome = await site.run(source)
        await daemon.quiet()
        assert await site.log(outcome.id) == "goodbye\n"


async def test_after_its_own_final_a_worker_has_the_grace_and_is_ended_then(daemon: Daemon, site: Site) -> None:
    source = """
        import signal
        from damad import events

        def main():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            events.dispatch_sync({"type": ":FINAL"})
            while True:
                signal.pause()
    """
    outcome = await site.run(source)
    assert outcome.state == "done"
    await daemon.quiet()


# --- signals from outside ---

TIDY = """
    import asyncio, signal
    from damad import events

    {form} main(event):
        try:
            {here}
            {wait}
        finally:
            with open(event["payload"], "w") as file:
                file.write("tidied up")
"""


@pytest.mark.parametrize(
    ("form", "here", "wait"),
    [
        ("def", "events.dispatch_sync({'type': ':HERE'})", "signal.pause()"),
        ("async def", "await events.dispatch({'type': ':HERE'})", "await asyncio.sleep(1000)"),
    ],
)
async def test_sigterm_runs_finally_blocks_and_is_signal_15(
    site: Site, tmp_path: Path, form: str, here: str, wait: str
) -> None:
    worker = site.worker(TIDY.format(form=form, here=here, wait=wait))
    id_ = await site.queue(worker, str(tmp_path / "file"))
    await site.event(id_, ":HERE")
    processes.send(await site.process(id_), signal.SIGTERM)
    error = (await site.ended(id_)).error
    assert (error["kind"], error["signal"], error["exit_code"]) == ("signal", 15, None)
    assert (tmp_path / "file").read_text() == "tidied up"


async def test_sigkill_from_outside_is_signal_9(site: Site) -> None:
    with site.gate() as gate:
        id_ = await site.hold(gate)
        processes.send(await site.process(id_), signal.SIGKILL)
        error = (await site.ended(id_)).error
    assert (error["kind"], error["signal"]) == ("signal", 9)


async def test_where_the_parent_is_killed_too_the_kind_is_lost(site: Site) -> None:
    with site.gate() as gate:
        id_ = await site.hold(gate)
        worker = await site.process(id_)
        os.kill(_parent(worker.pid), signal.SIGKILL)
        processes.send(worker, signal.SIGKILL)
        error = (await site.ended(id_)).error
    assert (error["kind"], error["signal"], error["exit_code"]) == ("lost", None, None)


async def test_a_worker_whose_parent_was_killed_goes_on_to_its_end(site: Site) -> None:
    with site.gate() as gate:
        id_ = await site.hold(gate)
        worker = await site.process(id_)
        parent = process(_parent(worker.pid))
        assert parent is not None
        processes.send(parent, signal.SIGKILL)
        await gone(parent)
    state = await site.ended(id_)
    assert (state.state, state.attempt) == ("done", 1)
    await gone(worker)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
