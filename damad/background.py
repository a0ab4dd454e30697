"""damad's own event loop, in a thread of its own, for callers that have none: sync code, and the renewal of leases
while a worker keeps the main thread busy."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


@cache
def loop() -> asyncio.AbstractEventLoop:
    """The loop, started when it is first asked for. (One a process, and a new one after a fork.)"""
    new = asyncio.new_event_loop()
    threading.Thread(target=new.run_forever, name="damad", daemon=True).start()
    return new


os.register_at_fork(after_in_child=loop.cache_clear)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that runs on damad's own loop, in the context of the caller, who waits for it."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop()).result()
