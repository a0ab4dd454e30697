"""`run_in = "daemon"`: the same file with the same result, as a coroutine of the daemon."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, site_of
from worker_support import Outcome

SETTINGS = {
    "DAMAD_QUEUE_INSIDE_RUN_IN": "daemon",
    "DAMAD_QUEUE_INSIDE_CONCURRENCY": "8",
    "DAMAD_QUEUE_INSIDE_RETRY_LIMIT": "0",
    "DAMAD_QUEUE_INSIDE_RETRY_DELAY": "20ms",
    "DAMAD_GRACE": "500ms",
    "DAMAD_POLL_INTERVAL": "10m",
    "DAMAD_MAX_BODY": "100kB",
}

HERE = """
    import asyncio
    from damad import context, events

    async def main(event):
        try:
            await events.dispatch({{"type": ":HERE"}})
            {wait}
        finally:
            print("tidied up")
        return {{"attempt": context.current().attempt}}
"""
FOR_EVER = "await asyncio.sleep(3600)"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    folder = tmp_path_factory.mktemp("indaemon")
    async with site_of(folder, template, **SETTINGS) as site, daemon_on(site) as daemon:
        yield daemon
        await site.verified()


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


@pytest_asyncio.fixture
async def another(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """A daemon of one test alone, which may stop it."""
    async with site_of(tmp_path_factory.mktemp("another"), template, **SETTINGS) as site:
        daemon = Daemon(site)
        await daemon.start()
        yield daemon


async def inside(site: Site, body: str, **settings: object) -> Outcome:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    source = f"import asyncio, os, sys\nfrom damad import context, events, tasks\n\nasync def main(event):\n{lines}"
    return await site.run(source, queue="inside", **settings)


# --- the same result ---


@pytest.mark.parametrize(
    ("body", "type_", "payload"),
    [
        ("return {'n': 1}", ":FINAL", {"n": 1}),
        ("return {'type': 'gtfs:FINAL', 'payload': [1]}", "gtfs:FINAL", [1]),
        ("await events.dispatch({'type': 'own:FINAL'})", "own:FINAL", None),
        ("await events.dispatch({'type': 'own:FINAL'})\nraise ValueError", "own:FINAL", None),
        ("return {'same': event == context.current().initial_event}", ":FINAL", {"same": True}),
        ("return {'sum': sum(await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2)))}", ":FINAL", {"sum": 3}),
        ("return {'id': await asyncio.to_thread(context.current_id) == context.current_id()}", ":FINAL", {"id": True}),
    ],
)
async def test_the_result_is_that_of_a_process(site: Site, body: str, type_: str, payload: object) -> None:
    outcome = await inside(site, body)
    assert (outcome.final.type, outcome.result) == (type_, payload)


@pytest.mark.parametrize(
    ("body", "kind", "exit_code"),
    [
        ("return None", "no_final", 102),
        ("return {'type': 'gtfs:LOADED'}", "no_final", 102),
        ("return {'n': float('nan')}", "bad_result", 102),
        ("return {'n': 'x' * 100_000}", "bad_result", 102),
        ("raise ValueError('no')", "exception", 101),
        ("raise ExceptionGroup('both', [ValueError(), KeyError()])", "exception", 101),
        ("raise SystemExit(3)", "exception", 101),
        ("sys.exit()", "exception", 101),
        ("raise KeyboardInterrupt", "exception", 101),
        ("raise asyncio.CancelledError", "exception", 101),
        ("raise TimeoutError", "exception", 101),
        ("async with asyncio.timeout(0.01):\n    await asyncio.sleep(60)", "exception", 101),
        ("raise GeneratorExit", "exception", 101),
        ("raise tasks.NoRetry('no use')", "exception", 101),
    ],
)
async def test_so_is_the_failure_and_the_daemon_lives(
    daemon: Daemon, site: Site, body: str, kind: str, exit_code: int
) -> None:
    outcome = await inside(site, body)
    assert (outcome.error["kind"], outcome.error["exit_code"]) == (kind, exit_code)
    assert daemon.pid in site.processes()


@pytest.mark.parametrize(
    "body",
    [
        "async with asyncio.TaskGroup() as group:\n    group.create_task(leave())",
        "await asyncio.gather(leave())",
        "await asyncio.create_task(leave())",
        "await asyncio.to_thread(sys.exit, 3)",
    ],
)
async def test_a_task_of_the_worker_that_exits_does_not_take_the_daemon_along(
    daemon: Daemon, site: Site, body: str
) -> None:
    outcome = await inside(site, f"async def leave():\n    sys.exit(3)\n{body}")
    assert outcome.error["kind"] == "exception"
    assert "SystemExit" in outcome.error["traceback"]
    assert daemon.pid in site.processes()


@pytest.mark.parametrize("source", ["async def main(:\n", "import sys\nsys.exit(1)\n", "import nothing_like_it\n", ""])
async def test_a_file_that_cannot_be_loaded_harms_no_daemon(site: Site, source: str) -> None:
    assert (await site.run(source, queue="inside")).error["kind"] == "load"


async def test_a_sync_main_is_refused_and_not_retried(site: Site) -> None:
    outcome = await site.run("def main():\n    return {}\n", queue="inside", retry_limit=5)
    assert outcome.error["attempt"] == 1
    assert "async" in outcome.error["message"]


async def test_no_process_is_started_for_it(daemon: Daemon, site: Site) -> None:
    outcome = await inside(site, "return {'pid': os.getpid()}")
    assert outcome.result == {"pid": daemon.pid} == {"pid": outcome.events[2].payload["pid"]}


async def test_a_task_may_ask_for_it_itself_in_any_queue_and_the_other_way_round(daemon: Daemon, site: Site) -> None:
    source = "import os\n\nasync def main():\n    return {'pid': os.getpid()}\n"
    assert (await site.run(source, run_in="daemon")).result == {"pid": daemon.pid}
    assert (await site.run(source, queue="inside", run_in="process")).result != {"pid": daemon.pid}


async def test_many_run_at_once_each_in_its_own_context(site: Site) -> None:
    worker = site.worker(
        """
        import asyncio
        from damad import context, events

        async def main(event):
            print("printed by", context.current_id())
            await events.dispatch({"type": ":ONE"})
            await asyncio.sleep(0)
            await events.dispatch({"type": ":TWO"})
            return {"id": context.current_id()}
        """
    )
    ids = [await site.queue(worker, queue="inside") for _ in range(20)]
    for id_ in ids:
        await site.ended(id_)
        assert (await site.types(id_))[-3:] == [":ONE", ":TWO", ":FINAL"]
        assert (await site.events(id_, ":FINAL"))[0].payload == {"id": id_}
        assert await site.log(id_) == f"printed by {id_}\n"


async def test_a_task_that_gets_due_while_the_daemon_looks_is_not_overlooked(site: Site) -> None:
    worker = site.worker("async def main():\n    return {}\n")
    for microseconds in range(0, 8000, 50):
        id_ = await site.queue(worker, queue="inside", start_after=microseconds / 1e6)
        assert (await site.ended(id_)).state == "done"


async def test_a_retry_runs_the_file_as_it_is_then(site: Site) -> None:
    worker = site.worker("async def main():\n    raise ValueError\n")
    id_ = await site.queue(worker, queue="inside", retry_limit=1, retry_delay="1h")
    await site.reaches(id_, "retrying")
    (site.workers / worker).write_text("async def main():\n    return {}\n")
    await site.cancel(id_)
    await site.retry(id_)
    assert (await site.ended(id_)).state == "done"


async def test_subtasks_and_steps_work_as_anywhere(site: Site) -> None:
    worker = site.worker("async def main(event):\n    return {'n': event['payload']}\n")
    body = "children = [await tasks.subtask(str(n), worker=event['payload'], payload=n) for n in range(3)]\n"
    body += "return {'n': [child['n'] for child in await tasks.gather(*children)]}"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    source = f"from damad import tasks\n\nasync def main(event):\n{lines}"
    id_ = await site.queue(site.worker(source), worker, queue="inside")
    await site.ended(id_)
    assert (await site.events(id_, ":FINAL"))[0].payload == {"n": [0, 1, 2]}


async def test_one_that_prints_nothing_has_an_empty_log_and_no_file(site: Site) -> None:
    outcome = await site.run("async def main(): return {}", queue="inside")
    assert outcome.state == "done"
    done = await site.damad("logs", str(outcome.id), DAMAD_QUEUE_INSIDE_RUN_IN="daemon")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert not (site.state_dir / "logs" / "local" / str(outcome.id)).exists()
    assert (await site.damad("logs", str(outcome.id), "--attempt", "2")).code == 2


# --- stopped ---


async def test_expire_in_is_a_timeout(site: Site) -> None:
    outcome = await site.run(HERE.format(wait=FOR_EVER), queue="inside", expire_in=0.3)
    assert (outcome.error["kind"], outcome.error["attempt"]) == ("timeout", 1)
    started = next(event for event in outcome.events if event.type == "dama/task:STARTED")
    assert outcome.events[-2].created_timestamp - started.created_timestamp >= timedelta(seconds=0.3)


async def test_a_cancelled_task_hears_of_it_and_is_cancelled(site: Site) -> None:
    id_ = await site.queue(site.worker(HERE.format(wait=FOR_EVER)), queue="inside")
    await site.event(id_, ":HERE")
    await site.cancel(id_)
    assert (await site.ended(id_)).state == "cancelled"
    assert await site.log(id_) == "tidied up\n"


async def test_a_final_from_outside_stops_it(site: Site) -> None:
    id_ = await site.queue(site.worker(HERE.format(wait=FOR_EVER)), queue="inside")
    await site.event(id_, ":HERE")
    insert = "INSERT INTO data_manager.event_store (etl_context_id, type) VALUES ($1, ':FINAL')"
    async with site.databases["local"].connection() as connection:
        await connection.execute(insert, id_)
    # another run of the same queue shows that the daemon has seen it and goes on
    assert (await inside(site, "return {}")).state == "done"
    assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":HERE", ":FINAL"]


# --- when the daemon stops ---

WAITS = pytest.mark.parametrize(
    "wait",
    [
        FOR_EVER,
        "await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(3600))",
        "async with asyncio.timeout(3600):\n                await asyncio.sleep(3600)",
        "async with asyncio.TaskGroup() as group:\n                group.create_task(asyncio.sleep(3600))",
        "await asyncio.wait_for(asyncio.sleep(3600), 7200)",
        "await asyncio.shield(asyncio.sleep(3600))",
    ],
    ids=["sleep", "gather", "timeout", "group", "wait_for", "shield"],
)


@WAITS
async def test_a_daemon_that_stops_hands_the_task_back_and_no_retry_is_burnt(another: Daemon, wait: str) -> None:
    site = another.site
    worker = site.worker(HERE.format(wait=wait))
    id_ = await site.queue(worker, queue="inside")
    await site.event(id_, ":HERE")
    assert await another.stop() == 0
    assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":HERE", "RELEASED"]
    (site.workers / worker).write_text("async def main():\n    return {'again': True}\n")
    await another.start()
    ended = await site.ended(id_)
    assert (ended.state, ended.attempt) == ("done", 1)  # who handed it back goes on with its number
    await site.verified()
    assert await another.stop() == 0
    assert "Traceback" not in another.log, another.log


async def test_one_that_catches_its_cancellation_is_handed_back_all_the_same(another: Daemon) -> None:
    site = another.site
    source = """
        import asyncio
        from damad import events

        async def main():
            await events.dispatch({"type": ":HERE"})
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                raise asyncio.CancelledError from None
    """
    id_ = await site.queue(site.worker(source), queue="inside")
    await site.event(id_, ":HERE")
    assert await another.stop() == 0
    assert (await site.types(id_))[-1] == "RELEASED"


@pytest.mark.parametrize(
    "wait",
    [
        "while True:\n                try:\n                    await asyncio.sleep(3600)\n                "
        "except asyncio.CancelledError:\n                    pass",
        "await asyncio.to_thread(asyncio.run, asyncio.sleep(3600))",
    ],
    ids=["swallows its cancellation", "leaves a thread"],
)
async def test_a_worker_that_does_not_end_keeps_no_daemon_from_stopping(another: Daemon, wait: str) -> None:
    site = another.site
    id_ = await site.queue(site.worker(HERE.format(wait=wait)), queue="inside")
    await site.event(id_, ":HERE")
    assert await another.stop() == 0
    assert (await site.types(id_))[-1] == "RELEASED"


async def test_a_worker_that_swallows_its_cancellation_is_not_said_to_be_cancelled(
    template: str, tmp_path: Path
) -> None:
    source = """
        import asyncio, gate
        from damad import events

        async def main(event):
            try:
                await events.dispatch({"type": ":HERE"})
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await events.dispatch({"type": ":SWALLOWED"})
                await asyncio.to_thread(gate.wait, event["payload"])
                return {}
    """
    async with site_of(tmp_path, template, **SETTINGS | {"DAMAD_GRACE": "10m"}) as site, daemon_on(site):
        with site.gate() as gate:
            id_ = await site.queue(site.worker(source), str(gate.path), queue="inside")
            await site.event(id_, ":HERE")
            await site.cancel(id_)
            await site.event(id_, ":SWALLOWED")
            assert (await inside(site, "return {}")).state == "done"  # the daemon has looked, and goes on
            assert (await site.state(id_)).state == "cancelling"
        await site.ended(id_)
        assert (await site.types(id_))[-2:] == [":SWALLOWED", ":FINAL"]


async def test_one_that_swallows_its_cancellation_is_told_again_after_the_grace(site: Site) -> None:
    source = """
        import asyncio
        from damad import events

        async def main():
            try:
                await events.dispatch({"type": ":HERE"})
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(3600)
    """
    id_ = await site.queue(site.worker(source), queue="inside")
    await site.event(id_, ":HERE")
    await site.cancel(id_)
    assert (await site.ended(id_)).state == "cancelled"


async def test_what_a_killed_daemon_ran_is_lost_and_retried(another: Daemon) -> None:
    site = another.site
    worker = site.worker(HERE.format(wait=FOR_EVER))
    id_ = await site.queue(worker, queue="inside", retry_limit=1)
    await site.event(id_, ":HERE")
    await another.kill()
    (site.workers / worker).write_text("async def main():\n    return {}\n")
    await another.start()
    assert (await site.ended(id_)).attempt == 2
    (error,) = await site.events(id_, "dama/task:ERROR")
    assert error.payload["kind"] == "lost"
