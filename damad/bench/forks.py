"""A process that forks as often as it can, and prints how often a second: `python -m damad.bench.forks nothing 1.0`.

It is one of its own, as a fork server would be: one thread, with damad's imports behind it.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Final

import damad.eventstore.pools  # noqa: F401 - what a worker's process has imported

_AT_A_TIME: Final = 4


def _nothing() -> None:
    pass


def _loop() -> None:
    asyncio.run(asyncio.sleep(0))


_CHILDREN: Final = {"nothing": _nothing, "loop": _loop}


def rate(child: Callable[[], None], seconds: float) -> float:
    """Children a second, a few at a time, each forked, run and reaped."""
    began, done, living = perf_counter(), 0, 0
    while perf_counter() - began < seconds or not done:
        if living == _AT_A_TIME:
            os.wait()
            living, done = living - 1, done + 1
        if os.fork() == 0:
            try:
                child()
            finally:
                os._exit(0)
        living += 1
    for _ in range(living):
        os.wait()
    return (done + living) / (perf_counter() - began)


if __name__ == "__main__":
    print(rate(_CHILDREN[sys.argv[1]], float(sys.argv[2])))
