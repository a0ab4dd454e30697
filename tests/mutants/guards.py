"""The guards of the log: what the database refuses, locks and keeps apart; and the pure core that says the same."""

from guard import Guard

JUDGE = "schema/130_judge_events.sql"
EVENTS = "schema/050_event_store.sql"
TRIGGERS = "schema/140_event_store_triggers.sql"
QUERIES = "damad/eventstore/queries"
LIFECYCLE = "damad/model/lifecycle.py"
DECISIONS = "damad/scheduler/decisions.py"

QUEUED = "t.queue = queues[i] AND t.state = 'queued'\n"
OWN = "              AND (shared[i] OR t.home_host_id IS NULL OR t.home_host_id = claim_tasks.host_id)\n"
UNCANCELLED = (
    "              AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))\n"
)

HOSTILE = "tests/test_hostile_writers.py"
BEHIND = "tests/test_behind_the_judge.py"
LOCKS = "tests/test_locks.py"
SCHEDULE = "tests/test_schedule.py"
INTENTS = "tests/test_cancel_intents.py"
TABLE = "tests/test_lifecycle_table.py"
STORE = "tests/test_eventstore.py"

GUARDS = (
    # --- fences ---
    Guard(
        "an old fence is refused",
        JUDGE,
        "l.fence IS DISTINCT FROM (l.task).fence OR ",
        "",
        (f"{STORE}::test_an_old_fence_is_refused",),
    ),
    Guard(
        "an old fence is refused after a takeover in between",
        JUDGE,
        "l.fence IS DISTINCT FROM (l.task).fence OR ",
        "",
        (f"{STORE}::test_an_old_fence_is_refused_in_a_transaction_that_began_before_the_takeover",),
    ),
    Guard(
        "a fence is over with its claim",
        JUDGE,
        " OR l.before IN ('queued', 'scheduled', 'retrying', 'waiting')",
        "",
        (f"{HOSTILE}::test_a_run_that_is_over_appends_nothing_even_while_nobody_claimed_its_task_again",),
    ),
    Guard(
        "a claim raises the fence",
        JUDGE,
        " OR (l.kind = 'CLAIMED' AND (l.payload ->> 'fence')::bigint <= (l.task).fence)",
        "",
        (f"{TABLE}::test_a_claim_raises_the_fence_or_is_refused",),
    ),
    # --- what the judge asks, and the indexes behind it ---
    Guard(
        "the table of transitions is asked",
        JUDGE,
        "WHEN l.after IS NULL OR (",
        "WHEN (",
        (f"{STORE}::test_nothing_follows_a_final",),
    ),
    Guard(
        "an event_uuid is looked for",
        JUDGE,
        "WHEN (SELECT true FROM data_manager.event_store s WHERE s.event_uuid = l.event_uuid) THEN",
        "WHEN false THEN",
        (f"{HOSTILE}::test_a_uuid_that_is_there_is_refused_at_once_and_the_transaction_may_go_on",),
    ),
    Guard(
        "the judge numbers events itself",
        JUDGE,
        "SELECT j.event_id, j.version, j.event_uuid",
        "SELECT j.event_id, coalesce(NEW.version, j.version), j.event_uuid",
        ("tests/test_direct_writers.py::test_whatever_columns_are_filled_in_the_judge_fills_them",),
    ),
    *(
        Guard(
            f"the index {index} is unique",
            file,
            f"CREATE UNIQUE INDEX IF NOT EXISTS {index}",
            f"CREATE INDEX IF NOT EXISTS {index}",
            (f"{BEHIND}::test_what_the_judge_would_refuse_the_index_refuses_too",),
        )
        for file, index in (
            (EVENTS, "event_store_version_key"),
            (EVENTS, "event_store_uuid_key"),
            (EVENTS, "event_store_one_initial_key"),
            (EVENTS, "event_store_one_final_key"),
            ("schema/060_dama_tasks.sql", "dama_tasks_idempotency_key"),
        )
    ),
    Guard(
        "an idempotency_key is queued once at the same time too",
        "schema/060_dama_tasks.sql",
        "CREATE UNIQUE INDEX IF NOT EXISTS dama_tasks_idempotency_key",
        "CREATE INDEX IF NOT EXISTS dama_tasks_idempotency_key",
        (f"{LOCKS}::test_of_two_who_queue_with_one_key_at_once_the_second_gets_the_first_ones_task",),
    ),
    # --- locks ---
    Guard(
        "the judge locks the context",
        JUDGE,
        "        ORDER BY c.etl_context_id\n        FOR NO KEY UPDATE;",
        "        ;",
        (f"{LOCKS}::test_who_inserts_while_another_has_not_committed_is_judged_after_it",),
    ),
    Guard(
        "the lock lets children be queued",
        JUDGE,
        "        FOR NO KEY UPDATE;",
        "        FOR UPDATE;",
        (f"{HOSTILE}::test_an_append_that_is_not_committed_yet_keeps_nobody_from_queueing_a_child",),
    ),
    Guard(
        "an append locks before it looks for its event_uuid",
        "schema/200_append_events.sql",
        "        FOR NO KEY UPDATE;",
        "        ;",
        (f"{LOCKS}::test_the_same_event_sent_again_before_the_first_has_committed_is_the_same",),
    ),
    Guard(
        "an append locks its contexts in one order",
        "schema/200_append_events.sql",
        "        ORDER BY c.etl_context_id\n        FOR NO KEY UPDATE;",
        "        ;",
        (f"{LOCKS}::test_an_append_to_many_contexts_locks_the_lowest_first",),
    ),
    Guard(
        "a claim reads the fence under the lock",
        "schema/220_claim_tasks.sql",
        "        ORDER BY c.etl_context_id\n        FOR NO KEY UPDATE;",
        "        ;",
        (f"{LOCKS}::test_a_claim_that_waited_for_another_takes_the_fence_after_it",),
    ),
    *(
        Guard(
            f"a claim waits for no context of what is {ready}",
            "schema/220_claim_tasks.sql",
            f"FOR NO KEY UPDATE OF c, t SKIP LOCKED\n        ){after}",
            f"FOR NO KEY UPDATE OF c, t\n        ){after}",
            (f"{SCHEDULE}::test_a_context_that_somebody_holds_is_left_out_and_not_waited_for",),
        )
        for ready, after in (("queued", ", due AS"), ("due", "\n        SELECT"))
    ),
    *(
        Guard(
            f"a task is claimed by its own host when it is {ready}",
            "schema/220_claim_tasks.sql",
            state + OWN,
            state,
            (f"{SCHEDULE}::test_a_task_runs_on_the_host_that_queued_it_unless_its_queue_is_shared",),
        )
        for ready, state in (("queued", QUEUED), ("due", "t.run_at <= now\n"))
    ),
    # --- triggers ---
    Guard(
        "events are never updated or deleted",
        TRIGGERS,
        "BEFORE UPDATE OR DELETE ON data_manager.event_store\n  FOR EACH STATEMENT EXECUTE",
        "BEFORE UPDATE OR DELETE ON data_manager.event_store\n  FOR EACH STATEMENT WHEN (false) EXECUTE",
        (f"{HOSTILE}::test_no_statement_changes_an_event",),
    ),
    Guard(
        "events are never truncated",
        TRIGGERS,
        "BEFORE TRUNCATE ON data_manager.event_store\n  FOR EACH STATEMENT EXECUTE",
        "BEFORE TRUNCATE ON data_manager.event_store\n  FOR EACH STATEMENT WHEN (false) EXECUTE",
        (f"{HOSTILE}::test_no_statement_takes_the_events_away",),
    ),
    Guard(
        "an ERROR stands with what follows from it",
        TRIGGERS,
        "IF now_in = 'erred' OR now_in = 'cancelling' THEN",
        "IF false THEN",
        (f"{STORE}::test_an_error_stands_with_what_follows_from_it_or_not_at_all",),
    ),
    Guard(
        "what says that it was judged has been",
        TRIGGERS,
        "IF FOUND THEN",
        "IF false THEN",
        ("tests/test_direct_writers.py::test_no_event_gets_past_the_judge_by_saying_that_it_was_judged",),
    ),
    Guard(
        "an event that was dropped takes its transaction with it",
        "schema/141_etl_contexts_triggers.sql",
        "IF NOT EXISTS (SELECT FROM data_manager.event_store WHERE event_id = NEW.latest_event_id) THEN",
        "IF false THEN",
        (f"{HOSTILE}::test_the_same_uuid_in_two_contexts_at_once_leaves_no_gap",),
    ),
    Guard(
        "a context begins without events",
        "schema/141_etl_contexts_triggers.sql",
        "NEW.version          := 0;",
        "",
        ("tests/test_direct_writers.py::test_a_context_begins_without_events_whatever_its_row_claims",),
    ),
    Guard(
        "a context that says it has begun has its event",
        "schema/141_etl_contexts_triggers.sql",
        "      IF FOUND THEN\n        PERFORM data_manager.refuse('DA001', format('context %s begins",
        "      IF false THEN\n        PERFORM data_manager.refuse('DA001', format('context %s begins",
        ("tests/test_direct_writers.py::test_a_context_that_claims_an_event_it_has_not_is_refused",),
    ),
    Guard(
        "a context with events stays",
        "schema/141_etl_contexts_triggers.sql",
        "FOR EACH ROW WHEN (OLD.version <> 0) EXECUTE FUNCTION data_manager.refuse_end();",
        "FOR EACH ROW WHEN (false) EXECUTE FUNCTION data_manager.refuse_end();",
        ("tests/test_direct_writers.py::test_a_context_with_events_cannot_be_deleted",),
    ),
    # --- calls that are made together ---
    Guard(
        "a group waits for no context",
        "schema/203_append_each.sql",
        "FOR NO KEY UPDATE SKIP LOCKED",
        "FOR NO KEY UPDATE",
        ("tests/test_grouping.py::test_a_context_that_somebody_holds_is_left_out_and_the_others_are_not",),
    ),
    Guard(
        "what is judged at the commit of a group fails its own call only",
        "schema/202_append_calls.sql",
        "SET CONSTRAINTS data_manager.event_store_error_is_concluded IMMEDIATE;",
        "",
        ("tests/test_grouping.py::test_an_error_without_what_follows_from_it_fails_its_own_call_only",),
    ),
    # --- who serves ---
    Guard(
        "one daemon a host",
        "damad/eventstore/serving.py",
        "        raise Conflict(await _twin(database, host))",
        "        return",
        ("tests/test_serving.py::test_a_second_daemon_of_one_host_is_refused_and_told_what_to_do",),
    ),
    # --- a log that was written by hand ---
    Guard(
        "a task that cannot be claimed keeps none of the others",
        "schema/220_claim_tasks.sql",
        QUEUED + OWN + UNCANCELLED + "              AND t.etl_context_id <> ALL (leave_out)\n",
        QUEUED + OWN + UNCANCELLED,
        ("tests/test_bulkhead.py::test_a_broken_log_is_refused_by_its_name_and_others_are_claimed_without_it",),
    ),
    Guard(
        "only a broken log parks a task",
        "damad/scheduler/bulkhead.py",
        "return said is not None and said[0] is BrokenLog",
        "return said is not None",
        ("tests/test_bulkhead.py::test_only_a_broken_log_parks_a_task_and_only_while_it_is_broken",),
    ),
    # --- cancels that cannot be written yet ---
    Guard(
        "a task that is to be cancelled is not claimed",
        "schema/220_claim_tasks.sql",
        QUEUED + OWN + UNCANCELLED,
        QUEUED + OWN,
        (f"{INTENTS}::test_a_task_that_somebody_wants_cancelled_is_not_claimed_and_is_cancelled_by_any_daemon",),
    ),
    Guard(
        "what is to be cancelled is stopped first",
        DECISIONS,
        'match "cancelling" if held.cancel_wanted else held.state:',
        "match held.state:",
        ("tests/test_decisions.py::test_a_cancel_that_the_log_cannot_say_yet_is_done_as_if_it_did",),
    ),
    Guard(
        "an intent does not outlive its task",
        "damad/tasks.py",
        "    await intents.forget_cancels(store.database)\n",
        "",
        (f"{INTENTS}::test_a_cancel_that_somebody_holds_up_is_noted_and_meets_nobody_who_retries_the_task",),
    ),
    # --- leases ---
    Guard(
        "a lease is renewed with its fence only",
        f"{QUERIES}/renew_lease.sql",
        "AND fence = $2",
        "AND $2::bigint IS NOT NULL",
        (f"{SCHEDULE}::test_a_lease_is_renewed_by_its_fence_only",),
    ),
    Guard(
        "the leases of a host are renewed with their fences only",
        f"{QUERIES}/renew_leases.sql",
        " AND l.fence = held.fence",
        "",
        (f"{SCHEDULE}::test_a_lease_is_renewed_by_its_fence_only",),
    ),
    Guard(
        "a lease ends with its run",
        JUDGE,
        "AND j.after NOT IN (",
        "AND false AND j.after NOT IN (",
        (f"{TABLE}::test_a_lease_ends_with_its_run",),
    ),
    Guard(
        "a takeover asks whether the lease is over",
        "schema/230_take_over.sql",
        " AND until < clock_timestamp()",
        "",
        (f"{LOCKS}::test_a_lease_that_is_not_over_is_not_taken_over",),
    ),
    Guard(
        "a takeover asks for the fence",
        "schema/230_take_over.sql",
        "AND fence = old_fence ",
        "",
        (f"{LOCKS}::test_a_task_that_went_on_is_not_taken_over",),
    ),
    Guard(
        "a takeover asks again under the lock",
        "schema/230_take_over.sql",
        "FOR turn IN 1 .. 2 LOOP",
        "FOR turn IN 1 .. 1 LOOP",
        (f"{LOCKS}::test_a_takeover_that_waited_for_the_context_asks_again",),
    ),
    Guard(
        "a takeover ends the old run's sessions",
        "schema/230_take_over.sql",
        "PERFORM pg_terminate_backend(pid)",
        "PERFORM pid",
        (f"{LOCKS}::test_a_takeover_ends_the_sessions_of_that_run_and_no_others",),
    ),
    # --- the pure core ---
    Guard(
        "the fold refuses an old fence",
        LIFECYCLE,
        "fence == context.task.fence and context.state",
        "context.state",
        ("tests/test_lifecycle.py::test_an_old_fence_is_refused",),
    ),
    Guard(
        "the fold refuses what the table does not hold",
        LIFECYCLE,
        "after = TRANSITIONS.get((context.state, kind_))",
        "after = TRANSITIONS.get((context.state, kind_), context.state)",
        ("tests/test_lifecycle.py::test_an_absent_cell_is_the_refusal",),
    ),
    Guard(
        "retries are bounded",
        "damad/model/retry.py",
        "elif max(errors, crashes) > settings.retry_limit:",
        "elif False:",
        ("tests/test_retry.py::test_a_task_fails_exactly_when_one_sort_is_over_the_limit",),
    ),
    Guard(
        "nothing is launched beside a rival",
        DECISIONS,
        "if seen.process in (ALIVE, STARTING) or seen.rival:",
        "if seen.process in (ALIVE, STARTING):",
        ("tests/test_decisions.py::test_nothing_is_launched_or_released_while_another_run_of_the_task_lives",),
    ),
    Guard(
        "cancelled means seen dead",
        DECISIONS,
        'case "cancelling" if running:',
        'case "cancelling" if running and held.ours:',
        ("tests/test_decisions.py::test_each_cell_of_the_table_is_decided_so",),
    ),
    Guard(
        "a claim is released only when its claimer is dead",
        DECISIONS,
        "if held.claimer_dead or held.lease_over:",
        "if True:",
        ("tests/test_decisions.py",),
    ),
)
