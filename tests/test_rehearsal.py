"""What is gone through before the first process is forked leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from damad.runner import rehearsal
from damad.runner.line import Message, Say, encode


def _traces() -> dict[str, Any]:
    """What a worker could find of it in its process."""
    return {
        "path": sys.path[:],
        "workers": [name for name in sys.modules if name.startswith("damad_worker_")],
        "environment": dict(os.environ),
        "files": sorted(os.listdir("/proc/self/fd")),
        "threads": threading.enumerate(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "policy": id(asyncio.get_event_loop_policy()),
        "children": list(os.listdir("/proc/self/task")),
    }


def test_a_rehearsal_goes_through_a_whole_run_and_leaves_nothing_behind(monkeypatch: Any) -> None:
    said: list[Message] = []

    def noted(message: Message) -> bytes:
        said.append(message)
        return encode(message)

    monkeypatch.setattr("damad.runner.line.encode", noted)
    before = _traces()
    rehearsal.rehearse()
    assert _traces() == before
    assert len(said) == rehearsal.TIMES
    for message in said:
        assert isinstance(message, Say)
        assert [(event.type, event.error) for event in message.events] == [
            ("dama/task:STARTED", None),
            (":FINAL", None),
        ]


def test_nor_does_one_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a module may make it do that a queue's `preload` names."""

    def broken(_: Message) -> bytes:
        raise RuntimeError

    monkeypatch.setattr("damad.runner.line.encode", broken)
    before = _traces()
    with pytest.raises(RuntimeError):
        rehearsal.rehearse()
    assert _traces() == before


def test_a_main_without_a_loop_is_told_the_same_by_asyncio_as_in_a_fresh_python() -> None:
    """asyncio.run would have left word that its thread has no loop."""
    asks = "import asyncio, warnings; warnings.simplefilter('ignore'); asyncio.get_event_loop()"
    codes = [
        subprocess.run([sys.executable, "-c", f"{first}{asks}"], stderr=subprocess.DEVNULL, check=False).returncode
        for first in ("", "from damad.runner.rehearsal import rehearse; rehearse(); ")
    ]
    assert codes[0] == codes[1]
