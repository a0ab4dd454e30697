"""The whole life of tasks, as damad lives it: its own functions on a real database, and the pure core beside them.

Hypothesis makes the history: tasks are queued, claimed under what their queue allows, run, fail, are put off, wait for
moments, events and children, go on, are cancelled and tried again, while the queue is paused and its limits change.
Each step says beforehand what it will append; then what the log has is folded by the pure core, which must take every
event, and compared with what the database keeps.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from damad import background, context, queues, tasks
from damad.context import EtlContext, Host
from damad.errors import Conflict, NoRetry, Snooze
from damad.eventstore.folding import Folding, fold
from damad.eventstore.pools import Database
from damad.eventstore.schedule import FreeSlots, Schedule
from damad.eventstore.store import Append, EventStore
from damad.eventstore.verify import verify
from damad.model import lifecycle, retry, settings
from damad.model.event import Event
from damad.model.lifecycle import ENDED, HELD_BY_NOBODY, Context, LoggedEvent, Task, evolve
from damad.model.memory import Memory
from damad.runner import outcome
from damad.scheduler import decisions

MOST_TASKS = 5
FAR_AWAY = 10 * 365 * 86400.0
READY = ("queued", "scheduled", "retrying")
HELD = ("claimed", "running", "cancelling")
PICK = st.integers(0, 1000)
KEYS = st.sampled_from([None, "a", "a", "b"])
LIMIT = st.sampled_from([None, None, 0, 1, 2])
WEIGHT = st.sampled_from([1, 1, 1, 2, 3])
ENDS = ("returns", "raises", "raises", "raises NoRetry", "crashes", "snoozes", "snoozes long", "is handed back")
WAITS = ("a moment", "a long time", ":GO", ":GO or a moment", "a child", "any child")
_numbers = count(1)


class Known:
    """A task as the pure core knows it; attempts, and failures since it was queued, are counted here once more."""

    def __init__(self, id_: int, *, limit: int, key: str | None, weight: int) -> None:
        self.id, self.limit, self.key, self.weight = id_, limit, key, weight
        self.context = Context()
        self.said: list[LoggedEvent] = []
        self.failures = Counter[str]()
        self.attempts = 0
        self.goes_on = False

    @property
    def state(self) -> str:
        return self.context.state

    @property
    def task(self) -> Task:
        assert self.context.task is not None
        return self.context.task

    @property
    def is_due(self) -> bool:
        return self.state in READY and self.task.run_at < datetime.now(UTC)

    def waits_in_vain(self, others: dict[int, "Known"]) -> bool:
        """True while nothing that it waits for is there, out of the events that the log has."""
        waits = self.task.waits_for
        if waits.get("until") is not None and datetime.fromisoformat(waits["until"]) < datetime.now(UTC):
            return False
        if (type_ := waits.get("event")) is not None:
            return not any(event.type == type_ and event.version > waits["after_version"] for event in self.said)
        ended = [others[id_].state in ENDED for id_ in waits.get("children", ())]
        return not ended or not (any(ended) if waits.get("any") else all(ended))


class Lives(RuleBasedStateMachine):
    """Some tasks of one queue, which one host runs."""

    database: Database
    roots: Path

    def __init__(self) -> None:
        super().__init__()
        self.host = Host(host_id=str(uuid4()), state_dir=self.roots, worker_roots=(self.roots,))
        self.queue = f"q{next(_numbers)}"
        self.store = EventStore(self.database)
        self.schedule = Schedule(self.database, str(self.host.host_id))
        self.known: dict[int, Known] = {}
        self.rules: dict[str, Any] = {"paused": False, "global_concurrency": None, "key_concurrency": None}
        self.fences: list[tuple[Known, int]] = []

    # --- what happens, and what it says ---

    def do(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        with context.run_in(EtlContext(pg_env="local", database=self.database, host=self.host)):
            return background.run(work())

    def pick(self, number: int, *states: str) -> Known | None:
        found = [one for one in self.known.values() if one.state in states]
        return found[number % len(found)] if found else None

    def append(self, one: Known, *events: Event, fence: int | None = None) -> None:
        fresh = [replace(event, event_uuid=uuid4()) for event in events]
        background.run(self.store.append([Append(etl_context_id=one.id, event=event, fence=fence) for event in fresh]))

    def says(self, expected: dict[int, list[str]]) -> None:
        """The log has grown by this and nothing else, the pure core takes it, and the projections are what it folds."""
        for id_, types in expected.items():
            one = self.known[id_]
            new = background.run(self.store.read(id_, after_version=one.context.version))
            assert [event.type.removeprefix("dama/task:") for event in new] == types
            for event in new:
                logged = LoggedEvent(**{name: getattr(event, name, None) for name in LoggedEvent.__struct_fields__})
                one.context = evolve(one.context, logged)
                one.said.append(logged)
        for folding in background.run(self.folded()):
            one = self.known[folding.etl_context_id]
            assert folding.mismatches() == []
            assert folding.folded == one.context
            assert (one.task.errors, one.task.crashes) == (one.failures["errors"], one.failures["crashes"])
            assert (one.task.attempt, one.task.resumed) == (one.attempts, one.goes_on)

    async def folded(self) -> list[Folding]:
        async with self.database.connection() as connection, connection.transaction():
            return await fold(connection, list(self.known))

    # --- rules ---

    @initialize(
        limits=st.tuples(LIMIT, LIMIT),
        given=st.lists(st.tuples(st.integers(0, 2), KEYS, WEIGHT), min_size=1, max_size=3),
    )
    def some_are_queued(self, limits: tuple[int | None, int | None], given: list[tuple[int, str | None, int]]) -> None:
        self.the_queue_changes(False, *limits)
        for limit, key, weight in given:
            self.one_is_queued(limit, key, weight, False)

    @precondition(lambda self: len(self.known) < MOST_TASKS)
    @rule(limit=st.integers(0, 2), key=KEYS, weight=WEIGHT, later=st.booleans())
    def one_is_queued(self, limit: int, key: str | None, weight: int, later: bool) -> None:
        asked = {"retry_limit": limit, "retry_delay": 0, "queue": self.queue, "concurrency_key": key, "weight": weight}
        asked |= {"start_after": FAR_AWAY} if later else {}
        id_ = self.do(
            lambda: tasks.queue("ok.py", **{name: value for name, value in asked.items() if value is not None})
        )
        self.known[id_] = Known(id_, limit=limit, key=key, weight=weight)
        self.says({id_: [":INITIAL"]})
        assert self.known[id_].state == ("scheduled" if later else "queued")

    @rule(paused=st.booleans(), most=LIMIT, of_a_key=LIMIT)
    def the_queue_changes(self, paused: bool, most: int | None, of_a_key: int | None) -> None:
        self.rules = {"paused": paused, "global_concurrency": most or None, "key_concurrency": of_a_key or None}
        self.do(lambda: queues.change(self.queue, self.rules))
        self.says({})

    @rule(slots=st.integers(1, 4), taken=st.integers(0, 2))
    def a_daemon_claims(self, slots: int, taken: int = 0) -> None:
        limited = any(self.rules.values())
        free = FreeSlots(self.queue, slots, whole=slots + taken)
        holder, lease = "a daemon", 3600.0
        if limited:
            claimed = background.run(self.schedule.claim_within_limits(free, holder=holder, lease=lease))
        else:
            claimed = background.run(self.schedule.claim([free], holder=holder, lease=lease))
        ids = [task.etl_context_id for task in claimed]
        assert all(self.known[id_].is_due for id_ in ids)
        assert ids == self.fitting(slots, slots + taken)
        held = [one for one in self.known.values() if one.state in HELD or one.id in ids]
        for one in map(self.known.__getitem__, ids):
            if self.rules["global_concurrency"] is not None:
                assert sum(other.weight for other in held) <= self.rules["global_concurrency"]
            if self.rules["key_concurrency"] is not None and one.key is not None:
                assert len([other for other in held if other.key == one.key]) <= self.rules["key_concurrency"]
        self.says({id_: ["CLAIMED"] for id_ in ids})
        for task in claimed:
            one = self.known[task.etl_context_id]
            assert task.attempt == one.attempts + (not one.goes_on)
            assert task.fence == one.task.fence
            self.fences.append((one, task.fence))

    def fitting(self, slots: int, whole: int) -> list[int]:
        """What a claim takes, oldest first: what the slots hold, and the queue allows in all and of each key."""
        if self.rules["paused"]:
            return []
        held = [one for one in self.known.values() if one.state in HELD]
        of_keys, of_a_key = Counter(one.key for one in held), self.rules["key_concurrency"]
        if (most := self.rules["global_concurrency"]) is not None:
            slots, whole = min(slots, most - sum(one.weight for one in held)), min(whole, most)
        weights: dict[int, int] = {}
        for one in self.known.values():
            if one.is_due and one.weight <= whole:
                of_keys[one.key] += 1
                if one.key is None or of_a_key is None or of_keys[one.key] <= of_a_key:
                    weights[one.id] = one.weight
        return decisions.that_fit(weights, slots, whole)

    @rule(pick=PICK)
    def a_process_begins(self, pick: int) -> None:
        if one := self.pick(pick, "claimed"):
            one.attempts += not one.goes_on
            one.goes_on = False
            self.append(
                one, Event(type="dama/task:STARTED", payload={"attempt": one.attempts, "pid": 1}), fence=one.task.fence
            )
            self.says({one.id: ["STARTED"]})

    @rule(pick=PICK)
    def a_claim_is_given_back(self, pick: int) -> None:
        if one := self.pick(pick, "claimed"):
            self.append(one, Event(type="dama/task:RELEASED", payload={"reason": "not_started"}), fence=one.task.fence)
            self.says({one.id: ["RELEASED"]})
            assert one.state == "queued"

    @rule(pick=PICK, how=st.sampled_from(ENDS))
    def a_run_ends(self, pick: int, how: str) -> None:
        one = self.pick(pick, "running")
        if one is None:
            return
        said = self.ended(one, how)
        one.goes_on = said[0].type == "dama/task:RELEASED"
        self.append(one, *said, fence=one.task.fence)
        self.says({one.id: [event.type.removeprefix("dama/task:") for event in said]})
        assert one.state == {
            "returns": "done", "snoozes long": "scheduled", "snoozes": "queued", "is handed back": "queued",
            "raises NoRetry": "failed",
        }.get(how, "retrying" if max(one.failures.values(), default=0) <= one.limit else "failed")  # fmt: skip

    def ended(self, one: Known, how: str) -> list[Event]:
        """What a runner says of a run that ended so, by its own code."""
        now, attempt = datetime.now(UTC), one.attempts
        if how == "is handed back":
            return [outcome.handed_back("handed_back")]
        if how == "crashes":
            said: Event | retry.Failure = retry.Failure(attempt=attempt, kind="signal", message="", signal=9)
        elif how == "returns":
            said = outcome.of_result({"n": 1}, attempt=attempt, limit=1000)
        else:
            raised = {"raises NoRetry": NoRetry("no use"), "snoozes": Snooze(0), "snoozes long": Snooze(FAR_AWAY)}
            error = raised.get(how, ValueError("seven"))
            said = outcome.of_exception(error, attempt=attempt, worker=self.roots / "ok.py", now=now)
        if isinstance(said, Event):
            return [said]
        counts = retry.Counts(one.failures["errors"], one.failures["crashes"])
        one.failures["crashes" if how == "crashes" else "errors"] += 1
        given = settings.decode(one.task.settings)
        return retry.conclude(said, counts, settings=given, now=now, random=0.5)

    @rule(pick=PICK, which=PICK, what=st.sampled_from(WAITS))
    def a_run_waits(self, pick: int, which: int, what: str) -> None:
        one = self.pick(pick, "running")
        others = [id_ for id_ in self.known if one and id_ != one.id]
        if one is None or ("child" in what and not others):
            return
        memory = Memory(0.0, lambda: datetime.now(UTC))
        if "child" in what:
            children = others[which % len(others) :]
            ended = memory.suspend(None, children=children, **({"any": True} if what == "any child" else {}))
        else:
            seconds = {":GO": None, "a long time": FAR_AWAY}.get(what, 0.0)
            event = {"event": ":GO", "after_version": which % (one.context.version + 1)} if ":GO" in what else {}
            ended = memory.suspend(f"wait {next(_numbers)}", seconds=seconds, **event)
        self.append(one, ended.waiting, fence=one.task.fence)
        self.says({one.id: ["WAITING"]})
        assert one.state == "waiting"

    @rule()
    def what_is_over_goes_on(self) -> None:
        over = {one.id for one in self.known.values() if one.state == "waiting" and not one.waits_in_vain(self.known)}
        assert set(background.run(self.schedule.resume(shared=[], only=None))) == over
        for id_ in over:
            self.known[id_].goes_on = True
        self.says({id_: ["RESUMED"] for id_ in over})

    @rule(pick=PICK)
    def somebody_signals(self, pick: int) -> None:
        if one := self.pick(pick, *HELD_BY_NOBODY, *HELD):
            self.do(lambda: tasks.signal(one.id, {"type": ":GO"}))
            self.says({one.id: [":GO"]})

    @rule(pick=PICK)
    def somebody_cancels(self, pick: int) -> None:
        one = self.pick(pick, *lifecycle.TASK_STATES)
        assert one is not None
        if one.state in (*ENDED, "cancelling"):
            with pytest.raises(Conflict):
                self.do(lambda: tasks.cancel(one.id))
            self.says({})
            return
        gone = one.state in HELD_BY_NOBODY
        self.do(lambda: tasks.cancel(one.id))
        self.says({one.id: ["CANCEL_REQUESTED", *(["CANCELLED"] if gone else [])]})
        assert one.state == ("cancelled" if gone else "cancelling")

    @rule(pick=PICK)
    def what_was_cancelled_is_seen_dead(self, pick: int) -> None:
        if one := self.pick(pick, "cancelling"):
            self.append(one, Event(type="dama/task:CANCELLED"), fence=one.task.fence)
            self.says({one.id: ["CANCELLED"]})

    @rule(pick=PICK)
    def somebody_tries_again(self, pick: int) -> None:
        one = self.pick(pick, *lifecycle.TASK_STATES)
        assert one is not None
        if one.state not in ("failed", "cancelled"):
            with pytest.raises(Conflict):
                self.do(lambda: tasks.retry(one.id))
            self.says({})
            return
        self.do(lambda: tasks.retry(one.id))
        one.failures.clear()
        one.goes_on = False
        self.says({one.id: ["REQUEUED"]})
        assert one.state == "queued"

    @precondition(lambda self: self.fences)
    @rule(pick=PICK, what=st.sampled_from([":FINAL", ":A", "dama/task:PROGRESS", "dama/task:RELEASED"]))
    def one_that_is_over_goes_on(self, pick: int, what: str) -> None:
        """Under a fence of a claim that has ended: it says nothing any more."""
        one, fence = self.fences[pick % len(self.fences)]
        if fence < one.task.fence or one.state in HELD_BY_NOBODY:
            with pytest.raises(Conflict):
                self.append(one, Event(type=what, payload={}), fence=fence)
            self.says({})

    def teardown(self) -> None:
        """I6: whoever is helped along ends, and the log is right."""
        self.the_queue_changes(False, None, None)
        for _ in range(6 * MOST_TASKS):
            self.what_is_over_goes_on()
            self.a_daemon_claims(4)
            for one in self.known.values():
                if one.state in ("waiting", "scheduled") and not one.is_due:
                    self.somebody_cancels_this(one)
            self.a_process_begins(0)
            self.a_run_ends(0, "returns")
            self.what_was_cancelled_is_seen_dead(0)
            if all(one.state in ENDED for one in self.known.values()):
                return
        raise AssertionError({one.id: one.state for one in self.known.values()})

    def somebody_cancels_this(self, one: Known) -> None:
        self.do(lambda: tasks.cancel(one.id))
        self.says({one.id: ["CANCEL_REQUESTED", "CANCELLED"]})


@pytest.fixture
def machine(own_database: Database, workers: Path) -> Iterator[type[Lives]]:
    yield type("Machine", (Lives,), {"database": own_database, "roots": workers})
    assert background.run(verify(own_database)).mismatches == []


HISTORIES = hypothesis.settings(max_examples=20, stateful_step_count=20)


def test_whatever_happens_to_tasks_the_log_the_database_and_the_core_say_the_same(machine: type[Lives]) -> None:
    run_state_machine_as_test(machine, settings=HISTORIES)


@pytest.mark.parametrize(
    ("change", "happens"),
    [
        (lambda core: core.setitem(lifecycle.TRANSITIONS, ("waiting", "RESUMED"), "waiting"), "a wait"),
        (lambda core: core.setattr(lifecycle, "KEEPS_ATTEMPT", "no"), "a snooze"),
    ],
)
def test_that_the_core_says_something_else_is_seen(
    machine: type[Lives], change: Callable[[pytest.MonkeyPatch], None], happens: str
) -> None:
    lives = machine()
    lives.some_are_queued(limits=(None, None), given=[(0, None, 1)])
    lives.a_daemon_claims(slots=1)
    lives.a_process_begins(pick=0)
    if happens == "a wait":
        lives.a_run_waits(pick=0, which=0, what="a moment")
    with pytest.MonkeyPatch.context() as core, pytest.raises(AssertionError):
        change(core)
        lives.what_is_over_goes_on() if happens == "a wait" else lives.a_run_ends(pick=0, how="snoozes")
