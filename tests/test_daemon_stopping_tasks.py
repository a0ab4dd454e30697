"""Tasks that are stopped from outside: cancelled in each state, or ended by somebody else's :FINAL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from daemon_support import PG_ENV, Daemon, Site, daemon_on, gone, site_of, until

from damad import processes
from damad.errors import Conflict
from damad.processes import Process

STUBBORN = """
    import signal, subprocess
    from damad import events

    def main(event):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sleep = ["sh", "-c", "trap '' TERM; sleep 1000"]
        children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True),
                    subprocess.Popen(["setsid", "--fork", *sleep])]
        events.dispatch_sync({"type": ":HERE"})
        while True:
            signal.pause()
"""
"""A worker that ignores SIGTERM, as do its children: in its session, in their own, and orphaned."""

TIDY = """
    import signal
    from damad import events

    def main(event):
        try:
            events.dispatch_sync({"type": ":HERE"})
            signal.pause()
        finally:
            events.dispatch_sync({"type": ":TIDIED"})
"""

POSTGRES_LOOKS = """
CREATE TABLE public.looked_at (pid integer, start_time bigint, alive boolean);
CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS $$
  DECLARE
    one     record;
    fields  text[];
  BEGIN
    FOR one IN SELECT * FROM public.looked_at LOOP
      BEGIN
        fields := string_to_array(
          regexp_replace(pg_read_file(format('/proc/%s/stat', one.pid), 0, 4096, true), '^.*[)] ', ''), ' ');
      EXCEPTION WHEN OTHERS THEN
        fields := NULL;
      END;
      UPDATE public.looked_at l
        SET alive = fields IS NOT NULL AND fields[1] NOT IN ('Z', 'X') AND fields[20]::bigint = one.start_time
        WHERE l.pid = one.pid;
    END LOOP;
    RETURN NULL;
  END
$$;
CREATE TRIGGER looks AFTER INSERT ON data_manager.event_store
  FOR EACH ROW WHEN (NEW.type = 'dama/task:CANCELLED') EXECUTE FUNCTION public.look();
"""
"""Whether processes live (by pid and start time, fields 1 and 22 of their stat) at the moment of a CANCELLED."""

SETTINGS = {
    "DAMAD_POLL_INTERVAL": "10m", "DAMAD_QUEUE_SHUT_CONCURRENCY": "0", "DAMAD_QUEUE_ONE_CONCURRENCY": "1",
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    settings = SETTINGS | {"DAMAD_GRACE": "500ms"}
    async with site_of(tmp_path_factory.mktemp("stopping"), template, **settings) as site, daemon_on(site) as daemon:
        yield daemon
        await site.verified()


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


@pytest_asyncio.fixture
async def patient(template: str, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon that gives workers all the time that they need to come to an end by themselves."""
    async with site_of(tmp_path, template, **SETTINGS, DAMAD_GRACE="10m") as site, daemon_on(site) as daemon:
        yield daemon


def workers_processes(daemon: Daemon) -> set[int]:
    return set(daemon.site.at_work(daemon.pid))


# --- cancel ---


@pytest.mark.parametrize(("settings", "state"), [({"queue": "shut"}, "queued"), ({"start_after": "1h"}, "scheduled")])
async def test_a_task_that_has_not_begun_is_cancelled_at_once(site: Site, settings: Any, state: str) -> None:
    id_ = await site.queue("hold.py", **settings)
    assert (await site.state(id_)).state == state
    assert (await site.cancel(id_)).state == "cancelled"
    assert await site.types(id_) == [":INITIAL", "CANCEL_REQUESTED", "CANCELLED"]


async def test_a_task_that_waits_for_its_retry_is_cancelled_at_once(site: Site) -> None:
    id_ = await site.queue(site.worker("def main():\n    raise ValueError\n"), retry_delay="1h")
    await site.reaches(id_, "retrying")
    assert (await site.cancel(id_)).state == "cancelled"


async def test_a_running_task_is_asked_first_and_is_cancelled_once_it_is_dead(patient: Daemon) -> None:
    site = patient.site
    id_ = await site.queue(site.worker(TIDY))
    await site.event(id_, ":HERE")
    worker = await site.process(id_)
    await site.cancel(id_)
    state = await site.reaches(id_, "cancelled")
    assert not processes.alive(worker)
    assert (state.pid, state.etl_status, state.attempt) == (None, "ERROR", 1)
    assert await site.types(id_) == [
        ":INITIAL", "CLAIMED", "STARTED", ":HERE", "CANCEL_REQUESTED", ":TIDIED", "CANCELLED",
    ]  # fmt: skip


async def test_one_that_ignores_it_is_killed_with_all_that_it_started_and_only_then_cancelled(
    daemon: Daemon, site: Site
) -> None:
    await daemon.quiet()
    id_ = await site.queue(site.worker(STUBBORN))
    await site.event(id_, ":HERE")
    await until(lambda: len(workers_processes(daemon)) >= 5, site.processes)
    family = {process for pid in workers_processes(daemon) if (process := processes.identify(pid))}
    await site.cancel(id_)
    await site.reaches(id_, "cancelled")
    left = {process for process in family if processes.alive(process)} - {
        processes.identify(pid) for pid in site.runners()
    }
    assert not left, site.processes()
    await daemon.quiet()


