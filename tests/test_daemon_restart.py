"""A daemon that dies, stops, or starts again: its workers go on, and the next one finds them by their records."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import SOON, Daemon, Site, gone, kill, site_of

from damad import processes

SETTINGS = {
    "DAMAD_QUEUE_DEFAULT_CONCURRENCY": "9",
    "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0",
    "DAMAD_GRACE": "500ms",
    "DAMAD_POLL_INTERVAL": "10m",
}

LEAVES = """
    import gate, os
    from damad import events

    def main(event):
        events.dispatch_sync({"type": ":HERE"})
        gate.wait(event["payload"]["gate"])
        os._exit(7)
"""


@pytest_asyncio.fixture
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("restart"), template, **SETTINGS) as site:
        yield site


@pytest_asyncio.fixture
async def daemon(site: Site) -> Daemon:
    daemon = Daemon(site)
    await daemon.start()
    return daemon


async def ends_clean(daemon: Daemon) -> None:
    await daemon.quiet()
    await daemon.site.verified()
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log


# --- killed ---


async def test_eight_workers_outlive_a_killed_daemon_and_the_next_one_takes_them_on(daemon: Daemon) -> None:
    site = daemon.site
    with site.gate() as gate:
        ids = [await site.hold(gate) for _ in range(8)]
        workers = [await site.process(id_) for id_ in ids]
        await daemon.kill()
        assert all(processes.alive(worker) for worker in workers)
        await daemon.start()
        assert all(processes.alive(worker) for worker in workers)
        for id_ in ids:
            assert (await site.state(id_)).state == "running"
    for id_ in ids:
        state = await site.ended(id_)
        assert (state.state, state.attempt) == ("done", 1)
        assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":HERE", ":FINAL"]
    await ends_clean(daemon)


async def test_what_ended_while_no_daemon_was_there_is_known_with_its_exit_code(daemon: Daemon) -> None:
    site = daemon.site
    exits = site.worker(LEAVES)
    with site.gate() as gate, site.gate() as shut:
        exit_id = await site.queue(exits, {"gate": str(gate.path)})
        kill_id, done_id = await site.hold(shut), await site.hold(gate)
        await site.event(exit_id, ":HERE")
        workers = [await site.process(id_) for id_ in (exit_id, kill_id, done_id)]
        await daemon.kill()
        gate.open()
        processes.send(workers[1], signal.SIGKILL)
        for worker in workers:
            await gone(worker)
        await site.quiet()
        assert (await site.state(done_id)).state == "done"  # the worker said so itself
        assert (await site.state(exit_id)).state == "running"  # who could say so was not there
        await daemon.start()
        errors = [(await site.ended(id_)).error for id_ in (exit_id, kill_id)]
    assert [(error["kind"], error["exit_code"], error["signal"]) for error in errors] == [
        ("exit", 7, None), ("signal", None, 9),
    ]  # fmt: skip
    await ends_clean(daemon)


async def test_a_task_that_was_cancelled_while_no_daemon_was_there_is_stopped_by_the_next(daemon: Daemon) -> None:
    site = daemon.site
    with site.gate() as gate:
        id_ = await site.hold(gate)
        worker = await site.process(id_)
        await daemon.kill()
        assert (await site.cancel(id_)).state == "cancelling"
        assert processes.alive(worker)
        await daemon.start()
        assert (await site.ended(id_)).state == "cancelled"
        assert not processes.alive(worker)
    await ends_clean(daemon)


async def test_expire_in_is_kept_across_daemons(daemon: Daemon) -> None:
    site = daemon.site
    with site.gate() as gate:
        id_ = await site.queue("hold.py", {"gate": str(gate.path)}, expire_in=1)
        await site.process(id_)
        await daemon.kill()
        await daemon.start()
        assert (await site.ended(id_)).error["kind"] == "timeout"
    await ends_clean(daemon)


async def test_slots_are_counted_with_those_that_were_taken_on(site: Site) -> None:
    daemon = Daemon(site)
    one = {"DAMAD_QUEUE_DEFAULT_CONCURRENCY": "1"}
    await daemon.start(**one)
    with site.gate() as gate:
        first = await site.hold(gate)
        second = await site.queue("hold.py", {"gate": str(gate.path)})
        await daemon.kill()
        await daemon.start(**one)
        other = await site.queue(site.worker("def main():\n    return {}\n"), queue="other")
        await site.ended(other)
        assert (await site.state(second)).state == "queued"
    for id_ in (first, second):
        assert (await site.ended(id_)).state == "done"
    await ends_clean(daemon)


async def test_a_daemon_that_is_killed_again_and_again_burns_no_attempt(daemon: Daemon) -> None:
    site = daemon.site
    with site.gate() as gate:
        held = await site.hold(gate)
        ids = [await site.queue("hold.py", {"gate": str(gate.path)}) for _ in range(4)]
        for _ in range(3):
            await daemon.kill()
            await daemon.start()
    for id_ in (held, *ids):
        state = await site.ended(id_)
        assert (state.state, state.attempt) == ("done", 1)
    await ends_clean(daemon)


async def test_a_pid_that_a_stranger_took_over_is_not_taken_for_the_worker(daemon: Daemon) -> None:
    site = daemon.site
    with site.gate() as gate:
        id_ = await site.hold(gate)
        worker = await site.process(id_)
        await daemon.kill()
        (fence,) = {event.payload["fence"] for event in await site.events(id_, "dama/task:CLAIMED")}
        run = site.state_dir / "runs" / "local" / f"{id_}.{fence}"
        kill(*site.processes())
        await gone(worker)
        stranger = processes.myself()
        record = (run / "process.json").read_text().replace(str(worker.pid), str(stranger.pid))
        (run / "process.json").write_text(record)
        await daemon.start()
        assert (await site.ended(id_)).error["kind"] == "lost"
    await ends_clean(daemon)


# --- stopped ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_leaves_workers_alive_and_ends_with_0(daemon: Daemon, number: int) -> None:
    site = daemon.site
    with site.gate() as gate:
        id_ = await site.hold(gate)
        worker = await site.process(id_)
        assert await daemon.stop(number) == 0
        assert processes.alive(worker)
        assert not (site.state_dir / "damad.sock").exists()
    assert (await site.ended(id_)).state == "done"  # without any daemon
    await site.quiet()
    await daemon.start()
    await ends_clean(daemon)


async def test_a_stop_with_clients_that_wait_ends_with_0(daemon: Daemon) -> None:
    site = daemon.site
    id_ = await site.queue("hold.py", start_after="1h")
    reader, writer = await asyncio.open_unix_connection(str(site.state_dir / "damad.sock"))
    writer.write(f"GET /v1/local/contexts/{id_}/final?timeout=300 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await writer.drain()
    assert await daemon.stop() == 0
    async with asyncio.timeout(SOON):
        await reader.read()
    writer.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_end_in_the_middle_of_launches_burns_nothing(daemon: Daemon, number: int) -> None:
    site = daemon.site
    worker = site.worker("def main():\n    return {}\n")
    ids = [await site.queue(worker) for _ in range(9)]
    await site.event(ids[0], "dama/task:CLAIMED")
    await daemon.stop(number)
    await daemon.start()
    for id_ in ids:
        state = await site.ended(id_)
        assert (state.state, state.attempt) == ("done", 1)
    await ends_clean(daemon)


async def test_a_task_that_was_queued_before_any_daemon_ever_ran_here_runs(site: Site) -> None:
    worker = site.worker("def main():\n    return {}\n")
    done = await site.damad("queue", worker, "--json")
    assert not (site.state_dir / "dama_host_id").exists()
    daemon = Daemon(site)
    await daemon.start()
    assert (await site.ended(done.json["etl_context_id"])).state == "done"
    await ends_clean(daemon)


# --- one daemon a state folder ---


async def test_a_second_daemon_on_a_state_folder_is_refused_with_the_pid_of_the_first(daemon: Daemon) -> None:
    done = await daemon.site.damad("serve", "--port", "0")
    assert (done.code, done.out) == (2, "")
    assert str(daemon.pid) in done.err
    assert len(done.err.splitlines()) == 1
    assert (await daemon.site.run("def main():\n    return {}\n")).state == "done"
    await ends_clean(daemon)


async def test_after_a_killed_daemon_its_place_is_free(daemon: Daemon) -> None:
    await daemon.kill()
    assert (daemon.site.state_dir / "daemon.lock").read_text().strip() == str(daemon.pid)
    await daemon.start()
    await ends_clean(daemon)


async def test_two_daemons_at_once_on_two_state_folders_do_not_run_each_others_tasks(
    site: Site, tmp_path: Path
) -> None:
    other = {"DAMAD_STATE_DIR": str(tmp_path / "other")}
    first, second = Daemon(site), Daemon(site)
    await second.start(**other)
    await first.start()
    ids = [await site.queue(site.worker("def main():\n    return {}\n")) for _ in range(4)]
    hosts = {str((await site.ended(id_)).host_id) for id_ in ids}
    assert hosts == {(site.state_dir / "dama_host_id").read_text().strip()}
    assert (await first.stop(), await second.stop()) == (0, 0)


# --- several pg_envs, systemd ---


async def test_one_daemon_serves_several_pg_envs_each_with_its_own_tasks(
    template: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with site_of(tmp_path_factory.mktemp("two"), template, "north", "south") as site:
        daemon = Daemon(site)
        await daemon.start()
        worker = site.worker("from damad import context\n\ndef main():\n    return {'at': context.current().pg_env}\n")
        north = [await site.queue(worker, pg_env="north") for _ in range(2)]
        south = await site.queue(worker, pg_env="south")
        assert south == north[0] == 1
        for pg_env, id_ in (("north", 1), ("north", 2), ("south", 1)):
            await site.ended(id_, pg_env)
            assert (await site.events(id_, ":FINAL", pg_env=pg_env))[0].payload == {"at": pg_env}
            await site.verified(pg_env)
        await daemon.quiet()
        assert await daemon.stop() == 0


async def test_systemd_hears_ready_status_and_stopping(site: Site, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(SOON)
        daemon = Daemon(site)
        await daemon.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        said = (await asyncio.to_thread(systemd.recv, 4096)).decode().splitlines()
        assert "READY=1" in said
        assert any(line.startswith("STATUS=") and "local" in line for line in said)
        outcome = await site.run("import os\n\ndef main():\n    return {'told': 'NOTIFY_SOCKET' in os.environ}\n")
        assert outcome.result == {"told": False}
        assert await daemon.stop() == 0
        said = []
        while "STOPPING=1" not in said:  # what it said of its listener meanwhile comes first
            said = (await asyncio.to_thread(systemd.recv, 4096)).decode().splitlines()
        assert any(line.startswith("STATUS=") for line in said)
