"""damad/http/strict_json.py: what it takes and what it does not."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damad.errors import InvalidInput, InvalidJson
from damad.model.strict_json import decode

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)
)


@given(VALUES)
def test_whatever_fits_comes_out_as_it_was(value: Any) -> None:
    assert decode(json.dumps(value).encode())[0] == value
    assert decode(json.dumps(value, ensure_ascii=False).encode())[0] == value


@given(st.binary())
def test_no_bytes_end_in_anything_but_a_value_or_a_refusal(body: bytes) -> None:
    try:
        decode(body)
    except InvalidInput:
        return


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"{",
        b"[1,]",
        b"{'a': 1}",
        b"[1] 2",
        b"nul",
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b'"\0"',
        b'"\n"',
        b"\x00{}",
        "{}".encode("utf-16"),
        b'{"a": 1, "a": 1}',
        b'{"x": [{"a": 1, "b": 2, "\\u0061": 3}]}',
        b"NaN",
        b"[Infinity]",
        b'{"a": -Infinity}',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b'["\\ud800\\ud800"]',
        b"[" * 65 + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"01",
        b"+1",
        b".5",
        b"0x10",
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        decode(body)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"a": {"b/c": [0, "\\u0000"]}}', "/a/b~1c/1"),
        (b'{"~": {"\\u0000": 1}}', "/~0"),
        (b"9223372036854775808", ""),
        (b"[-9223372036854775809]", "/0"),
        (b'{"a": 1e309}', "/a"),
        (b'{"a": [-1e400]}', "/a/0"),
        (b'{"a": 1e-400}', "/a"),
        (b"0.0000001e-330", ""),
        (b'{"a": 9007199254740993.0}', "/a"),
        (b"[0.1234567890123456789]", "/0"),
        (b"[1.00000000000000000001]", "/0"),
        (b"[123456789012345678901234567890.5]", "/0"),
        (b"1" * 5000, None),
    ],
)
def test_what_postgres_or_a_double_cannot_hold_does_not_fit_and_is_pointed_at(body: bytes, pointer: str | None) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode(body)
    assert not isinstance(refused.value, InvalidJson)
    assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"1.7976931348623157e308", 1.7976931348623157e308),
        (b"5e-324", 5e-324),
        (b"0e-400", 0.0),
        (b"-0.0", 0.0),
        (b'"\\ud83d\\ude00"', "😀"),
        (b" [1] \n", [1]),
        (b'"\\\\u0000"', "\\u0000"),
    ],
)
def test_the_outermost_values_that_fit_are_taken(body: bytes, value: Any) -> None:
    assert decode(body)[0] == value


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"1e999", "too large for a double at the top"),
        (b"[-1e999]", "too large for a double at /0"),
        (b'{"a": 1e-400}', "too small for a double at /a"),
        (b"1" * 5000, "--payload holds a number"),
        (b"", "--payload is empty"),
        (b"\xef\xbb\xbf{}", "--payload begins with a byte order mark"),
        (b"\xff", "--payload is not UTF-8"),
    ],
)
def test_a_refusal_says_in_words_what_is_wrong_with_what(body: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        decode(body, called="--payload")


def test_64_levels_are_taken() -> None:
    assert decode(b"[" * 64 + b"]" * 64)[0]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_a_number_grows_by_when_it_is_read_back_is_known(number: float) -> None:
    text = repr(number)
    grown = decode(text.encode())[1]
    assert len(text) + grown + 25 >= len(format(number, "f").rstrip("0") if math.isfinite(number) else "")


def test_the_way_to_a_value_costs_nothing_while_all_fits() -> None:
    key = "k" * 1_000_000
    body = json.dumps({key: [0] * 200_000}).encode()
    assert decode(body)[0] == {key: [0] * 200_000}


@pytest.mark.parametrize(
    "text",
    [
        "0.1",
        "0.30000000000000004",
        "-16.9185510000000000",
        "0.10000000000000001",
        "1e22",
        "9007199254740992.0",
        "5.960464477539063e-08",
        "5.9604644775390625e-08",
    ],
)
def test_a_number_that_a_double_holds_as_it_was_written_is_taken(text: str) -> None:
    assert decode(text.encode())[0] == float(text)
