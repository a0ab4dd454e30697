"""The records of a run: whatever stands in their files, they say the truth or nothing."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stranger_support import a_stranger

from damad import processes
from damad.processes import Process
from damad.runner import records
from damad.runner.records import Exit, Processes

PARENT, WORKER = Process(11, 22, "a boot"), Process(33, 44, "a boot")
EXIT = Exit(None, 9, True, 1_700_000_000.5)

NO_NUMBER: list[Any] = ["33", -1, 10**30, True, None, 33.0, [33], {}, "", -(2**70)]
NO_RECORD = [
    b"", b" ", b"null", b"7", b'"process"', b"[]", b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{}", b"NaN",
    b"\0" * 4096, b'{"parent": 1, "worker": 2}', b'{"parent": [1, 2], "worker": [1, 2, 3, 4]}',
    b'{"exit_code": 0}', b'{"exit_code": 0, "signal": null, "oom": false, "ended_at": 1, "more": 1}',
]  # fmt: skip

pytestmark = pytest.mark.fault(
    fault="a record in the state folder is torn, empty or nonsense",
    injected="every prefix and every wrong sort of value, read by the function that reads records",
    invariants="I4 I6",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with both records in it."""
    records.write_processes(tmp_path, Processes(PARENT, WORKER))
    records.write_exit(tmp_path, EXIT)
    return tmp_path


def test_a_record_says_what_was_written(run: Path) -> None:
    assert records.read_processes(run) == Processes(PARENT, WORKER)
    assert records.read_exit(run) == EXIT


def test_who_reads_while_a_record_is_written_again_reads_the_old_one_to_its_end(run: Path) -> None:
    before = (run / "exit.json").read_bytes()
    with (run / "exit.json").open("rb", buffering=0) as reading:
        first = reading.read(5)
        records.write_exit(run, EXIT._replace(signal=11))
        assert first + reading.read() == before
    assert records.read_exit(run) == EXIT._replace(signal=11)


def test_a_write_that_fails_leaves_what_was_there(run: Path) -> None:
    with pytest.raises(TypeError):
        records.write_exit(run, EXIT._replace(ended_at=object()))  # type: ignore[arg-type]
    assert records.read_exit(run) == EXIT


def test_a_record_that_is_torn_at_any_byte_says_nothing(run: Path) -> None:
    for name in ("process.json", "exit.json"):
        whole = (run / name).read_bytes()
        for length in range(len(whole)):
            (run / name).write_bytes(whole[:length])
            assert (records.read_processes if name == "process.json" else records.read_exit)(run) is None, length


@pytest.mark.parametrize("content", NO_RECORD, ids=lambda content: repr(content[:20]))
def test_what_is_no_record_says_nothing(run: Path, content: bytes) -> None:
    for name in ("process.json", "exit.json"):
        (run / name).write_bytes(content)
    assert (records.read_processes(run), records.read_exit(run)) == (None, None)


def test_a_folder_or_nothing_in_the_place_of_a_record_says_nothing(run: Path) -> None:
    for name in ("process.json", "exit.json"):
        (run / name).unlink()
    assert (records.read_processes(run), records.read_exit(run)) == (None, None)
    for name in ("process.json", "exit.json"):
        (run / name).mkdir()
    assert (records.read_processes(run), records.read_exit(run)) == (None, None)


@pytest.mark.parametrize("written", [b"", b'{"exit_code": 0, "signal": null, "oom": false, "ended_at": 1.0}'])
def test_a_fifo_in_the_place_of_a_record_says_nothing_and_nobody_waits_for_it(run: Path, written: bytes) -> None:
    for name in ("process.json", "exit.json"):
        (run / name).unlink()
        os.mkfifo(run / name)
    ends = [os.open(run / name, os.O_RDWR) for name in ("process.json", "exit.json") if written]
    try:
        for end in ends:
            os.write(end, written)
        assert (records.read_processes(run), records.read_exit(run)) == (None, None)
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)], ids=["a FIFO", "a device"])
def test_what_is_no_file_says_nothing_and_ends(run: Path, make: Callable[[Path], None]) -> None:
    for name in ("process.json", "exit.json"):
        (run / name).unlink()
        make(run / name)
    assert (records.read_processes(run), records.read_exit(run)) == (None, None)


@pytest.mark.parametrize("who", ["parent", "worker"])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [*NO_NUMBER, 0], ids=repr)
def test_a_process_named_by_a_value_of_the_wrong_sort_is_none(run: Path, who: str, place: int, value: Any) -> None:
    record = json.loads((run / "process.json").read_text())
    if (place, value) in ((1, 10**30), (1, 0)) or (place == 2 and isinstance(value, str)):
        pytest.skip("a start time may be any number from 0, a boot any text")
    record[who][place] = value
    (run / "process.json").write_text(json.dumps(record))
    assert records.read_processes(run) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("exit_code", value) for value in (*NO_NUMBER, 256)],
        *[("signal", value) for value in (*NO_NUMBER, 0, 65)],
        *[("oom", value) for value in (None, 0, 1, "false")],
        *[("ended_at", value) for value in ("1", None, True, -1, 1e300, float("nan"), float("inf"), 10**400)],
    ],
    ids=repr,
)
def test_an_end_told_by_a_value_of_the_wrong_sort_is_none(run: Path, field: str, value: Any) -> None:
    exit_ = EXIT if field != "exit_code" else Exit(0, None, False, 1.0)
    (run / "exit.json").write_text(json.dumps(exit_._asdict() | {field: value}))
    assert records.read_exit(run) is None


def test_what_else_lies_in_the_folder_of_runs_is_no_run(tmp_path: Path) -> None:
    runs = tmp_path / "runs" / "local"
    assert records.runs(tmp_path, "local") == []
    for name in (
        *["5.1", "6.12", "²", "²,²", "².²", "5.1x", "x.y", "0.1", "1.0", "-1.1", "05.1", "5", "5.", ".1", "a"],
        "9" * 30 + ".1",
    ):
        (runs / name).mkdir(parents=True, exist_ok=True)
    (runs / "7.1").write_text("a file")
    os.symlink(tmp_path, runs / "8.1")
    assert sorted(records.runs(tmp_path, "local")) == [(5, 1), (6, 12)]


def test_a_file_in_the_place_of_the_folder_of_runs_has_none(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "local").write_text("a file")
    assert records.runs(tmp_path, "local") == []


def test_a_stranger_that_took_the_pid_of_a_worker_over_brings_no_session_of_its_own(tmp_path: Path) -> None:
    """Who leads a session keeps its pid from others, also when dead; so a session of that number is the stranger's."""
    with a_stranger(tmp_path) as stranger:
        worker = stranger.process
        assert processes.members(worker) == [worker]
        assert processes.members(worker._replace(start_time=worker.start_time - 1)) == []
        assert processes.members(worker._replace(boot_id="another")) == []
        assert stranger.untouched()


@pytest.mark.parametrize("holder", ["h/b/²/1", "h/b/1/²", "h/b/" + "9" * 5000 + "/1", "h/b/0/1", "h/b/٣/1", "h", "h/b"])
def test_a_lease_whose_holder_is_nonsense_names_no_process(holder: str) -> None:
    assert processes.from_holder(holder, "h") is None
