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

from damad import context
from damad.model.event import Event
from damad.model.retry import Failure
from damad.runner import outcome
from damad.runner.attempt import Attempt, NotMine
from damad.runner.load import is_async, load, takes_event

_log_file: ContextVar[TextIO | None] = ContextVar("damad_log_file", default=None)


HAND_BACK = "the daemon stops"
"""The message of a cancellation that hands the task back. Any other cancels it for good."""


async def run(attempt: Attempt, log_path: Path) -> None:
    """Runs the attempt from begin to conclude. Cancelled with HAND_BACK, it hands the task back."""
    try:
        await attempt.begin()
    except NotMine:
        return
    log_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    renewal = asyncio.create_task(attempt.renew(_cancel_of_this_task()))
    try:
        with log_path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as log_file:
            _divert_output()
            token = _log_file.set(log_file)
            try:
                result = await _main(attempt)
            finally:
                _log_file.reset(token)
        await attempt.conclude(result)
    except asyncio.CancelledError as reason:
        if HAND_BACK in reason.args:
            await attempt.release(HAND_BACK)
        raise
    finally:
        renewal.cancel()
        with suppress(asyncio.CancelledError):
            await renewal


def _cancel_of_this_task() -> Callable[[], None]:
    task = asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        task.cancel()

    return cancel


async def _main(attempt: Attempt) -> Event | Failure:
    worker = Path()
    me = asyncio.current_task()
    try:
        worker = attempt.find_worker()
        with context.run_in(attempt.context):
            main = load(worker)
            if not is_async(main):
                return outcome.refused_in_daemon(attempt.number, worker)
            initial = (attempt.context.initial_event,) if takes_event(main) else ()
            limit = attempt.settings.expire_in
            async with asyncio.timeout(limit) as clock:
                returned = await main(*initial)
    except TimeoutError as error:
        if clock.expired():
            return outcome.timed_out(attempt.number, limit)
        return outcome.of_exception(error, attempt=attempt.number, worker=worker)
    except BaseException as error:  # whatever a worker raises is an outcome, SystemExit too
        if isinstance(error, asyncio.CancelledError) and me is not None and me.cancelling():
            raise
        return outcome.of_exception(error, attempt=attempt.number, worker=worker)
    return outcome.of_result(returned, attempt=attempt.number, limit=attempt.claim.max_result)


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
def _divert_output() -> None:
    """Once a process."""
    sys.stdout = _Diverted(sys.stdout)
    sys.stderr = _Diverted(sys.stderr)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("damad.worker")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
