"""Waits for a task, and says what became of it: the result on stdout, a failure on stderr."""

import asyncio
import sys
from typing import Any

import msgspec

from damad import context, events, statefolder
from damad.errors import TaskCancelled, TaskFailed
from damad.model.event import RecordedEvent

_DONE, _FAILED, _CANCELLED, _STILL_OPEN = 0, 1, 2, 3


async def result(etl_context_id: int, patience: float | None = None) -> int:
    """Waits until a task has ended and returns the exit code that says how. `patience`: seconds."""
    try:
        async with asyncio.timeout(patience):
            event = await events.ended(etl_context_id)
    except TimeoutError:
        print(f"damad: task {etl_context_id} has not ended within {patience} s", file=sys.stderr)
        return _STILL_OPEN
    return await said(event)


async def said(event: RecordedEvent, *, traceback: bool = True) -> int:
    """Prints how a task ended and returns the exit code that says so. `traceback`: of a failure, with its message."""
    try:
        print(msgspec.json.encode((await events.result_of(event)).payload).decode())
    except TaskFailed:
        print(await _failure(event.etl_context_id, traceback=traceback), file=sys.stderr)
        return _FAILED
    except TaskCancelled:
        print(f"damad: task {event.etl_context_id} was cancelled", file=sys.stderr)
        return _CANCELLED
    return _DONE


async def _failure(etl_context_id: int, *, traceback: bool) -> str:
    failures = await events.read(etl_context_id, types=["dama/task:ERROR"])
    error: dict[str, Any] = failures[-1]["payload"] if failures else {}
    how = f"{error.get('kind')}, attempt {error.get('attempt')}"
    line = f"damad: task {etl_context_id} failed ({how}): {error.get('message')}"
    shown = error.get("traceback") if traceback else None
    return f"{shown.rstrip()}\n{line}" if shown else line


def hint_if_no_daemon(ambient: context.EtlContext) -> None:
    """Says on stderr that nobody may be there to run the task, if no daemon holds this state folder."""
    state_dir = ambient.here.state_dir
    if state_dir is not None and not statefolder.has_daemon(state_dir):
        print(f"damad: no daemon runs on {state_dir}; waiting for one (damad serve)", file=sys.stderr)
