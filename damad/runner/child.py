"""The worker's process: one attempt, `main` in the main thread, damad's own loop beside it.

A sync `main` has the main thread to itself, an async one its loop. The lease is renewed on damad's loop, so that a
worker which computes for an hour keeps it.
"""

import asyncio
import atexit
import contextlib
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from damad import background, context
from damad.eventstore.pools import Database
from damad.model.event import Event
from damad.model.retry import Failure
from damad.runner import debugging, outcome
from damad.runner.attempt import Attempt, Claim, NotMine
from damad.runner.load import is_async, load, takes_event

_CONNECTIONS = 4
_ANSWER_TIMEOUT = 30.0
"""Seconds until a statement of damad's own is sent again on another connection: no worker waits for ever."""
_OUR_FILES = 64
"""More than damad has open when main begins: their numbers are below."""


class Terminated(SystemExit):
    """SIGTERM, raised in `main` so that its `finally` blocks run before the process ends by that signal."""


def main(assignment: dict[str, Any]) -> int:
    """Runs the attempt that `assignment` describes and returns the exit code of the process."""
    _log_to_stderr()
    signal.signal(signal.SIGTERM, _terminate)
    claim = msgspec.convert(assignment["claim"], Claim, dec_hook=lambda sort, value: sort(value))
    name = f"damad/{claim.etl_context_id}/{assignment['attempt']}"
    database = Database(
        claim.pg_env,
        assignment["dsn"],
        application_name=name,
        max_size=_CONNECTIONS,
        answer_timeout=_ANSWER_TIMEOUT,
        pooled=assignment["pooled"],
    )
    try:
        return _run(Attempt(claim, database), debugging.debugger(assignment["debug"]))
    except NotMine as refused:
        return refused.exit_code
    except Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise


def _run(attempt: Attempt, debugger: debugging.Debugger) -> int:
    process = os.getpid()
    background.run(attempt.begin())
    renewal = asyncio.run_coroutine_threadsafe(attempt.renew(_die), background.loop())
    result = _run_main(attempt, debugger)
    if os.getpid() != process:
        os._exit(0)  # the worker forked, and its child came back here too: only the first of them reports
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    renewal.cancel()
    return _conclude(attempt, result)


def _run_main(attempt: Attempt, debugger: debugging.Debugger) -> Event | Failure:
    worker = Path()
    try:
        worker = attempt.find_worker()
        with context.run_in(attempt.context):
            main = load(worker)
            initial = (attempt.context.initial_event,) if takes_event(main) else ()
            returned = debugger(lambda: _call(main, initial), main)
    except Terminated:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a worker raises is an outcome, SystemExit too
        return outcome.of_exception(error, attempt=attempt.number, worker=worker)
    return outcome.of_result(returned, attempt=attempt.number, limit=attempt.claim.max_result)


def _call(main: Callable[..., Any], initial: tuple[Any, ...]) -> Any:
    if is_async(main):
        return asyncio.run(main(*initial))
    returned = main(*initial)
    return asyncio.run(_awaited(returned)) if inspect.iscoroutine(returned) else returned


async def _awaited(coroutine: Any) -> Any:
    return await coroutine


def _conclude(attempt: Attempt, result: Event | Failure) -> int:
    """Reports on damad's loop, or on a fresh one where the worker closed that one's files."""
    _finish_log(result)
    try:
        code = background.run(attempt.conclude(result))
    except background.Broken:
        _occupy_closed_files()
        code = asyncio.run(attempt.conclude(result))
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


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
