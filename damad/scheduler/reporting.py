"""What reaches the log for a run: what its process says over the line, and what a decision about it means in events."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog

from damad import failpoints
from damad.errors import Conflict, DamadError
from damad.eventstore import intents
from damad.eventstore.store import Append, EventStore
from damad.model import retry, trace
from damad.model.event import Event
from damad.runner import line
from damad.scheduler import decisions
from damad.scheduler.decisions import Cancelled, Conclude, Held, Release
from damad.scheduler.observation import Key

log = structlog.get_logger()


class Reporter:
    """What this supervisor does about a run that can tell it: appends what it says, and knows when it is over.

    concluded_at: when it was appended what became of it, by the clock of the loop; 0 before.
    """

    def __init__(self, key: Key, store: EventStore, wake: Callable[[], None], look_now: Callable[[], None]) -> None:
        self._key = key
        self._store = store
        self._wake = wake
        self._look_now = look_now
        self.concluded_at = 0.0
        self.is_over = False

    async def say(self, said: line.Say) -> line.Message:
        """Appends it under the fence of the run."""
        id_, fence = self._key
        try:
            if said.conclusion:
                await intents.yield_to_cancel(self._store.database, id_, said.events)
            await self._store.append([Append(etl_context_id=id_, event=event, fence=fence) for event in said.events])
        except Conflict as refusal:
            return line.refusal(said, refusal)
        except (DamadError, OSError) as error:  # the run tries by itself, and says what is wrong
            log.warning("what a run said was not appended here", etl_context_id=id_, reason=str(error))
            return line.Unsaid(said.run, said.conclusion)
        failpoints.hit("supervisor.said")
        if said.conclusion:
            self._conclude()
        return line.Said(said.run, said.conclusion)

    def over(self) -> None:
        """Its process has ended: a slot is free."""
        self.is_over = True
        self._wake()

    def ended(self, *, concluded: bool) -> None:
        """It ran in this process, and has ended. concluded: it said itself what became of it."""
        if concluded:
            self._conclude()
        self.over()

    def _conclude(self) -> None:
        self.concluded_at = asyncio.get_running_loop().time()

    def hung_up(self) -> None:
        """What becomes of it is to be seen by its records."""
        self.concluded_at = 0.0
        self._look_now()


def said(decision: decisions.Decision | None, held: Held, now: datetime) -> list[Event]:
    """The events that say a decision: what the log needs to know of it."""
    match decision:
        case Release(reason, delay):
            run_at = {"run_at": (now + timedelta(seconds=delay)).isoformat()} if delay else {}
            return [Event(type="dama/task:RELEASED", payload={"reason": reason, **run_at})]
        case Conclude(failure):
            return retry.conclude(failure, held.counts, settings=held.settings, now=now, random=random.random())
        case Cancelled():
            asked = [] if held.state == "cancelling" else [Event(type="dama/task:CANCEL_REQUESTED")]
            return [*asked, Event(type="dama/task:CANCELLED")]
    return []


def say_how_it_ended(key: Key, seen: decisions.Observed, started: Any) -> None:
    """Says in the daemon's log how the process of a run ended, where that is known. started: the payload of STARTED."""
    if seen.exit is not None:
        how = {"exit_code": seen.exit.exit_code, "signal": seen.exit.signal} | trace.said(started)
        log.info("a worker's process has ended", etl_context_id=key[0], fence=key[1], **how)
