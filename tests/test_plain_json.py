"""damad/model/plain_json.py: what it reads is what the strict reader reads, and it leaves to that whatever it must."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from damad.errors import InvalidInput
from damad.model.plain_json import NOT_PLAIN, read
from damad.model.strict_json import decode_exactly

TEXTS = st.text(st.sampled_from('ab:"\\{}[], \u00e9\U0001f600\0\x7f'), max_size=3)
NUMBERS = st.sampled_from(
    ["0", "-0", "1", "12e3", "0.5", "1e400", str(2**63 - 1), str(2**63), str(2**64), "-" + "9" * 19]
)
SPACES = st.sampled_from(["", "", " ", "\n\t"])


@st.composite
def _object(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(TEXTS, SPACES, SPACES, inner), max_size=3))
    ascii_ = draw(st.booleans())
    return "{" + ",".join(f"{json.dumps(key, ensure_ascii=ascii_)}{a}:{b}{v}" for key, a, b, v in pairs) + "}"


@st.composite
def _array(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    return "[" + f"{draw(SPACES)},".join(draw(st.lists(inner, max_size=3))) + "]"


DOCUMENTS = st.recursive(
    st.sampled_from(["null", "true", "NaN", "nul", "'a'"]) | NUMBERS | TEXTS.map(json.dumps),
    lambda inner: _object(inner) | _array(inner),
)
"""JSON texts, many of them with keys that stand twice, and what nearly is JSON."""


@given(text=DOCUMENTS)
@example(text='{"a" :1,"a":":"}')
@example(text='{"a":1,"b":{"a":2,"a":2}}')
@example(text='["a:", {"": "", "": ""}]')
def test_a_plain_text_is_read_as_the_strict_reader_reads_it(text: str) -> None:
    found = read(text.encode())
    if found is NOT_PLAIN:
        return
    value, grown = decode_exactly(text.encode())
    assert (json.dumps(found), grown) == (json.dumps(value), 0)  # as texts: 1, 1.0 and True are equal


@given(body=st.binary())
def test_no_bytes_are_plain_that_the_strict_reader_refuses(body: bytes) -> None:
    found = read(body)
    try:
        value, _ = decode_exactly(body)
    except InvalidInput:
        assert found is NOT_PLAIN
    else:
        assert found is NOT_PLAIN or found == value


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 1}',
        b'[{"a": {"b": "", "b": ""}}]',
        b'"\\u0000"',
        b'{"\\ud800": 1}',
        b"1.0",
        b"[9223372036854775808]",
        b"-9223372036854775809",
        b"123456789012345678901234567890",
        b"[" * 65 + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b"",
        b"NaN",
        b"\xef\xbb\xbf{}",
        b'"\xed\xa0\x80"',
    ],
)
def test_what_has_to_be_looked_at_is_not_plain(body: bytes) -> None:
    assert read(body) is NOT_PLAIN


@pytest.mark.parametrize(
    "body",
    [
        b'{"type": "gtfs:LOADED", "payload": {"rows": 1234, "file": "gtfs.zip"}}',
        b'[{"a": 1}, {"a": 1}, [[]], null, true]',
        '{"\u00e9": "\U0001f600"}'.encode(),
        b"[" * 64 + b"]" * 64,
        b'{"a":' * 63 + b"[1]" + b"}" * 63,
        b"[9223372036854775807, -9223372036854775808]",
    ],
)
def test_what_most_send_is_plain(body: bytes) -> None:
    assert read(body) == json.loads(body)
