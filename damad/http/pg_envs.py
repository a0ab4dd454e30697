"""The pg_envs of a server, and the one that a request names."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from damad import context
from damad.context import EtlContext
from damad.errors import NotFound

PG_ENVS: Final = web.AppKey[Mapping[str, EtlContext]]("pg_envs")


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
