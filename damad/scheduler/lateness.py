"""Fails the tasks that did not begin by their `start_by`, whichever host they would have run on.

Nobody holds them and no process of theirs lives, so that any daemon may say it: the first that looks.
"""

import time
from typing import Final

import structlog

from damad.errors import BrokenLog
from damad.eventstore.schedule import Schedule

log = structlog.get_logger()

_AT_A_TIME: Final = 1000
_PAUSE: Final = 1.0
"""Seconds until one is looked at again whose context somebody holds."""
_PARKED_FOR: Final = 60.0
"""Seconds until one is tried again whose log took nothing: somebody may have mended it."""


class Lateness:
    """The late tasks of one pg_env."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._parked: dict[int, float] = {}

    async def end(self) -> list[float]:
        """Fails them. Returns the seconds until those are due that could not be failed."""
        while await self._some():
            pass
        return [_PAUSE]

    async def _some(self) -> bool:
        """Fails some of them. True if there may be more. One with a broken log keeps none of the others."""
        parked = [id_ for id_, until in self._parked.items() if until > time.monotonic()]
        try:
            failed = await self._schedule.fail_late(_AT_A_TIME, leave_out=parked)
        except BrokenLog as error:
            id_ = error.values.get("etl_context_id")
            if id_ is None or id_ in parked:
                raise
            if id_ not in self._parked:
                log.error("left alone until it is mended", etl_context_id=id_, reason=str(error))
            self._parked[id_] = time.monotonic() + _PARKED_FOR
            return True
        for task in failed:
            log.info("a task did not start in time", etl_context_id=task.etl_context_id, start_by=str(task.start_by))
        return len(failed) == _AT_A_TIME
