"""Every refusal as a problem document (RFC 9457): which of damad's problems, what is wrong, and where.

The middleware here is the outermost one, so whatever the others and the routes refuse leaves in one shape, and so do
aiohttp's own refusals (404, 405). What cannot be parsed as HTTP never gets here: listening.py answers it.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from damad.errors import DamadError, InvalidInput, Unavailable
from damad.http import headers

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = "1"
"""Seconds after which a request that met no Postgres may be sent again."""
_RENAMED: Final = {"type": "event_type", "title": "event_title", "status": "event_status", "detail": "event_detail"}
"""Values of an error whose names a problem document needs for itself."""

log = logging.getLogger(__name__)


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document. Beside these members it has those that this one problem needs."""

    type: str
    title: str
    status: int
    detail: str
    pointer: str | None = None


class Refusal(DamadError):
    """What HTTP itself refuses: only this front raises these."""

    status = 400
    problem = "bad-request"
    title = "No request that can be understood"
    closes: ClassVar[bool] = False
    """True where the rest of the request may still be on its way, so that the connection is of no more use."""
    headers: ClassVar[Mapping[str, str]] = {}


class BadRequest(Refusal):
    """What was sent is no HTTP, or a body that breaks off."""

    closes = True


class Unauthorized(Refusal):
    """No token, or not the right one."""

    status = 401
    problem = "unauthorized"
    title = "A token is needed"
    headers: ClassVar[Mapping[str, str]] = {hdrs.WWW_AUTHENTICATE: 'Bearer realm="damad"'}


class Forbidden(Refusal):
    """A page of another origin asks."""

    status = 403
    problem = "forbidden-origin"
    title = "Not from this origin"


class NotAllowed(Refusal):
    """A token that is good, and may not do this."""

    status = 403
    problem = "forbidden"
    title = "Not with this token"


class BodyTimeout(Refusal):
    """The body did not arrive in its time."""

    status = 408
    problem = "body-timeout"
    title = "The body took too long"
    closes = True


class HeadTimeout(Refusal):
    """The head of a request did not arrive in its time."""

    status = 408
    problem = "head-timeout"
    title = "The head took too long"
    closes = True


class PreconditionFailed(Refusal):
    """If-Match names another version than the context has."""

    status = 412
    problem = "precondition-failed"
    title = "The context has changed"


class TooLarge(Refusal):
    """The body is over max_body, as it was sent or as it would be read back."""

    status = 413
    problem = "too-large"
    title = "The body is too large"


class UnsupportedMedia(Refusal):
    """The body is not JSON in UTF-8, or it is compressed."""

    status = 415
    problem = "unsupported-media-type"
    title = "Only JSON in UTF-8"
    headers: ClassVar[Mapping[str, str]] = {hdrs.ACCEPT_ENCODING: "identity", "Accept-Post": "application/json"}


class ExpectationFailed(Refusal):
    """An Expect header that is not 100-continue."""

    status = 417
    problem = "expectation-failed"
    title = "Only 100-continue can be expected"


class Misdirected(Refusal):
    """The Host header names somebody else: a web page that had its name resolve to this machine."""

    status = 421
    problem = "misdirected"
    title = "Not the host that was asked for"


class TooManyRequests(Refusal):
    """One request too many for its time. `values` has the seconds to wait for."""

    status = 429
    problem = "too-many-requests"
    title = "Too many requests"


class TooManyConnections(Refusal):
    """There are as many connections as there may be, and on all of them somebody is being answered."""

    status = 429
    problem = "too-many-connections"
    title = "Too many connections"
    closes = True
    headers: ClassVar[Mapping[str, str]] = {hdrs.RETRY_AFTER: RETRY_AFTER}


class NotReady(Refusal):
    """Something that damad needs is not there, or too slow."""

    status = 503
    problem = "not-ready"
    title = "Not ready"
    headers: ClassVar[Mapping[str, str]] = {hdrs.RETRY_AFTER: RETRY_AFTER}


class HttpVersion(Refusal):
    """A version of HTTP that damad does not speak."""

    status = 505
    problem = "http-version"
    title = "Only HTTP/1.1 and HTTP/1.0"
    closes = True


@web.middleware
async def as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers whatever is refused further in with a problem document."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _response_of_aiohttp(request, error)
    except ConnectionError:
        raise  # who asked has gone
    except Exception as error:
        refusal = error if isinstance(error, DamadError) else DamadError(f"{type(error).__name__}: {error}")
        if refusal.status == 500:
            log.error("%s %s failed: %s", request.method, request.path, refusal, exc_info=error)
        if request.writer.output_size > 0:
            log.warning("an answer to %s broke off: %s", request.path, refusal)
            raise ConnectionResetError("the answer has begun; it can only break off") from error
        return response(refusal)


def response(error: DamadError) -> web.Response:
    """The answer that says why something was refused."""
    also = dict(error.headers) if isinstance(error, Refusal) else {}
    if isinstance(error, Unavailable):
        also[hdrs.RETRY_AFTER] = RETRY_AFTER
    if isinstance(error, TooManyRequests):
        also[hdrs.RETRY_AFTER] = str(error.values["seconds"])
    answer = web.Response(
        body=msgspec.json.encode(document(error)), status=error.status, content_type=CONTENT_TYPE, headers=also
    )
    if isinstance(error, Refusal) and error.closes:
        answer.force_close()
    return answer


def as_bytes(error: DamadError) -> bytes:
    """The answer as it goes over the line, to who has not even asked yet. The connection is closed after it."""
    body = msgspec.json.encode(document(error))
    also = "".join(f"{name}: {value}\r\n" for name, value in getattr(error, "headers", {}).items())
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n{headers.as_lines()}{also}Connection: close\r\n\r\n"
    )
    return head.encode() + body


def document(error: DamadError) -> dict[str, Any]:
    """The members of the problem document: the standard ones, the pointer if one field is to blame, the values."""
    made: dict[str, Any] = {
        "type": f"urn:damad:problem:{error.problem}",
        "title": error.title,
        "status": error.status,
        "detail": str(error) if error.status != 500 else "damad failed; its log says why",
    }
    if isinstance(error, InvalidInput) and error.pointer:
        made["pointer"] = error.pointer
    if error.status == 500:
        return made
    return made | {_RENAMED.get(name, name): value for name, value in error.values.items()}


def _response_of_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    named = error.reason.lower().replace(" ", "-")
    detail = {404: f"there is nothing at {request.path}", 405: f"{request.method} is no method of {request.path}"}
    made = {
        "type": f"urn:damad:problem:{named}",
        "title": error.reason,
        "status": error.status,
        "detail": detail.get(error.status, error.text or error.reason),
    }
    also = {hdrs.ALLOW: error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else {}
    return web.Response(body=msgspec.json.encode(made), status=error.status, content_type=CONTENT_TYPE, headers=also)
