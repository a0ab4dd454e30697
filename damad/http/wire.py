"""What a request says and how it is answered: the only reader of bodies, parameters and ids.

Every limit on what may be sent is here, stated once: media type and encoding (415), max_body (413), body_timeout
(408), what is no JSON (400, strict_json.py), what does not fit (422). An id that is none is a context that is not
there (404), whatever it looks like.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final, TypeVar

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from msgspec.inspect import BoolType, IntType, NoneType, StrType, StructType, UnionType, VarTupleType, type_info

from damad.config import Config
from damad.errors import InvalidInput, NotFound, Unavailable
from damad.http.problems import BadRequest, BodyTimeout, TooLarge, UnsupportedMedia
from damad.http.shutdown import WAITS
from damad.model import strict_json
from damad.model.shape import misfit

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

SETTINGS: Final = web.AppKey[Config]("settings")
_ID_MAX: Final = 2**63 - 1
Id = Annotated[int, msgspec.Meta(ge=1, le=_ID_MAX)]
"""The id of a context or of a source."""
Version = Annotated[int, msgspec.Meta(ge=0, le=_ID_MAX)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]
"""How many items a page holds at most."""


_LARGE: Final = 64 * 1024
"""Bytes from which a body is decoded in a thread, so that other requests are served meanwhile."""
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_BOOLEANS: Final = {"1": True, "true": True, "0": False, "false": False}


class NoQuery(msgspec.Struct, frozen=True):
    """For a request that takes no parameters."""


async def read_json(request: web.Request) -> Any:
    """The body of the request. Raises a refusal for one that damad does not take, whichever limit it breaks."""
    _check_media_type(request)
    limit = request.app[SETTINGS].max_body
    body = await _read(request, limit)
    decoding = asyncio.to_thread(strict_json.decode, body) if len(body) > _LARGE else None
    value, grown = await decoding if decoding else strict_json.decode(body)
    if len(body) + grown > limit:
        raise TooLarge(f"the numbers of the body, written out, are over {limit} bytes", max_body=limit)
    return value


async def read_nothing(request: web.Request) -> None:
    """Makes sure that the request has no body, or an empty one."""
    _check_encoding(request)
    if await _read(request, request.app[SETTINGS].max_body):
        raise InvalidInput(f"{request.method} {request.path} takes no body")


def one_or_many(value: Any) -> tuple[list[tuple[str, Any]], bool]:
    """What a body holds, each with its pointer, and whether it was an array. Raises InvalidInput for an empty one."""
    if not isinstance(value, list):
        return [("", value)], False
    if not value:
        raise InvalidInput("the array is empty; at least one is needed")
    return [(f"/{place}", item) for place, item in enumerate(value)], True


def query(request: web.Request, shape: type[S]) -> S:
    """The parameters of the query as a Struct. A field that is a tuple may be repeated, or be a comma list.

    Raises InvalidInput, with the name of the `parameter`, for unknown ones, bad ones, and ones given twice.
    """
    kinds = _kinds(shape)
    if not request.query_string and not kinds:
        return shape()
    given: dict[str, Any] = {}
    for name in request.query:
        texts = request.query.getall(name)
        if any("\0" in text for text in texts):
            raise InvalidInput(f"NUL in the parameter {name!r}", parameter=name)
        kind = kinds.get(name)
        if kind is None:
            raise InvalidInput(f"there is no parameter {name!r}; known: {', '.join(kinds) or 'none'}", parameter=name)
        if kind is VarTupleType:
            given[name] = [part for text in texts for part in text.split(",")]
        elif len(texts) > 1:
            raise InvalidInput(f"the parameter {name!r} is given {len(texts)} times", parameter=name)
        else:
            given[name] = _plain(texts[0], kind)
    try:
        return msgspec.convert(given, shape)
    except msgspec.ValidationError as error:
        name = misfit(error)[1][0]
        said = f"is {','.join(request.query.getall(name))[:80]!r}" if name in request.query else "is missing"
        raise InvalidInput(
            f"the parameter {name!r} {said}; it is to be {_wanted(shape, name)}", parameter=name
        ) from None


def context_id(request: web.Request) -> int:
    """The etl_context_id in the path. Raises NotFound for what cannot be one."""
    text = request.match_info["id"]
    if _INTEGER.fullmatch(text) and 1 <= int(text) <= _ID_MAX:
        return int(text)
    raise NotFound(f"there is no context {text[:80]!r}")


def answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """The value as JSON."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers
    )


