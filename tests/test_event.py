"""What an event is, what its type means, and which events damad's functions take."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damad.errors import InvalidInput
from damad.model import event
from damad.model.event import Event, RecordedEvent, parse

DAMADS_OWN = (
    *("CLAIMED", "STARTED", "ERROR", "RETRY", "FAILED", "RELEASED", "WAITING", "RESUMED"),
    *("CANCEL_REQUESTED", "CANCELLED", "REQUEUED", "PROGRESS", "STEP", "SUBTASK"),
)


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        (":INITIAL", "INITIAL"),
        ("gtfs:INITIAL", "INITIAL"),
        (":FINAL", "FINAL"),
        ("gtfs/load:FINAL", "FINAL"),
        (":ERROR", "EVENT_ERROR"),
        ("gtfs:ERROR", "EVENT_ERROR"),
        ("gtfs:LOADED", "EVENT"),
        ("gtfs:NOT_FINAL", "EVENT"),
        ("gtfs:FINALLY", "EVENT"),
        ("gtfs:MY_ERROR", "EVENT"),
        ("FINAL", "EVENT"),
        ("dama/tasks:CLAIMED", "EVENT"),
        *((f"dama/task:{name}", name) for name in DAMADS_OWN),
    ],
)
def test_a_type_means_one_kind_to_the_lifecycle(type_: str, kind: str) -> None:
    assert event.kind(type_) == kind


@pytest.mark.parametrize("name", ["EVENT", "EVENT_ERROR", "TASK_INITIAL"])
def test_a_type_cannot_pass_for_a_kind_that_is_no_event_of_damads(name: str) -> None:
    assert event.kind(f"dama/task:{name}") not in ("EVENT", "EVENT_ERROR", "TASK_INITIAL")


@pytest.mark.parametrize("type_", [":LOADED", "gtfs:LOADED", "a/b.c-d_e:f:LOADED_2", ":A", "9:Z9_", "x" * 253 + ":A"])
def test_a_type_ends_in_a_colon_and_capitals(type_: str) -> None:
    event.check_type(type_)


@pytest.mark.parametrize(
    "type_",
    [
        "",
        ":",
        "LOADED",
        "gtfs:",
        "gtfs:loaded",
        "gtfs:Loaded",
        "gtfs:_LOADED",
        "gtfs:1",
        "gtfs:LOADED ",
        " gtfs:LOADED",
        "gt fs:LOADED",
        "gtfs:LOADED\n",
        "gtfs:LÖADED",
        "gtfs;x:LOADED",
        "gtfs:LOADED\0",
        "\ud800:LOADED",
        "x" * 254 + ":A",
    ],
)
def test_another_type_is_refused_and_the_pointer_says_where(type_: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        event.check_type(type_)
    assert refused.value.pointer == "/type"
    assert refused.value.status == 422


@given(st.text())
def test_a_type_that_is_taken_keeps_to_the_alphabet(type_: str) -> None:
    try:
        event.check_type(type_)
    except InvalidInput:
        return
    assert 0 < len(type_) <= 255
    assert set(type_) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:-")
    assert type_.rpartition(":")[2].isupper()


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ({"type": ":FINAL"}, True),
        ({"type": "x:y"}, True),
        ({"type": "FeatureCollection"}, False),
        ({"type": 3}, False),
        ({}, False),
        ([":FINAL"], False),
        (None, False),
    ],
)
def test_only_an_object_whose_type_has_a_colon_looks_like_an_event(value: object, answer: bool) -> None:
    assert event.looks_like_event(value) is answer


def test_an_event_is_read_with_all_its_fields() -> None:
    uuid = uuid4()
    given_ = {"type": ":LOADED", "payload": [1], "meta": {"a": None}, "error": False, "event_uuid": str(uuid)}
    assert parse(given_) == Event(type=":LOADED", payload=[1], meta={"a": None}, error=False, event_uuid=uuid)


def test_all_but_the_type_is_optional() -> None:
    assert parse({"type": ":LOADED"}) == Event(type=":LOADED")


@pytest.mark.parametrize(
    ("given_", "pointer"),
    [
        ({"type": "loaded"}, "/type"),
        ({"type": 1}, "/type"),
        ({"type": ":A", "payload": float("nan")}, "/payload"),
        ({"type": ":A", "payload": {"a": [0, float("inf")]}}, "/payload/a/1"),
        ({"type": ":A", "payload": {"a/b~c": {1}}}, "/payload/a~1b~0c"),
        ({"type": ":A", "payload": "\0"}, "/payload"),
        ({"type": ":A", "payload": 2**64}, "/payload"),
        ({"type": ":A", "meta": {"a": b""}}, "/meta/a"),
        ({"type": ":A", "meta": []}, "/meta"),
        ({"type": ":A", "meta": "x"}, "/meta"),
        ({"type": ":A", "error": 1}, "/error"),
        ({"type": ":A", "event_uuid": "x"}, "/event_uuid"),
        ({"type": ":A", "event_uuid": 7}, "/event_uuid"),
    ],
)
def test_a_field_that_does_not_fit_is_refused_and_pointed_at(given_: dict[str, object], pointer: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(given_, pointer="/3")
    assert refused.value.pointer == "/3" + pointer


@pytest.mark.parametrize(
    "given_",
    [None, 1, ":FINAL", [], {}, {"payload": 1}, {"type": ":A", "fence": 3}, {"type": ":A", "version": 1}],
)
def test_what_is_no_event_is_refused(given_: object) -> None:
    with pytest.raises(InvalidInput):
        parse(given_)


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(InvalidInput, match="playload"):
        parse({"type": ":A", "playload": 1})


def test_a_recorded_event_is_shown_as_plain_json_with_the_originals_name_for_its_time() -> None:
    recorded = RecordedEvent(
        event_id=7,
        etl_context_id=3,
        version=2,
        event_uuid=UUID(int=1),
        type=":LOADED",
        payload={"a": 1},
        meta=None,
        error=None,
        created_timestamp=datetime(2026, 1, 31, 8, 0, tzinfo=UTC),
    )
    assert recorded.as_dict() == {
        "event_id": 7,
        "etl_context_id": 3,
        "version": 2,
        "event_uuid": "00000000-0000-0000-0000-000000000001",
        "type": ":LOADED",
        "payload": {"a": 1},
        "meta": None,
        "error": None,
        "_created_timestamp": "2026-01-31T08:00:00Z",
    }
