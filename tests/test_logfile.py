"""A log over its limit: its middle goes, whoever writes meanwhile loses nothing, and whoever reads sees no hole."""

import asyncio
import os
import resource
import select
import sys
from pathlib import Path

import pytest

from damad import logs
from damad.runner import logfile

LIMIT = 100_000
MARK = b"\n[damad: the middle was dropped here, for the log grew over 100000 bytes]\n"

WRITER = """
import sys
for n in range(300_000):
    sys.stdout.write(f"{n}\\n")
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "1.log"


async def read(log: Path) -> bytes:
    return b"".join([chunk async for chunk in logs.read(log)])


@pytest.mark.parametrize("size", [0, 1, LIMIT])
async def test_a_log_within_its_limit_stays_as_it_is(log: Path, size: int) -> None:
    log.write_bytes(b"x" * size)
    logfile.cut(log, LIMIT)
    logfile.compact(log, LIMIT)
    assert log.read_bytes() == await read(log) == b"x" * size


def test_a_log_that_somebody_removed_is_no_fault(log: Path) -> None:
    logfile.cut(log, LIMIT)
    logfile.compact(log, LIMIT)
    assert not log.exists()


def test_whoever_waits_is_told_once_a_log_grows_and_not_before(log: Path) -> None:
    growth = logfile.Growth(log)
    assert growth.descriptor is not None
    with log.open("ab", buffering=0) as out:
        for _ in range(2):
            assert select.select([growth.descriptor], [], [], 0)[0] == []
            for _ in range(1000):
                out.write(b"x")
            assert select.select([growth.descriptor], [], [], 0)[0] == [growth.descriptor]
            growth.seen()
    os.close(growth.descriptor)


def test_where_the_kernel_has_nothing_to_tell_by_that_is_said(log: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with log.open("ab") as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), hard))
        growth = logfile.Growth(log)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    growth.seen()
    assert growth.descriptor is None


async def test_a_cut_frees_the_middle_and_moves_no_end(log: Path) -> None:
    content = b"head" + os.urandom(1_000_000) + b"tail"
    log.write_bytes(content)
    logfile.cut(log, LIMIT)
    assert log.stat().st_size == len(content)
    assert log.stat().st_blocks * 512 <= LIMIT
    shown = await read(log)
    head, _, tail = shown.partition(MARK)
    assert content.startswith(head)
    assert content.endswith(tail)
    assert min(len(head), len(tail)) >= LIMIT // 4
    assert len(shown) <= LIMIT


async def test_a_complete_log_is_head_mark_and_tail_whether_it_was_cut_before_or_not(log: Path) -> None:
    content = os.urandom(1_000_000)
    short = content[:50_000] + MARK + content[-25_000:]
    for cut_before in (False, True):
        log.write_bytes(content)
        if cut_before:
            logfile.cut(log, LIMIT)
        logfile.compact(log, LIMIT)
        assert log.read_bytes() == await read(log) == short
        assert log.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in log.parent.iterdir()] == ["1.log"]


@pytest.mark.parametrize("limit", [0, 1, 100, 5000])
def test_however_small_the_limit_the_end_is_right(log: Path, limit: int) -> None:
    log.write_bytes(b"x" * 10_000)
    logfile.cut(log, limit)
    logfile.compact(log, limit)
    assert log.stat().st_size <= limit + len(MARK)
    assert b"dropped here" in log.read_bytes()


async def test_a_writer_that_goes_on_meanwhile_loses_only_the_middle(log: Path) -> None:
    with log.open("ab") as out:
        writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, stdout=out)
    ends = asyncio.create_task(writer.wait())
    while not ends.done():
        logfile.cut(log, LIMIT)
        await asyncio.sleep(0)
    logfile.cut(log, LIMIT)  # it may have written all of it between two looks
    head, _, tail = (await read(log)).partition(MARK)
    first = [int(line) for line in head.split(b"\n")[:-1]]
    last = [int(line) for line in tail.split(b"\n")[1:-1]]
    assert first == list(range(len(first)))
    assert last == list(range(300_000 - len(last), 300_000))
    assert min(len(first), len(last)) > 1000


async def test_a_reader_that_follows_reads_the_end_though_the_log_is_made_short(log: Path) -> None:
    log.write_bytes(b"x" * 1_000_000)
    ended = asyncio.Event()
    chunks = logs.follow(log, ended.is_set)
    seen = await anext(chunks)
    with log.open("ab") as out:
        out.write(b"the end")
    logfile.cut(log, LIMIT)
    logfile.compact(log, LIMIT)
    ended.set()
    async for chunk in chunks:
        seen += chunk
    assert seen.endswith(b"xthe end")
