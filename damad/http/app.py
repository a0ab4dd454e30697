"""Puts the HTTP front together: which path leads where, and what every request passes on its way there."""

from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from damad.config import Config
from damad.context import EtlContext
from damad.http import (
    auth,
    contexts,
    events,
    feed,
    headers,
    health,
    logs,
    metrics,
    original,
    problems,
    queues,
    reference,
    schedules,
    tasks,
    wire,
)
from damad.http.head import Head
from damad.http.limits import RATE, Rate
from damad.http.pg_envs import PG_ENVS, in_pg_env
from damad.http.shutdown import WAITS, Waits, end_waits
from damad.tokens import Tokens

_ROOT: Final = "/v1/{pg_env}"

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    (hdrs.METH_POST, "/contexts/{id}/events", events.append_events),
    (hdrs.METH_GET, "/contexts/{id}/events", events.read_events),
    (hdrs.METH_POST, "/tasks", tasks.queue_tasks),
    (hdrs.METH_GET, "/tasks", tasks.list_tasks),
    (hdrs.METH_POST, "/tasks/retry", tasks.retry_tasks),
    (hdrs.METH_GET, "/events", feed.read_feed),
    (hdrs.METH_POST, "/contexts", contexts.create_context),
    (hdrs.METH_GET, "/contexts/{id}", contexts.read_state),
    (hdrs.METH_GET, "/contexts/{id}/tree", contexts.read_tree),
    (hdrs.METH_GET, "/contexts/{id}/final", contexts.read_final),
    (hdrs.METH_GET, "/queues", queues.list_queues),
    (hdrs.METH_GET, "/queues/{name}", queues.read_queue),
    (hdrs.METH_PATCH, "/queues/{name}", queues.change_queue),
    (hdrs.METH_POST, "/contexts/{id}/cancel", tasks.cancel_task),
    (hdrs.METH_POST, "/contexts/{id}/retry", tasks.retry_task),
    (hdrs.METH_GET, "/contexts/{id}/logs", logs.read_log),
    (hdrs.METH_GET, "/schedules", schedules.list_schedules),
    (hdrs.METH_POST, "/schedules", schedules.add_schedule),
    (hdrs.METH_GET, "/schedules/{name}", schedules.read_schedule),
    (hdrs.METH_PATCH, "/schedules/{name}", schedules.change_schedule),
    (hdrs.METH_DELETE, "/schedules/{name}", schedules.remove_schedule),
    (hdrs.METH_POST, "/schedules/{name}/trigger", schedules.trigger_schedule),
    (hdrs.METH_POST, "/schedules/{name}/backfill", schedules.backfill_schedule),
)
"""The routes of a pg_env: method, path below its root, handler. They are tried in this order: the busiest is first."""

WRITES: Final[frozenset[Handler]] = frozenset({
    events.append_events, tasks.queue_tasks, contexts.create_context, tasks.cancel_task, tasks.retry_task,
    tasks.retry_tasks, schedules.trigger_schedule, schedules.backfill_schedule, original.make_context,
})  # fmt: skip
"""What changes something and needs no administrator: it appends to the log."""

ROUTES_OF_THE_ORIGINAL: Final[tuple[tuple[str, Handler], ...]] = (
    ("/events/query", original.query_events),
    ("/getEtlProcessFinalEvent", original.read_final_event),
)
"""What the original's web front reads: path below its root of a pg_env, handler."""

ROUTES_OF_THE_SERVER: Final[tuple[tuple[str, Handler], ...]] = (
    ("/healthz", health.is_alive),
    ("/readyz", health.is_ready),
    ("/metrics", metrics.read_metrics),
    ("/openapi.json", reference.read_document),
    ("/docs", reference.read_page),
)
"""What is asked of no pg_env: path, handler."""


def make_app(pg_envs: Mapping[str, EtlContext], *, settings: Config, token: str) -> web.Application:
    """The application.

    `pg_envs`: for each name the context, without an id, in which its requests run · `token`: the first one.
    """
    app = web.Application(middlewares=[problems.as_problems, auth.guarded, in_pg_env])
    app[PG_ENVS] = pg_envs
    app[wire.SETTINGS] = settings
    app[auth.TOKEN], app[auth.TOKENS], app[auth.WRITES] = token, Tokens(settings.state_dir), WRITES
    app[auth.OF_RUNS] = frozenset({events.append_events})
    app[WAITS] = Waits()
    if settings.request_rate is not None:
        app[RATE] = Rate(*settings.request_rate)
    app[feed.READERS] = set()
    app[feed.HEADS] = {name: Head(found.store.database) for name, found in pg_envs.items()}
    app[metrics.GAUGES] = metrics.Gauges()
    app.on_response_prepare.append(headers.add)
    app.on_shutdown.append(end_waits)
    _add_routes(app.router)
    return app


def _add_routes(router: web.UrlDispatcher) -> None:
    for method, path, handler in ROUTES:
        if method == hdrs.METH_GET:
            router.add_get(_ROOT + path, handler, expect_handler=_expect)  # and HEAD
        else:
            router.add_route(method, _ROOT + path, handler, expect_handler=_expect)
    for path, handler in ROUTES_OF_THE_ORIGINAL:
        router.add_get(original.ROOT + path, handler)
    # Who asks for the head of this one would make a context too.
    router.add_get(original.ROOT + "/etl/new-context-id", original.make_context, allow_head=False)
    for path, handler in ROUTES_OF_THE_SERVER:
        router.add_get(path, handler)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answers `Expect`: damad asks for the body when it reads it, so nobody sends one only to be refused after."""
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        return problems.response(problems.ExpectationFailed("only Expect: 100-continue is understood"))
    return None
