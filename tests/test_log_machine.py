"""The database and the pure core, side by side: whatever is appended to both, they say the same, step by step.

Hypothesis makes the history: legal events and others, under the fence of the claim, an old one or one to come, alone or
two in one statement, new or sent again. Both accept it or both refuse it, and the projection is the fold of the log.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from damad import background
from damad.errors import Conflict, IllegalTransition
from damad.eventstore.folding import fold
from damad.eventstore.pools import Database
from damad.eventstore.store import Append, EventStore
from damad.model import lifecycle
from damad.model.event import SETTINGS_KEY, Event
from damad.model.lifecycle import TRANSITIONS, Context, LoggedEvent, evolve

HOST = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1"
KINDS = sorted({kind for _, kind in TRANSITIONS})
TYPES = {
    "TASK_INITIAL": ":INITIAL", "INITIAL": "x:INITIAL", "FINAL": "x:FINAL", "EVENT": ":A", "EVENT_ERROR": "x:ERROR"
}  # fmt: skip
RUNS = "CLAIMED STARTED"
WAYS = (
    "no task", "", "CLAIMED", RUNS, f"{RUNS} WAITING", f"{RUNS} ERROR+RETRY", f"{RUNS} ERROR+FAILED",
    f"{RUNS} CANCEL_REQUESTED", f"{RUNS} ERROR+RETRY {RUNS}", f"{RUNS} CANCEL_REQUESTED CANCELLED REQUEUED {RUNS}",
)  # fmt: skip
FENCES = st.sampled_from([None, None, 0, 0, -1, 1])
"""None: from outside a run; else added to the fence that the task has."""


def new_event(kind: str, context: Context, *, raised: int, later: bool) -> Event:
    """An event of a kind, that says what its projection needs. `raised`: by how much a claim raises the fence."""
    fence = context.task.fence if context.task else 0
    moment = "2030-01-01T00:00:00.123456+00:00" if later else "2020-01-01T00:00:00Z"
    payload: Any = {
        "CLAIMED": {"fence": max(0, fence + raised), "host_id": HOST},
        "STARTED": {"attempt": (context.task.attempt if context.task else 0) + 1, "pid": 4711},
        "ERROR": {"attempt": 1, "kind": "exit" if later else "exception", "message": "no"},
        "RETRY": {"run_at": moment},
        "RELEASED": {"run_at": moment, "keeps_attempt": raised == 1},
        "PROGRESS": {"fraction": 0.5},
    }.get(kind)
    settings = {"worker": "ok.py", "start_by": moment, "singleton_key": str(uuid4())}
    settings |= {"start_after": moment} if later else {}
    meta = {SETTINGS_KEY: settings} if kind == "TASK_INITIAL" else None
    return Event(type=TYPES.get(kind, f"dama/task:{kind}"), payload=payload, meta=meta, event_uuid=uuid4())


class Both(RuleBasedStateMachine):
    """One context, in the log and in memory."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.store = EventStore(self.database)
        self.id = background.run(self.store.create_context())
        self.context = Context()
        self.appended: list[tuple[list[Event], int | None]] = []
        self.there: set[UUID | None] = set()

    @initialize(way=st.sampled_from(WAYS), later=st.booleans())
    def it_is_on_its_way(self, way: str, later: bool) -> None:
        for kind in ["INITIAL"] if way == "no task" else ["TASK_INITIAL", *way.split()]:
            together = kind.split("+")
            fence = self.fence(0) if kind in ("STARTED", "ERROR+RETRY", "ERROR+FAILED", "WAITING") else None
            self.append([new_event(one, self.context, raised=1, later=later) for one in together], fence)

    @rule(pick=st.integers(0, 1000), plus=FENCES, later=st.booleans(), raised=st.sampled_from([1, 1, 1, 0, 7]))
    def what_is_legal(self, pick: int, plus: int | None, later: bool, raised: int) -> None:
        legal = sorted(kind for state, kind in TRANSITIONS if state == self.context.state)
        if legal:
            kind = legal[pick % len(legal)]
            after = {"ERROR": ["RETRY", "FAILED", "CANCELLED"][pick % 3]} if self.context.task else {}
            kinds = [kind, after[kind]] if kind in after else [kind]
            self.append([new_event(kind, self.context, raised=raised, later=later) for kind in kinds], self.fence(plus))

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=2), plus=FENCES, later=st.booleans())
    def anything(self, kinds: list[str], plus: int | None, later: bool) -> None:
        self.append([new_event(kind, self.context, raised=1, later=later) for kind in kinds], self.fence(plus))

    @rule(pick=st.integers(0, 1000))
    def the_same_again(self, pick: int) -> None:
        self.append(*self.appended[pick % len(self.appended)])

    def fence(self, plus: int | None) -> int | None:
        return None if plus is None else (self.context.task.fence if self.context.task else 0) + plus

    def append(self, events: list[Event], fence: int | None) -> None:
        """Appends to the log and asks the pure core; they agree, and so do what they keep."""
        self.appended.append((events, fence))
        expected = self.expected(events, fence)
        try:
            background.run(
                self.store.append([Append(etl_context_id=self.id, event=one, fence=fence) for one in events])
            )
        except Conflict as refused:
            assert expected is None, f"the database refused what the core takes: {refused}"
        else:
            assert expected is not None, f"the database took what the core refuses, in {self.context.state}"
            self.there |= {event.event_uuid for event in events}
        self.context = background.run(self.projected())
        assert expected is None or self.context.state == expected.state

    def expected(self, events: list[Event], fence: int | None) -> Context | None:
        """The projection afterwards as the core has it, or None where it refuses."""
        context, new = self.context, [event for event in events if event.event_uuid not in self.there]
        try:
            for event in new:
                version = context.version + 1
                logged = LoggedEvent(event_id=version, version=version, type=event.type, payload=event.payload,
                                     meta=event.meta, fence=fence, created_timestamp=datetime.now(UTC))  # fmt: skip
                context = evolve(context, logged)
        except IllegalTransition:
            return None
        unfinished = context.state in ("erred", "cancelling") and any(e.type == "dama/task:ERROR" for e in new)
        return None if unfinished else context

    async def projected(self) -> Context:
        """The projection in the database, which is the fold of its events."""
        async with self.database.connection() as connection, connection.transaction():
            (folding,) = await fold(connection, [self.id])
        assert folding.mismatches() == []
        return folding.folded


SETTINGS = hypothesis.settings(max_examples=40, stateful_step_count=15)


def test_the_database_and_the_core_say_the_same(own_database: Database) -> None:
    run_state_machine_as_test(type("Machine", (Both,), {"database": own_database}), settings=SETTINGS)


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "an old fence is taken": lambda core: core.setattr(lifecycle, "_may_carry", lambda *_: True),
    "a fence outlives its claim": lambda core: core.setattr(lifecycle, "HELD_BY_NOBODY", frozenset()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_that_one_of_them_says_something_else_is_seen(
    own_database: Database, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    CHANGES[change](monkeypatch)
    until_it_fails = {"max_examples": 300, "phases": [hypothesis.Phase.generate], "report_multiple_bugs": False}
    machine = type("Machine", (Both,), {"database": own_database})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=hypothesis.settings(SETTINGS, **until_it_fails))
