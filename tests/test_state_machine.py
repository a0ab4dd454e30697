"""Whatever happens in whatever order, the pure core keeps I2, I3, I4, I5, I6, I8 and I12.

Hypothesis makes the history: tasks are queued, claimed, run and cancelled, daemons and workers die at any moment,
leases run out, answers are lost, and processes that were taken for dead go on. After each step the log is judged.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from world_support import GRACE, HELD, LEASE, RETRY_DELAY, History, Run, World

from damad.model import lifecycle, retry
from damad.model.lifecycle import ENDED, TASK_STATES, TRANSITIONS, LoggedEvent, fold
from damad.scheduler import decisions

MOST_TASKS = 3
CRASHED = {"exit", "signal", "oom", "lost"}
ENDS_OF_CLAIMS = {"RELEASED", "WAITING", "RETRY", "FAILED", "CANCELLED"}
OUTSIDE = (
    "dama/task:CANCEL_REQUESTED",
    "dama/task:REQUEUED",
    "dama/task:RESUMED",
    ":INITIAL",
    "x:A",
    "x:ERROR",
    "x:FINAL",
)
DAEMONS = ("decides", "performs", "claims", "claims late", "rescues", "tidies", "dies")
WRITTEN = ("x:A", "dama/task:PROGRESS", "dama/task:STEP")
WORKERS = ("raises", "raises NoRetry", "returns", "waits", "renews", *WRITTEN)
SHARED = st.sampled_from([True, True, False])
QUEUED = st.lists(st.tuples(st.integers(0, 2), st.booleans(), SHARED), min_size=1, max_size=MOST_TASKS)
PICK, CHANCE = st.integers(0, 1000), st.floats(0, 1, exclude_max=True)


def name(event: LoggedEvent) -> str:
    return event.type.removeprefix("dama/task:")


class Histories(RuleBasedStateMachine):
    """Rules are what may happen; what is drawn says to whom."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.judged: dict[int, int] = {}

    # --- who it happens to ---

    def living(self) -> list[Run]:
        return [run for run in self.world.runs.values() if run.alive]

    def working(self) -> list[Run]:
        return [run for run in self.living() if run.begun]

    def runs_that_are_over(self) -> list[Run]:
        return [run for run in self.world.runs.values()
                if run.fence < run.history.task.fence or run.history.context.state not in HELD]  # fmt: skip

    # --- what may happen: few rules with many ways, for Hypothesis leaves half of the rules out of each history ---

    @initialize(given=QUEUED, steps=st.integers(0, 5))
    def tasks_are_queued_and_all_goes_well_at_first(self, given: list[tuple[int, bool, bool]], steps: int) -> None:
        for limit, expires, shared in given:
            self.world.queue(retry_limit=limit, start_after=None, expire_in=20.0 if expires else None, shared=shared)
        self.all_goes_well_for_a_while(random=0.5, steps=steps)

    @rule(random=CHANCE, steps=st.integers(1, 4))
    def all_goes_well_for_a_while(self, random: float, steps: int) -> None:
        self.world.restart_dead_daemons()
        for _ in range(steps):
            for daemon in self.world.daemons:
                self.world.round(daemon, random=random)
            for run in [run for run in self.living() if not run.begun]:
                self.world.begin(run)

    @precondition(lambda self: len(self.world.histories) < MOST_TASKS)
    @rule(limit=st.integers(0, 2), shared=SHARED)
    def somebody_queues_a_task_for_later(self, limit: int, shared: bool) -> None:
        self.world.queue(retry_limit=limit, start_after=10.0, expire_in=None, shared=shared)

    @rule(pick=PICK, what=st.sampled_from(OUTSIDE))
    def somebody_says(self, pick: int, what: str) -> None:
        task = self.world.histories[pick % len(self.world.histories)]
        said = [self.world.event(what)]
        if what == "dama/task:CANCEL_REQUESTED" and task.context.state not in ("claimed", "running"):
            said.append(self.world.event("dama/task:CANCELLED"))  # what holds no process is cancelled at once
            if task.context.state == "cancelling":
                return
        self.world.send(task, said)

    @rule(pick=PICK)
    def an_acknowledgement_was_lost(self, pick: int) -> None:
        sent = self.world.sent[-1 - pick % len(self.world.sent)]
        before = list(sent.history.uuids)
        there = [event.event_uuid in before for event in sent.events]
        assert all(there) or not any(there), "whole or absent"
        answered = self.world.send_again(sent)
        if all(there):
            assert answered and sent.history.uuids == before

    @rule(seconds=st.sampled_from([1.0, GRACE, LEASE + 1]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule(pick=PICK, which=PICK, what=st.sampled_from(DAEMONS), random=CHANCE)
    def a_daemon(self, pick: int, which: int, what: str, random: float) -> None:
        world, daemon = self.world, self.world.daemons[pick % 2]
        match what if daemon.alive else "is dead":
            case "claims":
                for task in world.claimable(daemon)[: 1 + which % 2]:
                    assert world.claim(daemon, task)
            case "claims late":  # by what it read long ago
                for task in [task for task in world.histories if task.task.fence]:
                    assert not world.claim(daemon, task, fence=1 + which % task.task.fence)
            case "decides":
                if held := world.held(daemon):
                    world.decide(daemon, held[which % len(held)])
            case "performs":
                if daemon.decided:
                    world.perform(daemon, random=random)
            case "rescues":
                for task in world.lost_to_their_host(daemon):
                    world.rescue(daemon, task, random=random)
            case "tidies":
                world.tidy(daemon)
            case "dies":
                daemon.alive = False

    @precondition(lambda self: any(not run.begun for run in self.living()))
    @rule(pick=PICK)
    def a_process_goes_a_step_on_its_way(self, pick: int) -> None:
        waiting = [run for run in self.living() if not run.begun]
        self.world.begin(waiting[pick % len(waiting)])

    @precondition(lambda self: self.working())
    @rule(pick=PICK, what=st.sampled_from(WORKERS), random=CHANCE)
    def a_worker(self, pick: int, what: str, random: float) -> None:
        run = self.working()[pick % len(self.working())]
        match what:
            case "returns":
                self.world.finish(run, None, random=random)
            case "raises" | "raises NoRetry":
                failure = retry.Failure(attempt=run.attempt, kind="exception", message="", retryable=what == "raises")
                self.world.finish(run, failure, random=random)
            case "waits":
                self.world.wait(run)
            case "renews":
                self.world.renew(run)
            case _:
                self.world.send(run.history, [self.world.event(what, {})], run.fence)

    @precondition(lambda self: self.runs_that_are_over())
    @rule(pick=PICK, what=st.sampled_from(["w:FINAL", *WRITTEN, "dama/task:RELEASED", "dama/task:STARTED"]))
    def a_run_that_is_over_goes_on(self, pick: int, what: str) -> None:
        """Its process was stopped meanwhile, or what it says was long on its way."""
        run = self.runs_that_are_over()[pick % len(self.runs_that_are_over())]
        self.world.send(run.history, [self.world.event(what, {"attempt": run.attempt})], run.fence)

    @precondition(lambda self: self.living())
    @rule(pick=PICK, silent=st.booleans())
    def a_process_dies(self, pick: int, silent: bool) -> None:
        self.world.die(self.living()[pick % len(self.living())], signal=11, silent=silent)

    # --- what must hold ---

    @invariant()
    def every_task_is_as_it_must_be(self) -> None:
        for task in self.world.histories:
            if self.judged.get(task.number) != len(task.logged):
                for holds in INVARIANTS:
                    holds(task)
                self.judged[task.number] = len(task.logged)

    @invariant()
    def i4_on_one_host_a_task_runs_once(self) -> None:
        running = [(run.history.number, run.host) for run in self.working()]
        assert len(set(running)) == len(running)

    def teardown(self) -> None:
        """I6: once daemons are there and workers come to their end, every task ends, and no process is left."""
        for daemon in list(self.world.daemons):
            daemon.alive = False
        self.world.restart_dead_daemons()
        for _ in range(100):
            if all(task.context.state in ENDED for task in self.world.histories) and not self.living():
                return
            self.all_goes_well()
        raise AssertionError([(task.context.state, task.lease) for task in self.world.histories])

    def all_goes_well(self) -> None:
        """One round of everybody's work."""
        world = self.world
        for daemon in world.daemons:
            world.round(daemon, random=0.5)
        for run in self.living():
            asked = any(run.key in daemon.asked for daemon in world.daemons if daemon.host == run.host)
            if asked:
                world.die(run, signal=15)
            elif run.begun:
                world.finish(run, None, random=0.5)
            else:
                world.begin(run)
        for task in world.histories:
            world.send(task, [world.event("dama/task:RESUMED")])
        world.now += timedelta(seconds=5)


def i2_versions_have_no_gap_and_no_uuid_is_there_twice(task: History) -> None:
    assert [event.version for event in task.logged] == list(range(1, len(task.logged) + 1))
    assert len(set(task.uuids)) == len(task.uuids) == len(task.logged)


def i3_one_initial_first_and_at_most_one_final_last(task: History) -> None:
    types = [event.type for event in task.logged]
    assert [place for place, type_ in enumerate(types) if type_.endswith(":INITIAL")] == [0]
    assert [place for place, type_ in enumerate(types) if type_.endswith(":FINAL")] in ([], [len(types) - 1])


def i5_nothing_carries_an_old_fence(task: History) -> None:
    fence, over = 0, True
    for event in task.logged:
        if name(event) == "CLAIMED":
            assert event.payload["fence"] > fence
            fence, over = event.payload["fence"], False
        assert event.fence is None or (event.fence == fence and not over), event
        over = over or name(event) in ENDS_OF_CLAIMS


def i8_the_projection_is_the_fold_and_says_what_the_events_say(task: History) -> None:
    assert task.context == fold(task.logged)
    since = max((place for place, event in enumerate(task.logged) if name(event) == "REQUEUED"), default=0)
    kinds = [event.payload["kind"] for event in task.logged[since:] if name(event) == "ERROR"]
    attempts = [event.payload["attempt"] for event in task.logged if name(event) == "STARTED"]
    assert task.task.crashes == sum(kind in CRASHED for kind in kinds)
    assert task.task.errors == len(kinds) - task.task.crashes
    assert task.task.fence == sum(name(event) == "CLAIMED" for event in task.logged)
    assert task.task.attempt == max(attempts, default=0)
    assert task.context.latest_event_id == task.logged[-1].event_id


def i12_attempts_retries_and_their_rate_are_bounded(task: History) -> None:
    """Attempts are 1, 2, 3 …; a run that goes on after a wait keeps its number; each fails once at most."""
    attempt, failed, resumed = 0, 0, False
    failures = {True: 0, False: 0}
    for event in task.logged:
        match name(event):
            case "STARTED":
                assert event.payload["attempt"] == attempt + (not resumed)
                attempt, resumed = event.payload["attempt"], False
            case "RESUMED":
                resumed = True
            case "REQUEUED":
                resumed, failures = False, {True: 0, False: 0}
            case "ERROR":
                assert event.payload["attempt"] == attempt > failed
                failed = attempt
                failures[event.payload["kind"] in CRASHED] += 1
            case "RETRY":
                assert max(failures.values()) <= task.task.settings["retry_limit"]
                delay = datetime.fromisoformat(event.payload["run_at"]) - event.created_timestamp
                assert delay.total_seconds() >= RETRY_DELAY / 2


INVARIANTS = (
    i2_versions_have_no_gap_and_no_uuid_is_there_twice,
    i3_one_initial_first_and_at_most_one_final_last,
    i5_nothing_carries_an_old_fence,
    i8_the_projection_is_the_fold_and_says_what_the_events_say,
    i12_attempts_retries_and_their_rate_are_bounded,
)
HISTORIES = hypothesis.settings(max_examples=120, stateful_step_count=50)
TestHistories = Histories.TestCase
TestHistories.settings = HISTORIES


# --- that it can fail: rules of the core whose absence shows in any few histories ---


def for_ever(held: decisions.Held, seen: decisions.Observed, failed_launches: int) -> Any:
    """_claimed, that takes every claimer for living."""
    return known(replace(held, claimer_dead=False, lease_over=False), seen, failed_launches)


known = decisions._claimed
RULES: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "I3: nothing follows a :FINAL": lambda core: core.setitem(TRANSITIONS, ("done", "EVENT"), "done"),
    "I3: there is one :FINAL": lambda core: core.setitem(TRANSITIONS, ("done", "FINAL"), "done"),
    "I3: there is one :INITIAL": lambda core: [
        core.setitem(TRANSITIONS, (state, "INITIAL"), state) for state in TASK_STATES
    ],
    "I5: an old fence is refused": lambda core: core.setattr(lifecycle, "_may_carry", lambda *_: True),
    "I5: a fence ends with its claim": lambda core: core.setattr(lifecycle, "HELD_BY_NOBODY", frozenset()),
    "I5: a claim raises the fence": lambda core: core.setattr(lifecycle, "_raises_the_fence", lambda *_: True),
    "I6: a failure is concluded": lambda core: core.delitem(TRANSITIONS, ("erred", "RETRY")),
    "I6: a dead daemon's claim is given back": lambda core: core.setattr(decisions, "_claimed", for_ever),
    "I8: crashes are no errors": lambda core: core.setattr(lifecycle, "CRASHES", frozenset()),
    "I12: a retry is never at once": lambda core: core.setattr(retry, "delay", lambda *_, random: random / 10),
}


@pytest.mark.parametrize("broken", RULES)
def test_without_one_of_its_rules_the_core_is_caught(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RULES[broken](monkeypatch)
    until_it_fails = {"max_examples": 1000, "phases": [hypothesis.Phase.generate], "report_multiple_bugs": False}
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Histories, settings=hypothesis.settings(HISTORIES, **until_it_fails))
