"""The trace that something belongs to, as `traceparent` says it (W3C Trace Context, 2021, section 3.2).

It comes with a request, stays in the meta of the event that the request made, and is handed on to the worker. What is
no traceparent is ignored, as the Recommendation has it: nobody is refused for it.
"""

import re
from typing import Any, Final

KEY: Final = "traceparent"
"""Of the header, of the member of an event's meta, and, in capitals, of the worker's environment."""

_PARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.DOTALL,
)
_ZEROS: Final = re.compile(r"0+")
_SAMPLED: Final = 1


def parse(text: Any) -> str | None:
    """The traceparent, in the version that damad speaks (00), or None for what is none.

    Of a later version the beginning is read, which is to stay as it is, and of its flags the one that is known.
    """
    found = _PARENT.fullmatch(text) if isinstance(text, str) else None
    if found is None or found["version"] == "ff" or _ZEROS.fullmatch(found["trace"]) or _ZEROS.fullmatch(found["span"]):
        return None
    if found["version"] == "00":
        return None if found["more"] else text
    return f"00-{found['trace']}-{found['span']}-{int(found['flags'], 16) & _SAMPLED:02x}"


def of(meta: Any) -> str | None:
    """The traceparent that the meta of an event holds, or the payload of a STARTED, if it holds one."""
    return parse(meta.get(KEY)) if isinstance(meta, dict) else None


def kept(meta: dict[str, Any] | None, traceparent: str | None) -> dict[str, Any] | None:
    """The meta with the traceparent, unless there is none, or one was given there."""
    return meta if traceparent is None or KEY in (meta or {}) else {**(meta or {}), KEY: traceparent}


def said(where: Any) -> dict[str, str]:
    """What a log line says of a trace: its `trace_id`, if there is a traceparent in an event's meta or payload."""
    traceparent = of(where)
    return {} if traceparent is None else {"trace_id": trace_id(traceparent)}


def trace_id(traceparent: str) -> str:
    """The id of the trace: 32 hexadecimal digits."""
    return traceparent[3:35]
