"""What is a traceparent, and what is none."""

import pytest

from damad.model import trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("flags", ["00", "01", "ff"])
def test_one_of_our_version_is_taken_as_it_is(flags: str) -> None:
    text = f"00-{TRACE}-{SPAN}-{flags}"
    assert trace.parse(text) == text and trace.trace_id(text) == TRACE


@pytest.mark.parametrize(
    "text",
    [
        None,
        1,
        "",
        "00",
        GOOD.upper(),
        f" {GOOD}",
        f"{GOOD}\n",
        f"{GOOD}-",
        f"{GOOD}-00",
        f"{GOOD},{GOOD}",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        f"01-{TRACE}-{SPAN}-01more",
        GOOD.replace("4", "٤"),
    ],
)
def test_what_is_none_is_ignored(text: object) -> None:
    assert trace.parse(text) is None


@pytest.mark.parametrize(("more", "flags"), [("", "01"), ("-", "03"), ("-what-comes-later", "ff")])
def test_of_a_later_version_is_taken_what_is_known(more: str, flags: str) -> None:
    assert trace.parse(f"cc-{TRACE}-{SPAN}-{flags}{more}") == GOOD


def test_meta_keeps_the_one_that_was_given_there() -> None:
    assert trace.kept(None, None) is None
    assert trace.kept(None, GOOD) == {"traceparent": GOOD}
    assert trace.kept({"a": 1, "traceparent": "mine"}, GOOD) == {"a": 1, "traceparent": "mine"}
    assert trace.of({"traceparent": "mine"}) is None and trace.of([GOOD]) is None and trace.of(None) is None
