"""The settings of a task: what a caller may give, and how the log's are read back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damad.errors import InvalidInput
from damad.model.settings import NAMES, TaskSettings, decode, from_texts, is_name, parse


def test_only_the_worker_must_be_given_and_what_was_not_given_is_not_written_down() -> None:
    assert parse({"worker": "hello.py"}) == {"worker": "hello.py"}
    assert parse({"worker": "hello.py", "queue": None, "expire_in": None}) == {"worker": "hello.py"}


def test_the_defaults_are_those_of_the_contract() -> None:
    default = TaskSettings(worker="hello.py")
    assert (default.queue, default.priority, default.retry_limit) == ("default", 0, 2)
    assert (default.retry_delay, default.retry_backoff, default.expire_in) == (1.0, True, None)


def test_durations_are_written_down_in_seconds_and_the_worker_as_it_was_given() -> None:
    given_ = {"worker": "./a/../hello.py", "retry_delay": "250ms", "retry_delay_max": "10m", "expire_in": "2h"}
    assert parse(given_) == {
        "worker": "./a/../hello.py",
        "retry_delay": 0.25,
        "retry_delay_max": 600.0,
        "expire_in": 7200.0,
    }


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        (30, 30.0),
        ("30s", 30.0),
        (0, 0.0),
        ("2026-01-31T08:00:00+01:00", "2026-01-31T08:00:00+01:00"),
        ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00+00:00"),
        ("2026-01-31T08:00:00.123456-09:30", "2026-01-31T08:00:00.123456-09:30"),
        ("2026-01-31t08:00:00z", "2026-01-31T08:00:00+00:00"),
        ("0002-01-01T00:00:00Z", "0002-01-01T00:00:00+00:00"),
        ("9998-12-31T23:59:59Z", "9998-12-31T23:59:59+00:00"),
    ],
)
def test_start_after_is_a_duration_or_a_time_with_an_offset(given_: Any, kept: Any) -> None:
    assert parse({"worker": "x", "start_after": given_})["start_after"] == kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker", ""),
        ("worker", None),
        ("worker", 7),
        ("worker", "x" * 1025),
        ("queue", ""),
        ("queue", "Gpu"),
        ("queue", "1gpu"),
        ("queue", "gpu-1"),
        ("queue", "gpü"),
        ("queue", "g" * 64),
        ("queue", 7),
        ("priority", "high"),
        ("priority", 1.5),
        ("priority", True),
        ("priority", 2**31),
        ("priority", -(2**31) - 1),
        ("start_after", "soon"),
        ("start_after", -1),
        ("start_after", "2026-01-31"),
        ("start_after", "2026-01-31T08:00:00"),
        ("start_after", "2026-02-31T08:00:00Z"),
        ("start_after", "0001-01-01T00:00:00+14:00"),
        ("start_after", "9999-12-31T23:59:59-14:00"),
        ("start_after", "0001-06-01T00:00:00Z"),
        ("start_after", "0002-01-01T00:00:00+00:01"),
        ("start_after", "9999-06-01T00:00:00Z"),
        ("start_after", "9998-12-31T23:59:59-00:01"),
        ("start_after", True),
        ("start_after", {}),
        ("retry_limit", -1),
        ("retry_limit", 1.5),
        ("retry_limit", "two"),
        ("weight", 0),
        ("weight", 10**9),
        ("weight", 1.5),
        ("weight", "2"),
        ("retry_limit", 2**31),
        ("retry_delay", "soon"),
        ("retry_delay", -1),
        ("retry_delay", float("nan")),
        ("retry_delay_max", "-1s"),
        ("retry_backoff", 1),
        ("retry_backoff", "yes"),
        ("expire_in", 0),
        ("expire_in", "never"),
        ("start_by", "soon"),
        ("start_by", "2026-01-31T08:00:00"),
        ("start_by", "9999-06-01T00:00:00Z"),
        ("start_by", -1),
        ("heartbeat", 0),
        ("heartbeat", "2026-01-31T08:00:00Z"),
        ("debounce", "0s"),
        ("throttle", 0),
        ("throttle", "2026-01-31T08:00:00Z"),
        ("debounce", "2026-01-31T08:00:00Z"),
        ("singleton_key", ""),
        ("singleton_key", "k" * 1025),
        ("singleton_key", 7),
        ("idempotency_key", ""),
        ("idempotency_key", "k" * 1025),
        ("idempotency_key", 7),
        ("idempotency_key", "\0"),
        ("idempotency_key", "\ud800"),
        ("memory_limit", "63MB"),
        ("memory_limit", "much"),
        ("memory_limit", 1e9),
        ("cpu_limit", 0.5),
        ("cpu_limit", "1MB"),
        ("open_files", 63),
        ("open_files", 2**20 + 1),
        ("open_files", "100"),
        ("work_dir", ""),
        ("work_dir", 7),
        ("run_in", "thread"),
        ("run_in", True),
        ("heart", 1),
        ("dama_host_id", "x"),
        ("payload", 1),
        ("a/b~c", 1),
    ],
)
def test_a_setting_that_does_not_fit_is_pointed_at(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse({"worker": "hello.py", name: value}, pointer="/2")
    assert refused.value.pointer == "/2/" + name.replace("~", "~0").replace("/", "~1")


def test_without_a_worker_there_is_no_task() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse({"queue": "default"})
    assert "worker" in str(refused.value)
    assert refused.value.pointer == "/worker"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("queue", "gpu", "gpu"),
        ("weight", "2", 2),
        ("priority", "-5", -5),
        ("retry_limit", "0", 0),
        ("retry_backoff", "false", False),
        ("retry_backoff", "true", True),
        ("expire_in", "30s", 30.0),
        ("heartbeat", "1m", 60.0),
        ("debounce", "250ms", 0.25),
        ("memory_limit", "1GB", 1_000_000_000),
        ("cpu_limit", "2m", 120.0),
        ("open_files", "100", 100),
        ("throttle", "1d", 86400.0),
        ("singleton_key", "7", "7"),
        ("start_by", "2h", 7200.0),
        ("start_by", "2026-01-31T08:00:00+01:00", "2026-01-31T08:00:00+01:00"),
        ("retry_delay", "1.5", 1.5),
        ("start_after", "90", 90.0),
        ("start_after", "10m", 600.0),
        ("start_after", "2026-01-31T08:00:00+00:00", "2026-01-31T08:00:00+00:00"),
        ("idempotency_key", "7", "7"),
        ("work_dir", "1e3", "1e3"),
        ("run_in", "daemon", "daemon"),
    ],
)
def test_a_flag_and_a_variable_are_texts_that_mean_the_same(name: str, text: str, value: Any) -> None:
    assert parse({"worker": "x", **from_texts({name: text})}) == {"worker": "x", name: value}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("priority", "no whole number"), ("retry_limit", "no whole number"), ("retry_backoff", "neither true nor false")],
)
def test_a_text_that_does_not_fit_is_refused_by_its_name_and_told_what_is_wanted(name: str, wanted: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name} 'many' is {wanted}$"):
        from_texts({name: "many"})


@pytest.mark.parametrize(("name", "bound"), [("retry_limit", "0 to 2147483647"), ("priority", "-2147483648 to")])
def test_a_number_beyond_its_bounds_is_told_both(name: str, bound: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} is a number from {bound}"):
        parse({"worker": "x", name: 2**31})


@pytest.mark.parametrize("text", ["a", "default", "gpu_2", "a_", "a" * 63])
def test_a_name_is_small_letters_digits_and_underscores(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize("text", ["", "A", "_a", "1a", "a-b", "a b", "a.b", "ä", "a\n", "ª", "a" * 64])
def test_another_name_is_none(text: str) -> None:
    assert not is_name(text)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), plain), st.sampled_from(["hello.py", 7, None]))
def test_whatever_is_given_is_taken_or_refused_and_what_is_taken_is_taken_again(given_: Any, worker: Any) -> None:
    try:
        taken = parse({"worker": worker, **given_})
    except InvalidInput as refused:
        assert refused.pointer
        return
    assert parse(taken) == taken
    assert decode(taken) == decode({**taken, "unknown": 1})


@given(st.dictionaries(st.sampled_from([*sorted(NAMES), "worker_path", "dama_host_id"]), plain))
def test_what_the_log_holds_is_read_however_wrong_it_is(recorded: dict[str, Any]) -> None:
    assert isinstance(decode(recorded), TaskSettings)


def test_what_does_not_fit_in_the_log_counts_as_not_given() -> None:
    read = decode({"worker": "x", "retry_limit": "many", "priority": 3, "queue": None, "elsewhere": 1})
    assert read == TaskSettings(worker="x", priority=3)


@pytest.mark.parametrize(
    ("name", "recorded", "read"),
    [
        ("expire_in", "30s", 30.0),
        ("retry_delay", "250ms", 0.25),
        ("retry_delay_max", "10m", 600.0),
        ("retry_delay", 2, 2.0),
        ("retry_limit", "0", 0),
        ("priority", "-5", -5),
        ("weight", "3", 3),
        ("memory_limit", "1GB", 1_000_000_000),
        ("cpu_limit", "2m", 120.0),
        ("open_files", "100", 100),
    ],
)
def test_plain_sql_may_write_durations_and_numbers_as_texts(name: str, recorded: Any, read: Any) -> None:
    assert getattr(decode({"worker": "x", name: recorded}), name) == read


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        *((name, wrong) for name in ("retry_delay", "retry_delay_max", "expire_in") for wrong in (-1, 1e300, "soon")),
        ("expire_in", 0),
        ("retry_limit", -1),
        ("retry_limit", "two"),
        ("weight", 0),
        ("weight", 10**9),
        ("weight", 1.5),
        ("priority", 2**31),
    ],
)
def test_what_nobody_could_act_by_counts_as_not_given(name: str, recorded: Any) -> None:
    assert decode({"worker": "x", name: recorded}) == TaskSettings(worker="x")


def test_the_original_calls_the_worker_worker_path() -> None:
    assert decode({"worker_path": "old.py"}).worker == "old.py"
    assert decode({"worker_path": "old.py", "worker": "new.py"}).worker == "new.py"


def test_the_contracts_settings_of_this_version_are_all_there() -> None:
    assert {
        "worker", "queue", "priority", "start_after", "retry_limit", "retry_delay", "retry_backoff", "retry_delay_max",
        "expire_in", "start_by", "heartbeat", "idempotency_key", "singleton_key", "debounce", "throttle", "work_dir",
        "run_in",
    } <= NAMES  # fmt: skip
