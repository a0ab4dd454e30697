"""The scheduler's policy, state by state and process by process. Pure: no fixture, no clock."""

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from damad.model.lifecycle import TASK_STATES
from damad.model.retry import Counts
from damad.model.settings import TaskSettings
from damad.scheduler import decisions
from damad.scheduler.decisions import (
    ABSENT,
    ALIVE,
    ENDED,
    LEFT,
    LOST,
    STARTING,
    Cancelled,
    Conclude,
    Decision,
    Exit,
    Held,
    Kill,
    Launch,
    Observed,
    Release,
    decide,
    decide_leftover,
    failure_of,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
GRACE = 10.0
PROCESSES = (ABSENT, STARTING, ALIVE, ENDED, LOST, LEFT)
HELD_STATES = ("claimed", "running", "cancelling")


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def held(state: str, *, expire_in: float | None = None, **given: Any) -> Held:
    return Held(
        **{
            "etl_context_id": 1, "queue": "default", "state": state, "fence": 3, "attempt": 2, "counts": Counts(0, 0),
            "settings": TaskSettings(worker="w.py", expire_in=expire_in), "started_at": ago(60), **given,
        }
    )  # fmt: skip


def seen(process: str, **given: Any) -> Observed:
    if process == ENDED:
        given = {"exit": Exit(7, None, False, ago(1)), **given}
    return Observed(process=process, **given)


def decision(task: Held, observed: Observed, *, failed_launches: int = 0) -> Decision | None:
    return decide(task, observed, now=NOW, grace=GRACE, failed_launches=failed_launches)


# --- the table ---


@dataclass
class Anything:
    """Equal to every value of a type."""

    type: type

    def __eq__(self, other: object) -> bool:
        return isinstance(other, self.type)


TABLE: dict[tuple[str, str], Any] = {
    ("claimed", ABSENT): None,  # somebody else's claim, who lives
    ("claimed", STARTING): None,
    ("claimed", ALIVE): None,
    ("claimed", ENDED): Anything(Release),
    ("claimed", LOST): Anything(Release),
    ("claimed", LEFT): Kill(force=True),
    ("running", ABSENT): Anything(Conclude),
    ("running", STARTING): None,
    ("running", ALIVE): None,
    ("running", ENDED): Anything(Conclude),
    ("running", LOST): Anything(Conclude),
    ("running", LEFT): Kill(force=True),
    ("cancelling", ABSENT): Cancelled(),
    ("cancelling", STARTING): None,
    ("cancelling", ALIVE): Kill(force=False),
    ("cancelling", ENDED): Cancelled(),
    ("cancelling", LOST): Cancelled(),
    ("cancelling", LEFT): Kill(force=True),
}


def test_the_table_has_a_cell_for_each_held_state_and_process() -> None:
    assert set(TABLE) == set(itertools.product(HELD_STATES, PROCESSES))


@pytest.mark.parametrize(("state", "process"), TABLE)
def test_each_cell_of_the_table_is_decided_so(state: str, process: str) -> None:
    assert TABLE[state, process] == decision(held(state), seen(process))


@pytest.mark.parametrize("process", PROCESSES)
def test_one_that_is_to_be_terminated_is_killed_at_once(process: str) -> None:
    wanted = Kill(force=True) if process == ALIVE else TABLE["cancelling", process]
    assert decision(held("cancelling", terminate=True), seen(process)) == wanted


@pytest.mark.parametrize("state", sorted(set(TASK_STATES) - set(HELD_STATES)))
@pytest.mark.parametrize("process", PROCESSES)
def test_a_task_that_is_not_held_asks_for_nothing(state: str, process: str) -> None:
    assert decision(held(state), seen(process)) is None


@pytest.mark.parametrize("state", HELD_STATES)
@pytest.mark.parametrize("process", PROCESSES)
def test_a_cancel_that_the_log_cannot_say_yet_is_done_as_if_it_did(state: str, process: str) -> None:
    assert decision(held(state, cancel_wanted=True, ours=True), seen(process)) == TABLE["cancelling", process]


# --- claimed ---


def test_our_own_claim_is_launched() -> None:
    assert decision(held("claimed", ours=True), seen(ABSENT)) == Launch()


@pytest.mark.parametrize("process", [STARTING, ALIVE])
def test_it_is_not_launched_twice(process: str) -> None:
    assert decision(held("claimed", ours=True), seen(process)) is None


@pytest.mark.parametrize("process", sorted(set(PROCESSES) - {LEFT}))
def test_nothing_is_launched_or_released_while_another_run_of_the_task_lives(process: str) -> None:
    assert decision(held("claimed", ours=True), seen(process, rival=True)) is None


@pytest.mark.parametrize("why", ["claimer_dead", "lease_over"])
def test_a_claim_whose_claimer_cannot_launch_it_any_more_is_released_at_once(why: str) -> None:
    assert decision(held("claimed", **{why: True}), seen(ABSENT)) == Anything(Release)
    assert decision(held("claimed", **{why: True}), seen(ABSENT)).delay == 0.0  # type: ignore[union-attr]


@pytest.mark.parametrize("process", [STARTING, ALIVE])
def test_a_process_that_lives_keeps_its_claim_whatever_became_of_the_claimer(process: str) -> None:
    assert decision(held("claimed", claimer_dead=True, lease_over=True), seen(process)) is None


def test_launches_that_fail_again_and_again_are_tried_ever_less_often_and_never_more_than_so() -> None:
    task, observed = held("claimed", ours=True), seen(ENDED)
    releases = [decision(task, observed, failed_launches=n) for n in range(20)]
    delays = [release.delay for release in releases if isinstance(release, Release)]
    assert len(delays) == 20
    assert delays == sorted(delays)
    assert delays[0] > 0
    assert delays[-1] == decisions.MOST_RELEASE_DELAY


def test_a_release_says_how_the_process_ended() -> None:
    release = decision(held("claimed", ours=True), seen(ENDED))
    assert isinstance(release, Release)
    assert "exit code 7" in release.reason


# --- running ---


@pytest.mark.parametrize(
    ("expire_in", "expected"), [(None, None), (61.0, None), (60.0, Kill(False)), (1.0, Kill(False))]
)
def test_a_running_task_is_asked_to_stop_once_its_time_is_over(expire_in: float | None, expected: Any) -> None:
    assert decision(held("running", expire_in=expire_in), seen(ALIVE)) == expected


def test_a_task_that_has_not_started_has_no_time_to_run_out_of() -> None:
    assert decision(held("claimed", expire_in=1.0, started_at=None), seen(ALIVE)) is None


@pytest.mark.parametrize("state", ["running", "cancelling"])
@pytest.mark.parametrize(
    ("asked", "expected"), [(None, Kill(False)), (0.0, None), (9.9, None), (10.0, Kill(True)), (99.0, Kill(True))]
)
def test_who_was_asked_has_the_grace_and_is_then_killed(state: str, asked: float | None, expected: Any) -> None:
    asked_at = None if asked is None else ago(asked)
    assert decision(held(state, expire_in=1.0), seen(ALIVE, asked_at=asked_at)) == expected


def test_a_lease_that_is_over_stops_no_process_that_lives() -> None:
    assert decision(held("running", lease_over=True, claimer_dead=True), seen(ALIVE)) is None


# --- how it failed ---


@pytest.mark.parametrize(
    ("exit_", "kind", "code", "number"),
    [
        (None, "lost", None, None),
        (Exit(0, None, False, NOW), "exit", 0, None),
        (Exit(7, None, False, NOW), "exit", 7, None),
        (Exit(101, None, False, NOW), "exception", 101, None),
        (Exit(102, None, False, NOW), "no_final", 102, None),
        (Exit(104, None, False, NOW), "load", 104, None),
        (Exit(None, 9, False, NOW), "signal", None, 9),
        (Exit(None, 9, True, NOW), "oom", None, 9),
        (Exit(None, 15, False, NOW), "signal", None, 15),
    ],
)
def test_the_exit_record_names_the_kind(exit_: Exit | None, kind: str, code: int | None, number: int | None) -> None:
    failure = failure_of(held("running"), Observed(process=ENDED if exit_ else LOST, exit=exit_))
    assert (failure.kind, failure.exit_code, failure.signal, failure.attempt) == (kind, code, number, 2)
    assert failure.message


@pytest.mark.parametrize("exit_", [Exit(None, 9, False, NOW), Exit(None, 15, False, NOW), Exit(3, None, False, NOW)])
def test_whatever_ends_after_its_time_ran_out_of_time(exit_: Exit) -> None:
    failure = failure_of(held("running", expire_in=60.0), Observed(process=ENDED, exit=exit_))
    assert (failure.kind, failure.exit_code, failure.signal) == ("timeout", exit_.exit_code, exit_.signal)


def test_what_ended_in_time_did_not_even_if_it_is_seen_later() -> None:
    exit_ = Exit(None, 9, False, ago(30))
    assert failure_of(held("running", expire_in=31.0), Observed(process=ENDED, exit=exit_)).kind == "signal"


def test_what_is_gone_without_a_record_after_we_asked_for_its_time_was_over_ran_out_of_time() -> None:
    task = held("running", expire_in=10.0)
    assert failure_of(task, Observed(process=LOST, asked_at=ago(5))).kind == "timeout"
    assert failure_of(task, Observed(process=LOST)).kind == "lost"


# --- leftovers ---


@pytest.mark.parametrize("process", sorted(set(PROCESSES) - {ALIVE, LEFT}))
@pytest.mark.parametrize("by_itself", [True, False])
def test_only_what_lives_is_stopped(process: str, by_itself: bool) -> None:
    assert decide_leftover(seen(process), now=NOW, grace=GRACE, ended_at=ago(99), by_itself=by_itself) is None


@pytest.mark.parametrize("by_itself", [True, False])
def test_what_a_dead_process_left_behind_has_no_grace(by_itself: bool) -> None:
    left = decide_leftover(seen(LEFT), now=NOW, grace=GRACE, ended_at=NOW, by_itself=by_itself)
    assert left == Kill(force=True)


@pytest.mark.parametrize(("since", "expected"), [(0.0, None), (9.9, None), (10.0, Kill(False)), (99.0, Kill(False))])
def test_a_run_that_ended_its_task_itself_has_the_grace_to_end(since: float, expected: Any) -> None:
    assert decide_leftover(seen(ALIVE), now=NOW, grace=GRACE, ended_at=ago(since), by_itself=True) == expected


def test_a_run_whose_task_somebody_else_ended_is_asked_at_once_and_killed_after_the_grace() -> None:
    def stop(asked_at: datetime | None) -> Kill | None:
        return decide_leftover(seen(ALIVE, asked_at=asked_at), now=NOW, grace=GRACE, ended_at=NOW, by_itself=False)

    assert (stop(None), stop(ago(5)), stop(ago(10))) == (Kill(False), None, Kill(True))


# --- when to look again ---


def test_the_next_look_is_when_the_time_or_the_grace_is_over() -> None:
    def look(task: Held, observed: Observed) -> datetime | None:
        return decisions.deadline(task, observed, now=NOW, grace=GRACE)

    assert look(held("running"), seen(ALIVE)) is None
    assert look(held("running", expire_in=90.0), seen(ALIVE)) == NOW + timedelta(seconds=30)
    assert look(held("claimed", expire_in=90.0, started_at=None), seen(STARTING)) == NOW + timedelta(seconds=90)
    assert look(held("running", expire_in=1.0), seen(ALIVE, asked_at=ago(4))) == NOW + timedelta(seconds=6)
    assert look(held("cancelling"), seen(ALIVE, asked_at=ago(4))) == NOW + timedelta(seconds=6)
    assert look(held("cancelling", expire_in=90.0), seen(ALIVE)) is None


# --- slots ---


def test_slots_are_what_the_tasks_of_the_queue_leave_that_do_not_wait() -> None:
    tasks = [held("running"), held("claimed"), held("running", waiting=True), held("running", queue="other")]
    assert [decisions.free_slots("default", n, tasks) for n in (0, 1, 2, 3, 10)] == [0, 0, 0, 1, 8]
    assert decisions.free_slots("other", 1, tasks) == 0
    assert decisions.free_slots("third", 4, tasks) == 4


def test_slots_are_free_but_for_what_is_taken_by_weight() -> None:
    heavy = TaskSettings(worker="w.py", weight=3)
    tasks = [held("running", settings=heavy), held("claimed"), held("running", settings=heavy, waiting=True)]
    assert [decisions.free_slots("default", n, tasks) for n in (2, 4, 5, 10)] == [0, 0, 1, 6]


@pytest.mark.parametrize(
    ("weights", "slots", "whole", "fitting"),
    [
        ([1, 1, 1], 2, 4, [0, 1]),
        ([2, 1, 1], 3, 4, [0, 1]),
        ([1, 3, 1], 3, 4, [0]),
        ([5, 1], 4, 4, [1]),
        ([5, 3, 1], 2, 4, []),
        ([1], 0, 4, []),
        ([], 4, 4, []),
    ],
)
def test_slots_are_filled_in_order_but_for_what_weighs_more_than_the_whole(
    weights: list[int], slots: int, whole: int, fitting: list[int]
) -> None:
    assert decisions.that_fit(dict(enumerate(weights)), slots, whole) == fitting
