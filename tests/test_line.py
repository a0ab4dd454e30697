"""The line between a runner and its daemon: what is answered to what."""

import os
from uuid import UUID

import pytest

from damad import errors
from damad.model.event import Event
from damad.runner import line

RUN = 7
FINAL = Event(type=":FINAL", payload={"n": [1e16, 2**63 - 1]}, event_uuid=UUID(int=1))


def said(*answers: line.Message, conclusion: bool = True) -> bool:
    """What a worker's process makes of these answers."""
    ours, theirs = line.pair()
    with ours, theirs:
        for answer in answers:
            ours.send(line.encode(answer))
        ours.shutdown(1)
        try:
            return line.WorkersEnd(theirs, RUN).say([FINAL], conclusion=conclusion)
        finally:
            heard = line.decode(ours.recv(line.LARGEST))
            assert heard == line.Say(RUN, [FINAL], conclusion)


def test_what_is_answered_is_in_the_log() -> None:
    assert said(line.Said(RUN, True))


@pytest.mark.parametrize("late", [line.Said(RUN, False), line.Said(RUN - 1, True), line.Over(RUN)])
def test_an_answer_that_came_too_late_for_something_else_is_none(late: line.Message) -> None:
    assert said(late, line.Said(RUN, True))
    assert not said(late, line.Unsaid(RUN, True))
    assert not said(late)


def test_a_refusal_is_raised_as_it_was() -> None:
    refused = errors.IllegalTransition("it is done", state="done", etl_context_id=1)
    with pytest.raises(errors.IllegalTransition, match="it is done") as raised:
        said(line.refusal(line.Say(RUN, [FINAL], True), refused))
    assert raised.value.values == {"state": "done", "etl_context_id": 1}


def test_what_is_no_message_is_passed_over() -> None:
    assert line.decode(b"{") is None
    assert line.decode(b'{"type": "Shout", "run": 7}') is None
    assert line.decode(b"\xff") is None


def test_what_is_too_large_goes_another_way() -> None:
    ours, theirs = line.pair()
    with ours, theirs:
        large = Event(type=":FINAL", payload="x" * line.LARGEST, event_uuid=UUID(int=1))
        assert not line.WorkersEnd(theirs, RUN).say([large], conclusion=True)


def test_a_worker_that_closed_the_line_and_opened_a_socket_in_its_place_hears_nothing_of_it() -> None:
    ours, theirs = line.pair()
    mine, its = line.pair()
    with ours, mine, its, theirs:
        end = line.WorkersEnd(theirs, RUN)
        os.dup2(its.fileno(), theirs.fileno())
        assert not end.say([FINAL], conclusion=True)
        mine.setblocking(False)
        with pytest.raises(BlockingIOError):
            mine.recv(line.LARGEST)
