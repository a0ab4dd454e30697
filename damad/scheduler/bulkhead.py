"""A bulkhead between tasks and between queues: what is wrong with one of them stops nothing else."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import structlog

from damad.errors import Unavailable

log = structlog.get_logger()
T = TypeVar("T")


async def alone(work: Awaitable[T], otherwise: T, **about: Any) -> T:
    """The result of work on one task or queue, or `otherwise` and a line in the log. Raises Unavailable alone."""
    try:
        return await work
    except Unavailable:
        raise
    except Exception:
        log.exception("a fault was left for the next round", **about)
        return otherwise
