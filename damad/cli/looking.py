"""tasks, show, events, logs: what looks inside through the log."""

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from damad.cli.options import Json, Where

_PAGE = 1000


def tasks(
    *,
    state: str | None = None,
    queue: str | None = None,
    parent: int | None = None,
    limit: int = 50,
    by_error: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    where: Where | None = None,
) -> int:
    """List tasks, newest first; with --by-error, what those that failed failed of, the commonest first.

    Parameters
    ----------
    state
        Only those in this state, or in one of several with commas between.
    queue
        Only those of this queue.
    parent
        Only the children of this context.
    limit
        At most so many.
    by_error
        How many there are of each kind of failure and first line of its message.
    """
    from damad.cli import session
    from damad.errors import InvalidInput

    if by_error:
        if parent is not None:
            raise InvalidInput("--by-error goes by --state and --queue; leave --parent out")
        return session.go(_by_error(state, queue, limit, json, where or Where()))
    return session.go(_tasks(state, queue, parent, limit, json, where or Where()))


async def _by_error(state: str | None, queue: str | None, limit: int, json: bool, where: Where) -> int:
    from damad.cli import render, session
    from damad.eventstore import ended

    which = ended.Ended(states=_states(state or "failed"), queue=queue)
    _check_limit(limit)
    async with session.opened(where) as ambient:
        found = await ended.causes(ambient.store.database, which, limit=limit)
    render.as_json(found) if json else render.causes(found)
    return 0


def _states(text: str) -> list[str]:
    from damad.errors import InvalidInput
    from damad.model.lifecycle import TASK_STATES

    for name in text.split(","):
        if name not in TASK_STATES:
            raise InvalidInput(f"there is no state {name!r}; there are {', '.join(TASK_STATES)}")
    return text.split(",")


def _check_limit(limit: int) -> None:
    from damad.errors import InvalidInput

    if limit < 1:
        raise InvalidInput("--limit is a number from 1")


async def _tasks(state: str | None, queue: str | None, parent: int | None, limit: int, json: bool, where: Where) -> int:
    from damad import queues
    from damad.cli import render, session

    states = _states(state) if state else None
    _check_limit(limit)
    session.reference(parent, "parent")
    async with session.opened(where) as ambient:
        listed = await ambient.store.tasks(states=states, queue=queue, parent_context_id=parent, limit=limit)
        found = await queues.explained(listed)
    render.as_json(found) if json else render.tasks(found)
    return 0


def show(id: str, /, *, json: Json = False, where: Where | None = None) -> int:
    """Show a context: its state, its tree, its events."""
    from damad.cli import session

    return session.go(_show(id, json, where or Where()))


async def _show(id_: str, json: bool, where: Where) -> int:
    import msgspec

    from damad import queues
    from damad.cli import render, session

    async with session.opened(where) as ambient:
        etl_context_id = session.etl_context_id(id_)
        state = await ambient.store.state(etl_context_id)
        recorded = await ambient.store.read(etl_context_id)
        state, *tree = await queues.explained([state, *await ambient.store.tree(etl_context_id)])
    if json:
        render.as_json({**msgspec.to_builtins(state), "events": recorded, "tree": tree})
    else:
        render.shown(state, recorded, tree)
    return 0


def events(
    id: str | None = None,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    type: str | None = None,
    after_version: int | None = None,
    json: Json = False,
    where: Where | None = None,
) -> int:
    """Print the events of a context, or of all.

    Parameters
    ----------
    follow
        Go on with each new event; with an id until the context has ended.
    type
        Only events of this type.
    after_version
        Only events after this version of the context.
    """
    from damad.cli import session
    from damad.errors import InvalidInput

    if after_version is not None and id is None:
        raise InvalidInput("versions are counted per context: --after-version needs the id of one")
    if not 0 <= (after_version or 0) < 2**63:
        raise InvalidInput("--after-version is a number from 0")
    return session.go(_events(id, follow, type, after_version or 0, json, where or Where()))


async def _events(
    id_: str | None, follow: bool, type_: str | None, after_version: int, json: bool, where: Where
) -> int:
    from damad.cli import render, session

    show_one = render.as_json_line if json else render.event_line
    async with session.opened(where) as ambient:
        etl_context_id = None if id_ is None else session.etl_context_id(id_)
        if etl_context_id is not None:
            await ambient.store.state(etl_context_id)
        source = _of_one(etl_context_id, after_version, follow) if etl_context_id else _of_all(follow)
        async for event in source:
            if type_ in (None, event.type):
                show_one(event)
    return 0


async def _of_one(etl_context_id: int, after_version: int, follow: bool) -> Any:
    from functools import partial

    from damad import context
    from damad import events as core

    store = context.current().store
    if not follow:
        for event in await store.read(etl_context_id, after_version=after_version):
            yield event
        return
    async for event in core.follow(etl_context_id, after_version=after_version):
        yield event
        if await core.persist(partial(store.end_event, etl_context_id)) == event:
            return


async def _of_all(follow: bool) -> Any:
    from damad import events as core

    async for event in core.everything(live=follow):
        yield event


def logs(
    id: str,
    /,
    *,
    attempt: int | None = None,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    json: Json = False,
    where: Where | None = None,
) -> int:
    """Print what a worker printed; with --json an object for each piece of it, a line each.

    Parameters
    ----------
    attempt
        Of this attempt; the last one unless named.
    follow
        Go on until the task has ended.
    """
    from damad.cli import session

    return session.go(_logs(id, attempt, follow, json, where or Where()))


async def _logs(id_: str, attempt: int | None, follow: bool, json: bool, where: Where) -> int:
    import codecs

    from damad import logs as core
    from damad.cli import render, session

    text = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a chunk may end within a character
    async with session.opened(where):
        etl_context_id = session.etl_context_id(id_)
        async for chunk in await core.printed(etl_context_id, attempt, live=follow):
            if json:
                render.as_json_line({"etl_context_id": etl_context_id, "text": text.decode(chunk)})
            else:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
    return 0
