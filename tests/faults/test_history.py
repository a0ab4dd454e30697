"""The history checker itself: each thing that it is there to find, it finds."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from history import Entry, violations

from damad.model.event import RecordedEvent

A, B = uuid4(), uuid4()


def log(*types: str, uuids: tuple[UUID, ...] = (), **changed: Any) -> list[RecordedEvent]:
    """The log of a context that holds events of these types."""
    events = []
    counts = {"dama/task:STARTED": 0, "dama/task:CLAIMED": 0}
    for place, type_ in enumerate(types):
        counts[type_] = counts.get(type_, 0) + 1
        payload = {"attempt": counts["dama/task:STARTED"], "fence": counts["dama/task:CLAIMED"]}
        event_uuid = uuids[place] if place < len(uuids) else uuid4()
        fields = {"version": place + 1, "payload": payload} | changed
        events.append(
            RecordedEvent(
                event_id=place, etl_context_id=1, event_uuid=event_uuid, type=type_, meta=None, error=False,
                created_timestamp=datetime.now(UTC), **fields,
            )
        )  # fmt: skip
    return events


RAN = log(":INITIAL", "dama/task:CLAIMED", "dama/task:STARTED", ":FINAL", uuids=(A,))
TWICE = log(
    ":INITIAL", "dama/task:CLAIMED", "dama/task:STARTED", "dama/task:ERROR", "dama/task:RETRY", "dama/task:CLAIMED",
    "dama/task:STARTED", ":FINAL",
)  # fmt: skip
WAITED = [
    event if event.version < 7 else msgspec.structs.replace(event, payload={"attempt": 1, "fence": 2})
    for event in log(
        ":INITIAL", "dama/task:CLAIMED", "dama/task:STARTED", "dama/task:WAITING", "dama/task:RESUMED",
        "dama/task:CLAIMED", "dama/task:STARTED", ":FINAL",
    )
]  # fmt: skip
FIRST, STOPPED = Entry("start", 1, None, 1, 1, 10.0), Entry("stop", 1, None, 1, 1, 20.0)


def test_a_history_that_fits_is_not_complained_about() -> None:
    entries = [Entry("invoke", 1, A), Entry("ok", 1, A), Entry("unknown", 1, B), FIRST, STOPPED]
    assert violations(entries, {1: RAN}) == []
    assert violations([FIRST, STOPPED, Entry("start", 1, None, 2, 2, 21.0)], {1: TWICE}) == []
    assert violations([FIRST, Entry("start", 1, None, 2, 2, 11.0)], {1: TWICE}) == []  # killed: it said no stop
    assert violations([FIRST, STOPPED, Entry("start", 1, None, 1, 2, 21.0)], {1: WAITED}) == []


@pytest.mark.parametrize(
    ("entries", "logs", "said"),
    [
        ([Entry("ok", 1, B)], {1: RAN}, "acknowledged and is lost"),
        ([Entry("unknown", 1, A), Entry("unknown", 2, A)], {1: RAN, 2: log(":INITIAL")}, "is in context 1"),
        ([], {1: log(":INITIAL", ":A", uuids=(A, A))}, "is there 2 times"),
        ([], {1: log(":INITIAL", ":A", version=1)}, "I2: the versions"),
        ([], {1: log(":A", ":INITIAL")}, "I3: context 1 has :INITIAL"),
        ([], {1: log(":INITIAL", ":FINAL", ":A")}, "I3: context 1 has :FINAL"),
        ([], {1: log(":INITIAL", ":FINAL", ":FINAL")}, "I3: context 1 has :FINAL"),
        ([], {1: log(":INITIAL", "dama/task:STARTED", payload={"attempt": 2})}, "I12: the attempts"),
        ([], {1: [event for event in WAITED if event.type != "dama/task:RESUMED"]}, "I12: the attempts"),
        ([], {1: log(":INITIAL", "dama/task:ERROR")}, "more failures than attempts"),
        ([], {1: log(":INITIAL", "dama/task:CLAIMED", payload={"fence": 2})}, "I5: the fences"),
        ([FIRST, STOPPED, Entry("start", 1, None, 2, 2, 15.0)], {1: TWICE}, "overlap"),
        ([FIRST._replace(alone=False)], {1: RAN}, "while another lived"),
        ([FIRST, FIRST._replace(at=30.0)], {1: RAN}, "ran 2 times"),
        ([Entry("start", 1, None, 2, 2, 30.0)], {1: RAN}, "the log does not know it"),
    ],
)
def test_a_history_that_cannot_be_is_found_out(entries: list[Entry], logs: dict[int, Any], said: str) -> None:
    assert said in "\n".join(violations(entries, logs))
