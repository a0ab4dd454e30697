"""The guards of queues that are set while daemons run: what is paused, and limits over all hosts."""

from guard import Guard
from guards import OWN, QUEUED, UNCANCELLED

PLAIN, LIMITED = "schema/220_claim_tasks.sql", "schema/222_claim_within_limits.sql"
LEFT_OUT = """              AND t.etl_context_id <> ALL (leave_out)
              AND (t.start_by IS NULL OR t.start_by > now)
"""
UNSET = """              AND NOT EXISTS (
                SELECT FROM data_manager.dama_queues q
                  WHERE q.name = queues[i]
                    AND (q.paused OR num_nonnulls(q.global_concurrency, q.key_concurrency, q.rate, q.key_rate,
                                                  q.aging) > 0)
              )
"""
FITTING = "              AND data_manager.weight_of(t.settings) <= wholes[i]\n"
IN_ORDER = "              ORDER BY t.priority DESC, t.initial_event_id\n              "
OF_THIS_HOST = "AND (within_limits.shared OR t.home_host_id IS NULL OR t.home_host_id = within_limits.host_id)\n"

AGING = "tests/test_aging.py"
QUEUES = "tests/test_queues.py"
LIMITS = "tests/test_limits.py"
WEIGHTS = "tests/test_weights.py"

