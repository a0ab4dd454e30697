"""The pg_envs of a server, and the one that a request names; and the trace that the request belongs to."""

from collections.abc import Mapping
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import istr

from damad import context
from damad.context import EtlContext
from damad.errors import NotFound
from damad.model import trace
from damad.tokens import Run

PG_ENVS: Final = web.AppKey[Mapping[str, EtlContext]]("pg_envs")
ACTOR: Final = web.RequestKey[str]("actor")
"""Who asks: the name of their token, `context:` and its id for a run with its own, or `uid:` and the number of the user
who came by the Unix socket. The first token has no name, so whoever has it has none."""
RUN: Final = web.RequestKey[Run]("run")
"""The run that asks with its own token: what it appends bears its fence."""
_TRACEPARENT: Final = istr(trace.KEY)


@web.middleware
async def in_pg_env(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Runs the handler in the context of the pg_env that the path names. Raises NotFound for an unknown one."""
    name = request.match_info.get("pg_env")
    if name is None:
        return await handler(request)
    found = request.app[PG_ENVS].get(name)
    if found is None:
        raise NotFound(f"there is no pg_env {name[:80]!r} here")
    context.enter(_asked_by(found, request))
    return await handler(request)


def _asked_by(found: EtlContext, request: web.Request) -> EtlContext:
    """The context with who asks, and with the trace of the request. Who sends two traceparents has sent none."""
    actor, given = request.get(ACTOR), request.headers.getall(_TRACEPARENT, ())
    traceparent = trace.parse(given[0]) if len(given) == 1 else None
    if actor is None and traceparent is None:
        return found
    if (run := request.get(RUN)) is not None:
        found = msgspec.structs.replace(found, etl_context_id=run.etl_context_id, fence=run.fence)
    return msgspec.structs.replace(found, actor=actor, traceparent=traceparent)
