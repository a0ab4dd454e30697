"""Who may ask, and what: the owner of the daemon by the Unix socket, and whoever has a token.

The first token, in the state folder, may do everything. Those with names (damad/tokens.py) have a role: `read` is
enough to look, `write` to append, to queue, to cancel; everything else needs `admin`, so that a route which nobody
thought about is not open to too many.

The Host header is checked before anything else, because a web page can have its own name resolve to this machine, and
Origin, because a web page can send requests that it cannot read the answers of. On the Unix socket too: somebody may
have put a port in front of it. There any name without a dot is taken, which no page in the network can have.
"""

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler

from damad.http import original
from damad.http.limits import RATE
from damad.http.listening import Protocol
from damad.http.pg_envs import ACTOR, RUN
from damad.http.problems import Forbidden, HttpVersion, Misdirected, NotAllowed, Unauthorized
from damad.http.wire import SETTINGS
from damad.tokens import Role, Run, Token, Tokens, run_of

TOKEN: Final = web.AppKey[str]("token")
"""The first token."""
TOKENS: Final = web.AppKey[Tokens]("tokens")
"""Those with names."""
OF_RUNS: Final = web.AppKey[frozenset[Handler]]("of_runs")
"""The handlers that a run may ask with its token, for its own context."""
WRITES: Final = web.AppKey[frozenset[Handler]]("writes")
"""The handlers for which `write` is enough, though their method says that they change something."""
LOOK_AGAIN: Final = 15.0
"""Seconds after which a request that still goes on, a stream say, is looked at again: its token may be revoked."""
_LOOKS: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})
"""What anybody may ask."""
OPEN_TO_ORIGINS: Final = original.ROOT.partition("{")[0]
"""What pages of the origins that `compat_open` names may ask: the paths that begin so."""
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


