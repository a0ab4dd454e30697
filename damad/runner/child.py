"""The worker's process: one attempt, `main` in the main thread, damad's own loop beside it.

A sync `main` has the main thread to itself, an async one its loop. The lease is renewed on damad's loop, so that a
worker which computes for an hour keeps it; that loop runs once it is needed.
"""

import asyncio
import atexit
import contextlib
import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from damad import background, context, failpoints, processes, stderrlog, workerfile
from damad.errors import Conflict
from damad.eventstore.pools import Database
from damad.eventstore.store import Assignment
from damad.eventstore.uuids import new_uuid
from damad.model.event import Event
from damad.model.retry import Failure
from damad.model.settings import TaskSettings
from damad.processes import Process
from damad.runner import debugging, limits, node, outcome
from damad.runner.attempt import Attempt, Claim, NotMine
from damad.runner.limits import Kept
from damad.runner.line import WorkersEnd
from damad.runner.load import Main

_CONNECTIONS = 4
_ANSWER_TIMEOUT = 30.0
"""Seconds until a statement of damad's own is sent again on another connection: no worker waits for ever."""
_OUR_FILES = 64
"""More than damad has open when main begins: their numbers are below."""


class Terminated(SystemExit):
    """SIGTERM, raised in `main` so that its `finally` blocks run before the process ends by that signal."""


def prepare() -> None:
    """What each process would do alike at its beginning, done once before they are forked."""
    _log_to_stderr()
    for shape in (Claim, Assignment, TaskSettings):
        with contextlib.suppress(msgspec.ValidationError):
            msgspec.convert({}, shape)  # the first use of a shape reads its annotations


class Run:
    """One attempt, ready to be run in this process or in one that is forked from it.

    What can be done before the fork is: a forked process pays for each page that it touches first.
    """

    def __init__(self, assignment: dict[str, Any], connect: Callable[[], WorkersEnd | None] = lambda: None) -> None:
        claim = msgspec.convert(assignment["claim"], Claim, dec_hook=lambda sort, value: sort(value))
        task: Assignment | None = None
        with contextlib.suppress(msgspec.ValidationError):  # somebody spoilt its row: the run sees for itself
            task = msgspec.convert(assignment["task"], Assignment | None, dec_hook=lambda sort, value: sort(value))
        database = Database(
            claim.pg_env,
            assignment["dsn"],
            application_name=f"damad/{claim.etl_context_id}/{assignment['attempt']}",
            max_size=_CONNECTIONS,
            answer_timeout=_ANSWER_TIMEOUT,
            pooled=assignment["pooled"],
        )
        if claim.log_format != stderrlog.TEXT:
            _log_to_stderr(claim.log_format)
        self._attempt = Attempt(claim, database, task, asked_at=assignment["asked_at"])
        self._attempt.prepare()
        self._debug = assignment["debug"]
        self._connect = connect
        self._begun = False

    def begin(self, worker: Process) -> int | None:
        """Says over the line that this process runs the attempt, and returns None; or the code that it is to end with.

        Without an answer the process says so itself.
        """
        line = self._connect()
        if line is None or not self._attempt.assigned:
            return None
        try:
            self._begun = line.say([self._attempt.started(worker)], conclusion=False)
        except Conflict as refusal:
            return self._attempt.not_mine(refusal).exit_code
        return None

    @property
    def begun(self) -> bool:
        """Whether it is in the log that it runs."""
        return self._begun

    def rehearse(self) -> list[Event]:
        """What there would be to say of it; nobody hears it, and nothing else comes of it."""
        started, result = self._attempt.started(processes.myself()), run_main(self._attempt)
        return [_identified(event) for event in (started, result) if isinstance(event, Event)]

    def run(self, *, begun: bool) -> int:
        """Runs it and returns the exit code of the process."""
        _draw_anew()
        signal.signal(signal.SIGTERM, _terminate)
        attempt, report = self._attempt, _Report(self._attempt, self._connect())
        try:
            if not begun:
                _begin(attempt, report)
            failpoints.hit("runner.started")
            return _run(attempt, report, self._debug)
        except NotMine as refused:
            return refused.exit_code
        except Terminated:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            raise
        except node.Ended as end:
            end.follow()


class _Report:
    """Appends what an attempt has to say: over the line, else by a connection of its own. Raises Conflict."""

    def __init__(self, attempt: Attempt, line: WorkersEnd | None) -> None:
        self._attempt = attempt
        self._line = line

    def __call__(self, *said: Event, conclusion: bool) -> None:
        new = [_identified(event) for event in said]
        if self._line is not None and self._line.say(new, conclusion=conclusion):
            return
        record = self._attempt.record_conclusion if conclusion else self._attempt.record
        try:
            background.run(record(*new))
        except background.Broken:
            _occupy_closed_files()
            asyncio.run(record(*new))


