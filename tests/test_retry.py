"""What becomes of a task whose attempt failed. Pure: time and chance are arguments."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damad.model.retry import CRASHES, Counts, Failure, conclude, delay
from damad.model.settings import TaskSettings, decode

NOW = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
NONE = Counts(errors=0, crashes=0)
KINDS = ["exception", "no_final", "bad_result", "timeout", "load", "exit", "signal", "oom", "lost"]

limits = st.integers(0, 5)
counts = st.builds(Counts, errors=st.integers(0, 6), crashes=st.integers(0, 6))
chances = st.floats(0, 1, exclude_max=True)


def failed(kind: str = "exception", **given_: Any) -> Failure:
    return Failure(attempt=3, kind=kind, message="no", **given_)


def what_follows(failure: Failure, before: Counts = NONE, **given_: Any) -> list[str]:
    chosen = TaskSettings(worker="x", **given_)
    return [event.type for event in conclude(failure, before, settings=chosen, now=NOW, random=0.5)]


def test_crashes_are_those_that_the_process_died_of() -> None:
    assert {"exit", "signal", "oom", "lost"} == CRASHES


def test_an_attempt_that_failed_is_retried_while_the_limit_allows_it() -> None:
    assert what_follows(failed()) == ["dama/task:ERROR", "dama/task:RETRY"]
    assert what_follows(failed(), Counts(errors=1, crashes=0)) == ["dama/task:ERROR", "dama/task:RETRY"]
    assert what_follows(failed(), Counts(errors=2, crashes=0)) == ["dama/task:ERROR", "dama/task:FAILED"]
    assert what_follows(failed(), retry_limit=0) == ["dama/task:ERROR", "dama/task:FAILED"]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_and_crashes_are_bounded_each_on_its_own(kind: str) -> None:
    other = Counts(errors=2, crashes=0) if kind in CRASHES else Counts(errors=0, crashes=2)
    same = Counts(errors=0, crashes=2) if kind in CRASHES else Counts(errors=2, crashes=0)
    assert what_follows(failed(kind), other)[-1] == "dama/task:RETRY"
    assert what_follows(failed(kind), same)[-1] == "dama/task:FAILED"


@pytest.mark.parametrize("named", ["ValueError", "shop.Refused", 7])
def test_what_no_retry_names_fails_at_once_and_nothing_else_does(named: str | int) -> None:
    chosen = TaskSettings(worker="x", no_retry=("KeyError", named, 9))
    known_by = failed(known_by=("ValueError", "shop.Refused"), exit_code=7)
    said = conclude(known_by, NONE, settings=chosen, now=NOW, random=0.5)
    assert (said[-1].type, said[-1].payload["reason"]) == ("dama/task:FAILED", f"not retryable: {named} is in no_retry")
    other = conclude(failed(known_by=("OSError",), exit_code=101), NONE, settings=chosen, now=NOW, random=0.5)
    assert other[-1].type == "dama/task:RETRY"


@given(st.sampled_from(KINDS), counts, limits, chances)
def test_a_task_fails_exactly_when_one_sort_is_over_the_limit(
    kind: str, before: Counts, limit: int, random: float
) -> None:
    chosen = TaskSettings(worker="x", retry_limit=limit)
    said = conclude(failed(kind), before, settings=chosen, now=NOW, random=random)
    crashes = before.crashes + (kind in CRASHES)
    errors = before.errors + (kind not in CRASHES)
    assert said[0].type == "dama/task:ERROR"
    assert [event.type for event in said[1:]] == [
        "dama/task:FAILED" if max(errors, crashes) > limit else "dama/task:RETRY"
    ]


def test_a_failure_that_no_retry_would_mend_fails_at_once() -> None:
    assert what_follows(failed(retryable=False)) == ["dama/task:ERROR", "dama/task:FAILED"]
    assert what_follows(failed(retryable=False, retry_in=1.0)) == ["dama/task:ERROR", "dama/task:FAILED"]


def test_a_worker_that_knows_when_is_obeyed_within_the_limit() -> None:
    said = conclude(failed(retry_in=90.0), NONE, settings=TaskSettings(worker="x"), now=NOW, random=0.5)
    assert datetime.fromisoformat(said[1].payload["run_at"]) == NOW + timedelta(seconds=90)
    assert what_follows(failed(retry_in=90.0), retry_limit=0)[-1] == "dama/task:FAILED"


@pytest.mark.parametrize(("asked", "seconds"), [("10m", 600), (0, 0), (1.5, 1.5)])
def test_a_worker_may_ask_with_any_duration(asked: Any, seconds: float) -> None:
    said = conclude(failed(retry_in=asked), NONE, settings=TaskSettings(worker="x"), now=NOW, random=0.5)
    assert datetime.fromisoformat(said[1].payload["run_at"]) == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize("asked", [float("inf"), float("nan"), -1, 1e300, "soon", [], True], ids=repr)
def test_a_worker_that_asks_for_nonsense_is_retried_as_if_it_had_not_asked(asked: Any) -> None:
    chosen = TaskSettings(worker="x", retry_delay=7.0, retry_backoff=False)
    said = conclude(failed(retry_in=asked), NONE, settings=chosen, now=NOW, random=0.5)
    assert datetime.fromisoformat(said[1].payload["run_at"]) == NOW + timedelta(seconds=7)


@given(
    st.dictionaries(
        st.sampled_from(["retry_limit", "retry_delay", "retry_delay_max", "retry_backoff"]),
        st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.text() | st.none(),
    ),
    counts,
    chances,
)
def test_whatever_settings_the_log_holds_a_failure_is_concluded(
    recorded: dict[str, Any], before: Counts, random: float
) -> None:
    said = conclude(failed(), before, settings=decode({"worker": "x", **recorded}), now=NOW, random=random)
    assert [event.type for event in said] in (
        ["dama/task:ERROR", "dama/task:RETRY"],
        ["dama/task:ERROR", "dama/task:FAILED"],
    )
    if said[1].type == "dama/task:RETRY":
        assert datetime.fromisoformat(said[1].payload["run_at"]) >= NOW


def test_the_error_event_has_every_field_of_the_contract() -> None:
    failure = failed("signal", signal=9, traceback="…")
    error = conclude(failure, NONE, settings=TaskSettings(worker="x"), now=NOW, random=0.5)[0]
    assert error.error is True
    assert error.payload == {
        "attempt": 3,
        "kind": "signal",
        "message": "no",
        "type": None,
        "traceback": "…",
        "exit_code": None,
        "signal": 9,
    }


def test_without_backoff_the_delay_is_always_the_same() -> None:
    chosen = TaskSettings(worker="x", retry_backoff=False, retry_delay=7.0)
    assert {delay(chosen, n, random=r) for n in range(1, 10) for r in (0.0, 0.5, 0.99)} == {7.0}


@given(st.floats(0.001, 1e4), st.integers(1, 10_000), chances, st.none() | st.floats(0, 1e5))
def test_with_backoff_the_delay_doubles_up_to_its_limit_and_no_retry_is_before_retry_delay(
    first: float, failures: int, random: float, most: float | None
) -> None:
    chosen = TaskSettings(worker="x", retry_delay=first, retry_delay_max=most)
    longest = min(first * 2.0 ** min(failures, 60), 86400.0 if most is None else most)
    seconds = delay(chosen, failures, random=random)
    assert min(first, longest) <= seconds <= longest


def test_a_retry_delay_of_days_is_kept() -> None:
    chosen = TaskSettings(worker="x", retry_delay=7 * 86400.0)
    assert delay(chosen, 1, random=0.5) == 7 * 86400.0


@given(st.integers(1, 40), chances, chances)
def test_chance_spreads_the_retries_of_tasks_that_failed_together(failures: int, one: float, other: float) -> None:
    chosen = TaskSettings(worker="x")
    low, high = sorted((one, other))
    assert delay(chosen, failures, random=low) <= delay(chosen, failures, random=high)
    assert delay(chosen, 11, random=0.9) > delay(chosen, 11, random=0.1)


@given(st.sampled_from(KINDS), chances, st.floats(0, 1e6))
def test_the_time_of_the_retry_stands_in_the_event(kind: str, random: float, first: float) -> None:
    chosen = TaskSettings(worker="x", retry_delay=first)
    retry = conclude(failed(kind), NONE, settings=chosen, now=NOW, random=random)[1]
    expected = NOW + timedelta(seconds=delay(chosen, 1, random=random))
    assert datetime.fromisoformat(retry.payload["run_at"]) == expected
