"""The table of transitions and the fold, without any database: no fixture, no clock."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damad.errors import IllegalTransition
from damad.model import lifecycle
from damad.model.event import SETTINGS_KEY
from damad.model.lifecycle import ENDED, TASK_STATES, TRANSITIONS, Context, LoggedEvent, evolve, fold

HOST = "6f0b1a52-52bb-4c92-a0d6-7a4df3a7d5d1"
BEGAN = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
LATER = "2030-01-01T00:00:00+00:00"
CONTEXT_STATES = {"new", "open", "error"}
KINDS = sorted({kind for _, kind in TRANSITIONS})
TYPES = {
    "INITIAL": "x:INITIAL",
    "TASK_INITIAL": ":INITIAL",
    "FINAL": "x:FINAL",
    "EVENT": "x:A",
    "EVENT_ERROR": "x:ERROR",
}


def event(
    kind: str, version: int, *, payload: Any = None, fence: int | None = None, task: dict[str, Any] | None = None
) -> LoggedEvent:
    """An event of a kind, a second after the one before it."""
    settings = {"worker": "hello.py", **(task or {})} if kind == "TASK_INITIAL" else None
    return LoggedEvent(
        event_id=100 + version,
        version=version,
        type=TYPES.get(kind, f"dama/task:{kind}"),
        payload=payload,
        meta=None if settings is None else {SETTINGS_KEY: settings},
        fence=fence,
        created_timestamp=BEGAN + timedelta(seconds=version),
    )


def payload_of(kind: str, fence: int = 0) -> Any:
    return {
        "CLAIMED": {"fence": fence + 1, "host_id": HOST},
        "STARTED": {"attempt": fence, "pid": 4711},
        "ERROR": {"kind": "exit"},
        "RETRY": {"run_at": LATER},
        "PROGRESS": {"fraction": 0.5},
    }.get(kind)


def after(*kinds: str, **task: Any) -> Context:
    """The projection after events of these kinds."""
    context = Context()
    for version, kind in enumerate(kinds, 1):
        fence = context.task.fence if context.task else 0
        context = evolve(context, event(kind, version, payload=payload_of(kind, fence), task=task))
    return context


def test_the_table_leads_nowhere_that_it_does_not_know() -> None:
    states = {state for state, _ in TRANSITIONS}
    assert set(TRANSITIONS.values()) - states == {"done"}
    assert states | {"done"} == CONTEXT_STATES | set(TASK_STATES) | {"erred"}


def test_every_state_can_be_reached_from_the_beginning() -> None:
    reached, found = {"new"}, True
    while found:
        found = {after for (state, _), after in TRANSITIONS.items() if state in reached} - reached
        reached |= found
    assert reached | {"scheduled"} == CONTEXT_STATES | set(TASK_STATES) | {"erred"}


def test_nothing_follows_done_and_only_requeued_follows_failed_and_cancelled() -> None:
    assert [kind for state, kind in TRANSITIONS if state == "done"] == []
    for state in ("failed", "cancelled"):
        assert {kind: TRANSITIONS[state, kind] for before, kind in TRANSITIONS if before == state} == {
            "REQUEUED": "queued"
        }
    assert {"done", "failed", "cancelled"} == ENDED


def test_the_first_event_is_the_only_initial() -> None:
    assert {kind for state, kind in TRANSITIONS if state == "new"} == {"INITIAL", "TASK_INITIAL"}
    assert {state for state, kind in TRANSITIONS if kind in ("INITIAL", "TASK_INITIAL")} == {"new"}


def test_every_open_task_can_be_cancelled_and_every_open_context_can_end() -> None:
    for state in set(TASK_STATES) - ENDED - {"cancelling"}:
        assert TRANSITIONS[state, "CANCEL_REQUESTED"] == "cancelling"
    for state in (set(TASK_STATES) - ENDED) | {"open", "error"}:
        assert TRANSITIONS[state, "FINAL"] == "done"


def test_an_error_event_from_outside_fails_no_attempt() -> None:
    for state in set(TASK_STATES) - ENDED:
        assert TRANSITIONS[state, "EVENT_ERROR"] == state


def test_what_is_no_task_knows_none_of_damads_own_events() -> None:
    own = {kind for kind in KINDS if kind not in TYPES}
    assert not [(state, kind) for state, kind in TRANSITIONS if state in CONTEXT_STATES and kind in own]


@given(st.sampled_from(sorted({state for state, _ in TRANSITIONS})), st.sampled_from([*KINDS, "NONSENSE"]))
def test_an_absent_cell_is_the_refusal(state: str, kind: str) -> None:
    context = Context(etl_status=state.upper(), version=3) if state in CONTEXT_STATES else after("TASK_INITIAL")
    if state == "new":
        context = Context()
    elif context.task is not None:
        context = Context(etl_status="OPEN", version=3, task=msgspec.structs.replace(context.task, state=state))
    new = event(kind, context.version + 1, payload=payload_of(kind))
    if (state, kind) in TRANSITIONS:
        assert evolve(context, new).state in (TRANSITIONS[state, kind], "scheduled")
        return
    with pytest.raises(IllegalTransition) as refused:
        evolve(context, new)
    assert refused.value.values == {"type": new.type, "state": state}


@pytest.mark.parametrize(
    ("type_", "status"),
    [
        (":INITIAL", "OPEN"),
        ("x:FINAL", "DONE"),
        ("x:ERROR", "ERROR"),
        ("x:LOADED", "OPEN"),
        ("dama/task:FAILED", "ERROR"),
        ("dama/task:CANCELLED", "ERROR"),
        ("dama/task:ERROR", "ERROR"),
        ("dama/task:RETRY", "OPEN"),
        ("dama/task:REQUEUED", "OPEN"),
        ("dama/task:CANCEL_REQUESTED", "OPEN"),
    ],
)
def test_etl_status_follows_the_type_as_in_the_original(type_: str, status: str) -> None:
    assert lifecycle.etl_status_after(type_) == status


def test_a_context_without_events_is_new() -> None:
    assert fold([]) == Context()
    assert Context().state == "new"


def test_a_context_that_is_no_task_is_open_in_error_or_done() -> None:
    assert [after(*kinds).state for kinds in (["INITIAL"], ["INITIAL", "EVENT_ERROR"], ["INITIAL", "FINAL"])] == [
        "open",
        "error",
        "done",
    ]
    assert after("INITIAL", "EVENT_ERROR", "EVENT").state == "open"


def test_the_projection_knows_its_first_and_its_latest_event() -> None:
    context = after("INITIAL", "EVENT", "FINAL")
    assert (context.initial_event_id, context.latest_event_id, context.version) == (101, 103, 3)


@pytest.mark.parametrize(
    ("start_after", "state", "run_at"),
    [
        (None, "queued", BEGAN + timedelta(seconds=1)),
        (0, "queued", BEGAN + timedelta(seconds=1)),
        (90, "scheduled", BEGAN + timedelta(seconds=91)),
        ("10m", "scheduled", BEGAN + timedelta(seconds=601)),
        ("2026-01-31T09:30:00+01:00", "scheduled", BEGAN + timedelta(minutes=30)),
        ("2020-01-01T00:00:00Z", "queued", datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_task_is_scheduled_until_its_time(start_after: Any, state: str, run_at: datetime) -> None:
    task = after("TASK_INITIAL", start_after=start_after).task
    assert task is not None
    assert (task.state, task.run_at) == (state, run_at)


def test_a_claim_raises_the_fence_and_a_start_counts_the_attempt() -> None:
    task = after("TASK_INITIAL", "CLAIMED", "STARTED").task
    assert task is not None
    assert (task.fence, task.host_id, task.attempt, task.pid) == (1, UUID(HOST), 1, 4711)
    assert task.started_at == BEGAN + timedelta(seconds=3)


def test_a_claim_that_never_started_burns_nothing() -> None:
    task = after("TASK_INITIAL", "CLAIMED", "RELEASED").task
    assert task is not None
    assert (task.state, task.attempt, task.errors, task.crashes, task.fence) == ("queued", 0, 0, 0, 1)


def test_a_failure_is_counted_by_its_sort_and_remembered() -> None:
    task = after("TASK_INITIAL", "CLAIMED", "STARTED", "ERROR", "RETRY").task
    assert task is not None
    assert (task.state, task.errors, task.crashes, task.error) == ("retrying", 0, 1, {"kind": "exit"})
    assert (task.pid, task.run_at) == (None, datetime.fromisoformat(LATER))


def test_a_person_who_tries_again_starts_the_counts_anew() -> None:
    task = after("TASK_INITIAL", "CLAIMED", "STARTED", "ERROR", "FAILED", "REQUEUED").task
    assert task is not None
    assert (task.state, task.errors, task.crashes, task.error, task.finished_at) == ("queued", 0, 0, None, None)
    assert (task.attempt, task.fence) == (1, 1)


def test_a_run_resumed_after_a_wait_keeps_its_number() -> None:
    waiting = after("TASK_INITIAL", "CLAIMED", "STARTED", "WAITING").task
    resumed = after("TASK_INITIAL", "CLAIMED", "STARTED", "WAITING", "RESUMED").task
    assert waiting is not None and resumed is not None
    assert (waiting.state, waiting.resumed, resumed.state, resumed.resumed) == ("waiting", False, "queued", True)
    assert after("TASK_INITIAL", "CLAIMED", "STARTED", "WAITING", "RESUMED", "CLAIMED", "STARTED").task.resumed is False


def released(*before: str, **payload: Any) -> bool:
    """Whether the next run goes on with the attempt of one that was given back, after these events."""
    context = after("TASK_INITIAL", *before)
    task = evolve(context, event("RELEASED", context.version + 1, payload={"reason": "x", **payload})).task
    assert task is not None and task.state == "queued"
    return task.resumed


def test_a_run_that_was_handed_back_keeps_its_number_where_its_event_says_so() -> None:
    assert released("CLAIMED", "STARTED", keeps_attempt=True)
    for said in ({}, {"keeps_attempt": False}, {"keeps_attempt": "true"}, {"keeps_attempt": None}):
        assert not released("CLAIMED", "STARTED", **said)  # as in logs of older versions


def test_a_claim_that_never_started_has_no_number_to_keep() -> None:
    assert not released("CLAIMED", keeps_attempt=True)
    assert released("CLAIMED", "STARTED", "WAITING", "RESUMED", "CLAIMED")


def test_a_final_ends_the_task_and_forgets_its_last_error() -> None:
    task = after("TASK_INITIAL", "CLAIMED", "STARTED", "ERROR", "RETRY", "CLAIMED", "STARTED", "FINAL").task
    assert task is not None
    assert (task.state, task.error, task.pid) == ("done", None, None)
    assert task.finished_at == BEGAN + timedelta(seconds=8)


def test_an_old_fence_is_refused() -> None:
    running = after("TASK_INITIAL", "CLAIMED", "RELEASED", "CLAIMED", "STARTED")
    assert evolve(running, event("EVENT", 6, fence=2)).version == 6
    for fence in (0, 1, 3):
        with pytest.raises(IllegalTransition):
            evolve(running, event("EVENT", 6, fence=fence))
    with pytest.raises(IllegalTransition):
        evolve(after("INITIAL"), event("EVENT", 2, fence=0))


@pytest.mark.parametrize("fence", [0, 1])
def test_a_claim_that_does_not_raise_the_fence_is_refused(fence: int) -> None:
    released = after("TASK_INITIAL", "CLAIMED", "RELEASED")
    with pytest.raises(IllegalTransition):
        evolve(released, event("CLAIMED", 4, payload={"fence": fence, "host_id": HOST}))


@pytest.mark.parametrize("end", [["RELEASED"], ["WAITING"], ["ERROR", "RETRY"], ["ERROR", "FAILED"]])
def test_a_fence_is_old_as_soon_as_its_run_is_over(end: list[str]) -> None:
    over = after("TASK_INITIAL", "CLAIMED", "STARTED", *end)
    with pytest.raises(IllegalTransition):
        evolve(over, event("FINAL", over.version + 1, fence=1))


@given(st.data())
def test_any_legal_history_keeps_its_promises(data: st.DataObject) -> None:
    context, events = Context(), []
    for version in range(1, data.draw(st.integers(1, 25)) + 1):
        legal = sorted(kind for state, kind in TRANSITIONS if state == context.state)
        if not legal:
            break
        kind = data.draw(st.sampled_from(legal))
        fence = context.task.fence if context.task else 0
        events.append(event(kind, version, payload=payload_of(kind, fence), task={"start_after": 5}))
        before, context = context, evolve(context, events[-1])
        if before.task and context.task:
            assert context.task.fence == before.task.fence + (kind == "CLAIMED")
            assert context.task.attempt >= before.task.attempt
            assert (context.task.finished_at is not None) == (context.state in ENDED)
            assert context.task.pid is None or context.state in ("running", "cancelling", "erred")
    assert fold(events) == context
    assert context.version == len(events)
    assert [one.type.endswith(":INITIAL") for one in events] == [True] + [False] * (len(events) - 1)
    assert not any(one.type.endswith(":FINAL") for one in events[:-1])
