"""Payloads of many tasks, one a line (JSON lines), read as they are queued: a file may be larger than memory."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from damad.cli import session
from damad.errors import InvalidInput


class Line(NamedTuple):
    """A line that holds something: its number in the file, from 1, and what it holds."""

    number: int
    payload: Any


def read(path: str) -> Iterator[Line]:
    """The lines of a file, or of stdin for -, less the empty ones. Raises InvalidJson, which names the line."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                text = line.decode("utf-8", "surrogateescape")
                yield Line(number, session.parse_json(text, f"--each, line {number}"))


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """stdin is read to its end first: who writes slowly is not to keep a transaction open."""
    if path == "-":
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.seek(0)
            yield copy
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - what is raised while it is read is not to be caught here
    except OSError as error:
        raise InvalidInput(f"--each {path}: {error.strerror}") from None
    with file:
        yield file
