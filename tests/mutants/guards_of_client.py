"""The guards of the client: that what it sends again is done once, and what it follows has no gap."""

from guard import Guard

CALLS = "damad/client/client.py"
RESENDING = "tests/test_client_resending.py"
FOLLOWING = "tests/test_client_following.py"

GUARDS = (
    Guard(
        "a task that is sent again has the key of the first try",
        CALLS,
        ', "idempotency_key": str(uuid4())',
        "",
        (f"{RESENDING}::test_a_task_whose_answers_are_lost_is_queued_once",),
    ),
    Guard(
        "an event that is sent again has the uuid of the first try",
        CALLS,
        '{"event_uuid": str(uuid4()), **event}',
        "{**event}",
        (f"{RESENDING}::test_an_append_whose_answers_are_lost_after_its_commit_is_recorded_once",),
    ),
    Guard(
        "who is told when to come back does not come before",
        "damad/client/calls.py",
        "        await asyncio.sleep(failure.after)\n",
        "",
        (f"{RESENDING}::test_who_is_told_when_to_come_back_does_not_come_before",),
    ),
    Guard(
        "a stream begins again behind the last event",
        "damad/client/following.py",
        "                headers[hdrs.LAST_EVENT_ID] = cursor\n",
        "                pass\n",
        (f"{FOLLOWING}::test_however_often_the_connection_breaks_each_event_is_followed_once",),
    ),
)
