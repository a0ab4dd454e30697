"""Cancels that could not be written yet: somebody holds the context of the task in an open transaction.

An intent is no event, and noting it waits for nobody. Whoever runs the task stops it, and says so in the log as soon as
the context is free: damad/scheduler/cancels.py.
"""

from collections.abc import Sequence

from damad.errors import IllegalTransition
from damad.eventstore.pools import Database
from damad.model.event import Event


async def note_cancel(database: Database, etl_context_id: int) -> None:
    """Notes that a task is to be cancelled, and wakes the supervisors."""
    await database.fetch("note_cancel", etl_context_id)


async def cancel_is_wanted(database: Database, etl_context_id: int) -> bool:
    """True while a cancel of this task is noted and not in the log yet."""
    return bool((await database.fetch("cancel_is_wanted", etl_context_id))[0]["wanted"])


async def yield_to_cancel(database: Database, etl_context_id: int, said: Sequence[Event]) -> None:
    """Raises IllegalTransition where a failure is to be said of a task whose cancel is noted: it was stopped for that.

    The same as is raised once the cancel stands in the log.
    """
    if said[0].type == "dama/task:ERROR" and await cancel_is_wanted(database, etl_context_id):
        about = {"etl_context_id": etl_context_id, "type": said[0].type, "state": "cancelling"}
        raise IllegalTransition(f"task {etl_context_id} is to be cancelled", **about)


async def forget_cancels(database: Database) -> None:
    """Forgets what stands in the log by now, and what came too late: nothing of it must meet a task that is retried."""
    await database.fetch("forget_cancels")
