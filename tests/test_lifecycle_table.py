"""Python's table of transitions and the database's are one: every cell of it, tried on a real context."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from damad import background, errors
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY, Event
from damad.model.lifecycle import TRANSITIONS

HOST = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1"
KINDS = sorted({kind for _, kind in TRANSITIONS} | {"NONSENSE"})
STATES = sorted({state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()))
COMPANIONS = {"queued": "FAILED", "scheduled": "FAILED", "running": "FAILED", "cancelling": "CANCELLED"}
"""What stands in one statement with an ERROR in that state."""


def event(kind: str, *, fence: int = 0, start_after: float | None = None) -> Event:
    """An event of that kind, with what its projection needs."""
    match kind:
        case "EVENT":
            return Event(type="x:LOADED")
        case "EVENT_ERROR":
            return Event(type="x:ERROR")
        case "INITIAL" | "FINAL":
            return Event(type=f"x:{kind}", payload={"n": 1})
        case "TASK_INITIAL":
            given = {"worker": "ok.py"} | ({} if start_after is None else {"start_after": start_after})
            return Event(type=":INITIAL", meta={SETTINGS_KEY: given})
    payload: Any = {
        "CLAIMED": {"fence": fence + 1, "host_id": HOST, "lease_until": "2030-01-01T00:00:00Z"},
        "STARTED": {"attempt": 1, "pid": 4711, "start_time": 1, "boot_id": "b"},
        "ERROR": {"attempt": 1, "kind": "exit", "message": "no", "exit_code": 7},
        "RETRY": {"run_at": "2030-01-01T00:00:00.123456+00:00"},
        "PROGRESS": {"fraction": 0.5},
    }.get(kind)
    return Event(type=f"dama/task:{kind}", payload=payload)


WAYS: dict[str, list[str]] = {
    "new": [],
    "open": ["INITIAL"],
    "error": ["INITIAL", "EVENT_ERROR"],
    "queued": ["TASK_INITIAL"],
    "scheduled": ["TASK_INITIAL later"],
    "claimed": ["TASK_INITIAL", "CLAIMED"],
    "running": ["TASK_INITIAL", "CLAIMED", "STARTED"],
    "waiting": ["TASK_INITIAL", "CLAIMED", "STARTED", "WAITING"],
    "retrying": ["TASK_INITIAL", "CLAIMED", "STARTED", "ERROR RETRY"],
    "cancelling": ["TASK_INITIAL", "CLAIMED", "STARTED", "CANCEL_REQUESTED"],
    "done": ["TASK_INITIAL", "FINAL"],
    "failed": ["TASK_INITIAL", "CLAIMED", "STARTED", "ERROR FAILED"],
    "cancelled": ["TASK_INITIAL", "CANCEL_REQUESTED CANCELLED"],
}
"""How to bring a context into each state; what stands in one string is one statement."""


class Walker:
    """A context on its way."""

    def __init__(self, store: EventStore, id_: int) -> None:
        self.store = store
        self.id = id_
        self.fence = 0

    async def take(self, *kinds: str) -> None:
        """Appends events of these kinds in one statement."""
        new = [event(kind.removesuffix(" later"), fence=self.fence, start_after=9e6 if "later" in kind else None)
               for kind in kinds]  # fmt: skip
        await self.store.append([Append(etl_context_id=self.id, event=one) for one in new])
        self.fence += "CLAIMED" in kinds

    async def state(self) -> str:
        state = await self.store.state(self.id)
        return "new" if state.version == 0 else state.state


async def walked(store: EventStore, way: list[str]) -> Walker:
    walker = Walker(store, await store.create_context())
    for step in way:
        await walker.take(*([step] if step.endswith(" later") else step.split()))
    return walker


@pytest.mark.parametrize("state", sorted(WAYS))
async def test_every_kind_is_taken_or_refused_as_the_table_says(store: EventStore, state: str) -> None:
    for kind in KINDS:
        walker = await walked(store, WAYS[state])
        assert await walker.state() == state
        after = TRANSITIONS.get((state, kind))
        step = [kind, COMPANIONS[state]] if kind == "ERROR" and after else [kind]
        if after is None:
            with pytest.raises(errors.IllegalTransition):
                await walker.take(*step)
            assert await walker.state() == state
        else:
            await walker.take(*step)
            after = TRANSITIONS[after, step[1]] if len(step) == 2 else after
            assert await walker.state() == after, kind
    assert (await verify(store.database)).mismatches == []


async def test_only_what_follows_from_an_error_follows_it(store: EventStore) -> None:
    for kind in KINDS:
        walker = await walked(store, WAYS["running"])
        if ("erred", kind) in TRANSITIONS:
            await walker.take("ERROR", kind)
            assert await walker.state() == TRANSITIONS["erred", kind]
        else:
            with pytest.raises(errors.Conflict):
                await walker.take("ERROR", kind)
    assert (await verify(store.database)).mismatches == []


def test_every_state_is_walked() -> None:
    assert set(WAYS) | {"erred"} == set(STATES)


async def test_the_database_holds_the_same_table(database: Database) -> None:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT state, kind, next_state FROM data_manager.transitions")
    assert {(row["state"], row["kind"]): row["next_state"] for row in rows} == TRANSITIONS


async def test_a_lease_ends_with_its_run(store: EventStore) -> None:
    for end in ("RELEASED", "FINAL", "WAITING", "ERROR RETRY", "ERROR FAILED", "CANCEL_REQUESTED CANCELLED"):
        walker = await walked(store, ["TASK_INITIAL"])
        async with store.database.connection() as connection:
            claim = "SELECT data_manager.claim_task($1, gen_random_uuid(), 'x', interval '1 min')"
            await connection.execute(claim, walker.id)
            await walker.take("STARTED")
            assert await connection.fetchval("SELECT count(*) FROM data_manager.leases") == 1
            await walker.take(*end.split())
            assert await connection.fetchval("SELECT count(*) FROM data_manager.leases") == 0, end


async def test_a_claim_raises_the_fence_or_is_refused(store: EventStore) -> None:
    walker = await walked(store, [*WAYS["claimed"], "RELEASED"])
    walker.fence = 0
    with pytest.raises(errors.IllegalTransition):
        await walker.take("CLAIMED")


async def test_verify_names_a_projection_that_was_changed_by_hand(store: EventStore) -> None:
    walker = await walked(store, WAYS["running"])
    async with store.database.connection() as connection:
        await connection.execute("UPDATE data_manager.dama_tasks SET state = 'done', attempt = 9")
        await connection.execute("UPDATE data_manager.etl_contexts SET etl_status = 'DONE'")
    found = {(m.etl_context_id, m.field, m.folded, m.projected) for m in (await verify(store.database)).mismatches}
    assert found == {
        (walker.id, "etl_status", "OPEN", "DONE"),
        (walker.id, "task.state", "running", "done"),
        (walker.id, "task.attempt", 1, 9),
    }


@pytest.fixture(scope="module")
def own_store(own_database: Database) -> EventStore:
    """A store for code that runs on damad's own loop, as Hypothesis' sync tests do."""
    return EventStore(own_database)


def legal(state: str) -> list[str]:
    return sorted(kind for before, kind in TRANSITIONS if before == state)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_legal_history_folds_to_what_the_database_projects(own_store: EventStore, data: st.DataObject) -> None:
    first = data.draw(st.sampled_from(["INITIAL", "TASK_INITIAL", "TASK_INITIAL later"]))
    walker = background.run(walked(own_store, [first]))
    for _ in range(data.draw(st.integers(0, 12))):
        state = background.run(walker.state())
        if not legal(state):
            break
        kind = data.draw(st.sampled_from(legal(state)))
        companions = ["CANCELLED"] if state == "cancelling" else ["RETRY", "FAILED"]
        step = [kind, data.draw(st.sampled_from(companions))] if kind == "ERROR" else [kind]
        background.run(walker.take(*step))
    assert background.run(verify(own_store.database)).mismatches == []


async def test_the_fold_reads_ids_and_times_as_the_database_does(store: EventStore) -> None:
    walker = await walked(store, WAYS["retrying"])
    async with store.database.connection() as connection:
        row = await connection.fetchrow("SELECT * FROM data_manager.dama_tasks WHERE etl_context_id = $1", walker.id)
    assert row["host_id"] == UUID(HOST) and row["run_at"].microsecond == 123456
    assert (row["crashes"], row["errors"], row["attempt"], row["pid"]) == (1, 0, 1, None)


@pytest.mark.parametrize("name", ["EVENT", "EVENT_ERROR", "TASK_INITIAL", "NONSENSE"])
async def test_no_type_passes_for_a_kind_that_is_no_event_of_damads(store: EventStore, name: str) -> None:
    for state in ("new", "open", "running"):
        walker = await walked(store, WAYS[state])
        with pytest.raises(errors.IllegalTransition):
            await store.append([Append(etl_context_id=walker.id, event=Event(type=f"dama/task:{name}"))])
