"""What damad takes as JSON: what Postgres can hold and give back unchanged."""

import json
from collections import namedtuple
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damad.eventstore.pools import Database
from damad.model import json_value
from damad.model.json_value import MAX_DEPTH, NotJson, check, encode

Point = namedtuple("Point", "x y")


class Metres(float):
    """A float of a caller's own, as numpy's are."""


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_what_is_taken_reads_back_the_same(value: Any) -> None:
    check(value)
    assert msgspec.json.decode(encode(value)) == value
    assert json.loads(encode(value)) == value


@given(values)
async def test_postgres_gives_back_what_was_written(database: Database, value: Any) -> None:
    async with database.connection() as connection:
        read = await connection.fetchval("SELECT $1::jsonb", {"value": value})
    assert read == {"value": value}


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=2.0**53))
async def test_what_was_read_back_can_be_written_again(database: Database, large: float) -> None:
    """A large float comes back from jsonb without its point; it must not become an integer that is then refused."""
    async with database.connection() as connection:
        read = await connection.fetchval("SELECT $1::jsonb", large)
    assert read == large
    check(read)


@pytest.mark.parametrize(
    "value",
    [1e16, -1e300, [1e16], [1, -1e22], [1e16, 1], {"a": 1e17}, {"a": 1.5e99, "b": "1e16"}, {"e1": [{"a": 1e16}]}],
)
def test_a_large_double_is_written_with_its_point_wherever_it_stands(value: Any) -> None:
    """An exponent is what jsonb does not keep: it would give an integer back."""
    doubles: list[str] = []
    json.loads(encode(value), parse_float=doubles.append)
    assert len(doubles) == 1 and "e" not in doubles[0]
    assert json.loads(encode(value)) == value


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        (float("nan"), ""),
        (float("inf"), ""),
        (float("-inf"), ""),
        (2**64, ""),
        (-(2**63) - 1, ""),
        (b"bytes", ""),
        ({1, 2}, ""),
        (object(), ""),
        (UUID(int=1), ""),
        (1j, ""),
        ("\0", ""),
        ("\ud800", ""),
        ([0, {"a": float("nan")}], "/1/a"),
        ({"a/b": {"c~d": b""}}, "/a~1b/c~0d"),
        ({1: 2}, ""),
        ({None: 2}, ""),
        ({"a": {True: 2}}, "/a"),
        ({"a\0": 1}, ""),
        ((1, (2, b"")), "/1/1"),
    ],
)
def test_what_json_or_postgres_cannot_hold_is_refused_and_pointed_at(value: Any, pointer: str) -> None:
    with pytest.raises(NotJson) as refused:
        check(value)
    assert refused.value.pointer == pointer
    with pytest.raises(NotJson):
        encode(value)


def test_a_cycle_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(NotJson):
        check(cycle)


def test_nesting_is_taken_up_to_its_limit() -> None:
    def nested(depth: int) -> Any:
        return [nested(depth - 1)] if depth > 1 else []

    check(nested(MAX_DEPTH))
    with pytest.raises(NotJson, match=str(MAX_DEPTH)):
        check(nested(MAX_DEPTH + 1))
    assert MAX_DEPTH == 64


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Point(1, 2), b"[1,2]"),
        ((1, 2), b"[1,2]"),
        (Metres(1.5), b"1.5"),
        (Colour.RED, b'"red"'),
        (Level.HIGH, b"3"),
        ({Colour.RED: Level.HIGH}, b'{"red":3}'),
        (True, b"true"),
        (-(2**63), b"-9223372036854775808"),
    ],
)
def test_what_a_check_takes_can_be_written(value: Any, text: bytes) -> None:
    """Subclasses of JSON's types pass the check, so they must be written as what they are."""
    assert encode(value) == text


async def test_what_a_check_takes_can_be_sent_to_postgres(database: Database) -> None:
    given_ = {"point": Point(1, 2), "metres": Metres(1.5), Colour.RED: Level.HIGH}
    check(given_)
    async with database.connection() as connection:
        read = await connection.fetchval("SELECT $1::jsonb", given_)
    assert read == {"point": [1, 2], "metres": 1.5, "red": 3}


def test_a_refusal_says_why_and_where() -> None:
    with pytest.raises(NotJson, match="no JSON number, at /a/0"):
        json_value.check({"a": [float("nan")]})
