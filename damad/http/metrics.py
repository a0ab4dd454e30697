"""GET /metrics: what Prometheus reads.

Nothing is counted while requests are served. What the log holds is asked of it at each scrape (eventstore/counting.py),
so it tells of all writers and not of this daemon alone: of several daemons of one pg_env each tells the same.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from damad.context import EtlContext
from damad.errors import DamadError
from damad.eventstore import counting, queues
from damad.eventstore.pools import Database
from damad.http import health, wire
from damad.http.feed import READERS, Reader
from damad.http.pg_envs import PG_ENVS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

MOST_QUEUES: Final = 200
"""Queues that have a label of their own. The others are OTHER_QUEUES together: who queues a task names its queue."""
OTHER_QUEUES: Final = "(others)"
"""No name that a queue can have."""
PATIENCE: Final = 10.0
"""Seconds in which a pg_env has to say what it counted."""


class Gauges:
    """The registry of one app: what its process uses, and what was last found out about its pg_envs."""

    def __init__(self) -> None:
        self.totals: dict[str, counting.Totals] = {}
        self._found: list[Metric] = []
        self._registry: CollectorRegistry | None = None

    def collect(self) -> Iterable["Metric"]:
        """For the registry."""
        return self._found

    def text(self, found: list["Metric"]) -> bytes:
        """The metrics as Prometheus reads them."""
        # Imported when somebody asks: most daemons are never scraped, and all are started.
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        self._found = found
        if self._registry is None:
            self._registry = CollectorRegistry()
            ProcessCollector(namespace="damad", registry=self._registry)
            self._registry.register(self)
        return generate_latest(self._registry)


GAUGES: Final = web.AppKey[Gauges]("gauges")


class Observed:
    """What one scrape found out about one pg_env. `answers`: False where it did not; then the rest is of before."""

    def __init__(self, database: Database, totals: counting.Totals) -> None:
        self.database = database
        self.totals = totals
        self.depths: list[queues.Depth] = []
        self.answers = False


async def read_metrics(request: web.Request) -> web.Response:
    """GET: every metric, in the text format of Prometheus."""
    wire.query(request, wire.NoQuery)
    gauges, pg_envs = request.app[GAUGES], request.app[PG_ENVS]
    async with asyncio.TaskGroup() as group:
        lag = group.create_task(health.loop_lag())
        looks = [group.create_task(_observe(found, gauges)) for found in pg_envs.values()]
    observed = [look.result() for look in looks]
    found = [*_of_logs(observed), *_of_tasks(observed), *_of_daemon(observed, lag.result(), request.app[READERS])]
    return web.Response(
        body=gauges.text(found), headers={hdrs.CONTENT_TYPE: "text/plain; version=0.0.4; charset=utf-8"}
    )


async def _observe(found: EtlContext, gauges: Gauges) -> Observed:
    database = found.store.database
    observed = Observed(database, gauges.totals.setdefault(found.pg_env, counting.Totals()))
    try:
        async with asyncio.timeout(PATIENCE):
            await observed.totals.update(database)
            observed.depths = await queues.depths(database)
            observed.answers = True
    except (TimeoutError, DamadError):
        pass  # that it does not answer is what is told of it
    return observed


def _of_logs(observed: list[Observed]) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    up = GaugeMetricFamily("damad_pg_env_up", "1 where the pg_env answered", labels=["pg_env"])
    appended = CounterMetricFamily("damad_events_appended", "Events since the first scrape", labels=["pg_env", "type"])
    for one in observed:
        name = one.database.pg_env
        up.add_metric([name], float(one.answers))
        for type_, count in sorted(one.totals.appended.items()):
            appended.add_metric([name, type_], count)
    yield from (up, appended)


def _of_tasks(observed: list[Observed]) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    tasks = GaugeMetricFamily("damad_tasks", "Tasks that have not ended", labels=["pg_env", "queue", "state"])
    oldest = GaugeMetricFamily(
        "damad_oldest_queued_seconds", "Since when the oldest queued task might run", labels=["pg_env", "queue"]
    )
    attempts = CounterMetricFamily(
        "damad_attempts", "Attempts that ended, by what became of them", labels=["pg_env", "outcome"]
    )
    waits = HistogramMetricFamily(
        "damad_task_wait_seconds", "From when a task might run to its start", labels=["pg_env"]
    )
    runs = HistogramMetricFamily(
        "damad_attempt_run_seconds", "From the start of an attempt to its end", labels=["pg_env"]
    )
    for one in observed:
        name, totals = one.database.pg_env, one.totals
        for (queue, state), number in _numbers(one.depths).items():
            tasks.add_metric([name, queue, state], number)
        for queue, age in _oldest(one.depths).items():
            oldest.add_metric([name, queue], age)
        for outcome, count in sorted(totals.attempts.items()):
            attempts.add_metric([name, outcome], count)
        waits.add_metric([name], _buckets(totals.waits), totals.waits.seconds)
        runs.add_metric([name], _buckets(totals.runs), totals.runs.seconds)
    yield from (tasks, oldest, attempts, waits, runs)


def _told_apart(depths: list[queues.Depth]) -> set[str]:
    """The queues that have a label of their own: the first by name, so that it is the same ones each time."""
    return set(sorted({depth.queue for depth in depths})[:MOST_QUEUES])


def _numbers(depths: list[queues.Depth]) -> Counter[tuple[str, str]]:
    """How many tasks are in which queue and state."""
    own, numbers = _told_apart(depths), Counter[tuple[str, str]]()
    for depth in depths:
        numbers[depth.queue if depth.queue in own else OTHER_QUEUES, depth.state] += depth.number
    return numbers


def _oldest(depths: list[queues.Depth]) -> dict[str, float]:
    """For how many seconds the oldest task of each queue might have run."""
    own, ages = _told_apart(depths), dict[str, float]()
    for depth in depths:
        if depth.state == "queued":
            queue = depth.queue if depth.queue in own else OTHER_QUEUES
            ages[queue] = max(ages.get(queue, 0.0), depth.oldest_age or 0.0)
    return ages


def _buckets(times: counting.Times) -> list[tuple[str, float]]:
    """As Prometheus counts: each bound has all that are not above it."""
    bounds = [*map(str, counting.BOUNDS), "+Inf"]
    return list(zip(bounds, accumulate(times.counts), strict=True))


def _of_daemon(observed: list[Observed], lag: float, readers: set[Reader]) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily

    yield GaugeMetricFamily("damad_loop_lag_seconds", "By how much the loop was late for a timer", value=lag)
    pool = GaugeMetricFamily("damad_pool_connections", "Connections to Postgres", labels=["pg_env", "state"])
    listener = GaugeMetricFamily(
        "damad_listener_hears", "1 where NOTIFY is heard, 0 where damad polls", labels=["pg_env"]
    )
    reading = GaugeMetricFamily("damad_feed_readers", "Who reads the feed live", labels=["pg_env"])
    behind = GaugeMetricFamily(
        "damad_feed_lag_events", "How many event_ids the slowest reader of the feed is behind", labels=["pg_env"]
    )
    for one in observed:
        name = one.database.pg_env
        size, idle = one.database.pool_size()
        pool.add_metric([name, "idle"], idle)
        pool.add_metric([name, "busy"], size - idle)
        listener.add_metric([name], float(one.database.listener().hears))
        places = [reader.last for reader in readers if reader.pg_env == name]
        reading.add_metric([name], len(places))
        behind.add_metric([name], max((one.totals.last - place for place in places), default=0))
    yield from (pool, listener, reading, behind)
