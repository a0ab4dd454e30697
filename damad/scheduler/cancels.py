"""Writes the cancels that were noted because somebody held the context (damad/eventstore/intents.py), once it is free.

Tasks that a host holds are its supervisor's, which has to see their processes dead; here are those that nobody holds.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from damad.errors import BrokenLog, Conflict, ContextBusy
from damad.eventstore import intents
from damad.eventstore.schedule import Schedule
from damad.eventstore.store import Append, EventStore
from damad.eventstore.uuids import new_uuid
from damad.model.event import Event
from damad.scheduler.bulkhead import Bulkhead

log = structlog.get_logger()

_PAUSE: Final = 1.0
"""Seconds until a context that is still held is tried again."""


class Cancels:
    """The intents of one pg_env, for the tasks that `ours` says are to be looked after."""

    def __init__(self, store: EventStore, schedule: Schedule, ours: Callable[[int], bool], bulkhead: Bulkhead) -> None:
        self._store = store
        self._schedule = schedule
        self._ours = ours
        self._bulkhead = bulkhead

    async def write(self) -> list[float]:
        """Writes what can be written and forgets what is. Returns the seconds until the others are due."""
        found = await self._schedule.unheld_to_cancel()
        writing = [
            self._bulkhead.alone(
                self._write(id_, version), False, pg_env=self._store.database.pg_env, etl_context_id=id_
            )
            for id_, version in found.items()
            if self._ours(id_)
        ]
        written = await asyncio.gather(*writing)  # side by side: each may have to wait for a lock
        await intents.forget_cancels(self._store.database)
        return [] if all(written) else [_PAUSE]

    async def _write(self, etl_context_id: int, version: int) -> bool:
        """True if it was written. One that was claimed since is not: a process may run."""
        asked, gone = (
            Event(type=f"dama/task:{kind}", event_uuid=new_uuid()) for kind in ("CANCEL_REQUESTED", "CANCELLED")
        )
        try:
            await self._store.append(
                [
                    Append(etl_context_id=etl_context_id, event=asked, expected_version=version),
                    Append(etl_context_id=etl_context_id, event=gone),
                ]
            )
        except BrokenLog:
            raise
        except (Conflict, ContextBusy) as refused:
            log.debug("a cancel waits", etl_context_id=etl_context_id, reason=str(refused))
            return False
        return True
