"""Durations and sizes as people write them: the same words everywhere."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damad import units
from damad.errors import InvalidInput


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [
        (0, 0.0),
        (30, 30.0),
        (0.25, 0.25),
        ("250ms", 0.25),
        ("30s", 30.0),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
        ("90", 90.0),
        (" 5 s ", 5.0),
    ],
)
def test_a_duration_is_a_number_of_seconds_or_a_number_and_a_unit(given_: Any, seconds: float) -> None:
    assert units.duration(given_) == seconds
    assert isinstance(units.duration(given_), float)


@pytest.mark.parametrize(
    "given_",
    [
        *(
            "",
            "s",
            "30 seconds",
            "-1",
            "-1s",
            "1e3",
            "1h30m",
            "30S",
            "1w",
            ".5s",
            "1.s",
            "5s\n5s",
            "0x10",
            "nan",
            "inf",
        ),
        *(-1, -0.001, float("nan"), float("inf"), 10**400, "9" * 400, True, None, [], {"seconds": 1}, b"5s"),
    ],
    ids=repr,
)
def test_another_duration_is_refused_and_the_refusal_shows_it(given_: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        units.duration(given_, pointer="/expire_in")
    assert refused.value.pointer == "/expire_in"
    assert repr(given_)[:20] in str(refused.value)


@given(st.floats(0, 1e9), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_unit_multiplies(number: float, unit: str) -> None:
    text = f"{number:.6f}"
    factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    try:
        assert units.duration(text + unit) == float(text) * factor
    except InvalidInput:
        assert float(text) * factor > 100 * 366 * 86400


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans())
def test_whatever_is_given_is_a_duration_or_refused(given_: Any) -> None:
    try:
        assert 0 <= units.duration(given_) <= 100 * 366 * 86400
    except InvalidInput as refused:
        assert str(refused)


@pytest.mark.parametrize(
    ("given_", "size"),
    [
        (0, 0),
        (1024, 1024),
        ("1024", 1024),
        ("10MB", 10_000_000),
        ("512kB", 512_000),
        ("2GB", 2_000_000_000),
        ("7b", 7),
        ("1 mb", 1_000_000),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_a_size_is_a_number_of_bytes_or_a_number_and_a_unit(given_: Any, size: int) -> None:
    assert units.size(given_) == size


@pytest.mark.parametrize(
    "given_", ["", "MB", "1.5MB", "-1", "1TB", "1MiB", "10 megabytes", "9" * 5000, -1, 1.5, 2**63, True, None, []]
)
def test_another_size_is_refused(given_: Any) -> None:
    with pytest.raises(InvalidInput, match="size"):
        units.size(given_)


@given(st.from_regex(r"[0-9]{1,30} ?([kKmMgG]?[bB])?", fullmatch=True) | st.text() | st.integers() | st.floats())
def test_whatever_is_given_is_a_size_that_a_file_can_have_or_refused(given_: Any) -> None:
    try:
        assert 0 <= units.size(given_) < 2**63
    except InvalidInput as refused:
        assert str(refused)
