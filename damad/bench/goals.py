"""The goals, line by line: what is measured, and what is wanted. The measuring itself is in the modules beside."""

from typing import Final

import msgspec

MORE, LESS = "more", "less"


class Against(msgspec.Struct, frozen=True):
    """A yardstick (yardsticks.py, or `peer: …` for the figure of another program) and the ratio that is wanted."""

    yardstick: str
    wanted: float | None = None


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A line. `wanted`: of damad's own figure, where the goal is no ratio. `peers`: who is measured by their own bench.

    at: the sizes (sizes.py) at which it is judged; a smaller bench shows the figure and says nothing of the goal.
    """

    key: str
    title: str
    unit: str = "/s"
    better: str = MORE
    goal: str
    wanted: float | None = None
    against: tuple[Against, ...] = ()
    peers: tuple[Against, ...] = ()
    at: dict[str, int] = {}


ONE, SIXTEEN, BATCHES = "sequential inserts", "inserts on 16 connections", "inserts in batches of 100"
EMPTY: Final = "aiohttp's empty answer"
FORK, FORK_LOOP, SPAWN = "fork and exit", "fork with an event loop", "spawned Python with damad's imports"
HEARD_P50, HEARD_P99 = "insert and NOTIFY, heard p50", "insert and NOTIFY, heard p99"
SPAWN_MS: Final = "spawned Python with damad's imports, one"
READING: Final = "reading every event"
SMALL, TENTH = "damad with a small log", "damad with a tenth of the log"
PYTHON_RSS, LIBRARIES_RSS, IMPORTED_RSS = "Python alone", "with its libraries", "with the daemon imported"
"""The parts of a daemon's memory, each with what stands before it."""
BARE_PSS: Final = "a process with damad's imports"

_SHOWN: Final = "none of its own"
_FLAT: Final = "within 10 % with 10,000,000 events and 1,000,000 queued tasks"
_GROWN: Final = {"events": 10_000_000}
_MESSAGE_DB: Final = 3 * 3_800 / 13_700
"""message-db's bench is not among the peers': on the machine where the goals were set, `write_message` made 3,800 a
second on 16 connections, which plain inserts made 13,700."""

