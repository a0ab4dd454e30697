"""The worker contract: what becomes of what `main` does. Every case is a worker's file that a real daemon runs in a
process."""

import hashlib
import os
import py_compile
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, site_of
from worker_support import Outcome

MAX_BODY = 100_000
IN_MAIN = 3
"""Seconds after which a run has come to its `main` and done there what takes no time, however busy the machine is."""
FORMS = pytest.mark.parametrize("form", ["def", "async def"])
OWN_FINAL = 'events.dispatch_sync({"type": "own:FINAL", "payload": {"mine": 1}})'


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """One daemon for all; it retries nothing unless a task says so."""
    settings = {"DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0", "DAMAD_MAX_BODY": str(MAX_BODY), "DAMAD_GRACE": "1s"}
    async with site_of(tmp_path_factory.mktemp("runner"), template, **settings) as site, daemon_on(site) as daemon:
        yield daemon


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def patient(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Where a worker that is asked to stop has all the time that it needs."""
    async with site_of(tmp_path_factory.mktemp("patient"), template, DAMAD_GRACE="10m") as site, daemon_on(site):
        yield site


async def run_main(site: Site, body: str, form: str = "def", **settings: object) -> Outcome:
    """What becomes of a task whose `main` has this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    source = f"import asyncio, math, os, signal, sys\nfrom damad import events, tasks\n\n{form} main(event):\n{lines}"
    return await site.run(source, **{"retry_limit": 0, **settings})


def assert_failed(outcome: Outcome, kind: str, exit_code: int | None, signal: int | None = None) -> dict:
    error = outcome.error
    assert set(error) >= {"attempt", "kind", "message", "traceback", "exit_code", "signal"}
    assert (error["kind"], error["exit_code"], error["signal"]) == (kind, exit_code, signal), error
    assert error["attempt"] == outcome.task.attempt == 1
    assert error["message"]
    return error


# --- returns ---


@FORMS
async def test_a_final_event_is_appended_as_it_is(site: Site, form: str) -> None:
    outcome = await run_main(site, "return {'type': 'gtfs:FINAL', 'payload': [1], 'meta': {'m': 2}}", form)
    assert (outcome.final.type, outcome.final.payload, outcome.final.meta) == ("gtfs:FINAL", [1], {"m": 2})
    assert [event.type for event in outcome.events] == [
        ":INITIAL", "dama/task:CLAIMED", "dama/task:STARTED", "gtfs:FINAL",
    ]  # fmt: skip


async def test_a_recorded_final_event_may_be_returned_and_what_no_event_has_is_not_dropped(site: Site) -> None:
    recorded = "{'type': 'x:FINAL', 'payload': {'n': 1}, 'event_id': 1, 'version': 2, '_created_timestamp': 'then'}"
    assert (await run_main(site, f"return {recorded}")).final.payload == {"n": 1}
    outcome = await run_main(site, "return {'type': 'x:FINAL', 'payload': {}, 'rows': 7}")
    assert "rows" in assert_failed(outcome, "bad_result", 102)["message"]


async def test_a_generator_is_no_result(site: Site) -> None:
    assert_failed(await run_main(site, "yield 1"), "no_final", 102)


@FORMS
@pytest.mark.parametrize(
    "value",
    [
        "{}",
        "{'n': 1, 'deep': [None, True, 1.5, {'text': 'Grüße'}]}",
        "{'type': 'FeatureCollection', 'features': []}",
        "{'type': 7}",
        "{'payload': {'no': 'type'}}",
    ],
)
async def test_any_other_object_is_the_payload_of_a_final_event(site: Site, form: str, value: str) -> None:
    outcome = await run_main(site, f"return {value}", form)
    assert (outcome.final.type, outcome.final.payload) == (":FINAL", eval(value))


@pytest.mark.parametrize(
    "then",
    [
        "return None",
        "return {'another': 'result'}",
        "return {'type': 'second:FINAL'}",
        "return float('nan')",
        "raise ValueError('too late')",
        "sys.exit(3)",
        "os._exit(7)",
        "os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
async def test_after_its_own_final_the_task_is_done_whatever_follows(site: Site, then: str) -> None:
    outcome = await run_main(site, f"{OWN_FINAL}\n{then}")
    assert (outcome.final.type, outcome.result) == ("own:FINAL", {"mine": 1})
    assert outcome.task.error is None


async def test_an_async_main_dispatches_its_own_final_too(site: Site) -> None:
    outcome = await run_main(site, "return await events.dispatch({'type': ':FINAL', 'payload': {'n': 1}})", "async def")
    assert outcome.result == {"n": 1}


@FORMS
@pytest.mark.parametrize(
    "value", ["None", "[]", "'text'", "1", "True", "{'type': 'gtfs:LOADED'}", "{'type': ':INITIAL'}"]
)
async def test_without_a_final_the_attempt_failed_with_102(site: Site, form: str, value: str) -> None:
    assert_failed(await run_main(site, f"return {value}", form), "no_final", 102)


@FORMS
async def test_a_main_that_returns_nothing_at_all_failed_with_102(site: Site, form: str) -> None:
    assert_failed(await run_main(site, "pass", form), "no_final", 102)


@pytest.mark.parametrize(
    "value",
    [
        "{'n': math.nan}",
        "{'n': [math.inf]}",
        "{'n': -math.inf}",
        "{'n': b'bytes'}",
        "{'n': {1, 2}}",
        "{'n': object()}",
        "{1: 2}",
        "{'n': 'a\\0b'}",
        "{'n': '\\ud800'}",
        "{'n': 2 ** 70}",
        "{'type': ':FINAL', 'payload': math.nan}",
        "{'type': ':FINAL', 'payload': {}, 'meta': 'no object'}",
        "{'type': 'dama/task:FINAL'}",
        f"{{'n': 'x' * {MAX_BODY}}}",
    ],
)
async def test_what_json_cannot_hold_is_a_bad_result(site: Site, value: str) -> None:
    assert_failed(await run_main(site, f"return {value}"), "bad_result", 102)


async def test_a_cycle_is_a_bad_result(site: Site) -> None:
    assert_failed(await run_main(site, "a = {}\na['a'] = a\nreturn a"), "bad_result", 102)


async def test_a_result_of_just_the_largest_size_is_taken(site: Site) -> None:
    frame = len('{"type":":FINAL","payload":{"n":""}}')
    outcome = await run_main(site, f"return {{'n': 'x' * {MAX_BODY - frame}}}")
    assert len(outcome.result["n"]) == MAX_BODY - frame


# --- raises ---


@FORMS
@pytest.mark.parametrize(
    ("statement", "type_", "message"),
    [
        ("raise ValueError('seven is too much')", "ValueError", "seven is too much"),
        ("raise SystemExit(3)", "SystemExit", "3"),
        ("sys.exit()", "SystemExit", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ExceptionGroup('both', [ValueError('left'), KeyError('right')])", "ExceptionGroup", "both"),
        ("raise asyncio.CancelledError", "CancelledError", "CancelledError"),
        ("raise GeneratorExit", "GeneratorExit", "GeneratorExit"),
        ("f = lambda: f()\nf()", "RecursionError", "maximum recursion depth"),
        ("raise ValueError('\\0 and \\ud800')", "ValueError", "and"),
        ("raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})", "Mute", "Mute"),
        ("raise ValueError('x' * 50_000_000)", "ValueError", "xxx"),
    ],
)
async def test_whatever_is_raised_fails_the_attempt_with_101(
    site: Site, form: str, statement: str, type_: str, message: str
) -> None:
    error = assert_failed(await run_main(site, statement, form), "exception", 101)
    assert error["type"] == type_
    assert message in error["message"]
    assert type_ in error["traceback"]


async def test_a_traceback_begins_in_the_workers_file(site: Site) -> None:
    outcome = await run_main(site, "broken = {}\nreturn broken['key']")
    traceback = outcome.error["traceback"]
    assert "worker_" in traceback.splitlines()[1]
    assert "return broken['key']" in traceback
    assert "damad/runner" not in traceback


async def test_a_group_tells_of_every_exception_in_it(site: Site) -> None:
    body = "async with asyncio.TaskGroup() as group:\n    for n in (1, 2):\n        group.create_task(fail(n))"
    outcome = await run_main(site, f"async def fail(n):\n    raise ValueError(f'number {{n}}')\n{body}", "async def")
    error = assert_failed(outcome, "exception", 101)
    assert "number 1" in error["traceback"]
    assert "number 2" in error["traceback"]


async def test_no_retry_fails_at_once_whatever_is_left(site: Site) -> None:
    outcome = await run_main(site, "raise tasks.NoRetry('no use')", retry_limit=5)
    assert "no use" in assert_failed(outcome, "exception", 101)["message"]


async def test_retry_in_says_when_the_next_attempt_begins(site: Site) -> None:
    worker = site.worker("from damad import tasks\n\ndef main():\n    tasks.retry_in(3600)\n")
    id_ = await site.queue(worker, retry_limit=1, retry_delay=1)
    state = await site.reaches(id_, "retrying")
    error, retry = (await site.events(id_))[-2:]
    assert (error.type, error.payload["kind"], retry.type) == ("dama/task:ERROR", "exception", "dama/task:RETRY")
    assert datetime.fromisoformat(retry.payload["run_at"]) == state.run_at
    assert abs(state.run_at - error.created_timestamp - timedelta(hours=1)) < timedelta(minutes=5)
    await site.cancel(id_)


async def test_retry_in_raises_no_bound(site: Site) -> None:
    assert_failed(await run_main(site, "tasks.retry_in(0)", retry_limit=0), "exception", 101)


# --- dies ---


@pytest.mark.parametrize("code", [0, 1, 7, 255])
async def test_an_exit_without_a_word_is_of_kind_exit_with_its_code(site: Site, code: int) -> None:
    assert_failed(await run_main(site, f"os._exit({code})"), "exit", code)


@pytest.mark.parametrize("number", [9, 11, 6, 15])
async def test_a_signal_is_of_kind_signal_with_its_number(site: Site, number: int) -> None:
    body = f"signal.signal({number}, signal.SIG_DFL) if {number} != 9 else None\nos.kill(os.getpid(), {number})"
    assert_failed(await run_main(site, body), "signal", None, number)


@FORMS
async def test_expire_in_ends_an_attempt_with_kind_timeout(patient: Site, form: str) -> None:
    wait = "await asyncio.sleep(600)" if form == "async def" else "signal.pause()"
    outcome = await run_main(patient, wait, form, expire_in=0.5)
    assert_failed(outcome, "timeout", None, 15)
    started, error = outcome.events[-3], outcome.events[-2]
    assert error.created_timestamp - started.created_timestamp >= timedelta(seconds=0.5)


async def test_expire_in_ends_one_that_ignores_sigterm_too(site: Site) -> None:
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n    signal.pause()"
    assert_failed(await run_main(site, body, expire_in=IN_MAIN), "timeout", None, 9)


async def test_expire_in_ends_one_that_has_stopped_itself(site: Site) -> None:
    outcome = await run_main(site, "os.kill(os.getpid(), signal.SIGSTOP)\nreturn {}", expire_in=IN_MAIN)
    assert_failed(outcome, "timeout", None, 9)


async def test_expire_in_is_a_timeout_also_where_the_worker_leaves_when_it_is_asked(patient: Site) -> None:
    body = "signal.signal(signal.SIGTERM, lambda *_: os._exit(3))\nwhile True:\n    signal.pause()"
    assert_failed(await run_main(patient, body, expire_in=IN_MAIN), "timeout", 3)


# --- cannot be loaded ---


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def main(:\n", "SyntaxError"),
        ("\0", ""),
        ("import there_is_no_such_module\n", "there_is_no_such_module"),
        ("raise ValueError('while importing')\n", "while importing"),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("def other(event):\n    return {}\n", "main"),
        ("main = 7\n", "main"),
        ("", "main"),
        ("def main(one, two):\n    return {}\n", "main"),
        ("def main(*, one):\n    return {}\n", "main"),
        ("async def main(one, two):\n    return {}\n", "main"),
    ],
)
async def test_a_file_that_cannot_be_loaded_fails_with_104(site: Site, source: str, message: str) -> None:
    assert message in assert_failed(await site.run(source, retry_limit=0), "load", 104)["message"]


async def test_a_file_that_vanished_after_it_was_queued_fails_with_104(site: Site) -> None:
    worker = site.worker("def main():\n    return {}\n")
    id_ = await site.queue(worker, start_after=3600)
    (site.workers / worker).unlink()
    await site.cancel(id_)
    await site.retry(id_)
    state = await site.ended(id_)
    outcome = Outcome(id_, state.state, state, await site.events(id_))
    assert worker in assert_failed(outcome, "load", 104)["message"]


async def test_a_file_that_became_writable_by_others_fails_with_104(site: Site) -> None:
    worker = site.worker("def main():\n    return {}\n")
    id_ = await site.queue(worker, start_after=3600)
    (site.workers / worker).chmod(0o666)
    await site.cancel(id_)
    await site.retry(id_)
    assert (await site.ended(id_)).error["kind"] == "load"


# --- parameters ---


@FORMS
@pytest.mark.parametrize(
    "parameters", ["", "event", "event=None", "*events", "event, /", "event, other=1", "*, option=1", "**options"]
)
async def test_main_takes_no_parameter_or_the_initial_event(site: Site, form: str, parameters: str) -> None:
    outcome = await site.run(f"{form} main({parameters}):\n    return {{}}\n", retry_limit=0)
    assert outcome.state == "done", outcome.events[-2]


async def test_the_initial_event_is_the_recorded_one(site: Site) -> None:
    outcome = await site.run("def main(event):\n    return {'got': event}\n", {"n": [1, None]}, meta={"asked": "by me"})
    got = outcome.result["got"]
    assert (got["type"], got["payload"], got["version"]) == (":INITIAL", {"n": [1, None]}, 1)
    assert got["meta"]["asked"] == "by me"
    assert (got["event_id"], got["event_uuid"]) == (outcome.events[0].event_id, str(outcome.events[0].event_uuid))


async def test_main_may_be_a_callable_of_any_sort(site: Site) -> None:
    source = """
        import functools

        class Job:
            def __call__(self, event):
                return {"n": 1}

        main = functools.partial(Job().__call__)
    """
    assert (await site.run(source)).result == {"n": 1}


async def test_started_names_the_process_and_the_fingerprint_of_the_file(site: Site) -> None:
    outcome = await site.run("import os\n\ndef main():\n    return {'pid': os.getpid()}\n")
    started = outcome.events[2].payload
    assert started["attempt"] == 1
    assert started["pid"] == outcome.result["pid"]
    assert started["sha256"] == hashlib.sha256((site.workers / outcome.task.worker).read_bytes()).hexdigest()
    assert started["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert isinstance(started["start_time"], int)


async def test_what_runs_is_what_its_fingerprint_names_whatever_lies_beside_it(site: Site) -> None:
    # Python takes the code that it left in __pycache__ for that of any file of the same size and second.
    name = site.worker("def main():\n    return {'it': 'old'}\n")
    path = site.workers / name
    py_compile.compile(str(path), doraise=True)
    was = path.stat()
    path.write_text(path.read_text().replace("old", "new"))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

    for _ in range(2):
        id_ = await site.queue(name)
        assert (await site.ended(id_)).state == "done"
        assert (await site.event(id_, ":FINAL")).payload == {"it": "new"}


async def test_after_all_that_the_projections_are_what_the_events_say(site: Site) -> None:
    await site.verified()
