"""Parents of many children and of parents: the queue is never fuller than it may be, and nobody waits for ever."""

from collections.abc import AsyncIterator, Iterable

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, site_of
from test_waits import worker

from damad.eventstore.store import EventStore
from damad.model.event import RecordedEvent

CHILDREN = 1000
SETTINGS = {
    "DAMAD_WAIT_IN_PROCESS": "100ms",
    "DAMAD_QUEUE_INSIDE_RUN_IN": "daemon",
    "DAMAD_QUEUE_INSIDE_CONCURRENCY": "4",
    "DAMAD_QUEUE_ONE_CONCURRENCY": "1",
}
BEGINS, ENDS = "dama/task:CLAIMED", ("dama/task:WAITING", "dama/task:FAILED", "dama/task:RETRY", ":FINAL")

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
    found: list[RecordedEvent] = []
    for id_ in ids:
        found += await store.read(id_, types=[BEGINS, *ENDS])
    held = most = 0
    for event in sorted(found, key=lambda event: event.event_id):
        held += 1 if event.type == BEGINS else -1
        most = max(most, held)
    assert held == 0
    return most


async def test_a_parent_of_a_thousand_children_ends_and_no_more_than_four_of_them_run_at_once(site: Site) -> None:
    id_ = await site.queue("family.py", [1, CHILDREN], queue="inside")
    state = await site.reaches(id_, "done", "failed", within=300.0)
    assert state.state == "done"
    assert (await site.events(id_))[-1].payload == {"leaves": CHILDREN}
    children = [event.payload["etl_context_id"] for event in await site.events(id_, "dama/task:SUBTASK")]
    assert len(set(children)) == CHILDREN
    assert await at_once(site.store(), children) <= 4


async def test_parents_of_parents_three_deep_end_on_a_queue_that_runs_one_at_a_time(site: Site) -> None:
    id_ = await site.queue("family.py", [3, 2], queue="one")
    await site.reaches(id_, "done", "failed", within=300.0)
    assert (await site.events(id_))[-1].payload == {"leaves": 8}
    leaves = [state.etl_context_id for state in await site.store().tree(id_)][7:]
    assert len(leaves) == 8
    assert await at_once(site.store(), leaves) == 1
