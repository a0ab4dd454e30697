"""Wakes those who wait for the log to change, on hints from Postgres.

A NOTIFY is a hint and never the news: whoever is woken reads the log. So every subscriber is woken after each
(re)connect too, and polls now and then however silent the line is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import asyncpg

from damad.backoff import Backoff
from damad.errors import Unavailable
from damad.eventstore.refusals import translated

EVENT: Final = "DAMAD_EVENT"
"""Channel: an event was appended; the payload is its context's id, or several with commas between them."""
TASK: Final = "DAMAD_TASK"
"""Channel: something changed that a scheduler may act upon."""
SCHEDULE: Final = "DAMAD_SCHEDULE"
"""Channel: a schedule is another one than before."""
PING: Final = "DAMAD_PING"
"""Channel: the listener's own, by which it proves that hints arrive."""
_CHANNELS: Final = (EVENT, TASK, SCHEDULE, PING)

PING_INTERVAL: Final = 15.0
"""Seconds between the listener's proofs that its connection still carries."""
PING_TIMEOUT: Final = 5.0
POLL_INTERVAL: Final = 5.0
"""Seconds between looks at the log while no hint comes. Hints may be lost; looks are not."""
DEAF_INTERVAL: Final = 1.0
"""Seconds between looks at the log while no hint can be heard."""

log = logging.getLogger(__name__)


class Subscription:
    """A bell. `wait` returns once it rang since the last `wait`, or after the timeout: then poll.

    While the listener hears nothing (connecting, or deaf behind a pooler) the timeout is a second at most.
    """

    def __init__(self, channel: str, payload: str | None, listener: "Listener") -> None:
        self.channel = channel
        self.payload = payload
        self._listener = listener
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wakes whoever waits, now or the next time."""
        self._rung.set()

    async def wait(self, timeout: float = POLL_INTERVAL) -> bool:
        """True if it rang within `timeout` seconds."""
        if not self._listener.hears:
            timeout = min(timeout, DEAF_INTERVAL)
        try:
            async with asyncio.timeout(timeout):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True


class Listener:
    """One LISTEN connection, shared by all subscribers of a loop; it reconnects by itself.

    hears: True once a hint of its own came back. Behind a pooler that shares sessions a LISTEN is accepted and
    nothing is ever heard: then the listener is deaf, and its subscribers poll. `deaf` is that proof, and not a mere
    want of one: `turn` waits until it changes.
    """

    def __init__(self, connect: Callable[[], Awaitable["asyncpg.Connection[Any]"]]) -> None:
        self._connect = connect
        self._subscriptions: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()
        self._turned = asyncio.Event()
        self.hears = False
        self.deaf = False

    async def turn(self) -> bool:
        """Returns once the listener got deaf, or is so no more, since the last time: whether it is deaf."""
        await self._turned.wait()
        self._turned.clear()
        return self.deaf

    async def proves(self, timeout: float) -> bool:
        """True once a hint of its own came back, False after `timeout` seconds. Somebody must have subscribed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._answered.wait()
        return self.hears

    @contextmanager
    def subscribe(self, channel: str, etl_context_id: int | None = None) -> Iterator[Subscription]:
        """A bell that rings for the channel, or for one context on it. The first subscriber opens the connection."""
        payload = None if etl_context_id is None else str(etl_context_id)
        subscription = Subscription(channel, payload, self)
        self._subscriptions.add(subscription)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="damad listener")
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def close(self) -> None:
        """Ends the connection. Subscribers are not woken any more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._listen(backoff)
            except Unavailable as error:
                log.debug("the listener lost its connection: %s", error)
            except Exception:  # a listener that died in silence is the commonest hole of all
                log.exception("the listener failed; it tries again")
            await backoff.pause()

    async def _listen(self, backoff: Backoff) -> None:
        connection = await self._connect()
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            with translated():
                for channel in _CHANNELS:
                    await connection.add_listener(channel, self._heard)
                self._ring_all()
                while not lost.is_set():
                    await self._prove(connection)
                    if self.hears:
                        backoff.reset()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PING_INTERVAL):
                            await lost.wait()
        finally:
            connection.terminate()
            self.hears = False

    async def _prove(self, connection: "asyncpg.Connection[Any]") -> None:
        """Sends itself a hint. A connection that does not carry it raises; one that never delivers it is deaf."""
        self._answered.clear()
        await connection.execute(f'NOTIFY "{PING}"', timeout=PING_TIMEOUT)
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await self._answered.wait()
        except TimeoutError:
            self.hears = False
        else:
            self.hears = True
        if self.deaf == self.hears:
            self.deaf = not self.hears
            self._turned.set()

    def _heard(self, connection: Any, pid: int, channel: str, payload: Any) -> None:
        if channel == PING:
            if pid == connection.get_server_pid():
                self._answered.set()
            return
        named = (None, *payload.split(","))
        for subscription in self._subscriptions:
            if subscription.channel == channel and subscription.payload in named:
                subscription.ring()

    def _ring_all(self) -> None:
        for subscription in self._subscriptions:
            subscription.ring()
