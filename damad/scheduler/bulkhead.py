"""A bulkhead between tasks and between queues: what is wrong with one of them stops nothing else, and is said once."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import structlog

from damad.errors import BrokenLog, InvalidInput, Unavailable

log = structlog.get_logger()
T = TypeVar("T")


class Bulkhead:
    """Keeps to itself what is wrong with one task or queue, and remembers what it has said of it."""

    def __init__(self) -> None:
        self._said: dict[frozenset[tuple[str, Any]], tuple[type[Exception], str]] = {}

    async def alone(self, work: Awaitable[T], otherwise: T, **about: Any) -> T:
        """The result of work on one task or queue, or `otherwise` and a line in the log. Raises Unavailable alone."""
        try:
            result = await work
        except Unavailable:
            raise
        except (BrokenLog, InvalidInput) as error:  # what somebody wrote by hand
            if self._is_news(error, about):
                log.error("left alone until it is mended", **about, reason=str(error))
            return otherwise
        except Exception as error:
            if self._is_news(error, about):
                log.exception("a fault was left for the next round", **about)
            return otherwise
        self._said.pop(frozenset(about.items()), None)
        return result

    def parks(self, **about: Any) -> bool:
        """True while the log cannot be told of it what there is to say, for it is broken."""
        said = self._said.get(frozenset(about.items()))
        return said is not None and said[0] is BrokenLog

    def _is_news(self, error: Exception, about: dict[str, Any]) -> bool:
        key, fresh = frozenset(about.items()), (type(error), str(error))
        before, self._said[key] = self._said.get(key), fresh
        return before != fresh
