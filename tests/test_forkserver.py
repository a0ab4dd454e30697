"""Processes that are forked: for every task one of its own, from one that has imported everything, and what breaks."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, kill, name_of, site_of, until

from damad import processes
from damad.runner import forkserver

FORKS = {"DAMAD_FORK_SERVER": "true"}

QUIET = "def main(event): return {'n': event['payload']}"
"""A worker that asks nothing of damad."""
WHO = """
    import os, random, sys

    def main():
        return {"pid": os.getpid(), "parent": os.getppid(), "dice": random.random(), "fork": "colorsys" in sys.modules}
"""
WAITS = """
    import gate

    def main(event):
        open(event["payload"]["here"], "w").close()
        gate.wait(event["payload"]["gate"])
        return {"text": event["payload"].get("text", "")}
"""


@pytest_asyncio.fixture
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    settings = FORKS | {"DAMAD_QUEUE_HEAVY_PRELOAD": "colorsys", "DAMAD_POLL_INTERVAL": "10m"}
    async with site_of(tmp_path_factory.mktemp("forks"), template, **settings) as site:
        yield site


@pytest_asyncio.fixture
async def daemon(site: Site) -> Daemon:
    daemon = Daemon(site)
    await daemon.start()
    return daemon


async def nothing_is_left_of_any_run(daemon: Daemon) -> None:
    """Returns once the daemon has heard of the end of each."""
    await until(lambda: not list((daemon.site.state_dir / "runs").glob("*/*")))


async def ends_clean(daemon: Daemon) -> None:
    await daemon.quiet()
    await nothing_is_left_of_any_run(daemon)
    await daemon.site.verified()
    assert await daemon.stop() == 0
    await daemon.site.quiet()
    assert "Traceback" not in daemon.log, daemon.log
    assert (daemon.site.state_dir / "forkserver.log").read_text() == ""


async def test_a_parent_is_there_before_the_first_task(daemon: Daemon) -> None:
    await until(lambda: sorted(map(name_of, daemon.site.runners())) == ["damad forks", "damad parent"])
    [parent] = [pid for pid in daemon.site.runners() if name_of(pid) == "damad parent"]
    assert (await daemon.site.run(WHO)).result["parent"] == parent
    await ends_clean(daemon)


async def test_a_daemon_that_runs_its_tasks_itself_keeps_no_such_process(site: Site) -> None:
    site.environment["DAMAD_QUEUE_DEFAULT_RUN_IN"] = "daemon"
    daemon = Daemon(site)
    await daemon.start()
    assert (await site.run("async def main(): return {'n': 1}")).result == {"n": 1}
    assert site.runners() == []
    assert await daemon.stop() == 0


async def test_each_task_has_a_process_of_its_own_and_one_after_another_the_same_parent(daemon: Daemon) -> None:
    first = (await daemon.site.run(WHO)).result
    await nothing_is_left_of_any_run(daemon)
    second = (await daemon.site.run(WHO)).result
    assert first["parent"] == second["parent"] != daemon.pid
    assert first["pid"] != second["pid"]
    assert first["dice"] != second["dice"]
    await ends_clean(daemon)


async def test_many_at_once_have_one_fork_server(daemon: Daemon) -> None:
    site = daemon.site
    with site.gate() as gate:
        ids = [await site.queue("hold.py", {"gate": str(gate.path)}) for _ in range(4)]
        for id_ in ids:
            await site.event(id_, ":HERE")
        names = [name_of(pid) for pid in site.runners()]
        assert (names.count("damad forks"), names.count("damad parent")) == (1, 4)
    for id_ in ids:
        await site.ended(id_)
    await ends_clean(daemon)


async def test_a_queue_has_its_modules_imported_once(daemon: Daemon) -> None:
    site = daemon.site
    heavy = await site.run(WHO, queue="heavy")
    light = await site.run(WHO)
    assert (heavy.result["fork"], light.result["fork"]) == (True, False)
    assert heavy.result["parent"] != light.result["parent"]
    await ends_clean(daemon)


async def test_a_task_that_asks_nothing_of_damad_makes_no_connection(daemon: Daemon) -> None:
    site = daemon.site
    with site.gate() as gate:
        here = site.folder / "here"
        id_ = await site.queue(site.worker(WAITS), {"gate": str(gate.path), "here": str(here)})
        await until(here.exists)
        async with site.databases["local"].connection() as connection:
            names = await connection.fetch(
                "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
            )
        assert "damad" in {row["application_name"] for row in names}
        assert not [row for row in names if row["application_name"].startswith(f"damad/{id_}/")]
    assert (await site.ended(id_)).state == "done"
    assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":FINAL"]
    await ends_clean(daemon)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["is stopped", "is killed"])
async def test_what_a_daemon_does_not_answer_that(daemon: Daemon, number: signal.Signals) -> None:
    """... the worker appends by itself, and once."""
    site = daemon.site
    with site.gate() as gate:
        here = site.folder / "here"
        id_ = await site.queue(site.worker(WAITS), {"gate": str(gate.path), "here": str(here)})
        await until(here.exists)
        os.kill(daemon.pid, number)
    assert (await site.ended(id_)).state == "done"
    if number == signal.SIGSTOP:
        os.kill(daemon.pid, signal.SIGCONT)
    else:
        await daemon.exits()
        await daemon.start()
    assert (await site.run(QUIET, 1)).result == {"n": 1}
    assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":FINAL"]
    await ends_clean(daemon)


async def test_a_result_that_is_too_large_for_the_line_goes_by_a_connection(daemon: Daemon) -> None:
    text = "x" * 300_000
    assert (await daemon.site.run(QUIET, text)).result == {"n": text}
    await ends_clean(daemon)


async def test_a_number_stays_what_it_is_on_its_way(daemon: Daemon) -> None:
    numbers = [1e16, 1e-7, -0.0, 0.1, 2**63 - 1, 5e-324, 100.0]
    result = (await daemon.site.run(QUIET, numbers)).result["n"]
    assert [(type(one), one) for one in result] == [(type(one), one) for one in numbers]
    await ends_clean(daemon)


@pytest.mark.parametrize("who", ["damad forks", "damad parent"])
async def test_a_fork_server_that_is_killed_costs_nothing_but_the_time_that_it_saves(daemon: Daemon, who: str) -> None:
    site = daemon.site
    assert (await site.run(QUIET, 0)).result == {"n": 0}
    for turn in range(1, 4):
        kill(*(pid for pid in site.runners() if name_of(pid) == who))
        assert (await site.run(QUIET, turn)).result == {"n": turn}
    await ends_clean(daemon)


async def test_a_worker_whose_parent_is_killed_leaves_its_line_to_nobody(daemon: Daemon) -> None:
    site = daemon.site
    with site.gate() as gate:
        here = site.folder / "here"
        payload = {"gate": str(gate.path), "here": str(here)}
        id_ = await site.queue(site.worker(WAITS), payload, retry_limit=0)
        await until(here.exists)
        worker = await site.process(id_)
        os.kill(int(Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
        assert (await site.run(QUIET, 1)).result == {"n": 1}
    assert (await site.ended(id_)).state == "done"
    await ends_clean(daemon)


async def test_a_process_that_a_worker_left_behind_says_nothing_in_the_name_of_the_next(daemon: Daemon) -> None:
    """What the worker forks has the line too."""
    site = daemon.site
    speaks = """
        import os
        from damad import context
        from damad.runner import child

        def main():
            report = [o for o in __import__("gc").get_objects() if isinstance(o, child._Report)][0]
            if os.fork() == 0:
                assert not report._line.say([], conclusion=True)
                os._exit(0)
            os.wait()
            return {}
    """
    assert (await site.run(speaks)).state == "done"
    await ends_clean(daemon)


def test_files_that_were_imported_are_known_to_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "preloaded_by_a_test.py"
    module.write_text("A = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(forkserver, "_LOOK_INTERVAL", 0.0)
    try:
        sources = forkserver.Sources(forkserver._preloaded(["preloaded_by_a_test", "no_such_module"]))
        assert not sources.changed()
        module.write_text("A = 22\n")
        assert sources.changed()
        module.unlink()
        assert sources.changed()
    finally:
        sys.modules.pop("preloaded_by_a_test", None)


async def test_a_module_that_was_changed_is_imported_again(template: str, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "preloaded_from_a_test.py").write_text("VALUE = 1\n")
    worker = "def main():\n    import preloaded_from_a_test as it\n    return {'value': it.VALUE}\n"
    settings = FORKS | {"DAMAD_QUEUE_DEFAULT_PRELOAD": "preloaded_from_a_test", "PYTHONPATH": str(library)}
    (tmp_path / "site").mkdir()
    async with site_of(tmp_path / "site", template, **settings) as site:
        daemon = Daemon(site)
        await daemon.start()
        assert (await site.run(worker)).result == {"value": 1}
        (library / "preloaded_from_a_test.py").write_text("VALUE = 22\n")

        async def sees_the_change() -> bool:
            return bool((await site.run(worker)).result == {"value": 22})

        await until(sees_the_change)
        await ends_clean(daemon)


async def test_who_lists_processes_sees_which_task_each_one_runs(daemon: Daemon) -> None:
    site = daemon.site
    with site.gate() as gate:
        id_ = await site.hold(gate)
        worker = await site.process(id_)
        assert Path(f"/proc/{worker.pid}/comm").read_text() == f"damad {id_}/1\n"
        assert processes.alive(worker)
    await ends_clean(daemon)


@pytest.mark.parametrize("way", ["kill", "raise"])
async def test_a_run_whose_begin_was_appended_but_not_answered_goes_on(site: Site, way: str) -> None:
    daemon = Daemon(site)
    await daemon.start(DAMAD_FAILPOINT=f"supervisor.said:{way}")
    id_ = await site.queue(site.worker(QUIET), 1, retry_limit=0)
    if way == "kill":
        await daemon.exits()
        await daemon.start()
    assert (await site.ended(id_)).state == "done"
    assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":FINAL"]
    await daemon.quiet()
    assert await daemon.stop() == 0


async def test_no_attempt_begins_while_the_process_of_the_one_before_is_on_its_way_out(daemon: Daemon) -> None:
    """It has said that it failed, and lives: its slot is free, its task is not."""
    lingers = """
        import atexit, fcntl, time
        from damad import context

        ctx = context.current()
        lock = open(ctx.initial_event["payload"], "w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where another attempt lives

        def main():
            if ctx.attempt == 1:
                atexit.register(time.sleep, 2)
                raise ValueError("the first time it fails")
            return {"attempt": ctx.attempt}
    """
    outcome = await daemon.site.run(lingers, str(daemon.site.folder / "lock"), retry_delay=0, retry_limit=5)
    assert outcome.result == {"attempt": 2}
    await ends_clean(daemon)
