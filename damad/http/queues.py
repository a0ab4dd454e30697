"""/queues: what is in them and how they run, and setting that."""

from aiohttp import web

from damad import queues
from damad.errors import InvalidInput
from damad.http import wire


async def list_queues(request: web.Request) -> web.Response:
    """GET /queues: a page with all of them."""
    wire.query(request, wire.NoQuery)
    return wire.answer({"items": await queues.every(), "next": None})


async def read_queue(request: web.Request) -> web.Response:
    """GET /queues/{name}."""
    wire.query(request, wire.NoQuery)
    return wire.answer(await queues.get(request.match_info["name"]))


async def change_queue(request: web.Request) -> web.Response:
    """PATCH /queues/{name}: an object of what is to be set, and null for what is not to be set any more."""
    wire.query(request, wire.NoQuery)
    asked = await wire.read_json(request)
    if not isinstance(asked, dict):
        raise InvalidInput("the body is to be an object", pointer="")
    return wire.answer(await queues.change(request.match_info["name"], asked))
