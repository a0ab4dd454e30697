"""`damad doctor` sees what is wrong, says what to do, and changes nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from damad import context, doctor, processes, statefolder, tasks
from damad.config import Config
from damad.doctor import Finding, examine
from damad.eventstore.pools import Database
from damad.runner import records

Here = Callable[..., AbstractContextManager[Any]]


@pytest.fixture
def settings(tmp_path: Path, workers: Path) -> Config:
    return Config(state_dir=tmp_path / "state", worker_roots=(workers,))


async def found(here: Here, settings: Config) -> dict[str, Finding]:
    with here() as ambient:
        return {finding.what: finding for finding in await examine(ambient, settings)}


async def test_where_all_is_well_it_says_so(here: Here, settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LISTENER_TIMEOUT", 60.0)
    findings = await found(here, settings)
    around = ["server", "schema", "clock", "listener", "leases", "daemon", "folders", "runs", "worker roots",
              "schedules"]  # fmt: skip
    assert list(findings) == around
    assert all(finding.well and finding.advice is None for finding in findings.values()), findings


async def test_the_time_that_an_answer_takes_is_no_difference_between_two_clocks(
    here: Here, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_MOST_SKEW", 0.0)
    assert (await found(here, settings))["clock"].well


async def test_a_schema_that_was_changed_is_named(here: Here, settings: Config, database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("UPDATE data_manager.damad_schema SET checksum = 'other'")
    schema = (await found(here, settings))["schema"]
    assert not schema.well and schema.advice == "run `damad migrate`"


async def test_a_trigger_that_was_disabled_is_named(here: Here, settings: Config, database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("ALTER TABLE data_manager.event_store DISABLE TRIGGER event_store_judge")
    schema = (await found(here, settings))["schema"]
    assert "trigger event_store_judge of data_manager.event_store is changed" in schema.detail
    assert not schema.well and schema.advice == "run `damad migrate`"


async def test_a_worker_that_others_can_write_is_named(here: Here, settings: Config, workers: Path) -> None:
    (workers / "ok.py").chmod(0o646)
    roots = (await found(here, settings))["worker roots"]
    assert not roots.well and str(workers / "ok.py") in roots.detail and str(roots.advice).startswith("chmod o-w")


async def test_a_process_whose_task_went_on_is_named(here: Here, settings: Config) -> None:
    run = records.folder(settings.state_dir, "local", 4711, 1)
    run.mkdir(parents=True)
    me = processes.myself()
    records.write_processes(run, records.Processes(me, me))
    runs = (await found(here, settings))["runs"]
    assert not runs.well and str(me.pid) in runs.detail


async def test_the_records_of_a_run_that_has_ended_are_named(here: Here, settings: Config) -> None:
    run = records.folder(settings.state_dir, "local", 4711, 1)
    run.mkdir(parents=True)
    gone = processes.Process(4_000_000, 1, "another boot")
    records.write_processes(run, records.Processes(gone, gone))
    runs = (await found(here, settings))["runs"]
    assert not runs.well and "4711" in runs.detail and "damad serve" in str(runs.advice)


async def test_a_lease_that_nobody_renewed_is_named_if_it_is_this_hosts(
    here: Here, settings: Config, database: Database
) -> None:
    with here() as ambient:
        ours, others = [await tasks.queue("ok.py") for _ in range(2)]
    claim = "SELECT data_manager.claim_task($1, $2, 'somebody', interval '-2 min')"
    async with database.connection() as connection:
        await connection.execute(claim, ours, ambient.here.host_id)
        await connection.execute(claim, others, uuid4())
    leases = (await found(here, settings))["leases"]
    assert not leases.well and leases.detail.endswith(f"contexts {ours}") and "damad serve" in str(leases.advice)


@pytest.mark.parametrize("name", ["logs", "runs", "logs/local", "runs/local"])
async def test_a_file_in_the_place_of_a_folder_is_named(here: Here, settings: Config, name: str) -> None:
    wrong = settings.state_dir / name
    wrong.parent.mkdir(parents=True)
    wrong.write_text("a file")
    folders = (await found(here, settings))["folders"]
    assert not folders.well and str(wrong) in folders.detail and "move it away" in str(folders.advice)


async def test_tasks_that_this_host_holds_want_a_daemon(here: Here, settings: Config, database: Database) -> None:
    with here() as ambient:
        ours = await tasks.queue("ok.py")
    assert (await found(here, settings))["daemon"].well
    async with database.connection() as connection:
        claim = "SELECT data_manager.claim_task($1, $2, 'somebody', interval '1 min')"
        await connection.execute(claim, ours, ambient.here.host_id)
    daemon = (await found(here, settings))["daemon"]
    assert not daemon.well and daemon.detail.endswith(f"contexts {ours}") and "damad serve" in str(daemon.advice)
    settings.state_dir.mkdir()
    with statefolder.only_daemon(settings.state_dir):
        assert (await found(here, settings))["daemon"].well


async def test_a_postgres_that_is_away_is_a_finding_and_no_traceback(here: Here, settings: Config) -> None:
    with here() as ambient:
        away = msgspec.structs.replace(ambient, database=Database("local", "postgresql://nobody@127.0.0.1:1/none"))
    with context.run_in(away):
        findings = {finding.what: finding for finding in await examine(away, settings)}
    assert not findings["server"].well and "Postgres is away" in findings["server"].detail
    assert findings["worker roots"].well


async def test_a_schedule_that_plain_sql_wrote_wrong_is_named(here: Here, settings: Config, database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO data_manager.dama_schedules (name, cron, worker) VALUES ('right', '@daily', 'ok.py'), "
            "('wrong', 'every tuesday', 'ok.py')"
        )
    schedules = (await found(here, settings))["schedules"]
    assert not schedules.well
    assert schedules.detail.startswith("wrong makes no task: cron 'every tuesday'") and "right" not in schedules.detail
    assert "damad schedules remove wrong" in str(schedules.advice)
