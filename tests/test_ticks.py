"""What becomes of the ticks of a schedule: which count, which wait, which make no task. Pure: no fixture, no clock."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damad.model.ticks import MISSED, MOST, OVERLAPS, Plan, Schedule, plan

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def schedule(**given: Any) -> Schedule:
    """One that ticks every minute; the next tick is that of noon."""
    plain: dict[str, Any] = {
        "name": "s", "schedule_id": UUID(int=7), "cron": "* * * * *", "zone": "UTC", "worker": "w.py", "payload": None,
        "overlap": "allow_all", "missed": "one", "missed_within": None, "jitter": 0.0, "paused": False, "settings": {},
        "source_id": None, "meta": None, "last_tick": None, "next_tick": NOON, "buffered": [],
    }  # fmt: skip
    return Schedule(**{**plain, **given})


def planned(minutes: float, *, since: float = -60, busy: bool = False, **given: Any) -> Plan:
    """What is to be done at a time, by one who looks since another."""
    return plan(schedule(**given), now=at(minutes), since=at(since), busy=busy)


def after(done: Plan, one: Schedule) -> Schedule:
    return msgspec.structs.replace(one, buffered=done.buffered, next_tick=done.next_tick, last_tick=done.last_tick)


@pytest.mark.parametrize("missed", MISSED)
def test_a_tick_that_comes_in_time_counts_whatever_the_policy(missed: str) -> None:
    done = planned(0.01, missed=missed)
    assert (done.start, done.last_tick, done.next_tick) == ([NOON], NOON, at(1))
    assert done.missed is None


def test_before_its_time_nothing_happens() -> None:
    done = planned(-0.01)
    assert (done.start, done.last_tick, done.next_tick) == ([], None, NOON)


@pytest.mark.parametrize(
    ("missed", "counting"), [("skip", []), ("one", [at(5)]), ("all", [at(minute) for minute in range(6)])]
)
def test_of_ticks_that_were_missed_the_policy_says_which_count(missed: str, counting: list[datetime]) -> None:
    done = planned(5.5, since=5.5, missed=missed)
    assert (done.start, done.missed) == (counting, (NOON, at(5)))
    assert (done.last_tick, done.next_tick) == (at(5), at(6))


@pytest.mark.parametrize(("missed", "counting"), [("skip", []), ("one", [at(5)]), ("all", [at(4), at(5)])])
def test_those_that_are_too_old_do_not_count(missed: str, counting: list[datetime]) -> None:
    assert planned(5.5, since=5.5, missed=missed, missed_within=120.0).start == counting
    assert planned(5.5, since=5.5, missed=missed, missed_within=20.0).start == []


def test_a_tick_just_before_a_daemon_began_to_look_is_another_ones_and_not_missed() -> None:
    assert planned(0.01, since=0.01, missed="skip").start == [NOON]
    assert planned(0.5, since=0.5, missed="skip").start == []


def test_who_was_held_up_for_long_has_missed_what_came_meanwhile() -> None:
    done = planned(5.1, missed="skip")
    assert (done.start, done.missed) == ([at(5)], (NOON, at(4)))


def test_a_schedule_that_no_one_looked_at_for_years_is_no_work() -> None:
    done = plan(
        schedule(cron="* * * * * *", next_tick=at(0) - timedelta(days=4000)), now=at(0.5), since=at(0.5), busy=False
    )
    assert done.start[0] == at(0) + timedelta(seconds=29)
    assert done.next_tick == at(0) + timedelta(seconds=31)


def test_very_many_ticks_are_handled_a_thousand_at_a_time() -> None:
    one, seen = schedule(missed="all"), list[datetime]()
    for more in (True, True, False):
        done = plan(one, now=at(2500.5), since=at(2500.5), busy=False)
        assert done.more is more
        seen += done.start
        one = after(done, one)
    assert seen == [at(minute) for minute in range(2501)]
    assert one.next_tick == at(2501)


def test_a_schedule_whose_last_tick_has_come_is_over() -> None:
    done = planned(0.01, cron="0 12 1 5 *")
    assert done.next_tick == datetime(2027, 5, 1, 12, tzinfo=UTC)
    assert plan(schedule(next_tick=None), now=at(3), since=at(0), busy=False).start == []


def test_skip_makes_no_task_while_one_is_there() -> None:
    done = planned(0.01, overlap="skip", busy=True)
    assert (done.start, done.buffered, done.suppressed) == ([], [], [NOON])


def test_buffer_one_keeps_the_first_that_waits() -> None:
    done = planned(2.1, since=-60, overlap="buffer_one", missed="all", busy=True)
    assert (done.start, done.buffered, done.suppressed) == ([], [NOON], [at(1), at(2)])
    free = plan(schedule(overlap="buffer_one", buffered=[NOON], next_tick=at(3)), now=at(2.2), since=NOON, busy=False)
    assert (free.start, free.buffered) == ([NOON], [])


def test_buffer_all_keeps_them_in_their_order_and_starts_one_at_a_time() -> None:
    one = schedule(overlap="buffer_all", missed="all")
    done = plan(one, now=at(2.1), since=NOON, busy=True)
    assert (done.start, done.buffered, done.suppressed) == ([], [NOON, at(1), at(2)], [])
    one = after(done, one)
    done = plan(one, now=at(2.5), since=NOON, busy=False)
    assert (done.start, done.buffered) == ([NOON], [at(1), at(2)])


def test_buffer_all_keeps_a_thousand_and_no_more() -> None:
    waiting = [at(-minute) for minute in range(MOST, 0, -1)]
    done = planned(0.01, overlap="buffer_all", busy=True, buffered=waiting)
    assert (done.buffered, done.suppressed) == (waiting, [NOON])


@pytest.mark.parametrize("overlap", ["cancel_other", "terminate_other"])
def test_of_those_that_stop_others_the_last_one_waits(overlap: str) -> None:
    done = planned(0.01, overlap=overlap, busy=True, buffered=[at(-1)])
    assert (done.start, done.buffered, done.suppressed) == ([], [NOON], [at(-1)])
    free = plan(schedule(overlap=overlap, buffered=[NOON], next_tick=at(1)), now=at(0.5), since=NOON, busy=False)
    assert (free.start, free.buffered, free.next_tick) == ([NOON], [], at(1))


def test_allow_all_starts_whatever_is_there() -> None:
    assert planned(0.01, busy=True, buffered=[at(-1)]).start == [at(-1), NOON]


def test_jitter_is_the_same_for_the_same_tick_and_another_for_others() -> None:
    one = schedule(jitter=60.0)
    delays = [one.delay(at(minute)) for minute in range(20)]
    assert delays == [schedule(jitter=60.0).delay(at(minute)) for minute in range(20)]
    assert len(set(delays)) == 20
    assert all(0 <= delay < 60 for delay in delays)
    assert schedule().delay(NOON) == 0


def test_a_tick_names_its_event_and_that_of_another_schedule_is_another() -> None:
    assert schedule().event_uuid(NOON) == schedule(cron="@daily").event_uuid(NOON.astimezone())
    assert len({schedule(schedule_id=UUID(int=n)).event_uuid(at(m)) for n in range(3) for m in range(3)}) == 9


@given(
    overlap=st.sampled_from(OVERLAPS), missed=st.sampled_from(MISSED), within=st.sampled_from([None, 90.0, 600.0]),
    looks=st.lists(st.tuples(st.floats(0.01, 20), st.booleans(), st.booleans()), min_size=1, max_size=12),
)  # fmt: skip
def test_each_tick_has_one_fate_and_is_handled_in_its_order(
    overlap: str, missed: str, within: float | None, looks: list[tuple[float, bool, bool]]
) -> None:
    one, now, since = schedule(overlap=overlap, missed=missed, missed_within=within), 0.0, 0.0
    started, suppressed = list[datetime](), list[datetime]()
    for minutes, busy, anew in looks:
        now += minutes
        since = now if anew else since
        done = plan(one, now=at(now), since=at(since), busy=busy)
        assert overlap == "allow_all" or len(done.start) <= (not busy)
        started, suppressed, one = started + done.start, suppressed + done.suppressed, after(done, one)
        assert one.next_tick is not None
        assert one.next_tick > at(now)
        assert one.next_tick <= at(now + 1)
    fates = [*started, *suppressed, *one.buffered]
    assert started == sorted(started)
    assert len(set(fates)) == len(fates)
    assert set(fates) <= {at(minute) for minute in range(int(now) + 1)}
    if missed == "all" and within is None:
        assert set(fates) == {at(minute) for minute in range(int(now) + 1)}