async def test_they_are_dead_when_cancelled_is_appended_and_not_a_moment_later(daemon: Daemon, site: Site) -> None:
    """Postgres itself looks, in the transaction that appends CANCELLED."""
    await daemon.quiet()
    id_ = await site.queue(site.worker(STUBBORN))
    await site.event(id_, ":HERE")
    await until(lambda: len(workers_processes(daemon)) >= 5, site.processes)
    myself, worker = processes.myself(), await site.process(id_)
    family = {found for pid in workers_processes(daemon) - {*site.runners()} if (found := processes.identify(pid))}
    assert worker in family and len(family) >= 4
    async with site.store().database.connection() as connection:
        await connection.execute(POSTGRES_LOOKS)
        for one in (*family, myself):
            await connection.execute("INSERT INTO public.looked_at VALUES ($1, $2)", one.pid, int(one.start_time))
        try:
            await site.cancel(id_)
            await site.reaches(id_, "cancelled")
            rows = await connection.fetch("SELECT pid, alive FROM public.looked_at")
        finally:
            await connection.execute("DROP FUNCTION public.look() CASCADE; DROP TABLE public.looked_at")
    assert {row["pid"]: row["alive"] for row in rows} == {
        **{one.pid: False for one in family}, myself.pid: True,
    }  # fmt: skip


async def test_without_a_daemon_who_cancels_a_task_stops_it_himself(patient: Daemon) -> None:
    site = patient.site
    id_ = await site.queue(site.worker(TIDY))
    await site.event(id_, ":HERE")
    worker = await site.process(id_)
    assert await patient.stop() == 0
    done = await site.damad("cancel", str(id_), "--json")
    assert (done.code, done.json["state"]) == (0, "cancelled")
    assert not processes.alive(worker)
    assert (await site.types(id_))[-3:] == ["CANCEL_REQUESTED", ":TIDIED", "CANCELLED"]
    await patient.start()


async def test_a_worker_that_is_done_before_it_hears_is_done(patient: Daemon) -> None:
    site = patient.site
    source = """
        import signal
        from damad import events

        def main(event):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            events.dispatch_sync({"type": ":HERE"})
            while not any(e["type"].endswith("CANCEL_REQUESTED") for e in asyncio.run(events.read())):
                pass
            return {"n": 1}

        import asyncio
    """
    id_ = await site.queue(site.worker(source))
    await site.event(id_, ":HERE")
    await site.cancel(id_)
    assert (await site.ended(id_)).state == "done"


@pytest.mark.parametrize("way", ["raises", "dies"])
async def test_a_worker_that_fails_while_it_is_cancelled_is_cancelled_and_not_retried(site: Site, way: str) -> None:
    end = "raise ValueError" if way == "raises" else "os._exit(7)"
    source = f"""
        import os, signal
        from damad import events

        def main(event):
            try:
                events.dispatch_sync({{"type": ":HERE"}})
                signal.pause()
            finally:
                {end}
    """
    id_ = await site.queue(site.worker(source), retry_limit=5)
    await site.event(id_, ":HERE")
    await site.cancel(id_)
    assert (await site.ended(id_)).state == "cancelled"
    assert "RETRY" not in await site.types(id_)


async def test_what_has_ended_or_is_being_cancelled_cannot_be_cancelled(site: Site) -> None:
    done = await site.run("def main():\n    return {}\n")
    failed = await site.run("def main():\n    raise ValueError\n", retry_limit=0)
    for id_ in (done.id, failed.id):
        with pytest.raises(Conflict):
            await site.cancel(id_)
    id_ = await site.queue(site.worker(STUBBORN))
    await site.event(id_, ":HERE")
    await site.cancel(id_)
    with pytest.raises(Conflict):
        await site.cancel(id_)
    await site.reaches(id_, "cancelled")


async def test_a_cancelled_task_that_is_retried_runs_as_its_next_attempt(site: Site) -> None:
    with site.gate() as gate:
        id_ = await site.hold(gate)
        await site.cancel(id_)
        await site.reaches(id_, "cancelled")
        await site.retry(id_)
        await site.event(id_, ":HERE", nth=2)
    state = await site.ended(id_)
    assert (state.state, state.attempt) == ("done", 2)


async def test_a_parents_children_go_on_when_it_is_cancelled(site: Site) -> None:
    source = """
        from damad import events, tasks

        async def main(event):
            child = await tasks.subtask("child", worker="hold.py", payload=event["payload"])
            await events.dispatch({"type": ":WAITS"})
            return await tasks.gather(child)
    """
    with site.gate() as gate:
        id_ = await site.queue(site.worker(source), {"gate": str(gate.path)})
        await site.event(id_, ":WAITS")
        (said,) = await site.events(id_, "dama/task:SUBTASK")
        child = said.payload["etl_context_id"]
        await site.event(child, ":HERE")
        await site.cancel(id_)
        await site.reaches(id_, "cancelled")
        assert (await site.state(child)).state == "running"
    assert (await site.ended(child)).state == "done"


