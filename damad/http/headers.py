"""What every answer says to whoever shows it: take it for what it says it is, keep no copy, put it into no frame.

A browser that was led to one of damad's addresses, or a cache between, is thereby of no use to somebody else. A page of
damad's own says what else it may load.
"""

from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web

ALWAYS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    hdrs.CACHE_CONTROL: "no-store",
    hdrs.SERVER: "damad",
}
POLICY: Final = "Content-Security-Policy"
NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"
"""The policy of what is no page: nothing is to be loaded, run or framed."""


async def add(_: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`."""
    add_to(response)


def add_to(response: web.StreamResponse) -> None:
    """Puts them on an answer."""
    response.headers.update(ALWAYS)
    response.headers.setdefault(POLICY, NOTHING)


def as_lines() -> str:
    """The same for an answer that is written by hand."""
    return "".join(f"{name}: {value}\r\n" for name, value in (*ALWAYS.items(), (POLICY, NOTHING)))
