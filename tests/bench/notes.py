"""What bounds the goals that are missed, line by line; a page prints the notes of those that are. By hand: from reading
the path, and from what the yardsticks beside it leave for it to be. Who changes the path looks again."""

from typing import Final

BOUNDS: Final = {
    "append.http": (
        "Processor time: of about 100 µs a request in the daemon 40 are aiohttp reading a body and answering "
        "(an empty GET takes 26), 32 the front (names, token, JSON), 28 the store and its group; Postgres "
        "takes 50 more. Groups of appends in one statement made it four times as fast; two or three groups at "
        "once brought nothing more."
    ),
    "queue.one": (
        "A statement and a commit each, one after the other. Of the statement half are the functions of the "
        "schema, which judge the event and make the task's row."
    ),
    "queue.many": (
        "One statement for all, which judges them at once; what is left is the work on eight indexes and the "
        "JSON of the settings."
    ),
    "drain.daemon": (
        "Claims, STARTED and :FINAL are judged in groups (0.16 ms a task in Postgres). What is left is the "
        "daemon: 0.4 ms a task to find the worker's file, execute it, call main and say the three things. A "
        "file is executed anew for each run; the log's file is made only if something is printed, which had "
        "been two thirds of it."
    ),
    "drain.process": (
        "Processor time: a fork with an event loop takes 3 ms here, of which most are page faults after the "
        "fork (2.5 µs each; 700 for a bare event loop). A run takes 10: its process touches 1,200 pages, its "
        "parent 500 after each fork, and five files are made and removed (perf: fork 32 %, faults 21 %, "
        "inodes 15 % of the parent). Tried: what can be done before the fork is done there, nothing to "
        "collect as garbage after it, no connection, no thread, no file synced to the disk."
    ),
    "start.daemon.p50": (
        "NOTIFY, the queues with work, the claim, and STARTED: three round trips, two of them with a commit, "
        "before main is called."
    ),
    "start.daemon.p99": "As p50, and a look that was under way when the task was queued has to end first.",
    "start.process.p50": ("As in the daemon; then a fork and the reading of the worker's file."),
    "start.process.p99": "The first task of a daemon also waits until its fork server has imported everything.",
    "stream.p50": (
        "The append over HTTP with its commit, the NOTIFY, two SELECTs that compare snapshots, and a send to each of "
        "the 500 who are connected: half of them are served before the one who looks at the clock."
    ),
    "stream.p99": "As p50; what else the daemon's one loop does at the time is waited for.",
    "growth.append": (
        "Not looked into. What falls at 10,000 events already is no growth: a log that was just made lies in the "
        "processor's caches, and its indexes have one level."
    ),
    "growth.queue": "As growth.append.",
    "growth.drain": "Not looked into.",
    "verify": (
        "Postgres finds the shape of each context in two slices at once, and Python folds one of each shape. "
        "What is left is the reading and sorting of every event in Postgres."
    ),
    "rebuild": ("As verify."),
    "verify.memory": ("Nothing is held but a slice's counts."),
    "rebuild.memory": "As verify.memory.",
    "idle.memory": "The imports: aiohttp, asyncpg, uvloop and the rest are most of it, as the yardstick shows.",
    "idle.cpu": (
        "The backstop poll and the listener's ping, as many statements as idle.queries shows, at a wake-up each. That "
        "is dear on the machine of this run: strace shows 20 ms between the end of a wait of 1.4 s and the first "
        "system call after it, and beside other work, which keeps the processor awake, the same daemon took 0.15 %. "
        "Its kernel takes back memory that lies idle (kdamond runs), which may be why."
    ),
    "waiting.memory": (
        "Two processes a task, the worker and the parent that watches it, forked from one that has imported "
        "everything: what Python writes to as it counts references is shared no more."
    ),
    "adopt": "The start of Python with the daemon's imports is most of it, then the schema's check.",
    "feed.p99": (
        "The commit and its NOTIFY, two SELECTs that compare snapshots, once for all readers, and a send to each."
    ),
    "slot.p99": ("A process must have ended and been put on record; then the daemon claims and launches."),
}