async def test_a_parent_hears_that_its_child_was_cancelled_or_failed(site: Site) -> None:
    worker = site.worker("def main():\n    raise ValueError\n")
    source = """
        from damad import tasks

        async def main(event):
            children = [
                await tasks.subtask("cancelled", worker="hold.py", payload={}, queue="shut"),
                await tasks.subtask("failed", worker=event["payload"], retry_limit=0),
            ]
            ends = await tasks.gather(*children, return_exceptions=True)
            return {"ends": [type(end).__name__ for end in ends]}
    """
    id_ = await site.queue(site.worker(source), worker)
    child = (await site.event(id_, "dama/task:SUBTASK")).payload["etl_context_id"]
    await site.cancel(child)
    await site.ended(id_)
    assert (await site.events(id_, ":FINAL"))[0].payload == {"ends": ["TaskCancelled", "TaskFailed"]}


# --- a :FINAL from outside ---


async def final_over_http(daemon: Daemon, id_: int) -> None:
    connector = aiohttp.UnixConnector(str(daemon.site.state_dir / "damad.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as client,
        client.post(f"http://localhost/v1/{PG_ENV}/contexts/{id_}/events", json={"type": "by:FINAL"}) as response,
    ):
        assert response.status == 201, await response.text()


async def final_by_sql(daemon: Daemon, id_: int) -> None:
    insert = "INSERT INTO data_manager.event_store (etl_context_id, type) VALUES ($1, 'by:FINAL')"
    async with daemon.site.databases[PG_ENV].connection() as connection:
        await connection.execute(insert, id_)


OUTSIDE = pytest.mark.parametrize("final", [final_over_http, final_by_sql])


@OUTSIDE
async def test_a_final_from_outside_ends_a_running_task_and_its_process_is_stopped(
    daemon: Daemon, site: Site, final: Any
) -> None:
    with site.gate() as gate:
        id_ = await site.hold(gate)
        worker = await site.process(id_)
        await final(daemon, id_)
        assert (await site.state(id_)).state == "done"
        await gone(worker)
    await daemon.quiet()
    assert (await site.types(id_))[-1] == "by:FINAL"


async def test_one_that_ignores_sigterm_is_stopped_too(daemon: Daemon, site: Site) -> None:
    id_ = await site.queue(site.worker(STUBBORN))
    await site.event(id_, ":HERE")
    await final_by_sql(daemon, id_)
    await daemon.quiet()


@OUTSIDE
async def test_a_final_from_outside_ends_a_queued_task_which_never_runs(daemon: Daemon, site: Site, final: Any) -> None:
    id_ = await site.queue("hold.py", queue="shut")
    await final(daemon, id_)
    assert (await site.state(id_)).state == "done"
    assert await site.types(id_) == [":INITIAL", "by:FINAL"]


async def test_another_error_event_from_outside_fails_no_attempt(site: Site) -> None:
    insert = "INSERT INTO data_manager.event_store (etl_context_id, type) VALUES ($1, 'other:ERROR')"
    with site.gate() as gate:
        id_ = await site.hold(gate)
        async with site.databases[PG_ENV].connection() as connection:
            await connection.execute(insert, id_)
        state = await site.state(id_)
        assert (state.etl_status, state.state) == ("ERROR", "running")
    assert (await site.ended(id_)).state == "done"


async def test_a_context_that_somebody_holds_keeps_no_other_task_waiting(site: Site) -> None:
    hold = "SELECT FROM data_manager.etl_contexts WHERE etl_context_id = $1 FOR UPDATE"
    worker = site.worker("def main():\n    return {}\n")
    with site.gate() as gate:
        await site.hold(gate, queue="one")
        held, later = [await site.queue(worker, queue="one") for _ in range(2)]
        async with site.store().transaction() as connection:
            await connection.execute(hold, held)
            gate.open()
            assert (await site.ended(later)).state == "done"
            assert (await site.state(held)).state == "queued"
    await site.ended(await site.queue(worker))
    assert (await site.ended(held)).state == "done"


async def test_a_worker_whose_context_is_held_is_cancelled_as_soon_as_that_can_be_written(site: Site) -> None:
    hold = "SELECT FROM data_manager.etl_contexts WHERE etl_context_id = $1 FOR UPDATE"
    with site.gate() as gate:
        id_ = await site.hold(gate)
        worker: Process = await site.process(id_)
        await site.cancel(id_)
        async with site.store().transaction() as connection:
            await connection.execute(hold, id_)
            await gone(worker)
        await site.reaches(id_, "cancelled")


async def test_many_cancels_at_once_are_one(site: Site) -> None:
    with site.gate() as gate:
        id_ = await site.hold(gate)
        answers = await asyncio.gather(*(site.cancel(id_) for _ in range(10)), return_exceptions=True)
        assert sum(not isinstance(answer, Exception) for answer in answers) == 1
        await site.reaches(id_, "cancelled")
    assert (await site.types(id_)).count("CANCEL_REQUESTED") == 1
