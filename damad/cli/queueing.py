"""queue, cancel, retry: what changes a task."""

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from damad.cli.options import Json, Payload, Settings, Where

if TYPE_CHECKING:
    from damad.cli.lines import Line
    from damad.eventstore.store import Queued

_AT_A_TIME = 1000
"""Tasks of --each that are queued in one statement."""
_NOT_QUEUED = {
    "singleton_key": "a task with this singleton_key is open, and its id is the answer",
    "debounce": "the task with this singleton_key had not begun, and was put off",
    "throttle": "a task with this singleton_key was queued not so long ago, and its id is the answer",
}
_LOCK_TIMEOUT = 3.0
"""Seconds until cancel and retry give up on a context that somebody holds in an open transaction."""


def queue(
    worker: str,
    /,
    *,
    payload: Payload = None,
    each: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    wait: Annotated[bool, Parameter(negative="")] = False,
    timeout: str | None = None,
    json: Json = False,
    settings: Settings | None = None,
    where: Where | None = None,
) -> int:
    """Queue a task and print its etl_context_id; with --wait, its result; with --each, many tasks.

    Parameters
    ----------
    worker
        A file inside a worker root, absolute or relative to it.
    payload
        JSON, @FILE, or - for stdin.
    each
        A file of payloads, one a line as JSON, or - for stdin: a task for each, or none where a line is wrong.
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
    if each is not None:
        if payload is not None or wait:
            raise InvalidInput(
                "--each has a payload in each line and waits for no task: leave --payload and --wait out"
            )
        return session.go(_queue_each(worker, each, json, settings or Settings(), where or Where()))
    return session.go(_queue(worker, payload, wait, timeout, json, settings or Settings(), where or Where()))


async def _queue(
    worker: str, payload: str | None, wait: bool, timeout: str | None, json: bool, settings: Settings, where: Where
) -> int:
    from damad import tasks, units
    from damad.cli import session, waiting

    patience = None if timeout is None else units.duration(timeout, pointer="/timeout")
    asked = request(worker, payload, settings)
    async with session.opened(where) as ambient:
        queued = (await tasks.queue_many([asked]))[0]
        if not wait:
            _print_ids([queued], json)
            return 0
        waiting.hint_if_no_daemon(ambient)
        return await waiting.result(queued.etl_context_id, patience)


async def _queue_each(worker: str, path: str, json: bool, settings: Settings, where: Where) -> int:
    """All in one transaction. The ids are printed once it has committed."""
    from damad import events
    from damad.cli import lines, session

    asked, queued = request(worker, None, settings), list["Queued"]()
    async with session.opened(where), events.transaction():
        left = lines.read(path)
        while some := list(islice(left, _AT_A_TIME)):
            queued += await _queue_some(asked, some)
    _print_ids(queued, json)
    return 0


async def _queue_some(asked: Any, some: "list[Line]") -> "list[Queued]":
    import msgspec

    from damad import tasks
    from damad.errors import InvalidInput

    requests = [msgspec.structs.replace(asked, payload=line.payload) for line in some]
    try:
        return await tasks.queue_many(requests, pointer="/0" if len(requests) == 1 else "")
    except InvalidInput as refused:
        place, _, field = (refused.pointer or "").removeprefix("/").partition("/")
        if field.split("/")[0] == "payload":
            raise InvalidInput(f"--each, line {some[int(place)].number}: {refused}") from None
        raise


def _print_ids(done: "list[Queued]", json: bool) -> None:
    """One id a line; on stderr, whose id that is where an open task has the singleton_key."""
    from damad.cli import render

    for queued in done:
        said = {"etl_context_id": queued.etl_context_id}
        why_not = {} if queued.suppressed is None else {"suppressed": queued.suppressed}
        render.as_json({**said, **why_not}) if json else print(queued.etl_context_id)
    for setting, why in _NOT_QUEUED.items():
        if count := sum(queued.suppressed == setting for queued in done):
            print(f"damad: {count} of {len(done)} not queued: {why}", file=sys.stderr)


def request(worker: str, payload: str | None, settings: Settings) -> Any:
    """The task that the words ask for. Raises InvalidInput."""
    from damad import tasks
    from damad.cli import session
    from damad.errors import InvalidInput
    from damad.model import settings as task_settings

    meta = None if settings.meta is None else session.parse_json(settings.meta, "--meta")
    if meta is not None and not isinstance(meta, dict):
        raise InvalidInput("--meta is no JSON object")
    texts = settings.given()
    if "on_failure" in texts:
        texts["on_failure"] = _as_given(texts["on_failure"])
    return tasks.TaskRequest(
        worker=_as_given(worker),
        payload=session.payload(payload),
        parent_context_id=session.reference(settings.parent_context_id, "parent_context_id"),
        source_id=session.reference(settings.source_id, "source_id"),
        meta=meta,
        settings=task_settings.from_texts(texts),
    )


def _as_given(worker: str) -> str:
    """A path that leads somewhere from the working folder means that file, as in any shell."""
    return str(Path(worker).absolute()) if "/" in worker and Path(worker).is_file() else worker


def cancel(id: str, /, *, json: Json = False, where: Where | None = None) -> int:
    """Ask a task to stop. Where no daemon serves the state folder, stop it, and say so once it is dead."""
    from damad import tasks
    from damad.cli import session

    return session.go(_change(tasks.cancel, id, json, where or Where()))


def retry(
    id: str | None = None,
    /,
    *,
    state: str | None = None,
    queue: str | None = None,
    error: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    where: Where | None = None,
) -> int:
    """Queue a failed or cancelled task again, its checkpoints and steps kept; with --state, all that match.

    Parameters
    ----------
    state
        All tasks in this state: failed, cancelled, or both with a comma between.
    queue
        Of them those of this queue.
    error
        Of them those whose last error's message has this text in it.
    dry_run
        Only say how many they are.
    """
    from damad import tasks
    from damad.cli import session
    from damad.errors import InvalidInput

    if (id is None) == (state is None):
        raise InvalidInput("name one task, or all of a --state")
    if id is not None:
        if queue is not None or error is not None or dry_run:
            raise InvalidInput("--queue, --error and --dry-run go with --state, and not with one task")
        return session.go(_change(tasks.retry, id, json, where or Where()))
    return session.go(_retry_all((state or "").split(","), queue, error, dry_run, json, where or Where()))


async def _retry_all(
    states: list[str], queue: str | None, error: str | None, dry_run: bool, json: bool, where: Where
) -> int:
    """Says how many they are, and what became of them. Exit code 1 where one of them was not queued."""
    from damad import tasks
    from damad.cli import render, session
    from damad.eventstore.ended import Ended

    which = Ended(states=states, queue=queue, error=error)
    tasks.check_retryable(which.states)
    async with session.opened(where, lock_timeout=_LOCK_TIMEOUT):
        matched = await tasks.count(which)
        print(f"{matched} tasks match", file=sys.stderr)
        done = tasks.Redriven(matched, 0, {}) if dry_run else await tasks.retry_all(which)
    if json:
        render.as_json(done)
    elif not dry_run:
        print(f"{done.requeued} of them are queued again", file=sys.stderr)
    for id_, why in done.refused.items():
        print(f"damad: task {id_}: {why}", file=sys.stderr)
    return 1 if done.refused else 0


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
