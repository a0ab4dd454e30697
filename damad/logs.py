"""What a worker printed: one file an attempt in the state folder, stdout and stderr in the order they came.

An attempt in the daemon that prints nothing has none.
"""

import asyncio
import errno
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from damad import context, events, queues, tasks
from damad.errors import NotFound
from damad.eventstore import listener
from damad.eventstore.store import State, TaskState
from damad.model.lifecycle import ENDED
from damad.model.settings import decode

LOOK_INTERVAL: Final = 0.2
"""Seconds between looks at a file that is followed."""
_CHUNK: Final = 64 * 1024
_NAME = re.compile(r"(\d+)\.log")


def path(state_dir: Path, pg_env: str, etl_context_id: int, attempt: int) -> Path:
    """Where the log of an attempt lies."""
    return state_dir / "logs" / pg_env / str(etl_context_id) / f"{attempt}.log"


def attempts(etl_context_id: int) -> list[int]:
    """The attempts of a context whose logs lie on this host, in order."""
    ctx = context.current()
    if ctx.here.state_dir is None:
        return []
    folder = path(ctx.here.state_dir, ctx.pg_env, etl_context_id, 1).parent
    try:
        names = [_NAME.fullmatch(entry.name) for entry in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name[1]) for name in names if name)


def find(etl_context_id: int, attempt: int | None = None) -> Path:
    """The log file of an attempt, the last one unless named. Raises NotFound where it does not lie on this host."""
    ctx = context.current()
    there = attempts(etl_context_id)
    if ctx.here.state_dir is None or not there or (attempt is not None and attempt not in there):
        which = "no attempt" if attempt is None else f"no attempt {attempt}"
        raise NotFound(f"{which} of context {etl_context_id} has a log on this host", etl_context_id=etl_context_id)
    return path(ctx.here.state_dir, ctx.pg_env, etl_context_id, attempt or there[-1])


async def printed(etl_context_id: int, attempt: int | None = None, *, live: bool = False) -> AsyncIterator[bytes]:
    """What an attempt printed, the last one unless named, in chunks; `live`: and what it prints until it has ended.

    Raises NotFound for an unknown context, and where there is no log on this host.
    """
    state = await tasks.status(etl_context_id)
    if live and not _is_over(state, attempt):
        return _live(etl_context_id, attempt)
    try:
        return read(find(etl_context_id, attempt))
    except NotFound:
        if not await _ran_in_daemon_here(state, attempt):
            raise
        return _nothing()


async def _ran_in_daemon_here(state: State, attempt: int | None) -> bool:
    """True for an attempt that leaves a log only if it prints."""
    here = context.current().here
    if not isinstance(state, TaskState) or not 1 <= (attempt or 1) <= state.attempt:
        return False
    run_in = decode(state.settings).run_in or (await queues.in_force(state.queue)).run_in
    return run_in == "daemon" and here.host_id in (None, str(state.host_id))


async def _nothing() -> AsyncIterator[bytes]:
    chunks: tuple[bytes, ...] = ()
    for chunk in chunks:
        yield chunk


async def _live(etl_context_id: int, attempt: int | None) -> AsyncIterator[bytes]:
    file = await _log_of(etl_context_id, attempt)
    if file is None:
        return
    watch = asyncio.create_task(_end_of(etl_context_id, int(file.stem)))
    try:
        async for chunk in follow(file, watch.done):
            yield chunk
    finally:
        watch.cancel()


async def _log_of(etl_context_id: int, attempt: int | None) -> Path | None:
    """The log, once it is there; None where the attempt ended and left none on this host."""
    with context.current().store.database.listener().subscribe(listener.EVENT, etl_context_id) as bell:
        while True:
            state = await events.persist(partial(tasks.status, etl_context_id))
            with suppress(NotFound):
                return find(etl_context_id, attempt)
            if _is_over(state, attempt):
                return None
            await bell.wait()


async def _end_of(etl_context_id: int, attempt: int) -> None:
    with context.current().store.database.listener().subscribe(listener.EVENT, etl_context_id) as bell:
        while not _is_over(await events.persist(partial(tasks.status, etl_context_id)), attempt):
            await bell.wait()


def _is_over(state: State, attempt: int | None) -> bool:
    """True where the attempt, or with None the task, will print nothing more."""
    if not isinstance(state, TaskState) or state.state in ENDED:
        return True
    if attempt is None:
        return False
    return state.attempt > attempt or (state.attempt == attempt and state.state == "retrying")


async def read(file: Path) -> AsyncIterator[bytes]:
    """The log from its beginning, in chunks, up to where it ends now."""
    async for chunk in follow(file, lambda: True):
        yield chunk


async def follow(file: Path, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log from its beginning, then what is added, until `ended()` is true and everything was read.

    A log over its limit has a hole in its middle, which is passed over, and is put short when it is complete: in a
    new file, so that this one, kept open, can be read to its end.
    """
    with file.open("rb") as log:
        place = 0
        while True:
            last_look = ended()
            while True:
                place, chunk = await asyncio.to_thread(_read, log.fileno(), place)
                if not chunk:
                    break
                yield chunk
            if last_look:
                return
            place = min(place, os.fstat(log.fileno()).st_size)
            await asyncio.sleep(LOOK_INTERVAL)


def _read(fd: int, place: int) -> tuple[int, bytes]:
    """What stands at a place or after the hole there, and the place behind it.

    The file is opened once more: a reader that is cancelled closes it while this thread may still be at it.
    """
    with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as log:
        try:
            place = log.seek(place, os.SEEK_DATA)
            hole = log.seek(place, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return place, b""  # there is nothing from here on
        chunk = os.pread(log.fileno(), min(_CHUNK, hole - place), place)
    return place + len(chunk), chunk