GOALS: Final = (
    Goal(key="append.http", title="durable appends over HTTP, 32 connections",
         goal="≥ 0.7 × aiohttp's empty answer; ≥ 3 × message-db (0.28 of the inserts)",
         against=(Against(EMPTY, 0.7), Against(SIXTEEN, _MESSAGE_DB))),
    Goal(key="queue.one", title="tasks queued one after another, by the library as the peers'",
         goal="≥ 1.6 × pgqueuer's single",
         against=(Against(ONE),), peers=(Against("pgqueuer single enqueue/s", 1.6),)),
    Goal(key="queue.many", title="tasks queued in bulk, 1,000 at a time, by the library as the peers'",
         goal="≥ 1.5 × graphile-worker's batch",
         against=(Against(BATCHES),), peers=(Against("graphile batch enqueue/s", 1.5),)),
    Goal(key="http.one", title="tasks queued one after another, over HTTP on one connection", goal=_SHOWN,
         against=(Against(ONE),)),
    Goal(key="http.many", title="tasks queued in bulk, 1,000 at a time, over HTTP on one connection", goal=_SHOWN,
         against=(Against(BATCHES),)),
    Goal(key="drain.daemon", title="tasks drained in the daemon, 50 at a time", goal="≥ 1.5 × pgqueuer",
         against=(Against(SIXTEEN),), peers=(Against("pgqueuer drain/s", 1.5),)),
    Goal(key="drain.process", title="tasks drained, each in a process of its own, 4 at a time",
         goal="≥ 4 × rq; ≥ 30 × spawning; ≥ 0.8 × fork with an event loop",
         against=(Against(FORK_LOOP, 0.8), Against(SPAWN, 30.0), Against(FORK)),
         peers=(Against("rq fork-per-job jobs/s, 2 workers", 4.0),)),
    Goal(key="start.daemon.p50", title="queued → main starts in the daemon, p50", unit="ms", better=LESS,
         goal="≤ 2 ms", wanted=2.0, against=(Against(HEARD_P50),)),
    Goal(key="start.daemon.p99", title="queued → main starts in the daemon, p99", unit="ms", better=LESS,
         goal="≤ 5 ms", wanted=5.0, against=(Against(HEARD_P99),)),
    Goal(key="start.process.p50", title="queued → main starts in a process, p50", unit="ms", better=LESS,
         goal="≤ 6 ms", wanted=6.0, against=(Against(SPAWN_MS),)),
    Goal(key="start.process.p99", title="queued → main starts in a process, p99", unit="ms", better=LESS,
         goal="≤ 15 ms", wanted=15.0, against=(Against(SPAWN_MS),)),
    Goal(key="stream.p50", title="append → seen by an SSE subscriber of the feed, p50", unit="ms", better=LESS,
         goal="≤ 3 ms with 500 subscribers", wanted=3.0, against=(Against(HEARD_P50),),
         at={"subscribers": 500}),
    Goal(key="stream.p99", title="append → seen by an SSE subscriber of the feed, p99", unit="ms", better=LESS,
         goal="≤ 20 ms with 500 subscribers", wanted=20.0, against=(Against(HEARD_P99),),
         at={"subscribers": 500}),
    Goal(key="growth.append", title="appends one after another, in a grown log",
         goal=_FLAT, against=(Against(SMALL, 0.9),), at=_GROWN),
    Goal(key="growth.queue", title="tasks queued one after another, in a grown log",
         goal=_FLAT, against=(Against(SMALL, 0.9),), at=_GROWN),
    Goal(key="growth.drain", title="tasks drained in the daemon, out of a grown queue",
         goal=_FLAT, against=(Against(SMALL, 0.9),), at=_GROWN),
    Goal(key="verify", title="events verified", goal="≥ 300,000 /s", wanted=300_000.0, against=(Against(READING),),
         at={"events": 10_000}),
    Goal(key="rebuild", title="events rebuilt from", goal="≥ 300,000 /s", wanted=300_000.0,
         against=(Against(READING),), at={"events": 10_000}),
    Goal(key="verify.memory", title="peak memory of verify, in a grown log", unit="MB", better=LESS,
         goal="flat", against=(Against(TENTH, 1.1),), at={"events": 1_000_000}),
    Goal(key="rebuild.memory", title="peak memory of rebuild, in a grown log", unit="MB", better=LESS,
         goal="flat", against=(Against(TENTH, 1.1),), at={"events": 1_000_000}),
    Goal(key="idle.memory", title="an idle daemon's memory (RSS)", unit="MB", better=LESS, goal="≤ 70 MB",
         wanted=70.0, against=(Against(PYTHON_RSS), Against(LIBRARIES_RSS), Against(IMPORTED_RSS))),
    Goal(key="idle.whole", title="an idle daemon with every process that it keeps (PSS)", unit="MB", better=LESS,
         goal=_SHOWN),
    Goal(key="idle.cpu", title="an idle daemon's share of a core", unit="%", better=LESS, goal="≤ 0.5 %", wanted=0.5),
    Goal(key="idle.queries", title="an idle daemon's transactions in Postgres", unit="/min", better=LESS,
         goal="nothing but the backstop poll and the listener's ping"),
    Goal(key="waiting.memory", title="a detached worker that waits, with what watches it (PSS)", unit="MB",
         better=LESS, goal="≤ 12 MB", wanted=12.0, against=(Against(BARE_PSS),)),
    Goal(key="adopt", title="a daemon's start → its first decision, with open contexts and 8 workers to adopt",
         unit="ms", better=LESS, goal="≤ 2,000 ms with 10,000 open contexts", wanted=2000.0,
         against=(Against(SPAWN_MS),), at={"open_contexts": 10_000, "adopted": 8}),
    Goal(key="slot.p99", title="a slot that is free while something could run in it, p99", unit="ms", better=LESS,
         goal="≤ 100 ms", wanted=100.0),
    Goal(key="slot.keys.p99", title="the same where two of each key run at a time, p99", unit="ms", better=LESS,
         goal=_SHOWN),
    Goal(key="feed.p50", title="commit → every SSE reader of the feed, 16 writers overlapping, p50", unit="ms",
         better=LESS, goal=_SHOWN, against=(Against(HEARD_P50),)),
    Goal(key="feed.p99", title="commit → every SSE reader of the feed, 16 writers overlapping, p99", unit="ms",
         better=LESS, goal="≤ 100 ms", wanted=100.0, against=(Against(HEARD_P99),)),
)  # fmt: skip
