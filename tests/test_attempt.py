"""The lease of a run whose database does not answer any more."""

import asyncio
from pathlib import Path

from damad.eventstore.pools import Database
from damad.runner.attempt import Attempt, Claim

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""


def attempt(tmp_path: Path, *, shared: bool, lease: float) -> Attempt:
    """A run whose Postgres is away."""
    claim = Claim(
        pg_env="local", etl_context_id=1, fence=1, host_id="h", state_dir=tmp_path, worker_roots=(),
        queues={}, lease=lease, max_result=1000, shared=shared,
    )  # fmt: skip
    return Attempt(claim, Database("local", f"postgresql:///local?host={tmp_path}"))


async def test_a_run_hears_that_its_lease_ran_out_where_another_host_may_take_its_task(
    tmp_path: Path,
) -> None:
    """Elsewhere nobody may, and it goes on."""
    ended: list[str] = []
    own = asyncio.create_task(attempt(tmp_path, shared=False, lease=0.01).renew(lambda: ended.append("own")))
    async with asyncio.timeout(SOON):
        await attempt(tmp_path, shared=True, lease=0.3).renew(lambda: ended.append("shared"))
    assert ended == ["shared"]
    assert not own.done()
    own.cancel()
