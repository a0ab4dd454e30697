"""Records in the state folder that are torn, nonsense or another's: nobody else is harmed, every task ends right."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from daemon_support import Daemon, Site, gone, until
from stranger_support import Stranger, a_stranger
from test_crash_points import EXCLUSIVE, check

from damad import processes, statefolder
from damad.processes import Process

HOLDS_ALONE = (
    EXCLUSIVE.strip()
    + """
import gate
from damad import events

def main(initial_event):
    events.dispatch_sync({"type": ":HERE"})
    gate.wait(initial_event["payload"]["gate"])
    return {"attempt": ctx.attempt}
"""
)

Damage = Callable[[Path, Stranger], None]


def content(text: bytes) -> Damage:
    return lambda record, _: record.write_bytes(text) and None


def torn(record: Path, _: Stranger) -> None:
    record.write_bytes(record.read_bytes()[:-20])


def gone_for_good(record: Path, _: Stranger) -> None:
    record.unlink()


def a_folder(record: Path, _: Stranger) -> None:
    record.unlink()
    record.mkdir()


def naming(**changes: object) -> Damage:
    """The stranger's process, but for these parts of its proof, in the place of both of ours."""

    def damage(record: Path, stranger: Stranger) -> None:
        proof = list((stranger.process._asdict() | changes).values())
        record.write_text(json.dumps({"parent": proof, "worker": proof}))

    return damage


def naming_it_with_our_start_time(record: Path, stranger: Stranger) -> None:
    ours = json.loads(record.read_text()).get("worker", [0, 1, "no boot"])
    naming(start_time=ours[1], boot_id=ours[2])(record, stranger)


def naming_it_as_the_worker_alone(record: Path, stranger: Stranger) -> None:
    ours = json.loads(record.read_text())
    record.write_text(json.dumps(ours | {"worker": [stranger.process.pid, 1, processes.boot_id()]}))


DAMAGES: dict[str, Damage] = {
    "torn": torn,
    "gone": gone_for_good,
    "a folder": a_folder,
    "empty": content(b""),
    "a list": content(b"[]"),
    "null": content(b"null"),
    "no text": content(b"\xff\0\xfe"),
    "deep": content(b"[" * 100_000),
    "a pid that is a text": naming(pid="4711"),
    "a negative pid": naming(pid=-1),
    "a pid of a group": naming(pid=-os.getpgrp()),
    "a huge pid": naming(pid=10**30),
    "a pid that is true": naming(pid=True),
    "no pid": naming(pid=None),
    "a start time that is a text": naming(start_time="1"),
    "another boot": naming(boot_id=str(uuid4())),
    "no boot": naming(boot_id=None),
    "another start time": naming(start_time=1),
    "our start time": naming_it_with_our_start_time,
    "a stranger for the worker alone": naming_it_as_the_worker_alone,
    "a living stranger, with all its proof": naming(),
}

SETTINGS = {"DAMAD_QUEUE_DEFAULT_CONCURRENCY": str(len(DAMAGES) + 5)}

pytestmark = pytest.mark.fault(
    fault="process.json or exit.json is torn, nonsense, of another boot, or names a stranger",
    injected="the file is written over while the worker runs, with the daemon there and without one",
    invariants="I4 I6 I10 I12",
)


async def held(site: Site, gate: Path, many: int) -> list[int]:
    """Tasks that run, each alone, and wait for the gate."""
    worker = site.worker(HOLDS_ALONE)
    ids = [await site.queue(worker, {"gate": str(gate), "folder": str(site.folder)}) for _ in range(many)]
    for id_ in ids:
        await site.event(id_, ":HERE")
    return ids


def run_of(site: Site, id_: int) -> Path:
    (run,) = (site.state_dir / "runs" / "local").glob(f"{id_}.*")
    return run


async def spoil(site: Site, ids: list[int], name: str, stranger: Stranger) -> None:
    """Does each damage to the record of one of the tasks."""
    for id_, damage in zip(ids, DAMAGES.values(), strict=True):
        record = run_of(site, id_) / name
        await until(record.exists, lambda record=record: record)  # type: ignore[misc]
        damage(record, stranger)


