"""Marks: whatever a process started is found by its mark, wherever it went, and nobody else is."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stranger_support import a_stranger

from damad import processes
from damad.processes import Process

LEAVES = """
import os, resource, signal, sys, time
from damad import processes

def mark():
    processes.mark(processes.myself())

def left(then):
    told, tell = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(tell, str(os.getpid()).encode())
        os.closerange(0, 1024)
        then()
    os.wait()
    print(os.read(told, 20).decode(), flush=True)

def hop():
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.001)
        if os.fork():
            os._exit(0)
    os._exit(0)
"""
"""left: a child of nobody, in a session of its own, without a file · hop: one that ends once it started another."""


@contextmanager
def leaving(*lines: str, told: object = "") -> Iterator[tuple[Process, list[Process]]]:
    """A process that these lines were run in and that has ended, and what it left: killed after the block."""
    command = [sys.executable, "-c", "\n".join([LEAVES, *lines, "sys.stdin.read()"]), str(told)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None and running.stdout is not None
        process = processes.identify(running.pid)
        left = [processes.identify(int(running.stdout.readline())) for line in lines if line.startswith("left")]
        running.stdin.close()
        running.wait()
    there = [one for one in left if one is not None]
    try:
        assert process is not None and not processes.alive(process) and running.returncode == 0
        yield process, there
    finally:
        for one in there:
            processes.send(one, signal.SIGKILL)


PAUSES, BECOMES_ANOTHER = "left(signal.pause)", "left(lambda: os.execlp('env', 'env', '-i', 'sleep', '1000'))"


def test_what_a_process_left_bears_its_mark_with_no_session_parent_file_or_variable_of_it() -> None:
    with leaving("mark()", PAUSES, BECOMES_ANOTHER) as (process, left):
        assert len(left) == 2
        assert sorted(processes.bearers(process)) == sorted(left)


def test_a_mark_is_of_one_process_and_strangers_bear_none_of_it(tmp_path: Path) -> None:
    with a_stranger(tmp_path) as stranger, leaving(PAUSES, "mark()", PAUSES) as (process, (before, after)):
        assert processes.bearers(process) == [after]
        others = (process._replace(start_time=process.start_time + 1), process._replace(boot_id="another boot"))
        for other in (*others, before, stranger.process):
            assert processes.bearers(other) == []


def test_one_that_took_a_mark_of_its_own_bears_no_other() -> None:
    again = "left(lambda: (mark(), signal.pause()))"
    with leaving("mark()", again) as (process, (left,)):
        while processes.bearers(left) != [left]:
            assert processes.alive(left)
        assert processes.bearers(process) == []


def test_where_the_number_that_is_a_mark_was_bounded_a_process_goes_on_without_one() -> None:
    with leaving("resource.setrlimit(processes._MARK, (9, 9))", "mark()", PAUSES) as (process, left):
        assert [processes.alive(one) for one in left] == [True]
        assert processes.bearers(process) == []


def test_one_that_ends_while_it_is_looked_for_has_what_it_started_found(tmp_path: Path) -> None:
    end = tmp_path / "end"
    try:
        with leaving("mark()", "left(hop)", told=end) as (process, _):
            for _ in range(20):
                assert processes.bearers(process) != []
    finally:
        end.touch()
    while processes.bearers(process):
        pass


@pytest.mark.parametrize("value", [0, 2**22])
def test_a_mark_tells_processes_apart_that_differ_in_one_number(value: int) -> None:
    marks = {processes._mark_of(Process(pid, start, "")) for pid in (1, 2, 2**22 - 1) for start in (value, value + 1)}
    assert len(marks) == 6
