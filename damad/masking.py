"""Takes secrets out of texts that damad writes down where they stay: its log, and the events that say what failed.

What is recorded in the log of events can never be changed again, and everybody reads it who may read the task. So what
follows the word password, token, dsn or authorization (also as the end of a longer name, as in PGPASSWORD or api_token)
and = or :, and what stands between : and @ in an address, is replaced. A name that holds no secret may be hit as well
(`token = next_token()`): that a line of a traceback says less is the lesser evil.
"""

import re
from typing import Final

MASK: Final = "***"
_QUOTE: Final = r"\\*[\"']"
_SECRET: Final = re.compile(
    rf"""
    (?P<name> (?:password|passwd|token|dsn|authorization) (?:{_QUOTE})? \s* (?:=>|:=|==|=|:) \s* (?:[bru](?=["']))? )
    (?:
        (?P<open> {_QUOTE}) .*? (?P<close> (?P=open) | $)   # in quotes, perhaps escaped ones, or cut off
      | (?P<scheme> (?:bearer|basic|digest) \s+ )? [^\s,;&()\[\]{{}}"'*]+
    )
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_IN_ADDRESS: Final = re.compile(r"(?P<before>://[^\s:/?#@\"']*:)[^\s/?#@\"']+(?=@)")
_HINTS: Final = re.compile("passw|token|dsn|authorization|://", re.IGNORECASE)


def masked(text: str) -> str:
    """The text with *** in the place of each secret; as it is where there is none."""
    if not _HINTS.search(text):
        return text
    return _SECRET.sub(_without, _IN_ADDRESS.sub(rf"\g<before>{MASK}", text))


def _without(found: re.Match[str]) -> str:
    open_, close = found["open"] or "", found["close"] or ""
    return f"{found['name']}{open_}{found['scheme'] or ''}{MASK}{close}"