async def histories_are_right(site: Site, ids: list[int]) -> None:
    for id_ in ids:
        check(await site.events(id_))
    assert "running." not in "".join(await site.errors(*ids)), "two attempts lived at once"


async def test_a_task_whose_record_is_spoilt_goes_on_to_its_end(daemon: Daemon, site: Site, tmp_path: Path) -> None:
    with a_stranger(tmp_path) as stranger:
        with site.gate() as gate:
            ids = await held(site, gate.path, len(DAMAGES))
            await spoil(site, ids, "process.json", stranger)
            await daemon.kill()
            await daemon.start()
            ends = await held(site, gate.path, 1)  # the new daemon has been round
        states = {name: await site.ended(id_) for name, id_ in zip(DAMAGES, ids, strict=True)}
        assert {name: (state.state, state.attempt) for name, state in states.items()} == dict.fromkeys(
            DAMAGES, ("done", 1)
        )
        assert stranger.untouched()
    await histories_are_right(site, [*ids, *ends])


@pytest.mark.parametrize("restart", [False, True], ids=["the same daemon", "another daemon"])
async def test_a_task_whose_record_is_spoilt_is_cancelled_and_its_worker_dead(
    daemon: Daemon, site: Site, tmp_path: Path, restart: bool
) -> None:
    with a_stranger(tmp_path) as stranger, site.gate() as gate:
        ids = await held(site, gate.path, len(DAMAGES))
        workers = [await site.process(id_) for id_ in ids]
        await spoil(site, ids, "process.json", stranger)
        if restart:
            await daemon.kill()
            await daemon.start()
        for id_ in ids:
            await site.cancel(id_)
        assert {(await site.ended(id_)).state for id_ in ids} == {"cancelled"}
        assert not [worker for worker in workers if processes.alive(worker)]
        assert stranger.untouched()
    await histories_are_right(site, ids)


async def test_a_final_from_outside_stops_a_worker_whose_record_is_spoilt(
    daemon: Daemon, site: Site, tmp_path: Path
) -> None:
    with a_stranger(tmp_path) as stranger, site.gate() as gate:
        ids = await held(site, gate.path, len(DAMAGES))
        workers = [await site.process(id_) for id_ in ids]
        await spoil(site, ids, "process.json", stranger)
        async with site.store().database.connection() as connection:
            for id_ in ids:
                await connection.execute(
                    "INSERT INTO data_manager.event_store (etl_context_id, type) VALUES ($1, ':FINAL')", id_
                )
        for worker in workers:
            await gone(worker)
        assert stranger.untouched()
    await histories_are_right(site, ids)


@pytest.mark.parametrize("name", ["process.json", "exit.json"])
async def test_a_worker_that_died_with_a_spoilt_record_is_lost_and_runs_again(
    daemon: Daemon, site: Site, tmp_path: Path, name: str
) -> None:
    with a_stranger(tmp_path) as stranger:
        with site.gate() as gate:
            ids = await held(site, gate.path, len(DAMAGES))
            workers = [await site.process(id_) for id_ in ids]
            await daemon.kill()
            if name == "process.json":
                await spoil(site, ids, name, stranger)
            for worker in workers:
                os.kill(worker.pid, signal.SIGKILL)
            await site.quiet()
            if name == "exit.json":
                await spoil(site, ids, name, stranger)
            await daemon.start()
        states = [await site.ended(id_) for id_ in ids]
        assert {(state.state, state.attempt) for state in states} == {("done", 2)}
        kinds = {event.payload["kind"] for id_ in ids for event in await site.events(id_, "dama/task:ERROR")}
        assert kinds == ({"lost"} if name == "exit.json" else {"signal"})
        assert stranger.untouched()
    await histories_are_right(site, ids)


async def test_an_exit_record_of_another_run_ends_no_worker_that_lives(daemon: Daemon, site: Site) -> None:
    with site.gate() as gate:
        (id_,) = await held(site, gate.path, 1)
        left_over = {"exit_code": 7, "signal": None, "oom": False, "ended_at": 1_700_000_000.0}
        (run_of(site, id_) / "exit.json").write_text(json.dumps(left_over))
        await daemon.kill()
        await daemon.start()
        others = await held(site, gate.path, 1)
        assert (await site.state(id_)).state == "running"
    assert [(await site.ended(one)).attempt for one in (id_, *others)] == [1, 1]
    await histories_are_right(site, [id_])


