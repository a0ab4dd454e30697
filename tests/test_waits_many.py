"""Parents of many children and of parents: the queue is never fuller than it may be, and nobody waits for ever."""

from collections.abc import AsyncIterator, Iterable

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, site_of
from test_waits import worker

from damad.eventstore.store import EventStore

CHILDREN = 1000
SETTINGS = {
    "DAMAD_WAIT_IN_PROCESS": "0s",
    "DAMAD_QUEUE_INSIDE_RUN_IN": "daemon",
    "DAMAD_QUEUE_INSIDE_CONCURRENCY": "4",
    "DAMAD_QUEUE_OUTSIDE_CONCURRENCY": "4",
    "DAMAD_QUEUE_ONE_CONCURRENCY": "1",
    "DAMAD_QUEUE_ONE_INSIDE_RUN_IN": "daemon",
    "DAMAD_QUEUE_ONE_INSIDE_CONCURRENCY": "1",
}
"""Each wait ends its run at once, so that the log says of every slot from when to when it was held, a parent's too."""
BEGINS = "dama/task:CLAIMED"
ENDS = (
    "dama/task:RELEASED", "dama/task:WAITING", "dama/task:RETRY", "dama/task:FAILED", "dama/task:CANCELLED", ":FINAL",
)  # fmt: skip
SLOTS = """
SELECT type FROM data_manager.event_store
  WHERE etl_context_id = ANY ($1::bigint[]) AND type = ANY ($2::text[]) ORDER BY event_id
"""

FAMILY = """
generations, width = event["payload"]
if generations == 0:
    return {"leaves": 1}
children = [
    await tasks.subtask(f"child {n}", worker="family.py", payload=[generations - 1, width]) for n in range(width)
]
return {"leaves": sum(result["leaves"] for result in await tasks.gather(*children))}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    async with site_of(tmp_path_factory.mktemp("waits_many"), template, **SETTINGS) as site, daemon_on(site) as daemon:
        site.worker(worker(FAMILY), "family.py")
        yield daemon
        await site.verified()


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


async def at_once(store: EventStore, ids: Iterable[int]) -> int:
    """How many of these tasks held a slot at the same time, at most, by the log."""
    async with store.database.connection() as connection:
        rows = await connection.fetch(SLOTS, list(ids), [BEGINS, *ENDS])
    held = most = 0
    for row in rows:
        held += 1 if row["type"] == BEGINS else -1
        most = max(most, held)
    assert held == 0
    return most


@pytest.mark.parametrize(("queue", "width"), [("inside", CHILDREN), ("outside", 60)])
async def test_a_parent_of_a_thousand_children_ends_and_no_more_than_four_run_at_once(
    site: Site, queue: str, width: int
) -> None:
    """The parent among them; and of fewer children in processes of their own the same."""
    id_ = await site.queue("family.py", [1, width], queue=queue)
    state = await site.reaches(id_, "done", "failed", within=300.0)
    assert state.state == "done"
    assert (await site.events(id_))[-1].payload == {"leaves": width}
    children = [event.payload["etl_context_id"] for event in await site.events(id_, "dama/task:SUBTASK")]
    assert len(set(children)) == width
    assert 1 < await at_once(site.store(), [id_, *children]) <= 4


@pytest.mark.parametrize("queue", ["one", "one_inside"])
async def test_parents_of_parents_three_deep_end_on_a_queue_that_runs_one_at_a_time(site: Site, queue: str) -> None:
    id_ = await site.queue("family.py", [3, 2], queue=queue)
    await site.reaches(id_, "done", "failed", within=300.0)
    assert (await site.events(id_))[-1].payload == {"leaves": 8}
    family = [state.etl_context_id for state in await site.store().tree(id_)]
    assert len(family) == 1 + 2 + 4 + 8
    assert await at_once(site.store(), family) == 1
