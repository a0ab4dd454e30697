"""Processes are known by proof: pid, start time and boot."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import DEVNULL

import pytest

from damad import processes
from damad.processes import Process

SECONDS = 60.0
"""Until a process that does not end hangs."""


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as sleep:
        yield sleep
        sleep.kill()


def identified(pid: int) -> Process:
    process = processes.identify(pid)
    assert process is not None
    return process


def ended(process: Process) -> None:
    """Returns once it has ended, a zombie included."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    readable, _, _ = select.select([pidfd], [], [], SECONDS)
    os.close(pidfd)
    assert readable


def test_a_process_is_identified_by_pid_start_time_and_boot() -> None:
    me = processes.myself()
    assert me == identified(os.getpid())
    assert me.start_time == int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert me.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert processes.alive(me)


def test_a_pid_that_nobody_has_is_no_process() -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    assert processes.identify(gone.pid) is None


def test_the_same_pid_with_another_start_time_or_boot_is_a_stranger(child: "subprocess.Popen[bytes]") -> None:
    process = identified(child.pid)
    for stranger in (
        process._replace(start_time=process.start_time + 1),
        process._replace(boot_id="00000000-0000-0000-0000-000000000000"),
    ):
        assert not processes.alive(stranger)
        assert processes.open_pidfd(stranger) is None
        assert not processes.send(stranger, signal.SIGKILL)
    assert processes.alive(process)


def test_a_zombie_has_ended(child: "subprocess.Popen[bytes]") -> None:
    process = identified(child.pid)
    child.kill()
    ended(process)
    os.kill(child.pid, 0)  # a zombie answers
    assert not processes.alive(process)
    assert processes.identify(child.pid) is None


def test_a_stopped_process_is_alive(child: "subprocess.Popen[bytes]") -> None:
    process = identified(child.pid)
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert processes.alive(process)


def test_a_signal_reaches_the_process_and_says_whether_it_did(child: "subprocess.Popen[bytes]") -> None:
    process = identified(child.pid)
    assert processes.send(process, signal.SIGTERM)
    ended(process)
    assert child.wait() == -signal.SIGTERM
    assert not processes.send(process, signal.SIGTERM)


def test_a_pidfd_becomes_readable_when_the_process_ends(child: "subprocess.Popen[bytes]") -> None:
    pidfd = processes.open_pidfd(identified(child.pid))
    assert pidfd is not None
    assert select.select([pidfd], [], [], 0)[0] == []
    child.kill()
    assert select.select([pidfd], [], [], SECONDS)[0] == [pidfd]
    os.close(pidfd)


def test_a_name_with_brackets_and_spaces_misleads_nobody(tmp_path: Path) -> None:
    program = tmp_path / ") R 1 1 (x"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "1000"], executable=str(program), start_new_session=True) as child:
        process = identified(child.pid)
        assert processes.members(process) == [process]
        assert process in processes.descendants(processes.myself())
        child.kill()


FAMILY = """
import os, signal

def child(leaves):
    told, tell = os.pipe()
    if pid := os.fork():
        os.read(told, 1)
        return pid
    if leaves:
        os.setsid()
    os.write(tell, b"1")
    signal.pause()

print(child(leaves=False), child(leaves=True), flush=True)
signal.pause()
"""


def test_members_are_those_of_the_session_and_descendants_those_of_the_family() -> None:
    command = [sys.executable, "-c", FAMILY]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        stays, leaves = (identified(int(pid)) for pid in parent.stdout.readline().split())
        leader = identified(parent.pid)
        assert set(processes.members(leader)) == {leader, stays}
        assert set(processes.descendants(leader)) == {stays, leaves}
        assert {leader, stays, leaves} <= set(processes.descendants(processes.myself()))
        for process in (stays, leaves, leader):
            processes.send(process, signal.SIGKILL)
            ended(process)
    assert processes.members(leader) == []
    assert processes.descendants(leader) == []


def test_who_prints_into_a_file_is_found_and_neither_who_reads_it_nor_who_writes_it_otherwise(tmp_path: Path) -> None:
    log, other = tmp_path / "1.log", tmp_path / "2.log"
    other.touch()
    ways = [(log, "ab"), (log, "rb"), (log, "r+b"), (log, "a+b"), (other, "ab")]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open(mode)) for path, mode in ways]
        children = [subprocess.Popen(["sleep", "1000"], stdin=DEVNULL, stdout=file) for file in files]
        apart = subprocess.Popen(["sleep", "1000"], pass_fds=[files[0].fileno()], start_new_session=True)
        found = processes.writers(log), processes.writers(tmp_path / "none.log")
        expected = [identified(children[0].pid), identified(apart.pid)]
        for child in (*children, apart):
            child.kill()
            child.wait()
    assert found == (expected, []), "not this process"


def test_a_file_of_the_same_name_that_took_the_place_of_another_has_no_writers(tmp_path: Path) -> None:
    log = tmp_path / "1.log"
    with log.open("ab") as file, subprocess.Popen(["sleep", "1000"], stdout=file) as child:
        log.unlink()
        log.touch()
        found = processes.writers(log)
        child.kill()
    assert found == []


def test_a_holder_names_the_process_to_its_own_host_only() -> None:
    me = processes.myself()
    holder = processes.as_holder(me, "host-a")
    assert processes.from_holder(holder, "host-a") == me
    assert processes.from_holder(holder, "host-b") is None


@pytest.mark.parametrize("holder", ["", "host-a", "host-a/boot", "host-a/boot/x/1", "host-a/boot/1/", "test"])
def test_a_holder_that_names_no_process_is_none(holder: str) -> None:
    assert processes.from_holder(holder, "host-a") is None


def test_a_process_knows_its_parent_while_both_live(child: "subprocess.Popen[bytes]") -> None:
    process = identified(child.pid)
    assert processes.parent(process) == processes.myself()
    child.kill()
    ended(process)
    child.wait()
    assert processes.parent(process) is None


def test_a_mark_is_inherited_by_whatever_a_process_starts() -> None:
    script = "sleep 1000 & echo $!; wait"
    environment = {**os.environ, "A_MARK": "of this test"}
    with subprocess.Popen(["sh", "-c", script], env=environment, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        both = {shell.pid, int(shell.stdout.readline())}
        marked = processes.marked("A_MARK", "of this test")
        assert {process.pid for process in marked} == both
        assert processes.marked("A_MARK", "of this") == []
        for process in marked:
            processes.send(process, signal.SIGKILL)
            ended(process)
