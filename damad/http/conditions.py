"""Headers that make a write safe to send again, or have it refused: Idempotency-Key, If-Match, and the ETag for that,
which also spares who knows a version already the reading of it: If-None-Match.

The key of an append names its events (event_uuid), that of a task is its idempotency_key; an ETag is the version of a
context, and If-Match its expected_version. So they promise what those promise, and nothing is kept beside the log.
"""

import re
from collections.abc import Sequence
from typing import Final, TypeVar
from uuid import UUID, uuid5

import msgspec
from aiohttp import hdrs, web
from multidict import istr

from damad import tasks
from damad.errors import InvalidInput
from damad.http.problems import PreconditionFailed
from damad.model.event import Event

E = TypeVar("E", bound=Event)

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
IF_MATCH: Final = "If-Match"
_KEY: Final = istr(IDEMPOTENCY_KEY)
_LONGEST_KEY: Final = 1024
_KEYED_EVENTS: Final = UUID("5a1d8b0e-98a5-4a5e-9a0c-0f3c7d0f6b52")
"""Namespace of the event_uuids that are made of keys."""
_TAGS = re.compile(r'\s*(?:W/)?"[^"]*"\s*(?:,\s*(?:W/)?"[^"]*"\s*)*')
_ANY_VERSION = re.compile(r'"(0|[1-9][0-9]{0,18})"')
_VERSION = re.compile(r'(?<!W/)"(0|[1-9][0-9]{0,18})"')


def etag(version: int) -> str:
    """The ETag of a context at a version."""
    return f'"{version}"'


def idempotency_key(request: web.Request) -> str | None:
    """The key that the request carries, without its quotes. Raises InvalidInput for one that is none."""
    if _KEY not in request.headers:
        return None
    given = request.headers.getall(_KEY)
    key = given[0].strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = re.sub(r"\\(.)", r"\1", key[1:-1])
    if len(given) > 1 or not 0 < len(key) <= _LONGEST_KEY or not (key.isascii() and key.isprintable()):
        raise _misfit(IDEMPOTENCY_KEY, f"is one text of 1 to {_LONGEST_KEY} printable characters of ASCII")
    return key


def named(new: Sequence[E], etl_context_id: int, key: str) -> list[E]:
    """The events with an event_uuid out of the key: the key itself for a single one, if it is a UUID.

    Raises InvalidInput where an event has one already.
    """
    if any(event.event_uuid is not None for event in new):
        raise _misfit(IDEMPOTENCY_KEY, "and event_uuid exclude each other")
    if len(new) == 1 and (own := _uuid(key)) is not None:
        return [msgspec.structs.replace(new[0], event_uuid=own)]
    return [
        msgspec.structs.replace(event, event_uuid=uuid5(_KEYED_EVENTS, f"{etl_context_id} {place} {key}"))
        for place, event in enumerate(new)
    ]


async def matching_version(request: web.Request, etl_context_id: int) -> int | None:
    """The version that If-Match, which the request has, wants of the context; None where any will do.

    Raises InvalidInput for what is no ETag, NotFound, and PreconditionFailed where no version is such.
    """
    given = request.headers.getall(hdrs.IF_MATCH)
    if given[0].strip() == "*":
        return None
    text = ",".join(given)
    if not _TAGS.fullmatch(text):
        raise _misfit(IF_MATCH, 'is * or ETags, like "3"')
    versions = [int(tag) for tag in _VERSION.findall(text)]
    if len(versions) == 1:
        return min(versions[0], 2**63 - 1)
    version = (await tasks.status(etl_context_id)).version
    if version not in versions:
        raise PreconditionFailed(
            f"context {etl_context_id} is at version {version}, and If-Match names others",
            etl_context_id=etl_context_id, version=version,
        )  # fmt: skip
    return version


def is_known(request: web.Request, version: int) -> bool:
    """True where If-None-Match names the version. Raises InvalidInput for what is no ETag."""
    if hdrs.IF_NONE_MATCH not in request.headers:
        return False
    text = ",".join(request.headers.getall(hdrs.IF_NONE_MATCH))
    if text.strip() == "*":
        return True
    if not _TAGS.fullmatch(text):
        raise _misfit("If-None-Match", 'is * or ETags, like "3"')
    return str(version) in _ANY_VERSION.findall(text)  # compared weakly: W/ makes no difference (RFC 9110, 13.1.2)


def not_modified(version: int) -> web.Response:
    """The answer to who knows the version that a context is at."""
    return web.Response(status=304, headers={hdrs.ETAG: etag(version)})


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _misfit(header: str, takes: str) -> InvalidInput:
    return InvalidInput(f"{header} {takes}", header=header)
