"""The command line: what each command prints, where, and its exit code. Real processes, beside a running daemon."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import SOON, Daemon, Done, Site, daemon_on, site_of

STATE = {
    "etl_context_id", "parent_context_id", "source_id", "etl_status", "state", "version", "initial_event_id",
    "latest_event_id", "created_at", "updated_at",
}  # fmt: skip
TASK_STATE = STATE | {
    "worker", "queue", "priority", "attempt", "fence", "run_at", "started_at", "finished_at", "host_id", "pid",
    "progress", "error", "schedule", "settings", "held",
}  # fmt: skip
EVENT = {
    "event_id", "etl_context_id", "version", "event_uuid", "type", "payload", "meta", "error", "_created_timestamp",
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    settings = {"DAMAD_GRACE": "500ms", "DAMAD_QUEUE_SHUT_CONCURRENCY": "0", "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0"}
    async with site_of(tmp_path_factory.mktemp("cli"), template, **settings) as site, daemon_on(site) as daemon:
        site.worker("def main(event):\n    return {'got': event['payload']}\n", "echo.py")
        site.worker("def main():\n    print('on its way', flush=True)\n    raise ValueError('seven')\n", "fails.py")
        yield daemon


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


def good(done: Done) -> Done:
    """A command that did what it was asked, and had nothing to complain of."""
    assert (done.code, done.err) == (0, "")
    return done


# --- queue ---


async def test_queue_prints_the_id_of_the_task(site: Site) -> None:
    id_ = good(await site.damad("queue", "echo.py")).out
    assert id_.endswith("\n")
    assert (await site.ended(int(id_))).state == "done"


async def test_queue_with_json_prints_an_object(site: Site) -> None:
    done = good(await site.damad("queue", "echo.py", "--json"))
    assert set(done.json) == {"etl_context_id"}
    await site.ended(done.json["etl_context_id"])


@pytest.mark.parametrize("how", ["text", "file", "stdin"])
async def test_a_payload_comes_as_text_from_a_file_or_from_stdin(site: Site, how: str) -> None:
    payload = '{"name": "Grüße", "n": [1, null]}'
    (site.folder / "payload.json").write_text(payload)
    word, stdin = {"text": (payload, None), "file": ("@payload.json", None), "stdin": ("-", payload)}[how]
    done = await site.damad("queue", "echo.py", "--payload", word, "--wait", stdin=stdin)
    assert good(done).json == {"got": {"name": "Grüße", "n": [1, None]}}


async def test_negative_numbers_are_payloads_and_priorities(site: Site) -> None:
    done = good(await site.damad("queue", "echo.py", "--payload", "-7", "--priority", "-1", "--wait"))
    assert done.json == {"got": -7}


async def test_queue_wait_prints_the_payload_of_the_final_event_alone(site: Site) -> None:
    done = good(await site.damad("queue", "echo.py", "--payload", "7", "--wait"))
    assert done.out == '{"got":7}\n'


async def test_queue_wait_says_a_failure_on_stderr_and_ends_with_1(site: Site) -> None:
    done = await site.damad("queue", "fails.py", "--wait")
    assert (done.code, done.out) == (1, "")
    assert "ValueError: seven" in done.err
    assert "exception, attempt 1" in done.err.splitlines()[-1]


async def test_queue_wait_ends_with_2_where_the_task_was_cancelled(site: Site) -> None:
    async with site.command("queue", "echo.py", "--queue", "shut", "--wait", "--priority", "42") as command:
        id_ = await only_task(site, priority=42)
        await site.cancel(id_)
        async with asyncio.timeout(SOON):
            out, err = await command.communicate()
    assert (command.returncode, out) == (2, b"")
    assert b"cancelled" in err


async def only_task(site: Site, **given: Any) -> int:
    """The id of the task that has these values, once it is there."""
    async with asyncio.timeout(SOON):
        while True:
            for state in await site.store().tasks():
                if all(getattr(state, name) == value for name, value in given.items()):
                    return state.etl_context_id


async def test_queue_wait_with_a_timeout_ends_while_the_task_goes_on(site: Site) -> None:
    done = await site.damad("queue", "echo.py", "--queue", "shut", "--priority", "43", "--wait", "--timeout", "100ms")
    assert done.code not in (0, 1, 2)
    assert (done.out, len(done.err.splitlines())) == ("", 1)
    id_ = await only_task(site, priority=43)
    assert (await site.cancel(id_)).state == "cancelled"


async def test_every_task_setting_is_a_flag_of_its_name(site: Site) -> None:
    parent = good(await site.damad("queue", "echo.py", "--queue", "shut")).out.strip()
    words = [
        "--queue", "shut", "--priority", "5", "--start-after", "1h", "--retry-limit", "0", "--retry-delay", "250ms",
        "--no-retry-backoff", "--retry-delay-max", "2m", "--expire-in", "30s", "--idempotency-key", "k1",
        "--start-by", "2h", "--heartbeat", "1m", "--singleton-key", "s1", "--debounce", "5s", "--throttle", "1h",
        "--on-failure", "echo.py", "--weight", "3", "--memory-limit", "1GB", "--cpu-limit", "1m", "--open-files", "100",
        "--work-dir", "here", "--run-in", "process", "--parent-context-id", parent, "--meta", '{"by": "hand"}',
    ]  # fmt: skip
    id_ = int(good(await site.damad("queue", "echo.py", *words)).out)
    state = await site.state(id_)
    assert state.parent_context_id == int(parent)
    assert {name: value for name, value in state.settings.items() if name != "dama_host_id"} == {
        "worker": "echo.py", "queue": "shut", "priority": 5, "weight": 3, "start_after": 3600.0, "retry_limit": 0,
        "retry_delay": 0.25, "retry_backoff": False, "retry_delay_max": 120.0, "expire_in": 30.0,
        "idempotency_key": "k1", "start_by": 7200.0, "heartbeat": 60.0, "singleton_key": "s1",
        "on_failure": "echo.py", "memory_limit": 1_000_000_000, "cpu_limit": 60.0, "open_files": 100, "debounce": 5.0,
        "throttle": 3600.0,
        "work_dir": "here", "run_in": "process",
    }  # fmt: skip
    assert (await site.events(id_))[0].meta["by"] == "hand"
    again = good(await site.damad("queue", "echo.py", *words)).out
    assert int(again) == id_
    for task in (id_, int(parent)):
        await site.cancel(task)


async def test_a_worker_may_be_named_by_its_path(site: Site) -> None:
    done = await site.damad("queue", "workers/echo.py", "--wait")
    assert good(done).json == {"got": None}
    done = await site.damad("queue", str(site.workers / "echo.py"), "--wait")
    assert good(done).json == {"got": None}


# --- looking ---


async def test_tasks_with_json_is_an_array_of_states_newest_first(site: Site) -> None:
    first = (await site.run("def main():\n    return {}\n")).id
    second = (await site.run("def main():\n    raise ValueError\n")).id
    states = good(await site.damad("tasks", "--json")).json
    assert [state["etl_context_id"] for state in states[:2]] == [second, first]
    assert all(set(state) == TASK_STATE for state in states)
    assert [state["state"] for state in states[:2]] == ["failed", "done"]


async def test_tasks_may_be_chosen_by_state_queue_parent_and_number(site: Site) -> None:
    parent = await site.queue("echo.py", queue="shut")
    child = await site.queue("echo.py", queue="shut", parent_context_id=parent)

    async def ids(*words: str) -> list[int]:
        done = good(await site.damad("tasks", "--json", *words))
        return [state["etl_context_id"] for state in done.json]

    assert await ids("--queue", "shut", "--state", "queued") == [child, parent]
    assert await ids("--parent", str(parent)) == [child]
    assert await ids("--limit", "1") == [child]
    assert await ids("--state", "running,claimed") == []
    for id_ in (child, parent):
        await site.cancel(id_)


async def test_tasks_for_people_is_a_table(site: Site) -> None:
    await site.run("def main():\n    raise ValueError('the reason')\n")
    lines = good(await site.damad("tasks", COLUMNS="200")).out.splitlines()
    assert lines[0].split()[:3] == ["id", "state", "queue"]
    assert "failed" in lines[1]
    assert "the reason" in lines[1]


async def test_show_with_json_is_a_state_with_events_and_tree(site: Site) -> None:
    parent = await site.queue("echo.py", queue="shut")
    id_ = await site.queue("echo.py", parent_context_id=parent)
    await site.ended(id_)
    shown = good(await site.damad("show", str(id_), "--json")).json
    assert set(shown) == TASK_STATE | {"events", "tree"}
    assert [event["version"] for event in shown["events"]] == [1, 2, 3, 4]
    assert all(set(event) == EVENT for event in shown["events"])
    assert [state["etl_context_id"] for state in shown["tree"]] == [parent, id_]
    assert all(set(state) == TASK_STATE for state in shown["tree"])
    await site.cancel(parent)


async def test_show_takes_a_context_that_is_no_task(site: Site) -> None:
    id_ = await site.store().create_context()
    shown = good(await site.damad("show", str(id_), "--json")).json
    assert set(shown) == STATE | {"events", "tree"}
    assert (shown["state"], shown["events"]) == ("open", [])


async def test_show_for_people_has_the_state_the_events_and_the_traceback(site: Site) -> None:
    outcome = await site.run("def main():\n    raise ValueError('the reason')\n")
    shown = good(await site.damad("show", str(outcome.id), COLUMNS="200")).out
    for part in (str(outcome.id), "failed", "dama/task:STARTED", "Traceback", "the reason"):
        assert part in shown


async def test_events_with_json_are_recorded_events_one_a_line(site: Site) -> None:
    outcome = await site.run("def main():\n    return {'n': 1}\n")
    lines = good(await site.damad("events", str(outcome.id), "--json")).out.splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["type"] for event in events] == [event.type for event in outcome.events]
    assert all(set(event) == EVENT for event in events)
    after = good(await site.damad("events", str(outcome.id), "--json", "--after-version", "3")).out.splitlines()
    assert [json.loads(line)["payload"] for line in after] == [{"n": 1}]
    typed = good(await site.damad("events", str(outcome.id), "--json", "--type", ":FINAL")).out.splitlines()
    assert typed == after


async def test_events_without_an_id_are_those_of_all_contexts(site: Site) -> None:
    one, two = await site.run("def main():\n    return {}\n"), await site.run("def main():\n    return {}\n")
    lines = good(await site.damad("events", "--json")).out.splitlines()
    last = [json.loads(line) for line in lines][-8:]
    assert [event["etl_context_id"] for event in last] == [one.id] * 4 + [two.id] * 4


async def test_events_follow_shows_each_new_one_and_ends_with_the_context(site: Site) -> None:
    with site.gate() as gate:
        id_ = await site.hold(gate)
        async with site.command("events", str(id_), "--follow", "--json") as command, asyncio.timeout(SOON):
            assert command.stdout is not None
            seen = [json.loads(await command.stdout.readline())["type"] for _ in range(4)]
            assert seen[-1] == ":HERE"
            gate.open()
            assert json.loads(await command.stdout.readline())["type"] == ":FINAL"
            assert await command.wait() == 0


async def test_events_follow_without_an_id_shows_those_of_all_contexts_as_they_come(site: Site) -> None:
    worker = site.worker("def main():\n    return {}\n")
    async with site.command("events", "--follow", "--json") as command, asyncio.timeout(SOON):
        assert command.stdout is not None
        await command.stdout.readline()  # what was there before
        ids = {await site.queue(worker), await site.queue(worker)}
        seen: list[dict[str, Any]] = []
        while len(seen) < 8:
            event = json.loads(await command.stdout.readline())
            seen += [event] if event["etl_context_id"] in ids else []
    for id_ in ids:
        assert [event["version"] for event in seen if event["etl_context_id"] == id_] == [1, 2, 3, 4]


async def test_logs_print_the_last_attempt_or_the_one_that_is_named(site: Site) -> None:
    outcome = await site.run(
        "import os\n\ndef main():\n    print('try', os.environ['DAMAD_ATTEMPT'], flush=True)\n    os._exit(7)\n",
        retry_limit=1,
        retry_delay=0.01,
    )
    assert good(await site.damad("logs", str(outcome.id))).out == "try 2\n"
    assert good(await site.damad("logs", str(outcome.id), "--attempt", "1")).out == "try 1\n"
    piece = json.loads(good(await site.damad("logs", str(outcome.id), "--json")).out)
    assert piece == {"etl_context_id": outcome.id, "text": "try 2\n"}


async def test_logs_with_json_split_no_character(site: Site) -> None:
    outcome = await site.run("def main():\n    print('x' + 'ü' * 100_000)\n    return {}\n")
    lines = good(await site.damad("logs", str(outcome.id), "--json")).out.splitlines()
    assert "".join(json.loads(line)["text"] for line in lines) == "x" + "ü" * 100_000 + "\n"


async def test_logs_follow_prints_as_it_comes_and_ends_with_the_task(site: Site) -> None:
    worker = site.worker(
        """
        import gate
        def main(event):
            print("before", flush=True)
            gate.wait(event["payload"]["gate"])
            print("after")
            return {}
        """
    )
    with site.gate() as gate:
        id_ = await site.queue(worker, {"gate": str(gate.path)})
        async with site.command("logs", str(id_), "-f") as command, asyncio.timeout(SOON):
            assert command.stdout is not None
            assert await command.stdout.readline() == b"before\n"
            gate.open()
            assert await command.stdout.read() == b"after\n"
            assert await command.wait() == 0


# --- changing ---


async def test_cancel_and_retry_do_it_and_print_the_state_with_json(site: Site) -> None:
    with site.gate() as gate:
        id_ = await site.hold(gate)
        done = await site.damad("cancel", str(id_))
        assert (done.code, done.out) == (0, "")
        assert done.err in {f"task {id_} is {state}\n" for state in ("cancelling", "cancelled")}
        assert (await site.ended(id_)).state == "cancelled"
        state = good(await site.damad("retry", str(id_), "--json")).json
        assert set(state) == TASK_STATE
        assert state["state"] in ("queued", "claimed", "running")
    assert (await site.ended(id_)).attempt == 2


async def test_verify_counts_and_finds_nothing(site: Site) -> None:
    await site.run("def main():\n    return {}\n")
    report = good(await site.damad("verify", "--json")).json
    assert set(report) == {"contexts", "events", "mismatches"}
    assert (report["contexts"] > 0, report["events"] >= 4, report["mismatches"]) == (True, True, [])
    assert "0 mismatches" in good(await site.damad("verify")).out


async def test_verify_finds_what_was_changed_behind_its_back_and_ends_with_1(site: Site) -> None:
    id_ = (await site.run("def main():\n    return {}\n")).id
    change = "UPDATE data_manager.etl_contexts SET etl_status = $2 WHERE etl_context_id = $1"
    async with site.databases["local"].connection() as connection:
        await connection.execute(change, id_, "OPEN")
        done = await site.damad("verify", "--json")
        for_people = await site.damad("verify")
        await connection.execute(change, id_, "DONE")
    assert done.code == for_people.code == 1
    (mismatch,) = done.json["mismatches"]
    assert (mismatch["etl_context_id"], mismatch["field"]) == (id_, "etl_status")
    assert str(id_) in for_people.out


# --- the rest ---


async def test_systemd_print_prints_a_unit(site: Site) -> None:
    unit = good(await site.damad("systemd", "print", "--user", "etl")).out
    for line in ("Type=notify", "KillMode=process", "User=etl", f"WorkingDirectory={site.folder}"):
        assert line in unit.splitlines()


@pytest.mark.parametrize("words", [["--help"], ["-h"], [], ["queue", "--help"], ["systemd", "--help"]])
async def test_help_is_on_stdout_and_ends_with_0(site: Site, words: list[str]) -> None:
    assert "Usage: damad" in good(await site.damad(*words)).out


async def test_help_loads_neither_a_database_driver_nor_a_web_server(site: Site) -> None:
    program = "import sys, damad.cli; damad.cli.run(['--help']); print(*sys.modules, file=sys.stderr)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    loaded = {name.split(".")[0] for name in err.decode().split()}
    assert b"Usage" in out
    assert not loaded & {"asyncpg", "aiohttp", "uvloop", "asyncio", "debugpy", "structlog"}


async def test_version_prints_the_version(site: Site) -> None:
    assert good(await site.damad("--version")).out.startswith("damad 0.")


async def test_a_reader_that_has_gone_away_is_no_traceback(site: Site) -> None:
    done = await asyncio.create_subprocess_shell(
        f"{sys.executable} -P -m damad events --json | head -n 1",
        env=site.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await done.communicate()
    assert (len(out.splitlines()), err) == (1, b"")
