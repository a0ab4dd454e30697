"""run: one task on this terminal, without any daemon, under a debugger if asked."""

import signal
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from damad.cli.options import Payload, Settings, Where


def run(
    worker: str | None = None,
    /,
    *,
    context: str | None = None,
    payload: Payload = None,
    debug: Annotated[bool, Parameter(negative="")] = False,
    pdb: Annotated[bool, Parameter(negative="")] = False,
    settings: Settings | None = None,
    where: Where | None = None,
) -> int:
    """Run a worker here, without a daemon: the :FINAL payload on stdout, the failure on stderr (exit code 1).

    A task that is made by it is not retried unless --retry-limit says so: whoever runs it wants to see the failure.

    Parameters
    ----------
    worker
        A file inside a worker root.
    context
        In place of a worker: the task to run. A failed or cancelled one is queued again first; where no daemon runs,
        one whose process is dead is concluded first.
    payload
        JSON, @FILE, or - for stdin.
    debug
        Wait for a debugger before main is called: debugpy, or for JavaScript the inspector of Node.js.
    pdb
        Stop in main under pdb.
    """
    from damad.cli import session
    from damad.errors import InvalidInput

    if (worker is None) == (context is None):
        raise InvalidInput("name a worker, or a task with --context, and not both")
    if debug and pdb:
        raise InvalidInput("--debug and --pdb exclude each other")
    if context is not None and (payload is not None or settings not in (None, Settings())):
        raise InvalidInput("a task that is there runs as it was queued: --context takes no --payload and no settings")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker on this terminal hears it, and says how it ended
    return session.go(_run(worker, context, payload, (debug, pdb), settings or Settings(), where or Where()))


async def _run(
    worker: str | None,
    id_: str | None,
    payload: str | None,
    asked: tuple[bool, bool],
    settings: Settings,
    where: Where,
) -> int:
    import logging

    from damad import statefolder, stderrlog, tasks
    from damad.cli import session, waiting
    from damad.runner import debugging
    from damad.scheduler.supervisor import Supervisor

    stderrlog.configure(logging.WARNING)
    configuration = session.configuration(where)
    host_id = statefolder.make_host_id(configuration.state_dir)
    debug, pdb = asked
    async with session.opened(where, configuration) as ambient:
        debugger = None
        if debug or pdb:
            debugger = debugging.chosen(worker or await _worker_of(str(id_)), debug=debug, pdb=pdb)
        supervisor = Supervisor(ambient.store.database, configuration, host_id, terminal=True, debug=debugger)
        alone = not statefolder.has_daemon(configuration.state_dir)  # then nobody else looks after this host's tasks
        if worker is not None:
            etl_context_id = await _queue_claimed(worker, payload, settings, supervisor)
        else:
            etl_context_id = await _claim(str(id_), supervisor, alone=alone)
        async with supervisor.looking_after(etl_context_id, descendants=alone):
            event = await _ended_or_left(etl_context_id, supervisor)
            await supervisor.quiet()
        if event is None:
            state = (await tasks.status(etl_context_id)).state
            taken_up = f"damad run --context {etl_context_id} takes it up again, and so does a daemon"
            print(f"damad: task {etl_context_id} is {state}; {taken_up}", file=sys.stderr)
            return 2
        return await waiting.said(event, traceback=False)  # the worker has said it on this terminal


async def _worker_of(id_: str) -> str:
    """The worker of a task that is there."""
    from damad import tasks
    from damad.cli import session

    return str(getattr(await tasks.status(session.etl_context_id(id_)), "worker", ""))


async def _ended_or_left(etl_context_id: int, supervisor: Any) -> Any:
    """The event that it ended with; None where somebody wants to go and nothing of it runs here that could hear that.

    A worker that runs hears it by itself. Whatever it does about it, it is not started again.
    """
    import asyncio

    from damad import context, events, tasks
    from damad.eventstore import listener
    from damad.model.lifecycle import HELD_BY_NOBODY

    ending, loop = asyncio.create_task(events.ended(etl_context_id)), asyncio.get_running_loop()
    leaving: set[asyncio.Task[None]] = set()

    async def leave() -> None:
        with context.current().store.database.listener().subscribe(listener.EVENT, etl_context_id) as bell:
            while (await tasks.status(etl_context_id)).state not in HELD_BY_NOBODY:
                await bell.wait(listener.POLL_INTERVAL)
        ending.cancel()

    def hear(number: signal.Signals) -> None:
        if number == signal.SIGTERM:
            supervisor.stop()
        supervisor.claims.close()
        if not leaving:
            leaving.add(loop.create_task(leave()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, hear, number)
    await asyncio.wait([ending])
    for task in leaving:
        task.cancel()
    return None if ending.cancelled() else ending.result()


async def _queue_claimed(worker: str, payload: str | None, settings: Settings, supervisor: Any) -> int:
    """Queues a task and claims it in one transaction, so that no daemon takes it. Raises Conflict for a known key."""
    import msgspec

    from damad import events, tasks
    from damad.cli.queueing import request
    from damad.errors import Conflict, IdempotencyConflict

    asked = request(worker, payload, settings)
    asked = msgspec.structs.replace(asked, settings={"retry_limit": 0, **asked.settings})
    try:
        async with events.transaction() as connection:
            queued = (await tasks.queue_many([asked]))[0]
            if queued.created:
                await supervisor.claims.one(queued.etl_context_id, on=connection)
                return int(queued.etl_context_id)
        first, key = queued.etl_context_id, queued.suppressed
    except IdempotencyConflict as seen:  # also of the same task as `damad queue` makes it, for this one has no retries
        first, key = seen.values["etl_context_id"], "idempotency_key"
    raise Conflict(f"the task of this {key} is context {first}, which is {(await tasks.status(first)).state}")


async def _claim(id_: str, supervisor: Any, *, alone: bool) -> int:
    """Claims a task that is there; one that failed or was cancelled is queued again in the same transaction.

    alone: no daemon will say what became of a task whose process died with the last one.
    """
    from damad import events, tasks
    from damad.cli import session
    from damad.errors import Conflict

    etl_context_id = session.etl_context_id(id_)
    if alone:
        await supervisor.settle(etl_context_id)
    state = await tasks.status(etl_context_id)
    ended = state.state in ("failed", "cancelled")
    if state.state == "waiting":
        return etl_context_id  # it is claimed once that is over
    if not ended and state.state not in ("queued", "scheduled", "retrying"):
        raise Conflict(f"task {etl_context_id} is {state.state}; only one that is queued, failed or cancelled is run")
    async with events.transaction() as connection:
        if ended:
            await tasks.retry(etl_context_id)
        await supervisor.claims.one(etl_context_id, on=connection)
    return etl_context_id
