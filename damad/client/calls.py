"""A request, sent until it is answered; and what a refusal is raised as.

What may pass is met with patience: nobody listens, the connection breaks off, no answer comes, 429, 502, 503, 504. A
Retry-After is heeded. Anything else is the answer.
"""

import asyncio
import math
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import hdrs

from damad import errors
from damad.backoff import Backoff
from damad.errors import ConfigError, DamadError, InvalidInput, Unavailable

ANSWER_TIMEOUT: Final = 45.0
"""Seconds of silence after which a connection counts as dead: three times what damad is silent at most."""
_CONNECT_TIMEOUT: Final = 10.0
_PASSING: Final = frozenset({429, 502, 503, 504})
"""Statuses that say nothing about what was asked."""
_PROBLEM: Final = "urn:damad:problem:"
_OWN: Final = ("type", "title", "status", "detail", "pointer")
"""The members of every problem document. The others are values of the error."""
_LONGEST_SOCKET: Final = 107
"""Bytes of a path that sockaddr_un holds."""

Query = Sequence[tuple[str, str]]


class Refused(DamadError):
    """What the daemon refuses for a reason of HTTP: no token, over a limit. `values` holds its status and problem."""

    exit_code = 2
    title = "Refused"


_KINDS: Final[Mapping[str, type[DamadError]]] = {
    kind.problem: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, DamadError) and "problem" in vars(kind)
}


class NotNow(Exception):
    """A try that may go well later. refusal: what to raise in the end · after: seconds that were asked for."""

    def __init__(self, refusal: DamadError, after: float = 0.0) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.after = after


class Patience:
    """How long one goes on trying: `seconds` from the first failure that no success followed; None: for ever."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._until: float | None = None
        self._backoff = Backoff()

    def worked(self) -> None:
        """It went well: the next failure is a first one."""
        self._until = None
        self._backoff.reset()

    async def after(self, failure: NotNow) -> None:
        """Returns when it is time to try again. Raises the refusal where there is no time left for that."""
        now = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now + self._seconds
        if now + failure.after >= self._until:
            raise failure.refusal
        await asyncio.sleep(failure.after)
        await self._backoff.pause()


class Calls:
    """A session with one daemon, for one pg_env of it. It is open inside `async with`."""

    def __init__(
        self, address: str | Path, *, token: str | None, pg_env: str, patience: float | None, tls: ssl.SSLContext | None
    ) -> None:
        text = str(address)
        self.patience = patience
        self._by_tcp = text.startswith(("http://", "https://"))
        self._named = text.rstrip("/")
        self._root = f"{self._named if self._by_tcp else 'http://localhost'}/v1/{pg_env}"
        self._headers = {} if token is None else {hdrs.AUTHORIZATION: f"Bearer {token}"}
        self._tls = tls
        self._folder: int | None = None
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Opens no connection yet: that is the first call's."""
        self._session = aiohttp.ClientSession(connector=self._connector(), headers=self._headers)

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()
        if self._folder is not None:
            os.close(self._folder)
        self._session = self._folder = None

    async def call(
        self, method: str, path: str, *, query: Query = (), body: Any = None, lasts: float = 0.0
    ) -> tuple[int, bytes]:
        """The status and the body of the answer, however often it has to be asked for.

        lasts: seconds that the answer itself may take. Raises what was refused, and Unavailable where nobody answered.
        """
        patience = Patience(self.patience)
        timeout = aiohttp.ClientTimeout(total=lasts + ANSWER_TIMEOUT, sock_connect=_CONNECT_TIMEOUT)
        headers: dict[str, str] = {} if body is None else {hdrs.CONTENT_TYPE: "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        while True:
            try:
                asked = self.answered(method, path, query=query, headers=headers, data=content, timeout=timeout)
                async with asked as response:
                    return response.status, await response.read()
            except NotNow as failure:
                await patience.after(failure)

    @asynccontextmanager
    async def answered(
        self, method: str, path: str, *, query: Query, headers: Mapping[str, str], **given: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One try. The answer is no refusal. Raises what was refused, and NotNow, also where it breaks off inside."""
        if self._session is None:
            raise InvalidInput("this client is not open; use it inside `async with`")
        try:
            asked = self._session.request(
                method, self._root + path, params=query, headers=headers, allow_redirects=False, **given
            )
            async with asked as response:
                if response.status >= 300:
                    raise _refusal(response, await response.read())
                yield response
        except (aiohttp.InvalidURL, aiohttp.ClientSSLError) as error:
            raise ConfigError(f"{self._named}: {error}") from None
        except TimeoutError:
            raise NotNow(Unavailable(f"{self._named} does not answer")) from None
        except (aiohttp.ClientError, OSError) as error:
            raise NotNow(Unavailable(f"{self._named} does not answer: {error or type(error).__name__}")) from None

    def _connector(self) -> aiohttp.BaseConnector:
        # Each stream that is followed holds a connection: nobody waits until one of them ends.
        if self._by_tcp:
            return aiohttp.TCPConnector(limit=0, ssl=self._tls or True)
        path = self._named
        if len(os.fsencode(path)) > _LONGEST_SOCKET:
            self._folder = os.open(Path(path).parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            path = f"/proc/self/fd/{self._folder}/{Path(path).name}"
        return aiohttp.UnixConnector(path, limit=0)


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> DamadError | NotNow:
    """What an answer is raised as that refuses."""
    document: dict[str, Any] = {}
    with suppress(msgspec.DecodeError):
        document = msgspec.json.decode(body, type=dict[str, Any])
    refusal = _as_error(response.status, document)
    if response.status in _PASSING:
        return NotNow(refusal, _seconds(response.headers.get(hdrs.RETRY_AFTER, "")))
    return refusal


def _as_error(status: int, document: Mapping[str, Any]) -> DamadError:
    detail = str(document.get("detail") or f"answered with status {status}")
    problem = str(document.get("type", "")).removeprefix(_PROBLEM)
    values = {name: value for name, value in document.items() if name not in _OWN}
    kind = _KINDS.get(problem)
    if kind is None:
        return Refused(detail, **values | {"status": status, "problem": problem})
    if issubclass(kind, InvalidInput):
        return kind(detail, pointer=document.get("pointer"), **values)
    return kind(detail, **values)


def _seconds(retry_after: str) -> float:
    """What a Retry-After says, which is a number of seconds or a date (RFC 9110, 10.2.3); 0 for what says nothing."""
    with suppress(ValueError):
        if retry_after.isascii() and retry_after.isdigit():
            return float(retry_after)
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    return 0.0
