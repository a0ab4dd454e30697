"""What workers printed, as it is found, read and followed."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from test_events import run_of

from damad import logs, tasks
from damad.context import EtlContext, Host
from damad.errors import NotFound
from damad.eventstore.store import Append, EventStore
from damad.model.event import Event
from damad.runner import logfile

SOON = 60.0
"""Seconds in which what must happen has happened, however busy the machine is."""


def printed(host: Host, id_: int, attempt: int, text: str) -> Path:
    """Adds to the log of an attempt, as its process would."""
    assert host.state_dir is not None
    file = logs.path(host.state_dir, "local", id_, attempt)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as log:
        log.write(text)
    return file


async def joined(chunks: Any) -> str:
    async with asyncio.timeout(SOON):
        return b"".join([chunk async for chunk in chunks]).decode()


def test_the_last_attempts_log_is_found_unless_one_is_named(ctx: EtlContext, host: Host) -> None:
    for attempt in (1, 2, 10):
        printed(host, 7, attempt, f"attempt {attempt}")
    assert logs.attempts(7) == [1, 2, 10]
    assert logs.find(7).read_text() == "attempt 10"
    assert logs.find(7, 2).read_text() == "attempt 2"


@pytest.mark.parametrize("attempt", [0, -1, 3, 10**30])
def test_an_attempt_without_a_log_is_named(ctx: EtlContext, host: Host, attempt: int) -> None:
    printed(host, 7, 1, "x")
    with pytest.raises(NotFound, match=f"attempt {attempt}"):
        logs.find(7, attempt)


def test_a_context_without_a_log_is_named(ctx: EtlContext, host: Host) -> None:
    with pytest.raises(NotFound, match="8"):
        logs.find(8)
    printed(host, 7, 1, "x").with_name("1.log.old").write_text("no log")
    (logs.find(7).parent / "notes.txt").write_text("no log")
    assert logs.attempts(7) == [1]


def test_the_logs_of_different_databases_lie_apart(tmp_path: Path) -> None:
    assert logs.path(tmp_path, "one", 7, 1) != logs.path(tmp_path, "other", 7, 1)


async def test_a_log_is_read_whole_however_long(ctx: EtlContext, host: Host) -> None:
    text = "".join(f"{n}\n" for n in range(50_000))
    assert await joined(logs.read(printed(host, 7, 1, text))) == text
    assert await joined(logs.read(printed(host, 8, 1, ""))) == ""


async def test_a_log_is_followed_until_its_writer_has_ended_and_to_its_last_byte(ctx: EtlContext, host: Host) -> None:
    file, ended = printed(host, 7, 1, "one "), asyncio.Event()
    chunks = logs.follow(file, ended.is_set)
    async with asyncio.timeout(SOON):
        assert await anext(chunks) == b"one "
        printed(host, 7, 1, "two ")
        assert await anext(chunks) == b"two "
        printed(host, 7, 1, "three")
        ended.set()
    assert await joined(chunks) == "three"


async def test_a_follower_passes_over_what_is_cut_and_misses_nothing_that_is_added(ctx: EtlContext, host: Host) -> None:
    file, ended = printed(host, 7, 1, "head " + "x" * 1_000_000), asyncio.Event()
    chunks = logs.follow(file, ended.is_set)
    async with asyncio.timeout(SOON):
        shown = [await anext(chunks)]
        logfile.cut(file, 100_000)
        printed(host, 7, 1, " added after the cut")
        while not shown[-1].endswith(b" added after the cut"):
            shown.append(await anext(chunks))
        printed(host, 7, 1, " and later")
        ended.set()
    text = b"".join(shown).decode() + await joined(chunks)
    assert text.startswith("head xxx") and text.endswith("xxx added after the cut and later")
    assert "\0" not in text
    assert len(text) < 1_000_000


async def test_a_follower_that_has_read_all_sees_only_what_is_added_after_a_cut(ctx: EtlContext, host: Host) -> None:
    file, ended = printed(host, 7, 1, "x" * 1_000_000), asyncio.Event()
    chunks = logs.follow(file, ended.is_set)
    async with asyncio.timeout(SOON):
        read = 0
        while read < 1_000_000:
            read += len(await anext(chunks))
        for n in range(3):
            logfile.cut(file, 100_000)
            printed(host, 7, 1, f"line {n}\n")
            assert await anext(chunks) == f"line {n}\n".encode()
    ended.set()
    assert await joined(chunks) == ""


async def test_a_follower_that_stops_in_the_middle_leaves_no_file_open(ctx: EtlContext, host: Host) -> None:
    file = printed(host, 7, 1, "x" * 1_000_000)
    chunks = logs.follow(file, lambda: False)
    await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    open_ = {os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()}
    assert str(file.resolve()) not in open_


async def test_an_unknown_context_has_no_log_to_print(ctx: EtlContext) -> None:
    with pytest.raises(NotFound):
        await logs.printed(4711)


async def test_a_live_log_begins_before_it_is_there_and_ends_with_its_attempt(
    ctx: EtlContext, host: Host, store: EventStore
) -> None:
    id_ = await tasks.queue("ok.py")
    reading = asyncio.create_task(joined(await logs.printed(id_, live=True)))
    fence = await run_of(store.database, id_)
    printed(host, id_, 1, "one two")
    failed = [
        Event(type="dama/task:ERROR", payload={"kind": "exit"}),
        Event(type="dama/task:RETRY", payload={"run_at": "2030-01-01T00:00:00+00:00"}),
    ]
    await store.append([Append(etl_context_id=id_, event=event, fence=fence) for event in failed])
    await store.append([Append(etl_context_id=id_, event=Event(type=":FINAL"))])
    assert await reading == "one two"


async def test_a_live_log_of_a_task_that_ended_without_one_ends_at_once(ctx: EtlContext, store: EventStore) -> None:
    id_ = await tasks.queue("ok.py")
    reading = asyncio.create_task(joined(await logs.printed(id_, live=True)))
    await tasks.cancel(id_)
    assert await reading == ""
    with pytest.raises(NotFound):
        await logs.printed(id_)
