"""The guards of the schedules: each tick once, and as its policies say."""

from guard import Guard

CALENDAR = "damad/model/calendar.py"
PLAN = "damad/model/ticks.py"
CORE = "damad/schedules.py"
LOCK = "damad/eventstore/queries/lock_due_schedule.sql"

IN_THE_DATABASE = "tests/test_schedules.py"
PURE = "tests/test_ticks.py"
NIGHTS = "tests/test_calendar.py"

GUARDS = (
    Guard(
        "one daemon at a time takes the ticks of a schedule",
        LOCK,
        "  FOR UPDATE SKIP LOCKED\n",
        "",
        (f"{IN_THE_DATABASE}::test_of_many_loops_at_once_none_takes_a_tick_of_another",),
    ),
    Guard(
        "who gets a schedule asks whether it is still due",
        LOCK,
        " AND (next_tick <= clock_timestamp() OR buffered <> '{}')",
        "",
        (f"{IN_THE_DATABASE}::test_a_schedule_that_is_not_due_any_more_is_left_alone",),
    ),
    Guard(
        "a tick names the event that it makes",
        CORE,
        "    initial = msgspec.structs.replace(new.initial, event_uuid=schedule.event_uuid(tick))\n",
        "    initial = new.initial\n",
        (f"{IN_THE_DATABASE}::test_a_tick_that_made_its_task_makes_no_second_one_even_if_the_schedule_is_set_back",),
    ),
    Guard(
        "what was made is asked before it is made",
        CORE,
        " if schedule.event_uuid(tick) not in made]",
        "]",
        (f"{IN_THE_DATABASE}::test_a_backfill_makes_the_tasks_that_are_missing_in_a_range_and_those_once",),
    ),
    Guard(
        "a schedule that is resumed ticks from then on",
        CORE,
        " or (was.paused and not fields.paused)",
        "",
        (f"{IN_THE_DATABASE}::test_a_paused_schedule_makes_no_task_and_one_that_is_resumed_ticks_from_then_on",),
    ),
    Guard(
        "nothing that waits starts beside another",
        PLAN,
        "start = [] if busy else waiting[:1]",
        "start = waiting[:1]",
        (f"{PURE}::test_buffer_one_keeps_the_first_that_waits",),
    ),
    Guard(
        "a tick just before a daemon began to look is not missed",
        PLAN,
        "edge=max(since - _PUNCTUAL, now - _LATE)",
        "edge=max(since, now - _LATE)",
        (f"{PURE}::test_a_tick_just_before_a_daemon_began_to_look_is_another_ones_and_not_missed",),
    ),
    Guard(
        "who was held up for long has missed what came meanwhile",
        PLAN,
        "edge=max(since - _PUNCTUAL, now - _LATE)",
        "edge=since - _PUNCTUAL",
        (f"{PURE}::test_who_was_held_up_for_long_has_missed_what_came_meanwhile",),
    ),
    Guard(
        "a time that comes twice ticks once",
        CALENDAR,
        "        if tick > last:\n",
        "        if True:\n",
        (f"{NIGHTS}::test_the_ticks_of_a_span_are_those_of_its_parts_and_those_that_come_one_by_one",),
    ),
    Guard(
        "what a clock jumped over is looked for behind the jump",
        CALENDAR,
        "        begin -= _LONGEST_JUMP",
        "        begin -= 0 * _LONGEST_JUMP",
        (f"{NIGHTS}::test_who_asks_amid_what_is_made_up_for_after_a_jump_is_told_the_rest_of_it",),
    ),
    Guard(
        "a task that is to be terminated has no grace",
        "damad/scheduler/decisions.py",
        'case "cancelling" if seen.process == ALIVE and held.terminate:',
        'case "cancelling" if False:',
        ("tests/test_decisions.py::test_one_that_is_to_be_terminated_is_killed_at_once",),
    ),
    Guard(
        "a schedule that plain SQL wrote wrong makes no task",
        "damad/scheduler/ticks.py",
        "                schedules.check(read.schedule)\n",
        "",
        ("tests/test_schedules_by_hand.py::test_a_daemon_takes_the_ticks_of_the_others_and_says_what_is_wrong_once",),
    ),
)
