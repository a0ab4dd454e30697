"""/contexts/{id}/logs: what a worker printed, as text; with `follow` while it prints."""

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web

from damad import context, events, logs, tasks
from damad.errors import NotFound
from damad.eventstore import listener
from damad.eventstore.store import State, TaskState
from damad.http import wire
from damad.http.shutdown import WAITS
from damad.model.lifecycle import ENDED


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whose log: of an attempt, the last one unless named."""

    attempt: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    follow: bool = False


async def read_log(request: web.Request) -> web.StreamResponse:
    """GET: the text up to now, or until the attempt has ended."""
    asked = wire.query(request, LogQuery)
    id_ = wire.context_id(request)
    state = await tasks.status(id_)
    follows = asked.follow and not _is_over(state, asked.attempt)
    file = None if follows else logs.find(id_, asked.attempt)

    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    await response.prepare(request)
    if file is not None:
        async for chunk in logs.read(file):
            await response.write(chunk)
        return response
    with suppress(TimeoutError):  # The server shuts down.
        async with request.app[WAITS].bounded():
            await _follow(response, id_, asked.attempt)
    return response


async def _follow(response: web.StreamResponse, id_: int, attempt: int | None) -> None:
    file = await _log_of(id_, attempt)
    if file is None:
        return
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_end_of(id_, int(file.stem)))
        # Whoever read is gone; a group of errors out of here would be taken for a fault of ours.
        with suppress(ConnectionError):
            async for chunk in logs.follow(file, watch.done):
                await response.write(chunk)
        watch.cancel()


async def _log_of(id_: int, attempt: int | None) -> Path | None:
    """The log, once it is there; None where the attempt ended and left none on this host."""
    with context.current().store.database.listener().subscribe(listener.EVENT, id_) as bell:
        while True:
            state = await events.persist(partial(tasks.status, id_))
            with suppress(NotFound):
                return logs.find(id_, attempt)
            if _is_over(state, attempt):
                return None
            await bell.wait(events.POLL_INTERVAL)


async def _end_of(id_: int, attempt: int) -> None:
    with context.current().store.database.listener().subscribe(listener.EVENT, id_) as bell:
        while not _is_over(await events.persist(partial(tasks.status, id_)), attempt):
            await bell.wait(events.POLL_INTERVAL)


def _is_over(state: State, attempt: int | None) -> bool:
    """True where the attempt, or with None the task, will print nothing more."""
    if not isinstance(state, TaskState) or state.state in ENDED:
        return True
    if attempt is None:
        return False
    return state.attempt > attempt or (state.attempt == attempt and state.state == "retrying")
