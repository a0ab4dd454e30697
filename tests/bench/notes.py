"""What bounds the goals that are missed, line by line; a page prints the notes of those that are. By hand: from reading
the path, and from what the yardsticks beside it leave for it to be. Who changes the path looks again."""

from typing import Final

BOUNDS: Final = {
    "append.http": (
        "Each append is a statement and a commit of its own: Postgres' commits on the daemon's ten "
        "connections bound it, then the row trigger (schema/130), then parsing in Python. Appends that are at"
        " hand at the same time are not grouped into one statement yet."
    ),
    "queue.one": (
        "Of 0.97 ms a task on a quiet machine, 0.24 ms are the functions of the schema (`track_functions`: half of it "
        "the row trigger), 0.4 ms Python (processor time), 0.06 ms the round trip with which the pool resets a "
        "connection at its release, and the rest the round trip and the commit, which take a plain insert 0.45 ms."
    ),
    "queue.many": (
        "`queue_tasks` (schema/210) inserts row by row, and each row fires the trigger; a set-based statement"
        " would do the step for all of them at once."
    ),
    "drain.daemon": (
        "Each task is claimed in a loop inside one statement, and then takes statements and commits of its "
        "own for the lease, STARTED and :FINAL. Claims and ends are not grouped yet."
    ),
    "drain.process": (
        "The supervisor's rounds: each task is claimed, reported as started and ended by statements and commits of its "
        "own. The fork itself is the least of it."
    ),
    "start.daemon.p50": (
        "NOTIFY, then the supervisor's look at the log, the claim, the lease and STARTED, each a round trip, "
        "the writing ones with a commit."
    ),
    "start.daemon.p99": "As p50, and a look that was under way when the task was queued has to end first.",
    "start.process.p50": "As in the daemon, and then the fork and the import of the worker's file.",
    "start.process.p99": "The first task of a daemon also waits until its fork server has imported everything.",
    "stream.p50": "The append over HTTP with its commit, the NOTIFY, and one SELECT by the stream that hears it.",
    "stream.p99": "As p50; what else the daemon's one loop does at the time is waited for.",
    "growth.append": (
        "Not looked into. What falls at 10,000 events already is no growth: a log that was just made lies in the "
        "processor's caches, and its indexes have one level."
    ),
    "growth.queue": "As growth.append.",
    "growth.drain": "Not looked into.",
    "verify": (
        "Every event is decoded from JSON and folded in Python, in one process on one core; the yardstick, "
        "which decodes and does nothing else, says how much of it is reading."
    ),
    "rebuild": "As verify; and each slice of contexts is locked before it is read.",
    "verify.memory": (
        "A slice of 1,000 contexts is held, however many events they have, and the one before it until it is read."
    ),
    "rebuild.memory": "As verify.memory.",
    "idle.memory": "The imports: aiohttp, asyncpg, uvloop and the rest are most of it, as the yardstick shows.",
    "idle.cpu": "The backstop poll and the listener's ping.",
    "waiting.memory": (
        "Two processes a task, the worker and the parent that watches it, forked from one that has imported "
        "everything: what Python writes to as it counts references is shared no more."
    ),
    "adopt": "The start of Python with the daemon's imports is most of it, then the schema's check.",
    "feed.p99": (
        "Each reader asks for the tree's events by itself, once a NOTIFY: as many SELECTs as readers times commits."
    ),
    "slot.p99": (
        "A process must have ended and been seen before its slot is taken again; then the supervisor looks, "
        "claims and launches."
    ),
}
