"""Calls of one event loop that ask the same at the same time, answered by one statement.

While one group is on its way the next one gathers; where nothing is on its way nobody waits for company. A statement
and a commit cost as much for one event as for many, so many clients at once are served several times as fast.

Each call has an answer of its own. Where what became of a group is unknown, each call of it is made alone, as if nobody
grouped; and so is a call whose context is busy. Whoever makes calls repeatable (event_uuid) loses nothing by that, and
doubles nothing.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from damad.errors import DamadError, Unavailable
from damad.eventstore.refusals import Unanswered

MOST_EVENTS: Final = 500
"""Events in one group, unless a single call brings more."""
MOST_BYTES: Final = 1_000_000
"""Of JSON in one group, unless a single call brings more."""
MOST_WAITING: Final = 20
"""Groups' worth of calls that wait; who comes then waits for room first."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Grouping(Generic[Asked, Answer]):
    """Gathers calls of one kind.

    many: answers a group, a value or a refusal for each call · alone: makes one call, ungrouped.
    """

    def __init__(
        self,
        many: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer | DamadError]]],
        alone: Callable[[Asked], Awaitable[Answer]],
    ) -> None:
        self._many = many
        self._alone = alone
        self._waiting: deque[tuple[Asked, int, int, asyncio.Future[Answer | None]]] = deque()
        self._events = self._bytes = 0
        self._room = asyncio.Condition()
        self._flight: asyncio.Task[None] | None = None
        self._closed = False

    async def ask(self, asked: Asked, *, events: int, size: int) -> Answer:
        """The answer to one call, which brings so many events and about so many bytes of JSON. Raises its refusal."""
        if self._is_full():
            async with self._room:
                await self._room.wait_for(lambda: self._closed or not self._is_full())
        if self._closed:
            raise Unavailable("the connections to Postgres are being closed")
        answered: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, events, size, answered))
        self._events, self._bytes = self._events + events, self._bytes + size
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly(), name="damad grouping")
        answer = await answered
        return await self._alone(asked) if answer is None else answer

    async def close(self) -> None:
        """Ends what is on its way. Whoever still waits is told that it is unavailable."""
        self._closed = True
        if self._flight is not None:
            self._flight.cancel()
            with suppress(asyncio.CancelledError):
                await self._flight
        await self._say_that_there_is_room()

    def _is_full(self) -> bool:
        return self._events >= MOST_WAITING * MOST_EVENTS or self._bytes >= MOST_WAITING * MOST_BYTES

    async def _say_that_there_is_room(self) -> None:
        async with self._room:
            self._room.notify_all()

    async def _fly(self) -> None:
        """One group after another, until nothing waits."""
        try:
            while self._waiting:
                await self._answer(self._board())
        except BaseException as error:  # a fault of the program, unless it is being closed
            while self._waiting:
                _fail(self._waiting.popleft()[3], error)
            self._events = self._bytes = 0
            raise
        finally:
            self._flight = None

    def _board(self) -> list[tuple[Asked, asyncio.Future[Answer | None]]]:
        """The next group: whoever waits, in the order in which they came, as far as the bounds of a group allow."""
        group: list[tuple[Asked, asyncio.Future[Answer | None]]] = []
        events = size = 0
        while self._waiting and (
            not group or (events + self._waiting[0][1] <= MOST_EVENTS and size + self._waiting[0][2] <= MOST_BYTES)
        ):
            asked, its_events, its_size, answered = self._waiting.popleft()
            self._events, self._bytes = self._events - its_events, self._bytes - its_size
            if not answered.cancelled():
                events, size = events + its_events, size + its_size
                group.append((asked, answered))
        return group

    async def _answer(self, group: list[tuple[Asked, asyncio.Future[Answer | None]]]) -> None:
        answers: Sequence[Any] = [None] * len(group)
        try:
            await self._say_that_there_is_room()
            if group:
                answers = await self._many([asked for asked, _ in group])
        except DamadError as error:  # it says nothing of any one call: each finds out, unless that takes as long again
            answers = [error if isinstance(error, Unanswered) else None] * len(group)
        except BaseException as error:
            for _, answered in group:
                _fail(answered, error)
            raise
        for (_, answered), answer in zip(group, answers, strict=True):
            _settle(answered, answer)


def _settle(answered: "asyncio.Future[Any]", answer: Any) -> None:
    """Gives a call its answer. None: it is to be made alone, as after a refusal that the same again may not meet."""
    if answered.done():  # its caller has gone
        return
    if isinstance(answer, Exception) and (isinstance(answer, Unanswered) or not isinstance(answer, Unavailable)):
        answered.set_exception(answer)
    else:
        answered.set_result(None if isinstance(answer, Exception) else answer)


def _fail(answered: "asyncio.Future[Any]", error: BaseException) -> None:
    if not answered.done():
        reason = (
            f"the connections to Postgres are being closed, or a statement broke ({error!r}); the outcome is unknown"
        )
        answered.set_exception(Unavailable(reason))
