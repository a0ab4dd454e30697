"""What does not fit is said in damad's words, with the place that is to blame, and never in those of a library."""

from typing import Any

import pytest

from damad.errors import InvalidInput
from damad.http.events import EventFields
from damad.http.tasks import TaskFields
from damad.model.settings import TaskSettings
from damad.model.shape import fit


@pytest.mark.parametrize(
    ("shape", "value", "pointer", "said"),
    [
        (EventFields, {}, "/type", "type is missing"),
        (EventFields, [], "", "what was sent is an array; it is to be an object"),
        (EventFields, {"type": ":A", "x~/": 1}, "/x~0~1", "there is no field x~0~1"),
        (EventFields, {"type": 1}, "/type", "type is a whole number; it is to be a text"),
        (EventFields, {"type": ":A", "event_uuid": "x"}, "/event_uuid", "event_uuid is no UUID"),
        (
            EventFields,
            {"type": ":A", "event_uuid": 1.5},
            "/event_uuid",
            "event_uuid is a number; it is to be a UUID or null",
        ),
        (EventFields, {"type": ":A", "error": "x"}, "/error", "error is a text; it is to be true or false or null"),
        (
            EventFields,
            {"type": ":A", "expected_version": -1},
            "/expected_version",
            "expected_version is to be a whole number of at least 0",
        ),
        (TaskFields, {"worker": None}, "/worker", "worker is null; it is to be a text"),
        (
            TaskSettings,
            {"worker": "a", "start_after": []},
            "/start_after",
            "start_after is an array; it is to be a number, a text or null",
        ),
        (dict[str, Any], {1: 2}, "", "what was sent does not fit"),
    ],
)
def test_a_misfit_is_said_in_a_sentence(shape: Any, value: Any, pointer: str, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        fit(value, shape)
    assert (str(refused.value), refused.value.pointer) == (said, pointer)


def test_the_place_stands_below_the_pointer_that_is_given() -> None:
    with pytest.raises(InvalidInput, match=r"^3/type is missing$") as refused:
        fit({}, EventFields, pointer="/3")
    assert refused.value.pointer == "/3/type"
