"""Crons in zones: what ticks, above all in the nights when clocks are changed. Pure: no fixture, no clock."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import assume, example, given
from hypothesis import strategies as st

from damad.errors import InvalidInput
from damad.model import calendar

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
ZONES = ("UTC", BERLIN, NEW_YORK, "Africa/Cairo", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kolkata",
         "Pacific/Apia", "Europe/Dublin", "Africa/Casablanca")  # fmt: skip
BEFORE_SPRING = {BERLIN: "2026-03-28T12:00", NEW_YORK: "2026-03-07T12:00"}
BEFORE_AUTUMN = {BERLIN: "2026-10-24T12:00", NEW_YORK: "2026-10-31T12:00"}


def ticks(cron: str, zone: str, after: str, count: int) -> list[str]:
    """Ticks after a moment of the zone, as its clocks show them."""
    begin = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone))
    found = calendar.parse(cron, zone).following(begin, count)
    return [f"{tick.astimezone(ZoneInfo(zone)):%d. %H:%M %z}" for tick in found]


@pytest.mark.parametrize(
    ("cron", "zone", "shown"),
    [
        ("30 2 * * *", BERLIN, ["29. 03:00 +0200", "30. 02:30 +0200"]),
        ("30 1 * * *", BERLIN, ["29. 01:30 +0100", "30. 01:30 +0200"]),
        ("0 30 2 * * *", BERLIN, ["29. 03:00 +0200", "30. 02:30 +0200"]),
        ("30 2 * * *", NEW_YORK, ["08. 03:00 -0400", "09. 02:30 -0400"]),
        ("30 1 * * *", NEW_YORK, ["08. 01:30 -0500", "09. 01:30 -0400"]),
        ("0 2,3 * * *", BERLIN, ["29. 03:00 +0200", "30. 02:00 +0200", "30. 03:00 +0200"]),
    ],
)
def test_in_spring_a_time_that_is_jumped_over_comes_right_after(cron: str, zone: str, shown: list[str]) -> None:
    assert ticks(cron, zone, BEFORE_SPRING[zone], len(shown)) == shown


@pytest.mark.parametrize(
    ("cron", "zone", "shown"),
    [
        ("30 2 * * *", BERLIN, ["25. 02:30 +0200", "26. 02:30 +0100"]),
        ("30 1 * * *", BERLIN, ["25. 01:30 +0200", "26. 01:30 +0100"]),
        ("0 30 2 * * *", BERLIN, ["25. 02:30 +0200", "26. 02:30 +0100"]),
        ("30 2 * * *", NEW_YORK, ["01. 02:30 -0500", "02. 02:30 -0500"]),
        ("30 1 * * *", NEW_YORK, ["01. 01:30 -0400", "02. 01:30 -0500"]),
    ],
)
def test_in_autumn_a_time_that_is_shown_twice_comes_once(cron: str, zone: str, shown: list[str]) -> None:
    assert ticks(cron, zone, BEFORE_AUTUMN[zone], len(shown)) == shown


@pytest.mark.parametrize("cron", ["@hourly", "0 * * * *", "0 0 * * * *"])
@pytest.mark.parametrize(("night", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_has_as_many_hours_as_pass(cron: str, night: str, hours: int) -> None:
    zone = ZoneInfo(BERLIN)
    begin = datetime.fromisoformat(night).replace(tzinfo=zone) - timedelta(microseconds=1)
    end = (datetime.fromisoformat(night) + timedelta(days=1)).replace(tzinfo=zone) - timedelta(microseconds=1)
    found = calendar.parse(cron, BERLIN).within(begin.astimezone(UTC), end.astimezone(UTC))
    assert len(found) == hours
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(hours=1)}


def test_in_autumn_a_reader_who_begins_in_the_second_of_two_hours_is_told_nothing_that_is_over() -> None:
    second = datetime(2026, 10, 25, 2, 15, fold=1, tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)
    assert ticks("30 2 * * *", BERLIN, "2026-10-25T02:15", 1) == ["25. 02:30 +0200"]
    assert calendar.parse("30 2 * * *", BERLIN).following(second, 1) == [datetime(2026, 10, 26, 1, 30, tzinfo=UTC)]


def test_where_clocks_change_by_half_an_hour_each_half_past_is_there() -> None:
    assert ticks("30 * * * *", "Australia/Lord_Howe", "2026-04-05T00:45", 3) == [
        "05. 01:30 +1100", "05. 01:30 +1030", "05. 02:30 +1030"
    ]  # fmt: skip


def test_who_asks_amid_what_is_made_up_for_after_a_jump_is_told_the_rest_of_it() -> None:
    when, jump = calendar.parse("*/20 30 2 * * *", BERLIN), datetime(2026, 3, 29, 1, tzinfo=UTC)
    for seconds, left in ((0, [20, 40]), (20, [40]), (30, [40]), (40, [])):
        found = when.within(jump + timedelta(seconds=seconds), jump + timedelta(hours=1))
        assert [(tick - jump).total_seconds() for tick in found] == left


def test_a_day_that_a_zone_left_out_is_made_up_for() -> None:
    assert ticks("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00", 2) == ["31. 00:00 +1400", "31. 12:00 +1400"]


@pytest.mark.parametrize(
    ("form", "fields"),
    [("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@weekly", "0 0 * * 0"), ("@monthly", "0 0 1 * *"),
     ("@yearly", "0 0 1 1 *"), ("@Daily", "0 0 * * *"), ("  0  0 * * *", "0 0 * * *")],
)  # fmt: skip
def test_a_form_is_five_fields(form: str, fields: str) -> None:
    assert calendar.parse(form, BERLIN).fields == fields
    assert ticks(form, BERLIN, "2026-01-01T00:30", 3) == ticks(fields, BERLIN, "2026-01-01T00:30", 3)


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("61 * * * *", "minute"), ("* 24 * * *", "hour"), ("* * 32 * *", "day-of-month"), ("* * * 13 *", "month"),
        ("* * * * 9", "day-of-week"), ("60 * * * * *", "second"), ("* * * *", "4 fields"), ("", "0 fields"),
        ("* * * * * * *", "7 fields"), ("*/0 * * * *", "minute"), ("5-1 * * * *", "minute"), ("1,, * * * *", "minute"),
        ("@reboot", "@hourly"), ("0 0 * * 5L/2", "day-of-week"), ("0 0 30 2 *", "day-of-month"), ("* * * * \0", "text"),
        ("9" * 5000 + " * * * *", "text"), ("\ud800 * * * *", "text"),
    ],
)  # fmt: skip
def test_a_cron_that_is_none_is_refused_with_what_is_wrong_in_one_line(cron: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        calendar.parse(cron, "UTC")
    assert refused.value.pointer == "/cron"
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "", "Europe", "../etc/passwd", "/etc/localtime", "localtime", "a\0b", "\ud800", "UTC+1"]
)
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(InvalidInput, match="IANA") as refused:
        calendar.parse("@daily", zone)
    assert refused.value.pointer == "/zone"


def a_field(lowest: int, highest: int) -> st.SearchStrategy[str]:
    number = st.integers(lowest, highest).map(str)
    return st.one_of(
        st.just("*"),
        st.integers(2, 30).map(lambda step: f"*/{step}"),
        number,
        st.lists(number, min_size=2, max_size=3).map(",".join),
        st.tuples(st.integers(lowest, highest), st.integers(lowest, highest)).map(lambda two: f"{min(two)}-{max(two)}"),
    )


CRONS = st.builds(
    lambda seconds, *others: " ".join([*seconds, *others]),
    st.one_of(st.just([]), st.sampled_from(["0", "30", "*/20", "5,50"]).map(lambda field: [field])),
    a_field(0, 59), a_field(0, 23), st.one_of(st.just("*"), a_field(1, 28)), st.just("*"), st.just("*"),
)  # fmt: skip
TURNS = [
    datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC), datetime(2026, 4, 23, 22, tzinfo=UTC), datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC), datetime(2018, 11, 4, 3, tzinfo=UTC),
    datetime(2011, 12, 30, 10, tzinfo=UTC),
]  # fmt: skip
BEGINNINGS = st.builds(
    lambda turn, away: turn + timedelta(microseconds=away), st.sampled_from(TURNS), st.integers(-(10**11), 10**11)
)


@given(cron=CRONS, zone=st.sampled_from(ZONES), begin=BEGINNINGS, cuts=st.lists(st.integers(0, 10**11), max_size=4))
@example(cron="*/20 0 * * *", zone="Africa/Cairo", begin=datetime(2026, 4, 23, 12, tzinfo=UTC), cuts=[36 * 10**9 - 1])
@example(cron="30 * * * *", zone="Australia/Lord_Howe", begin=datetime(2026, 4, 4, 14, 10, tzinfo=UTC), cuts=[10**9])
def test_the_ticks_of_a_span_are_those_of_its_parts_and_those_that_come_one_by_one(
    cron: str, zone: str, begin: datetime, cuts: list[int]
) -> None:
    when, end = calendar.parse(cron, zone), begin + timedelta(seconds=10**5)
    whole = when.within(begin, end, at_most=300)
    end = min(end, whole[-1]) if len(whole) == 300 else end
    borders = [begin, *(begin + timedelta(microseconds=cut) for cut in sorted(cuts)), end]
    borders = [min(border, end) for border in borders]
    parts = [tick for low, high in pairwise(borders) for tick in when.within(low, high)]
    assert parts == whole
    one_by_one, at = [], begin
    while len(one_by_one) < 50 and (found := when.following(at, 1)) and found[0] <= end:
        one_by_one.append(at := found[0])
    assert one_by_one == whole[:50]
    assert when.last(end, after=begin) == (whole[-1] if whole else None)


@given(cron=CRONS, zone=st.sampled_from(ZONES), begin=BEGINNINGS)
def test_ticks_rise_and_the_wall_shows_what_the_fields_say_unless_it_jumps(
    cron: str, zone: str, begin: datetime
) -> None:
    found = calendar.parse(cron, zone).following(begin, 30)
    assert all(earlier < later for earlier, later in zip([begin, *found], found, strict=False))
    for tick in found:
        wall = tick.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        named = next(CronSim(cron, wall - timedelta(seconds=1)), None) == wall
        jumped = (tick - timedelta(days=1)).astimezone(ZoneInfo(zone)).utcoffset() != tick.astimezone(
            ZoneInfo(zone)
        ).utcoffset()
        assert named or jumped


@given(cron=CRONS, begin=st.datetimes(datetime(2026, 5, 1), datetime(2026, 9, 1), timezones=st.just(UTC)))
def test_where_no_clock_is_changed_it_ticks_as_cronsim_does(cron: str, begin: datetime) -> None:
    ours = calendar.parse(cron, BERLIN).following(begin, 20)
    assume(ours and ours[-1] < datetime(2026, 10, 1, tzinfo=UTC))
    theirs = islice(CronSim(cron, begin.astimezone(ZoneInfo(BERLIN))), 20)
    assert ours == [tick.astimezone(UTC) for tick in theirs]


def test_the_last_tick_before_a_moment_is_found_however_long_ago_it_was() -> None:
    leap = calendar.parse("0 0 29 2 *", "UTC")
    ages = datetime(1950, 1, 1, tzinfo=UTC)
    assert leap.last(datetime(2027, 1, 1, tzinfo=UTC), after=ages) == datetime(2024, 2, 29, tzinfo=UTC)
    assert leap.last(datetime(2027, 1, 1, tzinfo=UTC), after=datetime(2025, 1, 1, tzinfo=UTC)) is None
    assert leap.last(datetime(2024, 2, 29, tzinfo=UTC), after=ages) == datetime(2024, 2, 29, tzinfo=UTC)
