"""The guards of waits: who resumes which task, once, and what is cancelled with its parent."""

from guard import Guard
from guards import JUDGE

RESUME = "schema/227_resume_tasks.sql"
TESTS = "tests/test_resume.py"

GUARDS = (
    Guard(
        "a host resumes its own tasks",
        RESUME,
        "            AND (t.queue = ANY (shared) OR t.home_host_id IS NULL OR t.home_host_id = resume_tasks.host_id)\n",
        "",
        (f"{TESTS}::test_a_host_resumes_its_own_tasks_and_those_of_shared_queues_and_of_nobody",),
    ),
    Guard(
        "what somebody wants cancelled is not resumed",
        RESUME,
        "            AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))\n",
        "",
        (f"{TESTS}::test_a_task_that_somebody_wants_cancelled_is_not_resumed",),
    ),
    Guard(
        "who resumes holds the task, and waits for nobody",
        RESUME,
        "          FOR NO KEY UPDATE OF c, t SKIP LOCKED\n",
        "",
        (
            f"{TESTS}::test_one_whose_context_is_held_is_left_out_and_no_other_waits_for_it",
            f"{TESTS}::test_of_two_who_ask_at_the_same_time_one_resumes_a_task",
        ),
    ),
    Guard(
        "a wait that nobody could end is refused",
        JUDGE,
        "{CLAIMED,STARTED,RETRY,RELEASED,WAITING}",
        "{CLAIMED,STARTED,RETRY,RELEASED}",
        (f"{TESTS}::test_a_wait_that_nobody_could_end_is_refused",),
    ),
    Guard(
        "a cancelled task's children are cancelled",
        JUDGE,
        "        IF 'CANCELLED' = ANY (kinds) THEN\n          INSERT INTO data_manager.cancel_intents",
        "        IF false THEN\n          INSERT INTO data_manager.cancel_intents",
        (f"{TESTS}::test_who_cancels_a_task_notes_that_its_open_children_are_to_be_cancelled",),
    ),
)
