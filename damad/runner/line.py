"""The line between a daemon and a runner: who runs a task need not connect to Postgres to say so.

    daemon → parent    Run: the assignment lies in the file that comes with it
    parent → daemon    Begun: it has it, and will fork
    worker → daemon    Say: events to append, under the fence of the run
    daemon → worker    Said, Refused or Unsaid
    parent → daemon    Over: the process has ended, and its exit is on record

A socket that keeps the bounds of messages, so that a process which is killed in the middle of one spoils none. Nobody
depends on it: what is not answered in time the worker appends by a connection of its own, with the same event_uuid.
"""

import os
import socket
from typing import Any, Final

import msgspec

from damad import errors
from damad.model import json_value
from damad.model.event import Event

LARGEST: Final = 100_000
"""Bytes of a message. A larger one goes by a connection of the worker's own."""
_PATIENCE: Final = 5.0
"""Seconds in which a daemon that lives has said what became of an append, or that Postgres is away."""


class Run(msgspec.Struct, frozen=True, tag=True):
    """Run this attempt."""

    run: int


class Begun(msgspec.Struct, frozen=True, tag=True):
    """The parent will fork the worker's process. Before it said so, the run can still be given to another."""

    run: int


class Say(msgspec.Struct, frozen=True, tag=True):
    """Append these events, all or none. `conclusion`: they say what became of the attempt."""

    run: int
    events: list[Event]
    conclusion: bool


class Said(msgspec.Struct, frozen=True, tag=True):
    """They are in the log. `conclusion`: as it was in what this answers, here and below."""

    run: int
    conclusion: bool


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The log did not take them: one of damad's errors, by the name of its class."""

    run: int
    conclusion: bool
    error: str
    message: str
    values: dict[str, Any]


class Unsaid(msgspec.Struct, frozen=True, tag=True):
    """Nobody knows whether they are in the log: Postgres is away."""

    run: int
    conclusion: bool


class Over(msgspec.Struct, frozen=True, tag=True):
    """The process has ended, and its exit is on record."""

    run: int


Message = Run | Begun | Say | Said | Refused | Unsaid | Over

_decoder: Final = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message as it travels. Payloads are written as the log's are, so that each number stays what it is."""
    if not isinstance(message, Say):
        return msgspec.json.encode(message)
    events = [{**msgspec.structs.asdict(event), "event_uuid": str(event.event_uuid)} for event in message.events]
    return json_value.dumps({
        "type": "Say", "run": message.run, "events": events, "conclusion": message.conclusion,
    })  # fmt: skip


def decode(text: bytes) -> Message | None:
    """The message, or None where it is none."""
    try:
        message: Message = _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return message


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new line."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class WorkersEnd:
    """The end of a line in the process that runs an attempt, whose first process alone may speak."""

    def __init__(self, end: socket.socket, run: int) -> None:
        self._end = end
        self._run = run
        self._process = os.getpid()
        self._file = os.fstat(end.fileno()).st_ino

    def say(self, events: list[Event], *, conclusion: bool) -> bool:
        """True once the daemon has appended them, False where it cannot be known from here.

        Raises the Conflict by which the log refused them.
        """
        message = encode(Say(self._run, events, conclusion))
        if len(message) > LARGEST or os.getpid() != self._process:
            return False
        try:
            if os.fstat(self._end.fileno()).st_ino != self._file:
                return False  # the worker closed it, and its number is another file's now
            self._end.settimeout(_PATIENCE)
            self._end.send(message)
            answer = self._answer(conclusion)
        except OSError:
            return False
        if isinstance(answer, Refused):
            raise _error(answer)
        return isinstance(answer, Said)

    def _answer(self, conclusion: bool) -> Message | None:
        """What is answered to this. What came too late for another run, or for its own beginning, is dropped."""
        while received := self._end.recv(LARGEST):
            answer = decode(received)
            if isinstance(answer, Said | Refused | Unsaid) and (answer.run, answer.conclusion) == (
                self._run,
                conclusion,
            ):
                return answer
        return None


def refusal(said: Say, error: errors.Conflict) -> Refused:
    """The message of an error by which the log refused an append."""
    return Refused(said.run, said.conclusion, type(error).__name__, str(error), error.values)


def _error(refused: Refused) -> errors.Conflict:
    kind = getattr(errors, refused.error, errors.Conflict)
    return kind(refused.message, **refused.values)
