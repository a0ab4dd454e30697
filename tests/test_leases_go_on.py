"""The daemon renews the leases of what runs long before they run out, whatever else is to be done."""

from pathlib import Path

import pytest
from daemon_support import Site, daemon_on, site_of, until

SETTINGS = {
    "DAMAD_LEASE": "1s",
    "DAMAD_POLL_INTERVAL": "10m",
    "DAMAD_QUEUE_INSIDE_RUN_IN": "daemon",
}
WAITS = """
    import asyncio
    from damad import events

    async def main():
        await events.dispatch({"type": ":HERE"})
        await asyncio.sleep(3600)
"""


async def lease_until(site: Site, id_: int) -> object:
    async with site.store().database.connection() as connection:
        return await connection.fetchval("SELECT until FROM data_manager.leases WHERE etl_context_id = $1", id_)


@pytest.mark.parametrize("queue", ["default", "inside"])
async def test_one_that_nobody_else_may_take_is_renewed_too(tmp_path: Path, template: str, queue: str) -> None:
    async with site_of(tmp_path, template, **SETTINGS) as site, daemon_on(site):
        id_ = await site.queue(site.worker(WAITS), queue=queue)
        await site.event(id_, ":HERE")
        for _ in range(3):
            was = await lease_until(site, id_)

            async def is_renewed(was: object = was) -> bool:
                return await lease_until(site, id_) != was

            await until(is_renewed)
        assert await site.cancel(id_)
        assert (await site.ended(id_)).state == "cancelled"
