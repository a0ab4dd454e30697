"""Leases: who runs a claimed task, and until when by the database's clock.

A lease is no event, and renewing it never waits for the row of its context. `holder` names the process that claimed, so
that its death can be proved (damad/processes.py). The run renews it, and so does its host for what it sees alive: a run
may be held up for longer than a lease by one call of C code.
"""

from collections.abc import Sequence
from datetime import timedelta

from damad.eventstore.pools import Database


async def renew(database: Database, etl_context_id: int, fence: int, lease: float) -> bool:
    """Prolongs the lease by `lease` seconds from now. False: this fence does not hold it any more."""
    return bool(await database.fetch("renew_lease", etl_context_id, fence, timedelta(seconds=lease)))


async def renew_all(database: Database, held: Sequence[tuple[int, int]], lease: float) -> None:
    """Prolongs the leases of runs, each an etl_context_id and a fence, by `lease` seconds from now."""
    ids, fences = [id_ for id_, _ in held], [fence for _, fence in held]
    await database.fetch("renew_leases", ids, fences, timedelta(seconds=lease))


async def beat(database: Database, etl_context_id: int, fence: int) -> None:
    """Says that the worker of this run goes on. Once another one holds the task that means nothing."""
    await database.fetch("beat", etl_context_id, fence)


async def set_waiting(database: Database, etl_context_id: int, fence: int, waiting: bool) -> None:
    """Says that the attempt waits for others and holds no slot meanwhile, or that it goes on."""
    await database.fetch("set_waiting", etl_context_id, fence, waiting)
