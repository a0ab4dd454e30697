"""What bounds the goals that are missed, line by line; a page prints the notes of those that are. By hand: from reading
the path, and from what the yardsticks beside it leave for it to be. Who changes the path looks again."""

from typing import Final

BOUNDS: Final = {
    "append.http": (
        "Processor time: 118 µs a request in the daemon (CPU time under this load), so one core does at most "
        "8,500. Profiled apart, some 40 are aiohttp reading a body and answering (an empty GET takes 26), 32 the "
        "front (names, token, JSON), 28 the store and its group; the profile is flat, no function of damad's own "
        "takes a tenth. Postgres takes 50 more on the other core. Groups of appends in one statement made it "
        "four times as fast; two or three groups at once brought nothing more, nor did headers made once (0.2 "
        "µs)."
    ),
    "queue.one": (
        "A statement and a commit each, one after the other. Without the flush Postgres takes some 225 µs (CPU "
        "time of its backend), most of it making ready the expressions of one INSERT into three tables: 20 are "
        "the two triggers that look whether all was judged, 22 the conditions of three triggers. The client's "
        "part is asyncpg, its pool and the event loop (a statement of 5 µs costs 17 bare and 85 through the "
        "pool), and 15 µs to find the worker's file. Tried: that had taken 62 by resolving links in Python; one "
        "statement for what is asked and what is written; rare settings asked in functions of their own (347 to "
        "225)."
    ),
    "queue.many": (
        "Some 36 µs a task, one after the other: 22 in Postgres (12 are the rows and eight indexes of three "
        "tables, 2 reading the JSON, 3 the check of settings and depth, 1.5 the triggers that see that all was "
        "judged), 14 in the client (7 validation, 2 sending and receiving, 1 writing the JSON). Tried: each "
        "worker's file looked at once a call, meta checked once (the client took 90), no regular expression for "
        "an id; fillfactor (nothing)."
    ),
    "drain.daemon": (
        "Postgres and the daemon take turns, for the tasks of a group do the same at the same time: of 0.39 ms a "
        "task 0.17 are Postgres (CPU time of its backends; at 50 in a statement 49 µs for CLAIMED, 57 for "
        "STARTED, 51 for :FINAL) and 0.2 the daemon, which executes the worker's file anew for each. Taking away "
        "one part of the judge at a time, be it a trigger, an index, a lock or a check, gives 1 to 5 % of that "
        "each. Tried: the file is read once and compiled once, settings are decoded once, its path is asked of "
        "the kernel (0.34 ms to 0.2); claims of half the slots, so that two groups overlap (4 % faster for a "
        "tenth more CPU time); fillfactor (nothing)."
    ),
    "drain.process": (
        "Processor time: 14 ms a task on two cores, of which the parent takes 5, the worker 4.5, Postgres 2.7 "
        "(three statements with a commit each: four slots leave little to group) and the daemon 2 (perf, by "
        "process). Of the parent a third are page faults after the fork, an eighth the fork, an eighth making "
        "inodes. A fork with an event loop and nothing else takes 4. Tried: what can be done before the fork is "
        "done there, nothing to collect as garbage after it, no connection, no thread, no file synced to the "
        "disk, few imports (31 MB)."
    ),
    "start.daemon.p50": (
        "Three statements with a commit each, one after the other, as a trace of the daemon's statements shows: "
        "of 5.7 ms 1.5 are the queueing itself, 0.5 which queues have work, 1.5 the claim, 1.6 STARTED; the rest "
        "is NOTIFY and Python. A commit alone takes 0.5 here. Not done: to claim without waiting for the flush, "
        "which would give two hosts the same fence after a crash."
    ),
    "start.daemon.p99": (
        "As p50, and a look that was under way when the task was queued has to end first: beside one STARTED "
        "took 4 ms, where it takes 1.6 else."
    ),
    "start.process.p50": (
        "As in the daemon; then the launch: a message to a parent that waits, its fork with the page faults "
        "after it (drain.process), the record of who it is, and the worker's file executed."
    ),
    "start.process.p99": (
        "As p50. The first tasks of a daemon also open its connections and make ready its statements, 50 ms. "
        "(The fork server comes up with the daemon: the first task waited 100 ms more for it.)"
    ),
    "stream.p50": (
        "500 sends, half of which come before the one who looks at the clock: 14 µs each, nearly all of it the "
        "kernel's, which wakes the reader. Before them the append over HTTP with its commit, the NOTIFY, and two "
        "SELECTs that compare snapshots, 2.4 ms in all (as one reader of a context of its own sees it). Tried: "
        "no timer where nothing can be waited for, nobody woken where nothing moved (22 µs to 14); the messages "
        "are made once for all."
    ),
    "stream.p99": (
        "As p50: the last of the 500 is served 7 ms after the first, and its client, one process for all of "
        "them, takes 8 ms of the processor to read the 500. What else the daemon's one loop does at the time is "
        "waited for."
    ),
    "growth.append": (
        "Not looked into. What falls at 10,000 events already is no growth: a log that was just made lies in the "
        "processor's caches, and its indexes have one level."
    ),
    "growth.queue": "As growth.append.",
    "growth.drain": (
        "Of few tasks a third of the time is the first use of each statement in a daemon: 16 ms the first claim "
        "and 20 the first append, where the others take 3 and 4, in a log of a million events as in a small one."
    ),
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
        "Two processes a task: of three waiting pairs each worker had 7 MB of its own share (3.9 of it written "
        "since the fork), each parent 6.4 (2.8). They are forked from one that has imported everything: what "
        "Python writes to as it counts references is shared no more."
    ),
    "adopt": "The start of Python with the daemon's imports is most of it, then the schema's check.",
    "feed.p99": (
        "The commit and its NOTIFY, two SELECTs that compare snapshots, once for all readers, and a send to each."
    ),
    "slot.p99": ("A process must have ended and been put on record; then the daemon claims and launches."),
}
