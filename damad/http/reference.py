"""/openapi.json and /docs: what this server can be asked, for programs and for people.

They tell what anybody can read in damad's own code and nothing of what lies in the databases, so they need no token.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from damad.http import headers, openapi, wire

if TYPE_CHECKING:
    from jinja2 import Template

_TEMPLATES: Final = Path(__file__).parent / "templates"
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


async def read_document(request: web.Request) -> web.Response:
    """GET /openapi.json: this description, as OpenAPI 3.1."""
    wire.query(request, wire.NoQuery)
    return wire.answer(openapi.document(request.app, _OWN))


async def read_page(request: web.Request) -> web.Response:
    """GET /docs: this description, as a page to read."""
    wire.query(request, wire.NoQuery)
    page = _template("docs.html").render(document=openapi.document(request.app, _OWN))
    return web.Response(text=page, content_type="text/html", headers={headers.POLICY: _POLICY})


@cache
def _template(name: str) -> "Template":
    # Imported when somebody asks: most daemons never show a page, and all are started.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    places = FileSystemLoader(_TEMPLATES)
    return Environment(loader=places, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template(name)


_OWN: Final[Mapping[Handler, openapi.Operation]] = {
    read_document: openapi.Operation(answers={200: {"type": "object"}}),
    read_page: openapi.Operation(answers={200: {"type": "string"}}, media="text/html"),
}
