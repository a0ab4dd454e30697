"""Pauses between tries: each up to twice as long as the one before, and shortened by chance, so that many who wait for
the same thing do not come back together."""

import asyncio
import random
from typing import Final

_FIRST: Final = 0.1
_LONGEST: Final = 5.0


class Backoff:
    """The pauses of one who tries again until it goes well."""

    def __init__(self) -> None:
        self._next = _FIRST

    def reset(self) -> None:
        """It went well: the next pause is a first one."""
        self._next = _FIRST

    async def pause(self) -> None:
        """Returns when it is time to try again."""
        await asyncio.sleep(self._next * random.uniform(0.5, 1.0))
        self._next = min(self._next * 2, _LONGEST)
