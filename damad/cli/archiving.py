"""archive: what has ended leaves the log for a file, and comes back from one."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from damad.cli.options import Json, Where


def archive(
    *,
    state: str | None = None,
    queue: str | None = None,
    older_than: str | None = None,
    limit: int | None = None,
    to: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    import_: Annotated[Path | None, Parameter(name="--import")] = None,
    json: Json = False,
    where: Where | None = None,
) -> int:
    """Move whole ended trees of contexts out of the log into a compressed file; with --import, put them back.

    Parameters
    ----------
    state
        Only trees whose root is done, failed or cancelled, or one of several with commas between.
    queue
        Only trees whose root was queued here.
    older_than
        Only those of which nothing was appended to for so long (90d).
    limit
        At most so many trees, the oldest first.
    to
        The folder of the file (STATE_DIR/archive).
    dry_run
        Say how many there are, and do nothing.
    import_
        Put back what is in this file.
    """
    from damad import units
    from damad.cli import session
    from damad.errors import InvalidInput
    from damad.eventstore.removal import OUTCOMES, Which

    if import_ is not None:
        if any(given is not None for given in (state, queue, older_than, limit, to)) or dry_run:
            raise InvalidInput("--import takes a file and nothing else")
        return session.go(_import(import_, json, where or Where()))
    states = None if state is None else state.split(",")
    if not set(states or ()) <= set(OUTCOMES):
        raise InvalidInput(f"--state is one of {', '.join(OUTCOMES)}")
    if limit is not None and limit < 1:
        raise InvalidInput("--limit is a number from 1")
    age = 0.0 if older_than is None else units.duration(older_than, pointer="/older_than")
    which = Which(states=states, queue=queue, older_than=age, limit=limit)
    return session.go(_archive(which, to, dry_run, json, where or Where()))


async def _archive(which: object, to: Path | None, dry_run: bool, json: bool, where: Where) -> int:
    from damad import archive as core
    from damad.cli import render, session
    from damad.eventstore.removal import Which

    assert isinstance(which, Which)
    settings = session.configuration(where)
    async with session.opened(where, settings):
        done = await core.archive(which, to=to or settings.state_dir / "archive", dry_run=dry_run)
    if json:
        render.as_json(done)
    elif done.file is None:
        print(f"{done.contexts} contexts, {done.events} events")
    else:
        print(f"{done.contexts} contexts, {done.events} events, {done.removed} contexts removed: {done.file}")
    return 0


async def _import(file: Path, json: bool, where: Where) -> int:
    from damad import archive as core
    from damad.cli import render, session

    async with session.opened(where):
        done = await core.import_(file)
    if json:
        render.as_json(done)
    else:
        print(
            f"{done.contexts} contexts, {done.events} events; "
            f"{done.restored_contexts} contexts, {done.restored_events} events put back"
        )
    return 0