def page(
    found: Sequence[T],
    limit: int,
    next_cursor: Callable[[Sequence[T]], str],
    *,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """A page of what was found, where one more than `limit` was asked for: whether there is more tells its cursor."""
    items = found[:limit]
    return answer({"items": items, "next": next_cursor(items) if len(found) > limit else None}, headers=headers)


def _check_media_type(request: web.Request) -> None:
    _check_encoding(request)
    given = request.headers.get(hdrs.CONTENT_TYPE, "none")
    if given == "application/json":  # as most write it: nothing is to be taken apart
        return
    if request.content_type != "application/json":
        raise UnsupportedMedia(f"the body is to be application/json; its Content-Type is {given[:80]}")
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMedia(f"the body is to be UTF-8 and not {request.charset}")


def _check_encoding(request: web.Request) -> None:
    for header, allowed in ((hdrs.CONTENT_ENCODING, "identity"), (hdrs.TRANSFER_ENCODING, "chunked")):
        given = request.headers.get(header, allowed)
        if given.lower() != allowed:
            raise UnsupportedMedia(f"{header} {given[:80]} is not taken; send the body as it is")


async def _read(request: web.Request, limit: int) -> bytes:
    try:
        # A short body comes along with the head. Then nothing is to be waited for, and a clock for it is dear.
        came_along = request.content.is_eof() and hdrs.EXPECT not in request.headers
        body = request.content.read_nowait() if came_along else await _arriving(request, limit)
    except web.RequestPayloadError as error:
        raise BadRequest(f"the body breaks off: {error}") from None
    if len(body) > limit:
        raise _too_large(limit)
    return body


async def _arriving(request: web.Request, limit: int) -> bytes:
    """The body as far as it matters: whole, or the beginning of one that is over the limit."""
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    body = bytearray()
    seconds = request.app[SETTINGS].body_timeout
    waits = request.app[WAITS]
    try:
        async with waits.bounded(seconds):
            await _ask_for_it(request)
            while len(body) <= limit and (chunk := await request.content.readany()):
                body += chunk
    except TimeoutError:
        if waits.over:
            raise Unavailable("damad is shutting down; send it again") from None
        raise BodyTimeout(f"the body did not arrive within {seconds:g} s") from None
    return bytes(body)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit} bytes", max_body=limit)


async def _ask_for_it(request: web.Request) -> None:
    """Tells a client that waits to be asked (Expect: 100-continue) that its body will be read."""
    if request.headers.get(hdrs.EXPECT) and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # The answer itself has not begun.


def _wanted(shape: type[msgspec.Struct], name: str) -> str:
    """What a parameter takes, in words."""
    info = next(field.type for field in _fields(shape) if field.encode_name == name)
    one = _not_none(info.item_type if isinstance(info, VarTupleType) else info)
    if isinstance(one, IntType):
        return f"a whole number from {one.ge} to {one.le}, in plain digits"
    if isinstance(one, StrType):
        return f"a text of {one.min_length} to {one.max_length} characters"
    return "true or false"


@cache
def _kinds(shape: type[msgspec.Struct]) -> dict[str, type[msgspec.inspect.Type]]:
    return {field.encode_name: type(_not_none(field.type)) for field in _fields(shape)}


def _fields(shape: type[msgspec.Struct]) -> tuple[msgspec.inspect.Field, ...]:
    info = type_info(shape)
    assert isinstance(info, StructType)
    return info.fields


def _not_none(info: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """The one sort of value that a parameter takes; that it may be left out does not count."""
    if isinstance(info, UnionType):
        return next(one for one in info.types if not isinstance(one, NoneType))
    return info


def _plain(text: str, kind: type[msgspec.inspect.Type]) -> Any:
    """The text as what it is to be, or as it is if it is no such thing: then it will not fit, and that says why."""
    if kind is IntType and _INTEGER.fullmatch(text):
        return int(text)
    if kind is BoolType:
        return _BOOLEANS.get(text, text)
    return text
