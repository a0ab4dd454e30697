"""Puts the HTTP front together: which path leads where, and what every request passes on its way there."""

from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from damad import context
from damad.config import Config
from damad.context import EtlContext
from damad.errors import NotFound
from damad.http import auth, contexts, events, feed, logs, original, problems, queues, tasks, wire
from damad.http.shutdown import WAITS, Waits, end_waits

PG_ENVS: Final = web.AppKey[Mapping[str, EtlContext]]("pg_envs")
_ROOT: Final = "/v1/{pg_env}"

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    (hdrs.METH_POST, "/contexts/{id}/events", events.append_events),
    (hdrs.METH_GET, "/contexts/{id}/events", events.read_events),
    (hdrs.METH_POST, "/tasks", tasks.queue_tasks),
    (hdrs.METH_GET, "/tasks", tasks.list_tasks),
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
)
"""The routes of a pg_env: method, path below its root, handler. They are tried in this order: the busiest is first."""

ROUTES_OF_THE_ORIGINAL: Final[tuple[tuple[str, Handler], ...]] = (
    ("/events/query", original.query_events),
    ("/getEtlProcessFinalEvent", original.read_final_event),
)
"""What the original's web front reads: path below its root of a pg_env, handler."""


def make_app(pg_envs: Mapping[str, EtlContext], *, settings: Config, token: str) -> web.Application:
    """The application. `pg_envs`: for each name the context, without an id, in which its requests run."""
    app = web.Application(middlewares=[problems.as_problems, auth.guarded, in_pg_env])
    app[PG_ENVS] = pg_envs
    app[wire.SETTINGS] = settings
    app[auth.TOKEN] = token
    app[WAITS] = Waits()
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
    router.add_get("/healthz", is_alive)


@web.middleware
async def in_pg_env(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Runs the handler in the context of the pg_env that the path names. Raises NotFound for an unknown one."""
    name = request.match_info.get("pg_env")
    if name is None:
        return await handler(request)
    found = request.app[PG_ENVS].get(name)
    if found is None:
        raise NotFound(f"there is no pg_env {name[:80]!r} here")
    context.enter(found)
    return await handler(request)


async def is_alive(request: web.Request) -> web.Response:
    """GET /healthz: the daemon's loop answers. It asks no Postgres; `degraded` is what it knows to be slower."""
    databases = [found.store.database for found in request.app[PG_ENVS].values()]
    deaf = any(database.listener().deaf for database in databases)
    return wire.answer({"status": "alive"} | ({"degraded": "no NOTIFY comes back; polling"} if deaf else {}))


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answers `Expect`: damad asks for the body when it reads it, so nobody sends one only to be refused after."""
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        return problems.response(problems.ExpectationFailed("only Expect: 100-continue is understood"))
    return None