GUARDS = (
    *(
        Guard(
            f"who does not know of a limit claims nothing that is {ready}",
            PLAIN,
            state + OWN + UNCANCELLED + LEFT_OUT + UNSET,
            state + OWN + UNCANCELLED + LEFT_OUT,
            (
                f"{QUEUES}::test_who_does_not_know_of_a_limit_claims_nothing",
                f"{AGING}::test_nothing_is_claimed_past_its_turn_by_who_does_not_know_of_it",
            ),
        )
        for ready, state in (("queued", QUEUED), ("due", "t.run_at <= now\n"))
    ),
    Guard(
        "claims within limits come one after another",
        LIMITED,
        "WHERE q.name = claim_within_limits.name FOR UPDATE;",
        "WHERE q.name = claim_within_limits.name;",
        (f"{QUEUES}::test_whoever_claims_waits_for_the_claim_before_and_counts_it",),
    ),
    Guard(
        "a paused queue gives nothing within limits either",
        LIMITED,
        " OR found.paused",
        "",
        (f"{QUEUES}::test_nothing_is_claimed_from_a_paused_queue_however_it_is_asked_for",),
    ),
    Guard(
        "a key has its limit",
        LIMITED,
        "r.place <= rooms.number",
        "true",
        (f"{QUEUES}::test_of_each_key_no_more_run_at_a_time_than_its_queue_says",),
    ),
    Guard(
        "what runs of a key counts",
        LIMITED,
        "q.key_concurrency - coalesce(running, 0)",
        "q.key_concurrency",
        (f"{QUEUES}::test_of_each_key_no_more_run_at_a_time_than_its_queue_says",),
    ),
    Guard(
        "a queue has its limit over all hosts",
        LIMITED,
        "greatest(0, least(slots, q.global_concurrency - coalesce(sum(held.weight), 0)))::integer AS slots",
        "slots",
        (f"{QUEUES}::test_the_limit_of_a_queue_counts_over_all_hosts",),
    ),
    Guard(
        "who waits for others counts for no limit",
        LIMITED,
        " AND l.waiting IS NOT TRUE",
        "",
        (f"{QUEUES}::test_a_run_that_waits_for_others_counts_for_no_limit",),
    ),
    *(
        Guard(
            f"within limits too a task is claimed by its own host when it is {ready}",
            LIMITED,
            f"{state}\n{indent}{OF_THIS_HOST}",
            f"{state}\n",
            (f"{QUEUES}::test_within_limits_too_a_task_runs_on_its_own_host_and_where_nobody_wants_it_cancelled",),
        )
        for ready, state, indent in (
            ("queued", "AND t.queue = q.name AND t.priority BETWEEN levels.lowest AND levels.highest", 16 * " "),
            ("due", "AND t.queue = q.name AND t.run_at <= now", 12 * " "),
        )
    ),
    Guard(
        "nobody waits behind a key that is full",
        LIMITED,
        "AND (SELECT count(*) FROM head) >= 1000",
        "AND false",
        (f"{QUEUES}::test_nobody_waits_behind_a_key_that_is_full_however_many_wait_for_it",),
    ),
    Guard(
        "with aging it is not the priority alone that counts",
        LIMITED,
        "CASE WHEN q.aging IS NULL THEN -priority",
        "CASE WHEN true THEN -priority",
        (f"{AGING}::test_a_task_that_waited_for_each_step_comes_before_a_higher_priority",),
    ),
    *(
        Guard(
            f"a task takes as many slots as it weighs, {where}",
            file,
            text,
            without,
            (
                f"{WEIGHTS}::test_a_task_takes_as_many_slots_as_it_weighs",
                f"{WEIGHTS}::test_light_tasks_do_not_overtake_a_heavy_one_that_waits_for_slots",
            ),
        )
        for where, file, text, without in (
            ("without limits", PLAIN, "WHERE ready.taken <= slots[i]", "LIMIT slots[i]"),
            ("within limits", LIMITED, "WHERE allowed.taken <= (SELECT room.slots FROM room)\n", ""),
        )
    ),
    *(
        Guard(
            f"what weighs more than the whole keeps nobody waiting when it is {ready}",
            PLAIN,
            state + OWN + UNCANCELLED + LEFT_OUT + UNSET + FITTING,
            state + OWN + UNCANCELLED + LEFT_OUT + UNSET,
            (f"{WEIGHTS}::test_what_weighs_more_than_the_whole_is_passed_by",),
        )
        for ready, state in (("queued", QUEUED), ("due", "t.run_at <= now\n"))
    ),
    *(
        Guard(
            f"within limits what weighs more than the whole keeps nobody waiting when it is {ready}",
            LIMITED,
            f"AND data_manager.weight_of(t.settings) <= heaviest\n{after}",
            after,
            (f"{WEIGHTS}::{test}",),
        )
        for ready, after, test in (
            ("queued", f"{IN_ORDER}LIMIT CASE", "test_what_weighs_more_than_the_whole_is_passed_by"),
            ("due", "      ), keys", "test_what_weighs_more_than_the_whole_is_passed_by"),
            ("of a key", f"{IN_ORDER}LIMIT greatest", "test_who_is_behind_a_full_key_waits_for_none_that_is_too_heavy"),
        )
    ),
    Guard(
        "what runs without a daemon takes slots by its weight",
        "damad/scheduler/decisions.py",
        "sum(task.settings.weight for task in held if",
        "sum(1 for task in held if",
        ("tests/test_decisions.py::test_slots_are_free_but_for_what_is_taken_by_weight",),
    ),
    Guard(
        "without a daemon too nothing overtakes what waits for slots",
        "damad/scheduler/decisions.py",
        "            break\n        if weight <= slots:",
        "            continue\n        if weight <= slots:",
        (
            "tests/test_decisions.py::test_slots_are_filled_in_order_but_for_what_weighs_more_than_the_whole",
            f"{WEIGHTS}::test_subtasks_that_run_without_a_daemon_take_slots_by_their_weight",
        ),
    ),
    Guard(
        "slots are taken by what weighs more, here",
        "damad/scheduler/supervisor.py",
        "(one.queue, one.settings.weight)",
        "(one.queue, 1)",
        (f"{WEIGHTS}::test_the_slots_of_a_host_hold_what_ran_before_its_daemon_was_started_again",),
    ),
    Guard(
        "slots are taken by what was just claimed, by its weight",
        "damad/scheduler/supervisor.py",
        "= task.queue, weight_of(task.settings)",
        "= task.queue, 1",
        (f"{WEIGHTS}::test_what_runs_at_a_time_never_weighs_more_than_the_slots_of_its_host_and_of_all",),
    ),
    Guard(
        "what somebody holds is passed by",
        LIMITED,
        "EXIT WHEN chosen = '{}' OR claimed <> '{}';",
        "EXIT;",
        (f"{QUEUES}::test_what_somebody_holds_is_passed_by_within_limits",),
    ),
    Guard(
        "a rate bounds what begins",
        LIMITED,
        "least(slots, floor(remaining + 0.000002)::integer)",
        "slots",
        (f"{QUEUES}::test_a_rate_lets_as_many_begin_as_it_says_and_then_one_after_another_by_the_clock_of_postgres",),
    ),
    Guard(
        "what begins is taken from the rate",
        LIMITED,
        "SET tokens = remaining - cardinality(claimed)",
        "SET tokens = remaining",
        (f"{QUEUES}::test_a_rate_lets_as_many_begin_as_it_says_and_then_one_after_another_by_the_clock_of_postgres",),
    ),
    Guard(
        "a rate that was not used does not add up",
        LIMITED,
        "    split_part(rate, '/', 1)::double precision,\n    left_then + greatest",
        "    coalesce(left_then, split_part(rate, '/', 1)::double precision) + greatest",
        (
            f"{QUEUES}::test_a_rate_lets_as_many_begin_as_it_says_and_then_one_after_another_by_the_clock_of_postgres",
            f"{QUEUES}::test_a_key_rate_lets_as_many_of_each_key_begin_as_it_says_and_then_one_after_another",
        ),
    ),
    Guard(
        "what begins is taken from the rate of its key",
        LIMITED,
        "PERFORM data_manager.take_key_tokens(found, claimed, now);",
        "NULL;",
        (f"{QUEUES}::test_a_key_rate_lets_as_many_of_each_key_begin_as_it_says_and_then_one_after_another",),
    ),
    Guard(
        "a key whose bucket is not full is not forgotten",
        LIMITED,
        "AND b.tokens_at <= moment - make_interval(",
        "AND b.tokens_at <= moment - 0 * make_interval(",
        (f"{QUEUES}::test_a_key_that_nothing_was_claimed_of_for_long_is_forgotten",),
    ),
    Guard(
        "a rate is looked at again",
        "damad/scheduler/claims.py",
        "for wait in (work.wait, work.key_wait) if",
        "for wait in () if",
        (
            f"{LIMITS}::test_a_rate_is_looked_at_again_when_the_next_token_is_there",
            f"{QUEUES}::test_who_waits_for_the_rate_of_a_key_keeps_no_other_waiting_and_knows_when_to_look",
        ),
    ),
    Guard(
        "a change of a queue wakes the daemons",
        "damad/eventstore/queries/change_queue.sql",
        "SELECT pg_notify('DAMAD_TASK', '') FROM changed",
        "SELECT FROM changed",
        ("tests/test_queue_settings.py::test_a_change_is_announced_to_the_daemons",),
    ),
    Guard(
        "a queue that somebody holds keeps no other waiting",
        "damad/scheduler/claims.py",
        "except ContextBusy:",
        "except KeyError:",
        (f"{QUEUES}::test_a_queue_that_somebody_holds_keeps_no_other_waiting",),
    ),
)