async def test_the_records_of_another_fence_that_lie_in_the_way_burn_nothing(
    daemon: Daemon, site: Site, tmp_path: Path
) -> None:
    """As after the database, but not the state folder, was restored."""
    with a_stranger(tmp_path) as stranger:
        await daemon.kill()
        id_ = await site.queue(site.worker("def main():\n    return {}\n"), retry_limit=0)
        run = site.state_dir / "runs" / "local" / f"{id_}.1"
        run.mkdir(parents=True)
        naming(boot_id=str(uuid4()))(run / "process.json", stranger)
        left_over = {"exit_code": None, "signal": 9, "oom": True, "ended_at": 1_700_000_000.0}
        (run / "exit.json").write_text(json.dumps(left_over))
        await daemon.start()
        assert ((state := await site.ended(id_)).state, state.attempt) == ("done", 1)
        assert stranger.untouched()
    await histories_are_right(site, [id_])


async def test_what_else_lies_among_the_runs_stops_nothing_and_is_left_alone(
    daemon: Daemon, site: Site, tmp_path: Path
) -> None:
    runs, foreign = site.state_dir / "runs" / "local", tmp_path / "foreign"
    runs.mkdir(exist_ok=True)
    foreign.mkdir()
    (foreign / "kept").write_text("kept")
    with a_stranger(tmp_path) as stranger:
        for folder in (folders := [runs / name for name in ("².1", "notes", "1.1.1", "9" * 30 + ".1")]):
            folder.mkdir()
        (runs / "77.1").write_text("a file")
        os.symlink(foreign, runs / "78.1")
        (runs / "79.1").mkdir()  # as a run has it whose records are not needed any more
        (runs / "80.1").mkdir()  # of a database that was restored: not known here, so not ours to stop
        naming()(runs / "80.1" / "process.json", stranger)
        assert (await site.run("def main():\n    return {}\n")).state == "done"
        await until(lambda: not (runs / "79.1").exists())
        assert (foreign / "kept").read_text() == "kept" and (runs / "78.1").is_symlink()
        assert stranger.untouched()
    await until(lambda: not (runs / "80.1").exists())
    for folder in folders:
        folder.rmdir()
    (runs / "77.1").unlink()
    (runs / "78.1").unlink()


@pytest.mark.fault(
    fault="the machine was booted while tasks ran, and their pids are strangers' now",
    injected="CLAIMED and STARTED events that name a stranger, by a boot that is over, or by values of a wrong sort",
    invariants="I6 I12",
)
async def test_a_run_of_an_earlier_boot_is_lost_and_whoever_has_its_pid_is_not_touched(
    daemon: Daemon, site: Site, tmp_path: Path
) -> None:
    with a_stranger(tmp_path) as stranger:
        await daemon.kill()
        truth = stranger.process._asdict()
        earlier = [
            {"boot_id": str(uuid4())},
            {"start_time": 1},
            {"start_time": "1"},
            {"start_time": None},
            {"pid": "9"},
        ]
        ids = [await started_by_plain_sql(site, Process(**(truth | changes))) for changes in earlier]  # type: ignore[arg-type]
        await daemon.start()
        states = [await site.ended(id_) for id_ in ids]
        assert {(state.state, state.attempt) for state in states} == {("done", 2)}
        for id_ in ids:
            assert [event.payload["kind"] for event in await site.events(id_, "dama/task:ERROR")] == ["lost"]
        assert stranger.untouched()
    await histories_are_right(site, ids)


async def started_by_plain_sql(site: Site, process: Process) -> int:
    id_ = await site.queue(site.worker("def main():\n    return {}\n"))
    host = statefolder.host_id(site.state_dir)
    events = (
        ("CLAIMED", None, {"fence": 1, "host_id": host}),
        ("STARTED", 1, {"attempt": 1, "host_id": host, **process._asdict()}),
    )
    async with site.store().database.connection() as connection:
        for kind, fence, payload in events:
            await connection.execute(
                "INSERT INTO data_manager.event_store (etl_context_id, type, fence, payload) VALUES ($1, $2, $3, $4)",
                id_, f"dama/task:{kind}", fence, payload,
            )  # fmt: skip
    return id_