def _identified(event: Event) -> Event:
    """An event that can be said twice and is recorded once."""
    return event if event.event_uuid else msgspec.structs.replace(event, event_uuid=new_uuid())


def _begin(attempt: Attempt, report: _Report) -> None:
    if not attempt.assigned:
        background.run(attempt.look())
    try:
        report(attempt.started(processes.myself()), conclusion=False)
    except Conflict as refusal:
        raise attempt.not_mine(refusal) from None


def _run(attempt: Attempt, report: _Report, debug: str | None) -> int:
    process = os.getpid()
    with _renewed(attempt) if attempt.claim.shared else contextlib.nullcontext():
        result = run_main(attempt, debug, limited=True)
        if os.getpid() != process:
            os._exit(0)  # the worker forked, and its child came back here too: only the first of them reports
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return _conclude(attempt, report, result)


@contextlib.contextmanager
def _renewed(attempt: Attempt) -> Iterator[None]:
    """The lease is renewed beside `main`, from the moment on at which it should be: most attempts are over by then.

    Only where another host may take the task over. Elsewhere the daemon of this host renews for what it sees alive, and
    a lease that ran out while there was none is nobody's loss.
    """
    lease, begun, ended = attempt.claim.lease, time.monotonic(), threading.Event()

    def renew() -> None:
        if not ended.wait(lease / 4):
            renewal = attempt.renew(_die, used=time.monotonic() - begun)
            running.append(asyncio.run_coroutine_threadsafe(renewal, background.loop()))

    running: list[Future[None]] = []
    threading.Thread(target=renew, name="damad lease", daemon=True).start()
    yield
    ended.set()
    for renewal in running:
        renewal.cancel()


def run_main(attempt: Attempt, debug: str | None = None, *, limited: bool = False) -> Event | Failure:
    """What became of the worker's `main`, called in this process. `debug`: the name of a debugger · limited: by what
    the task may take, for the process is its own.

    Raises Terminated, and Ended where node ended without a word.
    """
    worker = Path()
    try:
        worker = attempt.find_worker()
        with context.run_in(attempt.context), Kept(attempt.settings) if limited else contextlib.nullcontext():
            if workerfile.runs_on_node(worker):
                inspected = debug == debugging.INSPECTOR
                returned = node.call(worker, attempt.context.initial_event, inspected=inspected)
            else:
                main, initial = attempt.load(), attempt.context.initial_event
                returned = debugging.debugger(debug)(lambda: _call(main, initial), main.function)
    except (Terminated, node.Ended):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a worker raises is an outcome, SystemExit too
        said = outcome.of_exception(error, attempt=attempt.number, worker=worker, now=attempt.now())
        return limits.named(said, error, attempt.settings) if limited else said
    return outcome.of_result(returned, attempt=attempt.number, limit=attempt.claim.max_result)


def _call(main: Main, initial_event: Any) -> Any:
    if main.is_async:
        return asyncio.run(main(initial_event))
    returned = main(initial_event)
    return asyncio.run(_awaited(returned)) if inspect.iscoroutine(returned) else returned


async def _awaited(coroutine: Any) -> Any:
    return await coroutine


def _conclude(attempt: Attempt, report: _Report, result: Event | Failure) -> int:
    _finish_log(result)
    said, code = attempt.verdict(result)
    try:
        report(*said, conclusion=True)
    except Conflict as refusal:
        code = attempt.refused(refusal, code)
    else:
        failpoints.hit("runner.concluded")
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()  # the worker's own; its threads that never end are not waited for
    return code


def _finish_log(result: Event | Failure) -> None:
    """Writes what is still buffered, and how it failed: who hears that the task has ended finds its log whole."""
    with contextlib.suppress(Exception):  # a worker may have closed its streams, or put anything in their place
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        if isinstance(result, Failure):
            print(result.traceback or result.message, file=sys.stderr)
        sys.stderr.flush()


def _occupy_closed_files() -> None:
    """No new file gets the number of one that was closed under somebody who still reads, writes or closes it."""
    with contextlib.suppress(OSError):  # as many as there may be
        while os.open(os.devnull, os.O_RDWR) < _OUR_FILES:
            pass


def _terminate(_number: int, _frame: object) -> None:
    raise Terminated(128 + signal.SIGTERM)


def _die() -> None:
    """The lease is lost and another host may run the task: nothing of this run counts any more, so it ends."""
    os._exit(outcome.LEASE_LOST)


def _draw_anew() -> None:
    """Numbers by chance are others in each process, though all are forked from one. (`random` sees to it itself.)"""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _log_to_stderr(form: str = stderrlog.TEXT) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(stderrlog.formatter(form, context.log_fields))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
