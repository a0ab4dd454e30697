"""The pg_envs of a server, and the one that a request names."""

from collections.abc import Mapping
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from damad import context
from damad.context import EtlContext
from damad.errors import NotFound

PG_ENVS: Final = web.AppKey[Mapping[str, EtlContext]]("pg_envs")
ACTOR: Final = web.RequestKey[str]("actor")
"""Who asks: the name of their token, or `uid:` and the number of the user who came by the Unix socket. The first token
has no name, so whoever has it has none."""


@web.middleware
async def in_pg_env(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Runs the handler in the context of the pg_env that the path names. Raises NotFound for an unknown one."""
    name = request.match_info.get("pg_env")
    if name is None:
        return await handler(request)
    found = request.app[PG_ENVS].get(name)
    if found is None:
        raise NotFound(f"there is no pg_env {name[:80]!r} here")
    actor = request.get(ACTOR)
    context.enter(found if actor is None else msgspec.structs.replace(found, actor=actor))
    return await handler(request)
