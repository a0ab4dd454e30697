"""queue, cancel, retry: what changes a task."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from damad.cli.options import Json, Payload, Settings, Where

_LOCK_TIMEOUT = 3.0
"""Seconds until cancel and retry give up on a context that somebody holds in an open transaction."""


def queue(
    worker: str,
    /,
    *,
    payload: Payload = None,
    wait: Annotated[bool, Parameter(negative="")] = False,
    timeout: str | None = None,
    json: Json = False,
    settings: Settings | None = None,
    where: Where | None = None,
) -> int:
    """Queue a task and print its etl_context_id; with --wait, its result.

    Parameters
    ----------
    worker
        A file inside a worker root, absolute or relative to it.
    payload
        JSON, @FILE, or - for stdin.
    wait
        Wait for the end: the :FINAL payload on stdout and exit code 0, or the failure on stderr and 1 (failed)
        or 2 (cancelled).
    timeout
        How long to wait.
    """
    from damad.cli import session
    from damad.errors import InvalidInput

    if timeout is not None and not wait:
        raise InvalidInput("--timeout is how long to --wait, and nobody waits here")
    return session.go(_queue(worker, payload, wait, timeout, json, settings or Settings(), where or Where()))


async def _queue(
    worker: str, payload: str | None, wait: bool, timeout: str | None, json: bool, settings: Settings, where: Where
) -> int:
    from damad import tasks, units
    from damad.cli import render, session, waiting

    patience = None if timeout is None else units.duration(timeout, pointer="/timeout")
    asked = request(worker, payload, settings)
    async with session.opened(where) as ambient:
        queued = (await tasks.queue_many([asked]))[0]
        if not wait:
            render.as_json({"etl_context_id": queued.etl_context_id}) if json else print(queued.etl_context_id)
            return 0
        waiting.hint_if_no_daemon(ambient)
        return await waiting.result(queued.etl_context_id, patience)


def request(worker: str, payload: str | None, settings: Settings) -> Any:
    """The task that the words ask for. Raises InvalidInput."""
    from damad import tasks
    from damad.cli import session
    from damad.errors import InvalidInput
    from damad.model import settings as task_settings

    meta = None if settings.meta is None else session.parse_json(settings.meta, "--meta")
    if meta is not None and not isinstance(meta, dict):
        raise InvalidInput("--meta is no JSON object")
    return tasks.TaskRequest(
        worker=_as_given(worker),
        payload=session.payload(payload),
        parent_context_id=session.reference(settings.parent_context_id, "parent_context_id"),
        source_id=session.reference(settings.source_id, "source_id"),
        meta=meta,
        settings=task_settings.from_texts(settings.given()),
    )


def _as_given(worker: str) -> str:
    """A path that leads somewhere from the working folder means that file, as in any shell."""
    return str(Path(worker).absolute()) if "/" in worker and Path(worker).is_file() else worker


def cancel(id: str, /, *, json: Json = False, where: Where | None = None) -> int:
    """Ask a task to stop. Where no daemon serves the state folder, stop it, and say so once it is dead."""
    from damad import tasks
    from damad.cli import session

    return session.go(_change(tasks.cancel, id, json, where or Where()))


def retry(id: str, /, *, json: Json = False, where: Where | None = None) -> int:
    """Queue a failed or cancelled task again, its checkpoints and steps kept."""
    from damad import tasks
    from damad.cli import session

    return session.go(_change(tasks.retry, id, json, where or Where()))


async def _change(function: Any, id_: str, json: bool, where: Where) -> int:
    from damad import statefolder
    from damad.cli import render, session

    configuration = session.configuration(where)
    async with session.opened(where, configuration, lock_timeout=_LOCK_TIMEOUT) as ambient:
        state = await function(session.etl_context_id(id_))
        if state.state == "cancelling" and not statefolder.has_daemon(configuration.state_dir):
            state = await _stop(state, ambient, configuration)
        if json:
            render.as_json(state)
        else:
            print(f"task {state.etl_context_id} is {state.state}", file=sys.stderr)
    return 0


async def _stop(state: Any, ambient: Any, configuration: Any) -> Any:
    """Does for one task of this host what a daemon would: stops its process, and says so when it is seen dead."""
    import logging

    from damad import events, stderrlog, tasks
    from damad.scheduler.supervisor import Supervisor

    stderrlog.configure(logging.WARNING)
    if ambient.here.host_id is None or str(state.host_id) != ambient.here.host_id:
        print(f"damad: it runs on host {state.host_id}, whose daemon stops it", file=sys.stderr)
        return state
    supervisor = Supervisor(ambient.store.database, configuration, ambient.here.host_id)
    async with supervisor.looking_after(state.etl_context_id):
        await events.ended(state.etl_context_id)
    return await tasks.status(state.etl_context_id)