def needed(app: web.Application, method: str, handler: Handler) -> Role:
    """What whoever asks a route must be allowed to do."""
    if handler in app[WRITES]:
        return "write"
    return "read" if method in _LOOKS else "admin"


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets a request pass that comes to this host, from no other origin, from the owner or with a token that may."""
    if request.version not in (HttpVersion10, HttpVersion11):
        raise HttpVersion(f"HTTP/{request.version.major}.{request.version.minor} is not spoken here")
    door = request.protocol
    if isinstance(door, Protocol) and door.trusted:
        request[ACTOR] = f"uid:{door.uid}"
    if isinstance(door, Protocol) and hmac.compare_digest(door.let_in, _introduction(request)):
        _count(request, None)
        return await handler(request)
    host, origin = _check_host(request), request.headers.get(hdrs.ORIGIN)
    if origin is not None and _is_open_to(request, origin):
        _count(request, None, known=False)
        return _readable(await handler(request), origin)
    _check_origin(origin, host)
    if request.path in OPEN_PATHS:
        _count(request, None, known=False)
        return await handler(request)
    token = _check_who(request)
    _count(request, token)
    if token is None:
        return await handler(request)
    request[ACTOR] = token.name
    if isinstance(token, Run):
        request[RUN] = token
        return await handler(request)
    with _looked_after(request, token):
        return await handler(request)


def _introduction(request: web.Request) -> bytes:
    """All that a request says of who asks. Whoever says the same again on a connection was let in there already."""
    headers = request.headers
    said = headers.get(hdrs.HOST, ""), headers.get(hdrs.ORIGIN, "\r"), headers.get(hdrs.AUTHORIZATION, "")
    return "\n".join(said).encode(errors="surrogateescape")


def _check_who(request: web.Request) -> Token | Run | None:
    """Asks for a token, unless it is the owner; returns one that has a name or is of a run.

    Who may do everything need not be asked again for the same words.
    """
    door = request.protocol
    owner = isinstance(door, Protocol) and door.trusted
    token = None if owner else _token_of(request)
    if token is not None:
        _check_run(request, token) if isinstance(token, Run) else _check_may(request, token)
        return token
    if isinstance(door, Protocol):
        door.let_in = _introduction(request)
    return None


def _count(request: web.Request, token: Token | Run | None, *, known: bool = True) -> None:
    """Counts the request for whoever has the token, the first one where there is none with a name; and for the address
    where nobody is known. Raises TooManyRequests."""
    rate, door = request.app.get(RATE), request.protocol
    if rate is None or (isinstance(door, Protocol) and door.trusted):
        return
    if not known:
        rate.take(f"from {request.remote}")
    else:
        rate.take("" if token is None else token.name)


@contextmanager
def _looked_after(request: web.Request, token: Token) -> Iterator[None]:
    """Cuts the connection if the token is revoked meanwhile: a stream has no next request that would be refused."""
    loop, tokens = asyncio.get_running_loop(), request.app[TOKENS]
    timer = loop.call_later(LOOK_AGAIN, lambda: look())

    def look() -> None:
        nonlocal timer
        if token in tokens.every():
            timer = loop.call_later(LOOK_AGAIN, look)
        elif request.transport is not None:
            request.transport.abort()

    try:
        yield
    finally:
        timer.cancel()


def _check_run(request: web.Request, run: Run) -> None:
    """Raises NotAllowed for all but an append to the context of the run. Whether it goes on the log says."""
    asked = request.match_info
    own = (asked.get("pg_env"), asked.get("id")) == (run.pg_env, str(run.etl_context_id))
    if not (own and asked.handler in request.app[OF_RUNS]):
        raise NotAllowed(f"this token is of a run of context {run.etl_context_id}: it may append events there alone")


def _check_may(request: web.Request, token: Token) -> None:
    """Raises NotAllowed for what the token may not do, whether that is there or not."""
    pg_env = request.match_info.get("pg_env")
    if token.pg_env is not None and token.pg_env != pg_env:
        raise NotAllowed(f"token {token.name!r} is good for pg_env {token.pg_env!r} alone", pg_env=token.pg_env)
    role = needed(request.app, request.method, request.match_info.handler)
    if request.match_info.http_exception is None and not token.may(role):
        raise NotAllowed(f"token {token.name!r} may {token.role}, and this needs {role}", role=role)


def _is_open_to(request: web.Request, origin: str) -> bool:
    return request.path.startswith(OPEN_TO_ORIGINS) and origin.lower() in request.app[SETTINGS].compat_open


def _readable(response: web.StreamResponse, origin: str) -> web.StreamResponse:
    """The answer as a browser gives it to a page of another origin."""
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    response.headers[hdrs.VARY] = hdrs.ORIGIN
    return response


def _check_host(request: web.Request) -> str:
    given = request.headers.get(hdrs.HOST, "")
    here = request.get_extra_info("sockname")
    on_socket = isinstance(here, str)
    address = here[0] if here and not on_socket else None
    settings = request.app[SETTINGS]
    if not _is_ours(given, (settings.host.lower(), *settings.host_names), address, on_socket=on_socket):
        raise Misdirected(
            f"Host {given[:80]!r} is not this one; ask for localhost, the address it listens on, or one of host_names"
        )
    return given.lower()


@lru_cache(maxsize=64)
def _is_ours(given: str, configured: tuple[str, ...], here: str | None, *, on_socket: bool) -> bool:
    """True for the names of this machine to itself, those configured, and the address that the request came to."""
    parts = _HOST.fullmatch(given)
    if parts is None:
        return False
    name = (parts[1] or parts[2]).lower()
    if name in ("localhost", *configured, here) or (on_socket and parts[2] and "." not in name):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _check_origin(given: str | None, host: str) -> None:
    if given is not None and given.lower() not in (f"http://{host}", f"https://{host}"):
        raise Forbidden(f"pages of the origin {given[:80]!r} may not ask here")


def _token_of(request: web.Request) -> Token | Run | None:
    """The token with a name or of a run that was sent; None for the first one. Raises Unauthorized for any other."""
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Unauthorized("send a token: Authorization: Bearer <token>; the first one is in the state folder")
    # Bytes, because compare_digest refuses texts that are not ASCII; a header may hold anything.
    sent = given.strip().encode(errors="surrogateescape")
    if hmac.compare_digest(sent, request.app[TOKEN].encode()):
        return None
    found = request.app[TOKENS].find(sent) or run_of(sent, request.app[TOKEN])
    if found is None:
        _count(request, None, known=False)
        raise Unauthorized("this token is neither the one in the state folder nor one that `damad tokens` lists")
    return found
