"""bench: how fast damad is here, beside what this machine can do at best."""

from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from damad.cli.options import Json, Where

if TYPE_CHECKING:
    from damad.bench.sizes import Sizes

_MOST: Final = {"runs": 1000, "growth": 8}


def bench(
    *lines: str,
    runs: int | None = None,
    growth: int | None = None,
    quick: Annotated[bool, Parameter(negative="")] = False,
    smallest: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    where: Where | None = None,
) -> int:
    """Measure every line of the goals beside its yardstick, in scratch databases beside the pg_env's.

    It takes some ten minutes, in which it loads that server and this machine as hard as it can.

    Parameters
    ----------
    lines
        Only the lines whose names begin so (append queue.one drain …).
    runs
        How often each is measured (5).
    growth
        The largest log that is looked at holds ten to the power of so many events (6), with a tenth as many tasks
        queued; 7 takes some twenty minutes more, and 5 GB.
    quick
        Fewer runs and shorter ones: a line takes some seconds.
    smallest
        As little as shows that all can be measured; the figures say nothing.
    """
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        return loop.run(_bench(lines, _sizes(runs, growth, quick, smallest), json, where or Where()))


def _sizes(runs: int | None, growth: int | None, quick: bool, smallest: bool) -> "Sizes":
    import msgspec

    from damad.bench.sizes import QUICK, SMALLEST, Sizes
    from damad.errors import InvalidInput

    given = {name: number for name, number in (("runs", runs), ("growth", growth)) if number is not None}
    for name, number in given.items():
        if not 1 <= number <= _MOST[name]:
            raise InvalidInput(f"--{name} is a number from 1 to {_MOST[name]}")
    return msgspec.structs.replace(SMALLEST if smallest else QUICK if quick else Sizes(), **given)


async def _bench(lines: tuple[str, ...], sizes: "Sizes", json: bool, where: Where) -> int:
    import asyncio
    import os
    import signal
    import sys

    from damad.bench.course import run
    from damad.bench.goals import GOALS
    from damad.cli import render, session
    from damad.errors import InvalidInput

    for prefix in lines:
        if not any(goal.key.startswith(prefix) for goal in GOALS):
            raise InvalidInput(f"no line begins with {prefix!r}; there are {', '.join(goal.key for goal in GOALS)}")
    # What was begun is removed again, also where somebody else ends it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os.kill, os.getpid(), signal.SIGINT)
    settings = session.configuration(where)
    async with session.opened(where, settings, schema=False) as ambient:
        document = await run(
            ambient.store.database, settings.state_dir, sizes, only=lines,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
    render.as_json(document) if json else render.bench(document)
    return 1 if any(line.failed for line in document.lines) else 0
