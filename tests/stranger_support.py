"""A process that has nothing to do with damad, and would tell of any signal that reaches it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from damad import processes
from damad.processes import Process

_PROGRAM = """
import os, signal, sys

def tell(number, frame):
    os.write(1, f"{number} ".encode())

for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, tell)
print("ready", flush=True)
while True:
    signal.pause()
"""


class Stranger:
    """`process` is its proof; it leads a session of its own, as a worker does."""

    def __init__(self, running: "subprocess.Popen[bytes]", told: Path) -> None:
        self._running, self._told = running, told
        process = processes.identify(running.pid)
        assert process is not None
        self.process: Process = process

    def untouched(self) -> bool:
        """True if it lives and heard no signal: one that is sent now, by us, is its first."""
        self._running.send_signal(signal.SIGUSR1)
        while not (told := self._told.read_text().split()) and self._running.poll() is None:
            pass
        return self._running.poll() is None and told[:1] == [str(int(signal.SIGUSR1))]


@contextmanager
def a_stranger(folder: Path) -> Iterator[Stranger]:
    """A stranger that runs until the end of the block."""
    told = folder / "stranger"
    with (
        told.open("ab") as file,
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdout=file, stdin=subprocess.DEVNULL, env={}, start_new_session=True
        ) as running,
    ):
        try:
            while not told.read_text():
                assert running.poll() is None
            told.write_bytes(b"")
            yield Stranger(running, told)
        finally:
            running.kill()
