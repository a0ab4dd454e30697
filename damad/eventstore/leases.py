"""Leases: who runs a claimed task, and until when by the database's clock.

A lease is no event, and renewing it never waits for the row of its context. `holder` names a process so that its death
can be proved (damad/processes.py).
"""

from datetime import timedelta

from damad.eventstore.pools import Database


async def take(database: Database, etl_context_id: int, fence: int, *, claimer: str, holder: str, lease: float) -> bool:
    """The runner takes the lease over from the `claimer` that claimed for it. False: it is not there to take."""
    rows = await database.fetch("take_lease", etl_context_id, fence, claimer, holder, timedelta(seconds=lease))
    return bool(rows)


async def renew(database: Database, etl_context_id: int, fence: int, lease: float) -> bool:
    """Prolongs the lease by `lease` seconds from now. False: this fence does not hold it any more."""
    return bool(await database.fetch("renew_lease", etl_context_id, fence, timedelta(seconds=lease)))


async def fence_of(database: Database, etl_context_id: int) -> int | None:
    """The fence of whoever holds the lease now, or None where nobody does."""
    rows = await database.fetch("lease", etl_context_id)
    return int(rows[0]["fence"]) if rows else None


async def set_waiting(database: Database, etl_context_id: int, fence: int, waiting: bool) -> None:
    """Says that the attempt waits for others and holds no slot meanwhile, or that it goes on."""
    await database.fetch("set_waiting", etl_context_id, fence, waiting)
