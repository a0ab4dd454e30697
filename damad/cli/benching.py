"""bench: how fast damad is here, beside what this machine can do at best."""

from typing import Annotated

from cyclopts import Parameter

from damad.cli.options import Json, Where


def bench(
    *,
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    runs: int | None = None,
    events: int | None = None,
    quick: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    where: Where | None = None,
) -> int:
    """Measure every line of the goals beside its yardstick, in scratch databases beside the pg_env's.

    It takes a few minutes, in which it loads that server and this machine as hard as it can.

    Parameters
    ----------
    only
        Only the lines whose names begin so (append queue.one drain …).
    runs
        How often each is measured (3).
    events
        How many events the grown log holds (50000), with a tenth as many tasks queued.
    quick
        As little as shows that all can be measured; the figures say nothing.
    """
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        return loop.run(_bench(only, runs, events, quick, json, where or Where()))


async def _bench(
    only: tuple[str, ...], runs: int | None, events: int | None, quick: bool, json: bool, where: Where
) -> int:
    import asyncio
    import os
    import signal
    import sys

    import msgspec

    from damad.bench.course import run
    from damad.bench.goals import GOALS
    from damad.bench.ground import QUICK, Sizes
    from damad.cli import render, session
    from damad.errors import InvalidInput

    for name, number in (("runs", runs), ("events", events)):
        if number is not None and number < 1:
            raise InvalidInput(f"--{name} is a number from 1")
    for prefix in only:
        if not any(goal.key.startswith(prefix) for goal in GOALS):
            raise InvalidInput(f"no line begins with {prefix!r}; there are {', '.join(goal.key for goal in GOALS)}")
    # What was begun is removed again, also where somebody else ends it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os.kill, os.getpid(), signal.SIGINT)
    given = {name: number for name, number in (("runs", runs), ("events", events)) if number is not None}
    sizes = msgspec.structs.replace(QUICK if quick else Sizes(), **given)
    settings = session.configuration(where)
    async with session.opened(where, settings, schema=False) as ambient:
        document = await run(
            ambient.store.database, settings.state_dir, sizes, only=only,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
    render.as_json(document) if json else render.bench(document)
    return 1 if any(line.failed for line in document.lines) else 0
