"""The guards of what a task may set: once at a time, by when it is to have begun, and how long it may be silent."""

from guard import Guard
from guards import OWN, QUEUED, UNCANCELLED

TASKS = "schema/060_dama_tasks.sql"
LATE = "schema/225_fail_late.sql"
FAILURE = "schema/215_queue_on_failure.sql"
LEFT_OUT = "              AND t.etl_context_id <> ALL (leave_out)\n"
IN_TIME = "              AND (t.start_by IS NULL OR t.start_by > now)\n"

SINGLETON = "tests/test_singleton_key.py"
THROTTLE = "tests/test_throttle.py"
START_BY = "tests/test_start_by.py"
SNOOZE = "tests/test_snooze.py"
RLIMITS = "tests/test_rlimits.py"
HEARTBEAT = "tests/test_heartbeat.py"

GUARDS = (
    *(
        Guard(
            f"what {whose} while a round lasts is not left until the next poll",
            "damad/eventstore/queries/next_due.sql",
            f"{moment} > $2",
            f"{moment} > greatest($2, statement_timestamp())",
            (f"{START_BY}::test_what_has_its_time_between_two_looks_of_a_round_is_due_at_once",),
        )
        for whose, moment in (("becomes late", "t.start_by"), ("has waited long enough", "t.run_at"))
    ),
    Guard(
        "a singleton_key is queued once at the same time too",
        TASKS,
        "CREATE UNIQUE INDEX IF NOT EXISTS dama_tasks_singleton_key",
        "CREATE INDEX IF NOT EXISTS dama_tasks_singleton_key",
        (f"{SINGLETON}::test_of_two_who_ask_at_once_the_second_gets_the_first_ones_task",),
    ),
    Guard(
        "a task is not retried beside another with its singleton_key",
        "schema/130_judge_events.sql",
        "WHEN l.kind = 'REQUEUED' AND (",
        "WHEN false AND (",
        (f"{SINGLETON}::test_one_that_ended_is_not_retried_while_another_is_open",),
    ),
    Guard(
        "who throttles a key comes one after another",
        "schema/209_throttled.sql",
        "        PERFORM pg_advisory_xact_lock(1684106612, locks[i]);\n",
        "        NULL;\n",
        (f"{THROTTLE}::test_of_two_who_ask_at_once_the_second_sees_the_first_ones_task_though_it_has_ended",),
    ),
    Guard(
        "a throttle is over after its time, and not before",
        "schema/209_throttled.sql",
        "at > clock_timestamp() - make_interval(secs => seconds)",
        "seconds IS NOT NULL",
        (f"{THROTTLE}::test_the_last_one_counts_by_the_throttle_of_who_asks_whether_it_had_one_or_not",),
    ),
    Guard(
        "what is put off is held, and looked at then",
        "schema/208_put_off.sql",
        "      PERFORM FROM data_manager.etl_contexts c WHERE c.etl_context_id = id FOR NO KEY UPDATE;\n",
        "",
        (f"{SINGLETON}::test_a_task_that_is_claimed_at_this_moment_is_not_put_off",),
    ),
    *(
        Guard(
            f"what is late is not claimed when it is {ready}",
            "schema/220_claim_tasks.sql",
            before + OWN + UNCANCELLED + LEFT_OUT + IN_TIME,
            before + OWN + UNCANCELLED + LEFT_OUT,
            (f"{START_BY}::test_a_task_that_did_not_begin_in_time_fails_and_is_claimed_by_nobody",),
        )
        for ready, before in (("queued", QUEUED), ("due", "t.run_at <= now\n"))
    ),
    Guard(
        "who fails what is late waits for no context",
        LATE,
        "FOR NO KEY UPDATE OF c, t SKIP LOCKED",
        "FOR NO KEY UPDATE OF c, t",
        (f"{START_BY}::test_a_context_that_somebody_holds_is_left_out_and_not_waited_for",),
    ),
    Guard(
        "a late task that cannot be failed keeps none of the others",
        LATE,
        "              AND t.etl_context_id <> ALL (leave_out)\n",
        "",
        (f"{START_BY}::test_one_with_a_broken_log_keeps_none_of_the_others",),
    ),
    Guard(
        "a late task that somebody wants cancelled is left to that",
        LATE,
        UNCANCELLED,
        "",
        (f"{START_BY}::test_one_that_somebody_wants_cancelled_is_left_to_that",),
    ),
    Guard(
        "a beat counts for its own run only",
        "damad/eventstore/queries/beat.sql",
        "AND fence = $2",
        "AND $2::bigint IS NOT NULL",
        (f"{HEARTBEAT}::test_a_beat_counts_for_its_own_run_only",),
    ),
    Guard(
        "a claim begins without the beats of the one before",
        "schema/220_claim_tasks.sql",
        "                        beat_at = NULL\n",
        "                        beat_at = l.beat_at\n",
        (f"{HEARTBEAT}::test_a_run_begins_without_the_beats_of_the_one_before",),
    ),
    Guard(
        "nobody was silent while Postgres was away",
        "damad/scheduler/observation.py",
        "for at in (task.beaten_at, back_since)",
        "for at in (task.beaten_at,)",
        (f"{HEARTBEAT}::test_nobody_was_silent_while_postgres_was_away",),
    ),
    Guard(
        "what is of no use is not put off",
        "damad/runner/outcome.py",
        "    if any(isinstance(one, NoRetry) for one in causes):\n        return None\n",
        "",
        (f"{SNOOZE}::test_what_is_of_no_use_is_not_put_off",),
    ),
    *(
        Guard(
            f"what never started has no number to keep, says {who}",
            path,
            was,
            "",
            (f"tests/{test}",),
        )
        for who, path, was, test in (
            (
                "the database",
                "schema/120_evolve_task.sql",
                " AND task.state = 'running'",
                "test_hostile_writers.py::test_a_claim_that_never_started_has_no_number_to_keep",
            ),
            (
                "the fold",
                "damad/model/lifecycle.py",
                ' and task.state == "running"',
                "test_lifecycle.py::test_a_claim_that_never_started_has_no_number_to_keep",
            ),
        )
    ),
    Guard(
        "a limit is refused where no process is",
        "damad/model/settings.py",
        'if run_in == "daemon" and given.get(name) is not None:',
        "if False:",
        (
            f"{RLIMITS}::test_without_a_process_there_is_nothing_to_keep_a_limit_in",
            f"{RLIMITS}::test_a_queue_that_runs_in_the_daemon_refuses_it_at_once",
        ),
    ),
    Guard(
        "a limit that came past the refusal is not passed by",
        "damad/runner/indaemon.py",
        "if limited := limits.given(msgspec.structs.asdict(attempt.settings)):",
        "if limited := []:",
        (f"{RLIMITS}::test_one_that_came_in_another_way_fails_and_says_why",),
    ),
    Guard(
        "what damad needs at the end is kept back of the limits",
        "damad/runner/limits.py",
        "            resource.setrlimit(which, (most, most))\n",
        "            pass\n",
        (f"{RLIMITS}::test_what_damad_needs_to_come_to_an_end_is_there_after_main",),
    ),
    *(
        Guard(name, path, was, becomes, (f"tests/test_on_failure.py::{test}",))
        for name, path, was, becomes, test in (
            (
                "what a failure queues queues nothing for its own",
                FAILURE,
                "jsonb_build_object('on_failure', NULL, 'on_failure_of'",
                "jsonb_build_object('on_failure_of'",
                "test_what_is_queued_for_a_failure_queues_nothing_if_it_fails",
            ),
            (
                "no payload keeps its task from failing",
                FAILURE,
                "CASE WHEN data_manager.is_plain(",
                "CASE WHEN true OR data_manager.is_plain(",
                "test_a_payload_that_is_nested_too_deep_to_be_in_another_is_left_out",
            ),
            (
                "what a failure queued is not cancelled with its task",
                "schema/130_judge_events.sql",
                "\n                AND t.settings ->> 'on_failure_of' IS NULL",
                "",
                "test_it_outlives_a_cancel_of_the_task_that_was_tried_again",
            ),
        )
    ),
    Guard(
        "what no_retry names is not retried",
        "damad/model/retry.py",
        "elif (named := _ruled_out(failure, settings)) is not None:",
        "elif (named := None) is not None:",
        ("tests/test_retry.py::test_what_no_retry_names_fails_at_once_and_nothing_else_does",),
    ),
)
