"""damad's own event loop, in a thread of its own, for callers that have none: sync code, and the renewal of leases
while a worker keeps the main thread busy."""

import asyncio
import os
import selectors
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any, Final, TypeVar

T = TypeVar("T")

_LOOK_INTERVAL: Final = 1.0


class Broken(RuntimeError):
    """The loop is gone: somebody closed its files. What was asked of it has an unknown outcome."""


class _Background:
    """A loop and the thread that runs it."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self._numbers = [self._selector.fileno(), *self._selector.get_map()]
        self._files = self._files_there()
        self.thread = threading.Thread(target=self.loop.run_forever, name="damad", daemon=True)
        self.thread.start()

    def is_broken(self) -> bool:
        """True where the thread has ended, or will: it sleeps on a file that was closed, and nothing wakes it.

        The number of its poll may be another poll's by now, which looks the same; no other socket looks as its own.
        """
        try:
            return self._files_there() != self._files or not self.thread.is_alive()
        except OSError:
            return True

    def _files_there(self) -> list[str]:
        """What its poll and the socket by which others wake it are now."""
        return [os.readlink(f"/proc/self/fd/{number}") for number in self._numbers]


_making: Final = threading.Lock()


@cache
def _made() -> _Background:
    return _Background()


def _background() -> _Background:
    with _making:  # threads that ask at the same moment get the same one
        return _made()


def _forget() -> None:
    _made.cache_clear()
    _making.release()


os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_forget)


def loop() -> asyncio.AbstractEventLoop:
    """The loop, started when it is first asked for. (One a process, and a new one after a fork.)"""
    return _background().loop


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that runs on damad's own loop, in the context of the caller, who waits for it.

    Raises Broken where the loop's files are closed, or its thread ended meanwhile.
    """
    background = _background()
    if background.is_broken():
        coroutine.close()
        raise Broken("the files of damad's own event loop were closed")
    future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, background.loop)
    while True:
        try:
            return future.result(_LOOK_INTERVAL)
        except TimeoutError:
            if future.done():
                return future.result()
            if background.is_broken():
                raise Broken("the files of damad's own event loop were closed") from None
