"""Runs an attempt as a coroutine of the daemon: for an async `main` in a queue that says `run_in = "daemon"`.

What it prints goes to the attempt's log all the same: sys.stdout and sys.stderr of the process look, for each write,
in whose context they are written to.
"""

import asyncio
import io
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import msgspec

from damad import context, stderrlog, workerfile
from damad.errors import Conflict
from damad.model import limits
from damad.model.event import Event
from damad.model.retry import Failure
from damad.runner import outcome
from damad.runner.attempt import Attempt, NotMine

_log_file: ContextVar["_LogFile | None"] = ContextVar("damad_log_file", default=None)


HAND_BACK = "the daemon stops"
"""The message of a cancellation that hands the task back. Any other asks the worker to stop for good."""


class Exited(Exception):
    """A task that the worker started raised SystemExit or KeyboardInterrupt, which asyncio lets end its loop: ours."""


async def run(attempt: Attempt, log_path: Callable[[], Path], *, grace: float) -> None:
    """Runs the attempt from begin to conclude. Cancelled with HAND_BACK, it hands the task back.

    main has a task of its own: so a cancellation, and what it is for, is heard here whatever main makes of it.
    The daemon renews the lease of what it runs; where another host may take the task over, the attempt watches it too.
    """
    try:
        await attempt.begin()
    except NotMine:
        return
    except asyncio.CancelledError as reason:
        if HAND_BACK in reason.args:
            await _hand_back(attempt)
        raise
    renewal = asyncio.create_task(attempt.renew(_cancel_of_this_task())) if attempt.claim.shared else None
    main = asyncio.create_task(_logged_main(attempt, log_path))
    try:
        stops = await _ended(main, grace, pass_on=True)
        if main.done() and not main.cancelled() and not (stops and isinstance(main.result(), Failure)):
            await _ended(asyncio.create_task(_conclude(attempt, main.result())), grace, pass_on=False)
        elif stops:
            await _hand_back(attempt)
    finally:
        if renewal is not None:
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal


async def _ended(task: "asyncio.Task[Any]", grace: float, *, pass_on: bool) -> bool:
    """Returns once a task has ended: whether we were asked to hand back meanwhile, and then after the grace at most.

    A cancellation of ours is passed on, each time: a worker that swallows it is still running, and nobody says else.
    """
    stops = False
    while not task.done():
        try:
            await asyncio.wait([task], timeout=grace if stops else None)
        except asyncio.CancelledError as reason:
            stops = stops or HAND_BACK in reason.args
            if pass_on:
                task.cancel()
            continue
        if stops:
            break
    return stops


async def _conclude(attempt: Attempt, result: Event | Failure) -> None:
    await attempt.conclude(result)


async def _hand_back(attempt: Attempt) -> None:
    with suppress(Conflict):  # somebody else said meanwhile what became of it
        await attempt.release(HAND_BACK)


def _cancel_of_this_task() -> Callable[[], None]:
    task = asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        task.cancel()

    return cancel


async def _logged_main(attempt: Attempt, log_path: Callable[[], Path]) -> Event | Failure:
    log_file = _LogFile(log_path)
    try:
        _divert_output(attempt.claim.log_format)
        _contain_exits(asyncio.get_running_loop())
        _log_file.set(log_file)
        return await _main(attempt)
    finally:
        with suppress(OSError):  # of a line that no disk takes only the line is lost
            log_file.close()


class _LogFile(io.TextIOBase):
    """The log of an attempt, there once something is printed: to make two inodes costs more than most runs here."""

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path
        self._file: TextIO | None = None

    def write(self, text: str) -> int:
        if self._file is None:
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        return self._file.write(text)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


async def _main(attempt: Attempt) -> Event | Failure:
    worker = Path()
    me = asyncio.current_task()
    try:
        worker = attempt.find_worker()
        with context.run_in(attempt.context):
            if workerfile.runs_on_node(worker):
                return outcome.refused_in_daemon(attempt.number, worker, "runs on Node.js")
            if limited := limits.given(msgspec.structs.asdict(attempt.settings)):
                return outcome.refused_in_daemon(attempt.number, worker, f"has a {limited[0]}")
            main = attempt.load()
            if not main.is_async:
                return outcome.refused_in_daemon(attempt.number, worker, "has a main that is not async")
            returned = await main(attempt.context.initial_event)
    except BaseException as error:  # whatever a worker raises is an outcome, SystemExit too
        if isinstance(error, asyncio.CancelledError) and me is not None and me.cancelling():
            raise
        return outcome.of_exception(error, attempt=attempt.number, worker=worker, now=attempt.now())
    return outcome.of_result(returned, attempt=attempt.number, limit=attempt.claim.max_result)


@cache
def _contain_exits(loop: asyncio.AbstractEventLoop) -> None:
    """Once a loop: its tasks that a worker starts cannot end it."""

    def create_task(loop_: asyncio.AbstractEventLoop, coroutine: Any, **given: Any) -> "asyncio.Task[Any]":
        mine = _contained(coroutine) if _log_file.get() is not None else coroutine
        return asyncio.Task(mine, loop=loop_, **given)

    loop.set_task_factory(create_task)


async def _contained(coroutine: Any) -> Any:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise Exited(f"a task of the worker raised {type(error).__name__}: {error}") from error


class _Diverted(io.TextIOBase):
    """Writes to the log file of the run in whose context it is called, else where it always wrote."""

    def __init__(self, original: TextIO) -> None:
        self._original = original

    def write(self, text: str) -> int:
        return (_log_file.get() or self._original).write(text)

    def flush(self) -> None:
        (_log_file.get() or self._original).flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


@cache
def _divert_output(log_format: str) -> None:
    """Once a process."""
    sys.stdout = _Diverted(sys.stdout)
    sys.stderr = _Diverted(sys.stderr)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(stderrlog.formatter(log_format, context.log_fields))
    logger = logging.getLogger("damad.worker")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
