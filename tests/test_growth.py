"""What reads a little of a large log looks at little of it, whatever the planner takes the log for."""

from collections.abc import Sequence

import pytest
from test_feed import begun, rows_of

from damad.eventstore.queries import query
from damad.eventstore.store import Append, EventStore
from damad.model.event import Event

LONG_AGO = 4000
"""Events of other contexts, more than a page has."""


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [("read_tree", "{}, 0, NULL, 100"), ("read_line_since", "{}, '{{}}', '{{}}', NULL, 100")],
)
@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
async def test_a_page_of_a_tree_costs_what_the_tree_has_and_not_the_log(
    store: EventStore, statement: str, arguments: str, plan: str
) -> None:
    others = [await begun(store) for _ in range(20)]
    tree = await begun(store)
    for _ in range(LONG_AGO // 1000):
        await _appended(store, others * (1000 // len(others)))
    await _appended(store, [tree])
    async with store.database.connection() as connection:
        await connection.execute(f"ANALYZE; SET plan_cache_mode = {plan}; SET enable_seqscan = off")
        await connection.execute(f"PREPARE page AS {query(statement)}")
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE page ({arguments.format(tree)})")
        await connection.execute("RESET ALL; DEALLOCATE page")
    assert rows_of(explained[0]["Plan"]) < LONG_AGO // 10


async def _appended(store: EventStore, ids: Sequence[int]) -> None:
    await store.append([Append(etl_context_id=id_, event=Event(type=":A")) for id_ in ids])
