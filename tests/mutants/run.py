"""Takes each guard away, one at a time, and sees that the test that stands for it goes red: `make mutants`.

    python tests/mutants/run.py             every guard
    python tests/mutants/run.py lease lock  those with one of these words in their name

A guard is an entry in guards.py or guards_of_*.py. The tests of all entries must be green in an unchanged copy
first; then each change is made in the copy, its tests run, and the copy is put right again. Ends with 1 if a guard can
go without being missed, if the text to take away is not there any more, or if a test broke instead of failing.

Each copy has an environment of its own in front of the one that `make install` builds, so that every process that a
test starts runs what was changed. There are as many copies as processors, and one for those whose tests wait in vain:
without some guards that is all they do.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import guards
import guards_of_access
import guards_of_archive
import guards_of_client
import guards_of_limits
import guards_of_processes
import guards_of_queues
import guards_of_schedules
import guards_of_streams
import guards_of_traces
import guards_of_waits
from guard import Guard

ROOT = Path(__file__).resolve().parents[2]
GUARDS: tuple[Guard, ...] = (
    *guards.GUARDS,
    *guards_of_limits.GUARDS,
    *guards_of_processes.GUARDS,
    *guards_of_queues.GUARDS,
    *guards_of_schedules.GUARDS,
    *guards_of_streams.GUARDS,
    *guards_of_waits.GUARDS,
    *guards_of_archive.GUARDS,
    *guards_of_access.GUARDS,
    *guards_of_client.GUARDS,
    *guards_of_traces.GUARDS,
)
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "dist", "build", "data")
LONGEST = 300.0
"""Seconds until tests that neither pass nor fail are given up."""


class Copy:
    """A copy of the tree that may be spoiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        shutil.copytree(ROOT, self.folder, ignore=LEFT_OUT)
        venv.create(folder / "venv", symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        purelib = folder / "venv" / "lib" / Path(sysconfig.get_path("purelib")).parent.name / "site-packages"
        (purelib / "copy.pth").write_text(f"{self.folder}\n{sysconfig.get_path('purelib')}\n")

    def test(self, tests: Sequence[str], *, patience: float = LONGEST) -> tuple[str, str]:
        """`green`, `red`, or what else became of the tests, and what they said."""
        command = [str(self.python), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_PROFILE": "first-failure"}
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, timeout=patience, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            return "endless", ""
        said = done.stdout + done.stderr
        if done.returncode == 0:
            return "green", said
        failed = done.returncode == 1 and re.search(r"^FAILED tests", done.stdout, re.MULTILINE)
        return ("red" if failed else "broken"), said

    def without(self, guard: Guard) -> tuple[str, str]:
        """What becomes of a guard's tests while it is away."""
        path = self.folder / guard.file
        whole = path.read_text(encoding="utf-8")
        if whole.count(guard.text) != 1:
            return "gone", f"{guard.file} holds the text {whole.count(guard.text)} times"
        path.write_text(whole.replace(guard.text, guard.without), encoding="utf-8")
        try:
            return self.test(guard.tests)
        finally:
            path.write_text(whole, encoding="utf-8")


SAID = {
    "red": "killed",
    "green": "SURVIVED: no test missed it",
    "gone": "DOES NOT APPLY: its text has changed",
    "endless": "ENDLESS: its tests did not end",
    "broken": "BROKEN: its tests broke instead of failing",
}


def main(words: Sequence[str]) -> int:
    chosen = [guard for guard in GUARDS if not words or any(word in guard.name for word in words)]
    count = min(len(os.sched_getaffinity(0)) + 1, len(chosen))
    with tempfile.TemporaryDirectory(prefix="damad-mutants-") as folder, ThreadPoolExecutor(count) as pool:
        copies = SimpleQueue[Copy]()
        for number in range(count):
            copies.put(Copy(Path(folder, str(number))))
        copy = copies.get()
        state, said = copy.test(sorted({test for guard in chosen for test in guard.tests}), patience=10 * LONGEST)
        copies.put(copy)
        print(f"{'all there':60} {state}", flush=True)
        if state != "green":
            print(said[-5000:])
            return 1
        missed = sum(pool.map(lambda guard: is_missed(guard, copies), chosen))
    print(f"{missed} of {len(chosen)} guards are missed when they are away")
    return 0 if missed == len(chosen) else 1


def is_missed(guard: Guard, copies: "SimpleQueue[Copy]") -> bool:
    """True if its tests go red in a copy that lacks it; says what became of them."""
    copy, begun = copies.get(), time.monotonic()
    try:
        state, said = copy.without(guard)
    finally:
        copies.put(copy)
    print(f"{guard.name:60} {SAID[state]}  ({time.monotonic() - begun:.0f} s)", flush=True)
    if state in ("gone", "broken"):
        print(said[-3000:], flush=True)
    return state == "red"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
